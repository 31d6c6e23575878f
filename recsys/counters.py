"""Counts of what happened to each item, kept in time buckets and read as of a moment.

A count read at time `t` covers whole buckets that ended at or before `t`, never the bucket in progress: what is
read while training from a finished log is what was readable at that moment.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


COUNTER_KINDS: Final = ("interactions", "shown", "clicked")

_LONG_AGO = -1
# Weights are rounded to this fraction, so that sums of them are exact in float64 and do not depend on their order.
_WEIGHT_UNIT = 1 / 1024


@dataclass(frozen=True)
class BucketCounts:
    """Weighted event counts per item and time bucket, cumulative, sorted by (item, bucket).

    key: int64 `(m,)`, `item_idx * n_buckets + bucket`, strictly increasing.
    cumulative: float64 `(m + 1,)`, running total of the weights in key order, from 0.
    """

    key: Int64
    cumulative: Float64
    first_us: int
    bucket_us: int
    n_buckets: int

    @staticmethod
    def build(
        item_idx: Int32, timestamp_us: Int64, weight: npt.NDArray[np.floating] | None, *, bucket_us: int
    ) -> "BucketCounts":
        """Count events; arrays have one length `(n,)`, in any order. `weight=None` counts each once.

        Weights are taken as float32, which is how logs keep them, and rounded to 1/1024.
        """
        if len(item_idx) == 0:
            return BucketCounts(np.empty(0, np.int64), np.zeros(1), 0, bucket_us, 1)
        first_us = int(timestamp_us.min()) // bucket_us * bucket_us
        bucket = (timestamp_us - first_us) // bucket_us
        n_buckets = int(bucket.max()) + 1
        key, place = np.unique(item_idx.astype(np.int64) * n_buckets + bucket, return_inverse=True)
        exact = None
        if weight is not None:
            exact = np.round(weight.astype(np.float32).astype(np.float64) / _WEIGHT_UNIT) * _WEIGHT_UNIT
        totals = np.bincount(place, weights=exact, minlength=len(key))
        return BucketCounts(key, np.concatenate([[0.0], np.cumsum(totals)]), first_us, bucket_us, n_buckets)

    def _position(self, item_idx: Int32, bucket: int) -> Int64:
        bucket = min(max(bucket, 0), self.n_buckets)
        return np.searchsorted(self.key, item_idx.astype(np.int64) * self.n_buckets + bucket, side="left")

    def before(self, item_idx: Int32, as_of_us: int, windows_us: Sequence[int | None]) -> Float64:
        """Return each item's counts over the whole buckets that ended by `as_of`, float64 `(n, n_windows)`.

        A window of None reaches back to the beginning.
        """
        counts = np.zeros((len(item_idx), len(windows_us)))
        if not len(self.key):
            return counts
        end = self.cumulative[self._position(item_idx, (as_of_us - self.first_us) // self.bucket_us)]
        for place, window_us in enumerate(windows_us):
            start = 0 if window_us is None else (as_of_us - window_us - self.first_us) // self.bucket_us
            counts[:, place] = np.maximum(end - self.cumulative[self._position(item_idx, start)], 0.0)
        return counts

    def last_bucket_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return the start of each item's newest counted bucket, int64 microseconds, -1 where there is none."""
        if not len(self.key):
            return np.full(len(item_idx), _LONG_AGO, np.int64)
        end = self._position(item_idx, (as_of_us - self.first_us) // self.bucket_us)
        begin = self._position(item_idx, 0)
        newest = self.key[np.maximum(end - 1, 0)] - item_idx.astype(np.int64) * self.n_buckets
        return np.where(end > begin, self.first_us + newest * self.bucket_us, _LONG_AGO)

    def first_bucket_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return the start of each item's oldest counted bucket, int64 microseconds, -1 where there is none."""
        if not len(self.key):
            return np.full(len(item_idx), _LONG_AGO, np.int64)
        end = self._position(item_idx, (as_of_us - self.first_us) // self.bucket_us)
        begin = self._position(item_idx, 0)
        oldest = self.key[np.minimum(begin, len(self.key) - 1)] - item_idx.astype(np.int64) * self.n_buckets
        return np.where(end > begin, self.first_us + oldest * self.bucket_us, _LONG_AGO)


@dataclass
class _LiveEvents:
    """Events since the counters were fitted. Those in `pending` are not counted yet."""

    item_idx: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    timestamp_us: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    weight: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    counts: BucketCounts | None = None
    pending: list[tuple[int, int, float]] = field(default_factory=list)
    earliest_us: int = 0  # of the pending events

    def add(self, item_idx: int, timestamp_us: int, weight: float) -> None:
        self.earliest_us = min(self.earliest_us, timestamp_us) if self.pending else timestamp_us
        self.pending.append((item_idx, timestamp_us, weight))

    def fold(self, bucket_us: int) -> None:
        """Count what is pending."""
        item_idx, timestamp_us, weight = zip(*self.pending, strict=True)
        self.item_idx = np.append(self.item_idx, np.asarray(item_idx, np.int32))
        self.timestamp_us = np.append(self.timestamp_us, np.asarray(timestamp_us, np.int64))
        self.weight = np.append(self.weight, np.asarray(weight, np.float32))
        self.counts = BucketCounts.build(self.item_idx, self.timestamp_us, self.weight, bucket_us=bucket_us)
        self.pending = []


@dataclass
class Counters:
    """Interactions (weighted), impressions and clicks on impressions, with room for live events on top.

    `record` may be called from several threads; live events are folded in when a bucket that holds some has ended.
    """

    interactions: BucketCounts
    shown: BucketCounts
    clicked: BucketCounts
    _live: dict[str, _LiveEvents] = field(
        init=False, repr=False, default_factory=lambda: {kind: _LiveEvents() for kind in COUNTER_KINDS}
    )
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)
    _n_kept: int = field(init=False, repr=False, default=0)
    # By what is read: the moment as whole buckets, and what was read of every item then.
    _kept: dict[tuple[Any, ...], tuple[tuple[int, ...], npt.NDArray[Any]]] = field(
        init=False, repr=False, default_factory=dict
    )

    def keep_for(self, n_rows: int) -> None:
        """Keep the counts of items `0..n_rows` from one reading to the next, as long as no bucket ends.

        Worth it where many requests are of one moment, as in service, and not where each is of its own, as in training.
        """
        self._n_kept = n_rows

    def record(self, item_idx: int, timestamp_us: int, *, kind: str, weight: float = 1.0) -> None:
        """Add a live event. kind: `interactions`, `shown` or `clicked`."""
        if kind not in COUNTER_KINDS:
            raise ValueError(f"there is no counter {kind!r}; the kinds are {', '.join(COUNTER_KINDS)}")
        with self._lock:
            self._live[kind].add(item_idx, timestamp_us, weight)

    def state_at(self, as_of_us: int) -> tuple[int, int]:
        """Return a key that changes whenever an interaction count read as of that moment may have changed."""
        self._live_counts("interactions", as_of_us)
        return as_of_us // self.interactions.bucket_us, len(self._live["interactions"].item_idx)

    def _live_counts(self, kind: str, as_of_us: int) -> BucketCounts | None:
        bucket_us = getattr(self, kind).bucket_us
        live = self._live[kind]
        with self._lock:
            if live.pending and live.earliest_us // bucket_us < as_of_us // bucket_us:
                live.fold(bucket_us)
            return live.counts

    def count(self, kind: str, item_idx: Int32, as_of_us: int, windows_us: Sequence[int | None] = (None,)) -> Float64:
        """Return counts of `kind` as of a moment, float64 `(n, n_windows)`; a window of None is all time."""
        base: BucketCounts = getattr(self, kind)
        live = self._live_counts(kind, as_of_us)

        def read(rows: Int32) -> Float64:
            total = base.before(rows, as_of_us, windows_us)
            return total if live is None else total + live.before(rows, as_of_us, windows_us)

        moments = [as_of_us, *(as_of_us - window for window in windows_us if window is not None)]
        return self._read(("count", kind, *windows_us), self._buckets(kind, live, moments), item_idx, read)

    def last_seen_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return when each item was last interacted with (start of the bucket), -1 for never."""
        live = self._live_counts("interactions", as_of_us)

        def read(rows: Int32) -> Int64:
            last = self.interactions.last_bucket_us(rows, as_of_us)
            return last if live is None else np.maximum(last, live.last_bucket_us(rows, as_of_us))

        return self._read(("last",), self._buckets("interactions", live, [as_of_us]), item_idx, read)

    def first_seen_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return when each item was first shown or interacted with (start of the bucket), -1 for never."""
        kinds = ("interactions", "shown")
        live = {kind: self._live_counts(kind, as_of_us) for kind in kinds}

        def read(rows: Int32) -> Int64:
            counts = [each for kind in kinds for each in (getattr(self, kind), live[kind]) if each is not None]
            firsts = [each.first_bucket_us(rows, as_of_us) for each in counts]
            never = np.iinfo(np.int64).max
            earliest = np.minimum.reduce([np.where(first == _LONG_AGO, never, first) for first in firsts])
            return np.where(earliest == never, _LONG_AGO, earliest)

        buckets = tuple(bucket for kind in kinds for bucket in self._buckets(kind, live[kind], [as_of_us]))
        return self._read(("first",), buckets, item_idx, read)

    def _buckets(self, kind: str, live: BucketCounts | None, moments_us: Sequence[int]) -> tuple[int, ...]:
        """Return what a reading depends on: in which bucket each moment lies, and which live events are counted."""
        base: BucketCounts = getattr(self, kind)
        at = [
            (moment - counts.first_us) // counts.bucket_us for counts in (base, live) if counts for moment in moments_us
        ]
        return (*at, 0 if live is None else len(self._live[kind].item_idx))

    def _read(
        self,
        what: tuple[Any, ...],
        buckets: tuple[int, ...],
        item_idx: Int32,
        read: Callable[[Int32], npt.NDArray[Any]],
    ) -> Any:
        if not self._n_kept:
            return read(item_idx)
        kept = self._kept.get(what)
        if kept is None or kept[0] != buckets:
            kept = self._kept[what] = buckets, read(np.arange(self._n_kept, dtype=np.int32))
        values: Any = kept[1][item_idx]
        return values
