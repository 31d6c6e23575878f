"""One set of candidates out of what all sources propose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.config import RetrievalConfig
from recsys.histories import Request
from recsys.models.kernels import compiled
from recsys.retrieval.sources import CandidateSource

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]

_RANK_OFFSET = 60.0
_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class Candidates:
    """Items to order, and which sources proposed them.

    item_idx: int32 `(n,)`, without repeats, in order of falling fused rank. sources: uint8 `(n,)`, bit `i` is set when
    source `i` of `source_names` proposed the item; 0 for items that the caller gave.
    """

    item_idx: Int32
    sources: npt.NDArray[np.uint8]
    source_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.item_idx)

    def names_of(self, place: int) -> list[str]:
        """Return the names of the sources that proposed the item at a place."""
        return [name for bit, name in enumerate(self.source_names) if self.sources[place] >> bit & 1]


def blend(
    sources: Sequence[CandidateSource],
    request: Request,
    config: RetrievalConfig,
    *,
    n_items: int,
    exclude: Int32,
    allowed: Bool | None = None,
    at_least: int = 0,
) -> Candidates:
    """Return the best `n_candidates` items over all sources by reciprocal-rank fusion.

    Items in `exclude` never return, nor those that are not `allowed` (bool `(n_items,)`, None for all): every source
    leaves them out, so that what remains fills the list. Fusion is that of Cormack, Clarke and Büttcher (2009),
    constant 60; equal sums go to the lower row. A request with candidates of its own gets exactly those, in their
    order, without repeats.

    at_least: how many items the caller wants, where that may be more than `n_candidates` or `per_source`: each source
        may propose as many then, since it may be the only one that proposes anything, as popularity is for someone
        without a history.
    """
    names = tuple(source.name for source in sources)
    if request.candidates is not None:
        first = np.sort(np.unique(request.candidates, return_index=True)[1])
        given = request.candidates[first].astype(np.int32)
        return Candidates(given, np.zeros(len(given), np.uint8), names)
    if len(exclude):
        allowed = np.ones(n_items, np.bool_) if allowed is None else allowed.copy()
        allowed[exclude] = False
    per_source = max(config.per_source, at_least)
    proposed = [source.retrieve(request, per_source, allowed) for source in sources]
    rows = np.concatenate(proposed) if proposed else _NOTHING
    source = np.repeat(np.arange(len(proposed), dtype=np.uint8), [len(each) for each in proposed])
    item_idx, bits = _fuse(rows, source, max(config.n_candidates, at_least))
    return Candidates(item_idx, bits, names)


@compiled
def _fuse(rows: Any, source: Any, n: int) -> tuple[Int32, npt.NDArray[np.uint8]]:
    """Return the `n` items with the largest sums of reciprocal ranks, best first, and the bits of their sources.

    rows, source: what the sources propose, one source after the other, each best first.
    """
    gain = np.empty(len(rows))
    rank = 0
    for place in range(len(rows)):
        rank = rank + 1 if place and source[place] == source[place - 1] else 1
        gain[place] = 1.0 / (_RANK_OFFSET + rank)
    found = np.empty(len(rows), np.int32)
    fused = np.zeros(len(rows))
    bits = np.zeros(len(rows), np.uint8)
    count = -1
    for place in np.argsort(rows, kind="mergesort"):
        if count < 0 or found[count] != rows[place]:
            count += 1
            found[count] = rows[place]
        fused[count] += gain[place]
        bits[count] |= np.uint8(1 << source[place])
    count += 1
    # Sums of the same gains in another order may differ in the last bit; they are equal all the same.
    best = np.argsort(-np.rint(fused[:count] * 1e12), kind="mergesort")[:n]
    return found[best], bits[best]
