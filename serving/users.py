"""What the store knows of a user, as arrays, kept from one request to the next while nothing changes."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.histories import History
from serving.store import Event, EventStore
from serving.telemetry import count_cache

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredUser:
    """A user's stored events. history: positive behaviour on known items, by time. complained_idx: int32, items.

    event_idx, event_us, event_kinds: every event on a known item, by time: int32 row, int64 microseconds, kind.
    unknown_ids: items of events that the catalogue lacks. is_forgotten: whether the user was deleted, so that what
    the model knows of them must not be used. is_read: whether the texts of all their reviews could be read; where not,
    the user is read again for the next request.
    """

    history: History = field(default_factory=History.empty)
    complained_idx: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    event_idx: Int32 = field(default_factory=lambda: np.empty(0, np.int32))
    event_us: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    event_kinds: tuple[str, ...] = ()
    unknown_ids: tuple[str, ...] = ()
    is_forgotten: bool = False
    is_read: bool = True
    # What a model computes of this history; see `recsys.retrieval.asked`.
    computed: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)


class Users:
    """Reads users from the store through a bounded cache. May be called from several threads at once.

    Every look-up asks the store for one number that tells whether the user's events have changed, whoever changed them.

    read: makes a user of events, oldest first, and of whether they were deleted. n_items: how many items are known; as
        it grows, events on new items become known.
    """

    def __init__(
        self,
        store: EventStore,
        read: Callable[[Sequence[Event], bool], StoredUser],
        n_items: Callable[[], int],
        *,
        max_events: int,
        max_users: int,
    ) -> None:
        self._store = store
        self._read = read
        self._n_items = n_items
        self._max_events = max_events
        self._max_users = max_users
        self._users: OrderedDict[str, tuple[tuple[int, int], StoredUser]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, user_id: str) -> StoredUser:
        """Return what is stored of a user.

        Raises:
            StoreError: the store cannot be read.
        """
        key = (self._store.last_seq_of(user_id), self._n_items())
        with self._lock:
            known = self._users.get(user_id)
            if known is not None and known[0] == key:
                self._users.move_to_end(user_id)
                count_cache("histories", is_hit=True)
                return known[1]
        count_cache("histories", is_hit=False)
        is_forgotten = key[0] > 0 and self._store.deleted_us_of(user_id) is not None
        user = self._read(self._store.newest_of(user_id, self._max_events) if key[0] else (), is_forgotten)
        if not user.is_read:
            return user
        with self._lock:
            self._users[user_id] = (key, user)
            self._users.move_to_end(user_id)
            while len(self._users) > self._max_users:
                self._users.popitem(last=False)
        return user


def interned(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds of events such that equal ones are one object."""
    return tuple(sys.intern(kind) for kind in kinds)
