"""What users did, as arrays: the interaction log in user order, one user's history, and one request."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

# What a request carries of a history at most, in training and in service: factors are solved from all of it, features
# read less.
MAX_REQUEST_HISTORY: Final = 1_000


@dataclass(frozen=True)
class History:
    """What one user did before a moment, oldest first. Arrays of one length `(h,)`.

    item_idx: int32 rows of the catalogue. timestamp_us: int64 microseconds UTC. weight: float32 event weights.
    """

    item_idx: Int32
    timestamp_us: Int64
    weight: Float32

    def __len__(self) -> int:
        return len(self.item_idx)

    def last(self, n: int) -> "History":
        """Return the newest `n` interactions, still oldest first."""
        if len(self) <= n:
            return self
        start = len(self) - n
        return History(self.item_idx[start:], self.timestamp_us[start:], self.weight[start:])

    @staticmethod
    def empty() -> "History":
        return History(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))

    @staticmethod
    def join(older: "History", newer: "History") -> "History":
        """Return both, ordered by time; where times are equal `older` comes first."""
        if not len(newer):
            return older
        times = np.concatenate([older.timestamp_us, newer.timestamp_us])
        order = np.argsort(times, kind="stable")
        return History(
            np.concatenate([older.item_idx, newer.item_idx])[order],
            times[order],
            np.concatenate([older.weight, newer.weight])[order],
        )


@dataclass(frozen=True)
class Request:
    """A moment at which a list is wanted: for whom, when, and what they had done by then.

    user_idx is the row in the users the models know, or -1. `candidates`, when given, are the only items to order.
    """

    history: History
    as_of_us: int
    user_idx: int = -1
    candidates: Int32 | None = field(default=None)


@dataclass(frozen=True)
class InteractionLog:
    """Interactions sorted by (user, timestamp, order of arrival). Arrays of one length `(n,)`.

    user_idx, item_idx: int32. timestamp_us: int64 microseconds UTC. weight: float32. row: int64 position in the
    table that the log was made from.
    """

    user_idx: Int32
    item_idx: Int32
    timestamp_us: Int64
    weight: Float32
    row: Int64
    n_users: int
    n_items: int

    @staticmethod
    def from_arrays(
        user_idx: Int32, item_idx: Int32, timestamp_us: Int64, weight: Float32, *, n_users: int, n_items: int
    ) -> "InteractionLog":
        """Sort unordered arrays into a log; rows of equal user and time keep their order."""
        order = np.lexsort((np.arange(len(user_idx)), timestamp_us, user_idx))
        return InteractionLog(
            user_idx[order].astype(np.int32, copy=False),
            item_idx[order].astype(np.int32, copy=False),
            timestamp_us[order].astype(np.int64, copy=False),
            weight[order].astype(np.float32, copy=False),
            order.astype(np.int64),
            n_users,
            n_items,
        )

    def __len__(self) -> int:
        return len(self.user_idx)

    @cached_property
    def indptr(self) -> Int64:
        """Where each user's rows begin, int64 `(n_users + 1,)`."""
        return np.searchsorted(self.user_idx, np.arange(self.n_users + 1)).astype(np.int64)

    def select(self, mask: Bool) -> "InteractionLog":
        """Return the rows where `mask` (bool `(n,)`) holds; users and items keep their rows."""
        return InteractionLog(
            self.user_idx[mask],
            self.item_idx[mask],
            self.timestamp_us[mask],
            self.weight[mask],
            self.row[mask],
            self.n_users,
            self.n_items,
        )

    def history_at(self, start: int, stop: int) -> History:
        """Return rows `start:stop`, which must belong to one user, as a history."""
        return History(self.item_idx[start:stop], self.timestamp_us[start:stop], self.weight[start:stop])

    def history_of(self, user_idx: int, before_us: int | None = None) -> History:
        """Return what a user did strictly before a moment, or all of it. Unknown users (-1) have done nothing."""
        if not 0 <= user_idx < self.n_users:
            return History.empty()
        start, stop = int(self.indptr[user_idx]), int(self.indptr[user_idx + 1])
        if before_us is not None:
            stop = start + int(np.searchsorted(self.timestamp_us[start:stop], before_us, side="left"))
        return self.history_at(start, stop)

    def matrix(self) -> sp.csr_matrix:
        """Return summed weights as float32 CSR `(n_users, n_items)`."""
        return sp.csr_matrix(
            (self.weight, (self.user_idx, self.item_idx)), shape=(self.n_users, self.n_items), dtype=np.float32
        )

    def item_counts(self) -> Int64:
        """Return the number of interactions of each item, int64 `(n_items,)`."""
        return np.bincount(self.item_idx, minlength=self.n_items).astype(np.int64)


@dataclass(frozen=True)
class ImpressionLog:
    """Shown items, grouped by request; requests sorted by (timestamp, order of arrival).

    indptr: int64 `(n_requests + 1,)`, where each request's rows begin. Per request `(n_requests,)`: request_id
    strings, user_idx int32, timestamp_us int64. Per row `(n_rows,)`: item_idx int32, clicked bool, position int32
    (1-based, 0 where it was not recorded).
    """

    request_id: list[str]
    user_idx: Int32
    timestamp_us: Int64
    indptr: Int64
    item_idx: Int32
    clicked: Bool
    position: Int32

    def __len__(self) -> int:
        return len(self.request_id)

    @cached_property
    def row_request(self) -> Int64:
        """The request of every row, int64 `(n_rows,)`."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def without_items(self, item_idx: Int32) -> "ImpressionLog":
        """Return the log without the rows of some items; every request stays, if with no row."""
        kept = ~np.isin(self.item_idx, item_idx)
        before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)  # (n_rows + 1,)
        return ImpressionLog(
            self.request_id,
            self.user_idx,
            self.timestamp_us,
            before[self.indptr],
            self.item_idx[kept],
            self.clicked[kept],
            self.position[kept],
        )

    @property
    def has_positions(self) -> bool:
        return bool((self.position > 0).any())

    def rows(self, request: int) -> slice:
        """Return the rows of one request."""
        return slice(int(self.indptr[request]), int(self.indptr[request + 1]))
