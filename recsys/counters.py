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
# Late events are counted in once they make up one in so many entries.
_LATE_SHARE = 20


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
        exact = None
        if weight is not None:
            exact = np.round(weight.astype(np.float32).astype(np.float64) / _WEIGHT_UNIT) * _WEIGHT_UNIT
        return BucketCounts.of_sums(item_idx.astype(np.int64), timestamp_us // bucket_us, exact, bucket_us=bucket_us)

    @staticmethod
    def of_sums(item_idx: Int64, bucket: Int64, weight: Float64 | None, *, bucket_us: int) -> "BucketCounts":
        """Return counts of exact weights by item and bucket since 1970; at least one, in any order, repeats add up."""
        first = int(bucket.min())
        n_buckets = int(bucket.max()) - first + 1
        key, place = np.unique(item_idx * n_buckets + bucket - first, return_inverse=True)
        totals = np.bincount(place, weights=weight, minlength=len(key))
        return BucketCounts(key, np.concatenate([[0.0], np.cumsum(totals)]), first * bucket_us, bucket_us, n_buckets)

    def continued(self, item_idx: Int32, timestamp_us: Int64, *, since_us: int) -> "BucketCounts":
        """Return the counts of the buckets that began by `since_us`, and each event after it counted once on top.

        Arrays have one length `(n,)`, in any order. Later buckets of these counts are left out: the events hold them.
        """
        bucket = self.key % self.n_buckets + self.first_us // self.bucket_us
        kept = bucket * self.bucket_us <= since_us
        items = np.concatenate([self.key[kept] // self.n_buckets, item_idx.astype(np.int64)])
        if not len(items):
            return BucketCounts.build(item_idx, timestamp_us, None, bucket_us=self.bucket_us)
        buckets = np.concatenate([bucket[kept], timestamp_us // self.bucket_us])
        weight = np.concatenate([np.diff(self.cumulative)[kept], np.ones(len(item_idx))])
        return BucketCounts.of_sums(items, buckets, weight, bucket_us=self.bucket_us)

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


class _LiveEvents:
    """Events since the counters were fitted, summed by item and bucket. Those in `pending` are not counted yet."""

    def __init__(self) -> None:
        self.counts: BucketCounts | None = None
        self.n_folds = 0
        self._pending: dict[tuple[int, int], float] = {}
        self._counted: dict[tuple[int, int], float] = {}
        self._earliest = 0  # bucket of the pending events
        self._folded_at = -1

    def add(self, item_idx: int, bucket: int, weight: float) -> None:
        self._earliest = min(self._earliest, bucket) if self._pending else bucket
        key = (item_idx, bucket)
        exact = round(float(np.float32(weight)) / _WEIGHT_UNIT) * _WEIGHT_UNIT
        self._pending[key] = self._pending.get(key, 0.0) + exact

    def fold(self, bucket: int, bucket_us: int) -> None:
        """Count what is pending, if some of it can be read in this bucket.

        Events that come late would each have everything counted anew: within a bucket they wait until they are many.
        """
        if not self._pending or self._earliest >= bucket:
            return
        if bucket == self._folded_at and len(self._pending) * _LATE_SHARE < len(self._counted):
            return
        for key, weight in self._pending.items():
            self._counted[key] = self._counted.get(key, 0.0) + weight
        self._pending = {}
        self._folded_at = bucket
        self.n_folds += 1
        keys = np.array(list(self._counted), np.int64)
        self.counts = BucketCounts.of_sums(
            keys[:, 0], keys[:, 1], np.fromiter(self._counted.values(), np.float64, len(keys)), bucket_us=bucket_us
        )


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
            self._live[kind].add(item_idx, timestamp_us // getattr(self, kind).bucket_us, weight)

    def state_at(self, as_of_us: int) -> tuple[int, int]:
        """Return a key that changes whenever an interaction count read as of that moment may have changed."""
        self._live_counts("interactions", as_of_us)
        return as_of_us // self.interactions.bucket_us, self._live["interactions"].n_folds

    def _live_counts(self, kind: str, as_of_us: int) -> BucketCounts | None:
        bucket_us = getattr(self, kind).bucket_us
        live = self._live[kind]
        with self._lock:
            live.fold(as_of_us // bucket_us, bucket_us)
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
        return (*at, self._live[kind].n_folds)

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
