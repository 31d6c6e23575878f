"""One set of candidates out of what all sources propose."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.config import RetrievalConfig
from recsys.histories import Request
from recsys.retrieval.sources import CandidateSource

Int32 = npt.NDArray[np.int32]

_RANK_OFFSET = 60.0


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
    sources: Sequence[CandidateSource], request: Request, config: RetrievalConfig, *, n_items: int, exclude: Int32
) -> Candidates:
    """Return the best `n_candidates` items over all sources by reciprocal-rank fusion.

    Items in `exclude` never return. Fusion is that of Cormack, Clarke and Büttcher (2009), constant 60; equal sums go
    to the lower row. A request with candidates of its own gets exactly those, in their order, without repeats.
    """
    names = tuple(source.name for source in sources)
    if request.candidates is not None:
        first = np.sort(np.unique(request.candidates, return_index=True)[1])
        given = request.candidates[first].astype(np.int32)
        return Candidates(given, np.zeros(len(given), np.uint8), names)
    fused = np.zeros(n_items, np.float32)
    bits = np.zeros(n_items, np.uint8)
    for bit, source in enumerate(sources):
        # Ask for as many more as may be taken away again, so that a long history does not starve the source.
        rows = source.retrieve(request, config.per_source + len(exclude))
        rows = rows[~np.isin(rows, exclude)][: config.per_source]
        fused[rows] += 1.0 / (_RANK_OFFSET + 1.0 + np.arange(len(rows), dtype=np.float32))
        bits[rows] |= np.uint8(1 << bit)
    found = np.flatnonzero(bits)
    order = np.lexsort((found, -fused[found]))[: config.n_candidates]
    chosen = found[order].astype(np.int32)
    return Candidates(chosen, bits[chosen], names)
