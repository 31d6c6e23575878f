"""Scores that a sparse item-to-item model gives: for the items that a history points to, 0 for all others."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.models.kernels import sum_rows

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

# Above this many items the few that a history points to are kept alone: an array of all would cost more than its use.
_DENSE_UP_TO: Final = 100_000


@dataclass(frozen=True)
class ItemScores:
    """values: float32, one per row of `rows`, or per item of the catalogue where `rows` is None.

    rows: int32, ascending, the items that may score other than 0.
    """

    values: Float32
    rows: Int32 | None

    def at(self, item_idx: Int32) -> Float32:
        """Return the scores of the given items, float32 `(n,)`."""
        if self.rows is None:
            return self.values[item_idx]
        if not len(self.rows):
            return np.zeros(len(item_idx), np.float32)
        place = np.minimum(np.searchsorted(self.rows, item_idx), len(self.rows) - 1)
        return np.where(self.rows[place] == item_idx, self.values[place], np.float32(0))

    def all(self, n_items: int) -> Float32:
        """Return the score of every item, float32 `(n_items,)`; do not change it."""
        if self.rows is None:
            return self.values
        scores = np.zeros(n_items, np.float32)
        scores[self.rows] = self.values
        return scores


def sum_of_rows(matrix: sp.csr_matrix, rows: npt.NDArray[np.integer], strength: Float32 | None = None) -> ItemScores:
    """Return the sum of some rows of an item-to-item matrix `(n_items, n_items)`, a row counting `strength` times.

    rows: in any order, repeats allowed. strength: float32, one per row; None for once each.
    """
    if strength is None:
        strength = np.ones(len(rows), np.float32)
    n_items = matrix.shape[1]
    if n_items <= _DENSE_UP_TO:
        total = sum_rows(matrix.indptr, matrix.indices, matrix.data, rows, strength, n_items)
        return ItemScores(total, None)
    spans = [(matrix.indptr[row], matrix.indptr[row + 1]) for row in rows.tolist()]
    if not spans:
        return ItemScores(np.empty(0, np.float32), np.empty(0, np.int32))
    columns = np.concatenate([matrix.indices[start:stop] for start, stop in spans])
    values = np.concatenate([matrix.data[start:stop] for start, stop in spans])
    values = values * np.repeat(strength, [stop - start for start, stop in spans])
    found, place = np.unique(columns, return_inverse=True)
    return ItemScores(np.bincount(place, weights=values, minlength=len(found)).astype(np.float32), found)


def entries_at(matrix: sp.csr_matrix, row: int, columns: Int32) -> Float32:
    """Return one row's entries in the given columns, float32 `(n,)`; the matrix has sorted indices."""
    start, stop = matrix.indptr[row], matrix.indptr[row + 1]
    return ItemScores(matrix.data[start:stop], matrix.indices[start:stop]).at(columns)
