"""Which likings of shown items are the first of their slate: a click-through rate counts each shown item once."""

import hashlib
from typing import Final

_MAX_KEPT: Final = 100_000


class FirstClicks:
    """Tells the first click on an item of a slate from those that follow. To be called from one thread at a time.

    At least the latest `n_kept` clicked items are remembered, at most twice as many; a click that comes again after
    more than that counts anew.
    """

    def __init__(self, n_kept: int = _MAX_KEPT) -> None:
        self._n_kept = n_kept
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def is_first(self, recommendation_id: str, item_idx: int) -> bool:
        """Return whether no click on this item of this slate was told before, and remember this one."""
        # Ids come from callers and may be long.
        digest = hashlib.blake2b(recommendation_id.encode("utf-8"), digest_size=16).digest()
        key = digest + item_idx.to_bytes(4, "little")
        is_first = key not in self._young and key not in self._old
        self._young.add(key)
        if len(self._young) >= self._n_kept:
            self._old, self._young = self._young, set()
        return is_first
