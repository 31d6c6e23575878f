"""The few loops of a request that NumPy cannot do in one step, compiled when first used."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Return a function compiled to machine code, kept on disk where it can be; it runs without Python's lock."""
    try:
        fast: _Function = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        fast = numba.njit(nogil=True)(function)
    return fast


@compiled
def top_rows(scores: Any, allowed: npt.NDArray[np.bool_], n: int) -> Int32:
    """Return the rows of the `n` largest scores, best first, int32; ties go to the lower row; -inf never returns.

    allowed: bool, one per score, which rows may return; empty for all.
    """
    kept = np.empty(len(scores), scores.dtype)
    rows = np.empty(len(scores), np.int32)
    count = 0
    for row in range(len(scores)):
        if (len(allowed) == 0 or allowed[row]) and scores[row] > -np.inf:
            kept[count] = scores[row]
            rows[count] = row
            count += 1
    if count > n > 0:
        edge = np.partition(kept[:count], count - n)[count - n]
        above = 0
        for place in range(count):
            above += kept[place] > edge
        level = n - above
        taken = 0
        for place in range(count):
            if kept[place] > edge or (kept[place] == edge and level > 0):
                level -= kept[place] == edge
                kept[taken] = kept[place]
                rows[taken] = rows[place]
                taken += 1
        count = taken
    count = min(count, n)
    order = np.argsort(-kept[:count], kind="mergesort")
    return rows[:count][order]


@compiled
def sum_rows(indptr: Any, indices: Any, data: Float32, rows: Any, strength: Float32, n_items: int) -> Float32:
    """Return the sum of some rows of a CSR matrix as one dense row, float32 `(n_items,)`.

    strength: float32, what each row is multiplied by. Sums are made in float64, in the order of `rows`.
    """
    total = np.zeros(n_items)
    for place in range(len(rows)):
        row, weight = rows[place], strength[place]
        for entry in range(indptr[row], indptr[row + 1]):
            total[indices[entry]] += weight * data[entry]
    return total.astype(np.float32)


@compiled
def shares_below(scores: Any) -> Float32:
    """Return for each score the share of the others that are lower, float32; equal scores share a value; n above 1."""
    places = np.searchsorted(np.sort(scores), scores)
    return (places / np.float32(len(scores) - 1)).astype(np.float32)


@compiled
def field_shares(
    rows: Any, strength: Float32, start: Any, count: Any, columns: Any, field: Any, n_fields: int, n_values: int
) -> Float32:
    """Return how much of the strength of some items falls on each attribute value, float32 `(n_values,)`.

    rows: the items; the values of item `i` are `columns[start[i] : start[i] + count[i]]`. field: which field a value
    belongs to; the shares of each field's values add up to 1.
    """
    sums = np.zeros(n_values)
    totals = np.zeros(n_fields)
    for place in range(len(rows)):
        row = rows[place]
        for entry in range(start[row], start[row] + count[row]):
            value = columns[entry]
            sums[value] += strength[place]
            totals[field[value]] += strength[place]
    shares = np.zeros(n_values, np.float32)
    for place in range(len(rows)):
        row = rows[place]
        for entry in range(start[row], start[row] + count[row]):
            value = columns[entry]
            shares[value] = sums[value] / totals[field[value]]
    return shares


@compiled
def field_sums(rows: Any, profile: Float32, start: Any, count: Any, columns: Any, field: Any, n_fields: int) -> Float32:
    """Return the sum of each item's values in a profile, by field, float32 `(n, n_fields)`; see `field_shares`."""
    sums = np.zeros((len(rows), n_fields), np.float32)
    totals = np.empty(n_fields)
    for place in range(len(rows)):
        totals[:] = 0.0
        row = rows[place]
        for entry in range(start[row], start[row] + count[row]):
            value = columns[entry]
            totals[field[value]] += profile[value]
        for of_field in range(n_fields):
            sums[place, of_field] = totals[of_field]
    return sums
