"""Which items a user has seen, by kind of event and window."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from serving.rules import SeenWindow

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

UNKNOWN_KIND: Final = ""
_DAY_US: Final = 86_400 * 1_000_000


def seen_rows(
    item_idx: Int32,
    kinds: Sequence[str] | npt.NDArray[Any],
    timestamp_us: Int64,
    window: SeenWindow,
    *,
    as_of_us: int,
) -> Int32:
    """Return the items that count as seen, int32, sorted, each once.

    An event counts whose kind is among the window's (or the window names none) and whose time is not before
    `as_of_us` less the window's days; an event of exactly that age counts, and so does one after `as_of_us`, which a
    clock ahead of ours has sent. An event of `UNKNOWN_KIND` counts as every kind: what cannot be told from a purchase
    is not shown to someone who wants no purchases again.

    Args:
        item_idx, kinds, timestamp_us: events of one user, `(n,)` each, in any order.
    """
    counts = np.ones(len(item_idx), np.bool_)
    if window.events:
        counts &= np.isin(np.asarray(kinds, np.str_), [*window.events, UNKNOWN_KIND])
    if window.days is not None:
        counts &= timestamp_us >= as_of_us - round(window.days * _DAY_US)
    return np.unique(item_idx[counts]).astype(np.int32)
