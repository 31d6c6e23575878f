"""Keeps an engine in step with the store: items, deleted users, counted events and shown slates, whoever wrote them."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from recsys.schema import Col
from serving.store import Event, EventStore, ItemChange, Place, Positions, StoredItem

if TYPE_CHECKING:
    from serving.engine import Engine

_PAGE: Final = 1_000
_ITEMS_AT_ONCE: Final = 256
_AGAIN_S: Final = 30.0
# Who clicks on an item of a slate twice does so within one visit.
_VISIT_US: Final = 3_600 * 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Follower:
    """Reads what is new in the store and hands it to one engine. Threads that call it take turns.

    Items whose text the encoder failed on are applied again every half a minute. clock: seconds, rising.
    """

    def __init__(self, engine: "Engine", store: EventStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._unread: dict[str, ItemChange] = {}  # by item
        self._again_s = 0.0
        self._turn = threading.Lock()
        self._events = self._items = self._slates = self._deletions = 0
        # Rows of the model's users who were deleted: without the store, nothing else here says so. No ids, and at most
        # as many as the model has users.
        self._deleted: set[int] = set()
        self._is_level = False
        # A replay that the store breaks off goes on where it stopped: up to where it goes, and what it took in last.
        self._until: Positions | None = None
        self._last_event: Place | None = None
        self._last_slate: Place | None = None

    def catch_up(self) -> None:
        """Take in everything that is newer than the training, or since the last call.

        Raises:
            StoreError: the store cannot be read; what was taken in before stays, and the next call goes on from there.
        """
        with self._turn:
            at = self._store.positions()
            if at.events > self._deletions:  # deletions are numbered in the feed of events
                self._follow_deletions(at.events)
            if at.items > self._items:
                self._follow_items()
            if self._unread and self._clock() >= self._again_s:
                self._apply_again()
            if not self._is_level:
                self._until = self._until or at
                self._replay(self._until)
                self._is_level = True
                return
            if at.events > self._events:
                self._follow_events()
            if at.slates > self._slates:
                self._follow_slates()

    def forget(self, user_ids: Sequence[str]) -> None:
        """Note that users were deleted; those whom the model does not know are left aside."""
        self._deleted.update(self._engine.bundle.models.user_ids.lookup(user_ids, unknown="drop").tolist())

    def has_forgotten(self, user_id: str) -> bool:
        """Return whether a user of the model is known to have been deleted. Asks no store."""
        return self._engine.bundle.models.user_ids.get(user_id) in self._deleted

    def forgotten(self) -> list[str]:
        """Return the users of the model who are known to have been deleted, for who takes over from this engine."""
        return [self._engine.bundle.models.user_ids.id_of(row) for row in list(self._deleted)]

    def _replay(self, until: Positions) -> None:
        since = self._engine.bundle.manifest.data_until_us
        # From a little before the end of the training, whose clicks are no first ones afterwards.
        after = self._last_event or Place(since - _VISIT_US)
        while numbered := self._store.events_by_time(after, _PAGE, until_seq=until.events):
            events: Sequence[Event] = [event for _, event in numbered]
            self._engine.count_events(events)
            after = self._last_event = Place(events[-1].timestamp_us, numbered[-1][0])
        after = self._last_slate or Place(since)
        while slates := self._store.slates_by_time(after, _PAGE, until_seq=until.slates):
            for seq, slate in slates:
                self._engine.count_slate(slate)
                after = self._last_slate = Place(slate.timestamp_us, seq)
        self._events, self._slates = until.events, until.slates

    def _follow_events(self) -> None:
        while numbered := self._store.events_after(self._events, _PAGE):
            events: Sequence[Event] = [event for _, event in numbered]
            self._engine.count_events(events)
            self._events = numbered[-1][0]

    def _follow_slates(self) -> None:
        while numbered := self._store.slates_after(self._slates, _PAGE):
            for _, slate in numbered:
                self._engine.count_slate(slate)
            self._slates = numbered[-1][0]

    def _follow_deletions(self, until: int) -> None:
        while users := self._store.users_deleted_after(self._deletions, _PAGE):
            self.forget([user.user_id for user in users])
            self._deletions = users[-1].seq
        self._deletions = max(self._deletions, until)

    def _follow_items(self) -> None:
        while changes := self._store.item_changes(self._items, _ITEMS_AT_ONCE):
            self._apply(changes)
            self._items = changes[-1].change

    def _apply(self, changes: Sequence[ItemChange]) -> None:
        unread = self._engine.apply_items(changes)
        for change in changes:  # the newest of each item is the one that counts
            self._unread.pop(change.item_id, None)
        if unread and not self._unread:
            self._again_s = self._clock() + _AGAIN_S
        self._unread |= {change.item_id: change for change in unread}

    def _apply_again(self) -> None:
        self._again_s = self._clock() + _AGAIN_S
        n_before = len(self._unread) + 1
        while 0 < len(self._unread) < n_before:  # as long as some of them can be read
            n_before = len(self._unread)
            self._apply(list(islice(self._unread.values(), _ITEMS_AT_ONCE)))


def columns_of(item: StoredItem) -> dict[str, Any]:
    """Return a stored item by column, as in the items table."""
    created = None if item.created_at_us is None else _EPOCH + timedelta(microseconds=item.created_at_us)
    return item.attributes | {
        Col.ITEM_ID: item.item_id,
        Col.TITLE: item.title,
        Col.DESCRIPTION: item.description,
        Col.CATEGORIES: list(item.categories),
        Col.CREATED_AT: created,
    }


def listed(changes: Sequence[ItemChange]) -> list[StoredItem]:
    """Return the items of changes that put one."""
    return [change.item for change in changes if change.item is not None]
