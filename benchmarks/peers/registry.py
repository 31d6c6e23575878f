"""The peers by name: where each one lives, what it needs, and which suites it can be asked about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_WHOLE: Final = ("ml-1m-loo", "ml-100k-random")
_ALL_WARM: Final = (*_WHOLE, "mind-zh-impressions")
_RANDOM: Final = ("ml-100k-random",)


@dataclass(frozen=True)
class PeerSpec:
    """One peer.

    module: in this folder, where `PEERS[name]` runs it. libraries: distributions whose versions the report states.
    suites: where it can say something; a collaborative model has nothing to say on items without behaviour.
    reads_items, reads_values: whether the items' texts and features, or the values of interactions, matter to it, and
    so to the reuse of its results.
    """

    module: str
    libraries: tuple[str, ...]
    suites: tuple[str, ...]
    reads_items: bool = False
    reads_values: bool = False


_IMPLICIT: Final = ("pm-implicit",)  # the build of implicit that RecTools asks for; it imports as `implicit`
# In the order in which they are run: those that take longest first, so that none of them is left to run alone.
PEERS: Final[dict[str, PeerSpec]] = {
    "rectools-sasrec": PeerSpec("rectools_transformers", ("rectools", "torch"), ("ml-1m-loo",)),
    "rectools-bert4rec": PeerSpec("rectools_transformers", ("rectools", "torch"), ("ml-1m-loo",)),
    "cornac-bivae": PeerSpec("cornac_peers", ("cornac", "torch"), _RANDOM),
    "recbole-multivae": PeerSpec("recbole_peers", ("recbole", "torch"), _RANDOM),
    "rectools-two-stage": PeerSpec("rectools_two_stage", ("rectools", "catboost"), _WHOLE),
    "implicit-als": PeerSpec("implicit_peers", _IMPLICIT, _ALL_WARM),
    "implicit-bpr": PeerSpec("implicit_peers", _IMPLICIT, _WHOLE),
    "implicit-itemknn": PeerSpec("implicit_peers", _IMPLICIT, _ALL_WARM),
    "rectools-ease": PeerSpec("rectools_peers", ("rectools",), _WHOLE),
    "rectools-popular": PeerSpec("rectools_peers", ("rectools",), _ALL_WARM),
    "rectools-ials-features": PeerSpec(
        "rectools_features", ("rectools", *_IMPLICIT), ("ml-1m-loo", "ml-1m-cold"), reads_items=True
    ),
    "rectools-lightfm": PeerSpec(
        "rectools_features", ("rectools", "rectools-lightfm"), ("ml-1m-cold",), reads_items=True
    ),
    "lenskit-itemknn": PeerSpec("lenskit_peers", ("lenskit",), _WHOLE),
    "lenskit-biasedmf": PeerSpec("lenskit_peers", ("lenskit",), _WHOLE, reads_values=True),
    "recommenders-sar": PeerSpec("recommenders_peers", ("recommenders",), _WHOLE),
    "sklearn-tfidf": PeerSpec(
        "sklearn_peers", ("scikit-learn",), ("ml-1m-cold", "mind-zh-impressions"), reads_items=True
    ),
}


def peers_for(suite: str) -> Sequence[str]:
    """Return the names of the peers that can be asked about a suite."""
    return [name for name, spec in PEERS.items() if suite in spec.suites]
