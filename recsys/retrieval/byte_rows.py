"""Vectors in a byte per number, read a quarter of the time: they tell which of the vectors can be among the best."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.models.kernels import compiled

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_LARGEST_CODE: Final = 127
_LARGEST_QUERY: Final = 32_767
_LARGEST_SUM: Final = 2**31 - 1
# What products of float32 may be off by, in lengths of both vectors.
_ROUNDING: Final = 1e-5


class ByteRows:
    """A copy of vectors with which a search reads a quarter of the memory and still loses none of the best.

    vectors: float32 `(n_rows, d)`. Every row is kept as whole numbers up to 127 times a factor, with the length of what
    that leaves out. By Cauchy and Schwarz an inner product lies no further from that of the copy than the lengths of
    what is left out say, so that a row is passed over only where n others are better for certain.
    """

    def __init__(self, vectors: Float32) -> None:
        n_rows, size = vectors.shape
        self._codes = np.zeros((n_rows, size), np.int8)
        self._factor = np.zeros(n_rows, np.float32)
        self._length = np.zeros(n_rows, np.float32)  # of the copy
        self._error = np.zeros(n_rows, np.float32)  # length of what the copy leaves out
        self._largest_query = min(_LARGEST_QUERY, _LARGEST_SUM // (_LARGEST_CODE * max(size, 1)))
        self.put(np.arange(n_rows), vectors)

    def put(self, rows: npt.NDArray[np.integer], vectors: Float32) -> None:
        """Replace some rows."""
        largest = np.abs(vectors).max(axis=1, initial=0.0)
        factor = (largest / _LARGEST_CODE).astype(np.float32)
        codes = np.rint(vectors / np.where(factor > 0, factor, 1)[:, None]).astype(np.int8)
        copy = codes * factor[:, None]
        self._codes[rows] = codes
        self._factor[rows] = factor
        self._length[rows] = np.linalg.norm(copy, axis=1)
        self._error[rows] = np.linalg.norm(vectors - copy, axis=1)

    def may_be_best(self, query: Float32, n: int, allowed: Bool, n_used: int) -> Int32:
        """Return rows, int32 ascending, that hold the `n` of the largest inner products with a query, and some more.

        allowed: bool, one per row, which rows may return; empty for all. n_used: rows behind these do not return.
        """
        unit = np.float32(np.abs(query).max(initial=0.0) / self._largest_query)
        if not unit > 0:
            rows = np.arange(n_used, dtype=np.int32)
            return rows if not len(allowed) else rows[allowed[:n_used]]
        codes = np.rint(query / unit).astype(np.int16)
        length = float(np.linalg.norm(query))
        error = float(np.linalg.norm(query - codes * unit)) + _ROUNDING * length
        factor, used = self._factor[:n_used], self._codes[:n_used]
        found: Int32 = _may_be_best(
            used, factor, self._length, self._error, codes, unit, np.float32(length), np.float32(error), allowed, n
        )
        return found


@compiled
def _may_be_best(
    codes: Any, factor: Any, length: Any, left_out: Any, query: Any, unit: Any, query_length: Any, query_error: Any,
    allowed: Any, n: int,
) -> Int32:  # fmt: skip
    n_rows, size = codes.shape
    rows = np.empty(n_rows, np.int32)
    least = np.empty(n_rows, np.float32)
    most = np.empty(n_rows, np.float32)
    count = 0
    for row in range(n_rows):
        if len(allowed) == 0 or allowed[row]:
            total = np.int32(0)
            for place in range(size):
                total += np.int32(codes[row, place]) * np.int32(query[place])
            score = np.float32(total) * (factor[row] * unit)
            doubt = left_out[row] * query_length + (length[row] + left_out[row]) * query_error
            rows[count] = row
            least[count] = score - doubt
            most[count] = score + doubt
            count += 1
    if count > n > 0:
        edge = np.partition(least[:count], count - n)[count - n]
        kept = 0
        for place in range(count):
            if most[place] >= edge:
                rows[kept] = rows[place]
                kept += 1
        count = kept
    return rows[:count]
