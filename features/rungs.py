"""How much of the way a request goes, when there is no time or no means for all of it."""

from enum import StrEnum


class Rung(StrEnum):
    """Ways to answer, the best first.

    full: everything. without_encoder: nothing that reads texts. collaborative: the fused order of what behaviour alone
    proposes, no ranker. popular: what is popular, the same for everyone.
    """

    FULL = "full"
    WITHOUT_ENCODER = "without_encoder"
    COLLABORATIVE = "collaborative"
    POPULAR = "popular"
