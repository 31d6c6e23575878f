"""Counts of what happened to each item, kept in time buckets and read as of a moment.

A count read at time `t` covers whole buckets that ended at or before `t`, never the bucket in progress: what is
read while training from a finished log is what was readable at that moment.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

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

        Weights are rounded to 1/1024.
        """
        if len(item_idx) == 0:
            return BucketCounts(np.empty(0, np.int64), np.zeros(1), 0, bucket_us, 1)
        first_us = int(timestamp_us.min()) // bucket_us * bucket_us
        bucket = (timestamp_us - first_us) // bucket_us
        n_buckets = int(bucket.max()) + 1
        key, place = np.unique(item_idx.astype(np.int64) * n_buckets + bucket, return_inverse=True)
        exact = None if weight is None else np.round(weight / _WEIGHT_UNIT) * _WEIGHT_UNIT
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
class Counters:
    """Interactions (weighted), impressions and clicks on impressions, with room for live events on top.

    `record` may be called from several threads; live events are folded in when a bucket that holds some has ended.
    """

    interactions: BucketCounts
    shown: BucketCounts
    clicked: BucketCounts
    _live: dict[str, list[tuple[int, int, float]]] = field(default_factory=dict, repr=False)
    _overlay: dict[str, tuple[int, int, BucketCounts]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self, item_idx: int, timestamp_us: int, *, kind: str, weight: float = 1.0) -> None:
        """Add a live event. kind: `interactions`, `shown` or `clicked`."""
        with self._lock:
            self._live.setdefault(kind, []).append((item_idx, timestamp_us, weight))

    def state_at(self, as_of_us: int) -> tuple[int, int]:
        """Return a key that changes whenever a count read as of that moment may have changed."""
        return as_of_us // self.interactions.bucket_us, len(self._live.get("interactions", ()))

    def _live_counts(self, kind: str, as_of_us: int) -> BucketCounts | None:
        events = self._live.get(kind)
        if not events:
            return None
        base: BucketCounts = getattr(self, kind)
        now = as_of_us // base.bucket_us
        with self._lock:
            cached = self._overlay.get(kind)
            if cached is None or cached[0] != len(events) or cached[1] != now:
                item, time, weight = (np.asarray(column) for column in zip(*events, strict=True))
                counts = BucketCounts.build(
                    item.astype(np.int32), time.astype(np.int64), weight.astype(np.float64), bucket_us=base.bucket_us
                )
                cached = (len(events), now, counts)
                self._overlay[kind] = cached
        return cached[2]

    def count(self, kind: str, item_idx: Int32, as_of_us: int, windows_us: Sequence[int | None] = (None,)) -> Float64:
        """Return counts of `kind` as of a moment, float64 `(n, n_windows)`; a window of None is all time."""
        base: BucketCounts = getattr(self, kind)
        total = base.before(item_idx, as_of_us, windows_us)
        live = self._live_counts(kind, as_of_us)
        return total if live is None else total + live.before(item_idx, as_of_us, windows_us)

    def last_seen_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return when each item was last interacted with (start of the bucket), -1 for never."""
        last = self.interactions.last_bucket_us(item_idx, as_of_us)
        live = self._live_counts("interactions", as_of_us)
        return last if live is None else np.maximum(last, live.last_bucket_us(item_idx, as_of_us))

    def first_seen_us(self, item_idx: Int32, as_of_us: int) -> Int64:
        """Return when each item was first shown or interacted with (start of the bucket), -1 for never."""
        firsts = [
            counts.first_bucket_us(item_idx, as_of_us)
            for kind in ("interactions", "shown")
            for counts in (getattr(self, kind), self._live_counts(kind, as_of_us))
            if counts is not None
        ]
        never = np.iinfo(np.int64).max
        earliest = np.minimum.reduce([np.where(first == _LONG_AGO, never, first) for first in firsts])
        return np.where(earliest == never, _LONG_AGO, earliest)
