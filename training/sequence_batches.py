"""Windows of histories: what the sequence model reads in one step, and which next items it is to tell."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recsys.histories import InteractionLog
from recsys.models.sequence import gap_buckets, index_buckets

_LENGTH_GRAIN: Final = 16

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


def rounded_up(lengths: Any) -> Any:
    """Return lengths as windows of a batch are padded to."""
    return -(-lengths // _LENGTH_GRAIN) * _LENGTH_GRAIN


@dataclass(frozen=True)
class Windows:
    """Stretches of histories, one row each, int64 `(n,)`: log rows `start` to `stop` are read.

    The row after each of them is a target, from that after `first` on.
    """

    start: Int64
    stop: Int64
    first: Int64

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Batch:
    """Padded windows and their targets.

    item_idx, gap_bucket, index_bucket: int64 `(b, length)`; padding, at the end of a row, is item 0. place: int64
    `(n,)`, where in the flattened batch each target is told from. target: int64 `(n,)`, items. had: int64, what users
    had, each item once per user, the first it turned to first; shared by all batches. had_from, had_to: int64 `(n,)`,
    the part of `had` that each target's user had before it: its row leaves these out of the softmax. Written out per
    target they would grow with the square of a history.
    """

    item_idx: Int64
    gap_bucket: Int64
    index_bucket: Int64
    place: Int64
    target: Int64
    had: Int64
    had_from: Int64
    had_to: Int64

    def __len__(self) -> int:
        return len(self.target)


class SequenceData:
    """A log as the sequence model reads it."""

    def __init__(self, log: InteractionLog) -> None:
        self._item_idx = log.item_idx.astype(np.int64)
        self._user_start = log.indptr[log.user_idx]
        self._indptr = log.indptr
        gap_us = np.diff(log.timestamp_us, prepend=0)
        rows = np.arange(len(log))
        gap_us[self._user_start == rows] = -1
        self._gap_bucket = gap_buckets(gap_us)
        self._index_bucket = index_buckets(rows - self._user_start)
        # What a user already had is never recommended again, so it is no target either.
        key = log.user_idx.astype(np.int64) * log.n_items + log.item_idx
        is_first = np.zeros(len(log), np.bool_)
        is_first[np.unique(key, return_index=True)[1]] = True
        self.is_target = is_first & (rows > self._user_start)
        self._had = self._item_idx[is_first]
        self._n_had = np.concatenate([[0], np.cumsum(is_first)])  # (len(log) + 1,): places of `_had` before each row

    def last_targets(self) -> Int64:
        """Return the log row of each user's last interaction, where that is a target, int64."""
        ends = self._indptr[1:][np.diff(self._indptr) > 1] - 1
        return ends[self.is_target[ends]]

    def windows(self, max_length: int, overlap: float, rng: np.random.Generator) -> Windows:
        """Cut all histories into windows, anew each time; every interaction after a user's first is told once.

        A window reads at most `max_length` rows. The first of one that continues a history, `overlap` of them, were
        told by the window before.
        """
        context = int(overlap * max_length)
        step = max_length - context
        begins, ends = self._indptr[:-1], self._indptr[1:] - 1  # the last interaction is read for nothing
        begins, ends = begins[ends > begins], ends[ends > begins]
        # A random first cut, so that no interaction always stands at the beginning of a window.
        cuts = begins + np.where(ends - begins > max_length, rng.integers(1, step + 1, len(begins)), max_length)
        n_windows = 1 + -(-np.maximum(ends - cuts, 0) // step)
        begin, end, cut = (np.repeat(edge, n_windows) for edge in (begins, ends, cuts))
        place = np.arange(len(begin)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
        first = np.where(place == 0, begin, cut + (place - 1) * step)
        return Windows(np.maximum(first - context, begin), np.minimum(cut + place * step, end), first)

    def windows_before(self, rows: Int64, max_length: int) -> Windows:
        """Return the windows that tell some rows of the log and nothing else."""
        return Windows(np.maximum(rows - max_length, self._user_start[rows]), rows, rows - 1)

    def batch(self, windows: Windows, is_target: Bool) -> Batch:
        """Return some windows as one batch; is_target: bool `(len(log),)`, rows that may be told."""
        lengths = windows.stop - windows.start
        columns = np.arange(rounded_up(lengths.max()))
        valid = columns[None, :] < lengths[:, None]
        rows = np.where(valid, windows.start[:, None] + columns[None, :], 0)
        told = valid & (rows >= windows.first[:, None])
        told[valid] &= is_target[rows[valid] + 1]
        place = np.flatnonzero(told)
        target_rows = rows.ravel()[place] + 1
        return Batch(
            np.where(valid, self._item_idx[rows], 0),
            np.where(valid, self._gap_bucket[rows], 0),
            np.where(valid, self._index_bucket[rows], 0),
            place,
            self._item_idx[target_rows],
            self._had,
            self._n_had[self._user_start[target_rows]],
            self._n_had[target_rows],
        )


def batches(windows: Windows, tokens_per_batch: int, rng: np.random.Generator) -> Iterator[Windows]:
    """Yield the windows in batches of at most so many places each, or one window; the order is random.

    Windows of like length share a batch, and batches have few different shapes: matrix products of a shape met
    before start sooner.
    """
    lengths = rounded_up(windows.stop - windows.start)
    order = rng.permutation(len(windows))
    order = order[np.argsort(lengths[order], kind="stable")]
    parts = []
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(group):
            size = max(1, tokens_per_batch // int(lengths[group[0]]))
            parts += [group[start : start + size] for start in range(0, len(group), size)]
    for part in rng.permutation(len(parts)):
        rows = parts[part]
        yield Windows(windows.start[rows], windows.stop[rows], windows.first[rows])
