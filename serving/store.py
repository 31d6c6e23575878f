"""What the service keeps: events, items, slates, API keys. The protocol, and who stands in where nothing is kept.

`serving.stored` holds the values, `SqlEventStore` keeps them in SQL.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from serving.errors import StoreError
from serving.sql_store import SqlEventStore
from serving.stored import (
    LAST_SEQ,
    Added,
    DeletedUser,
    Deletion,
    Event,
    ItemChange,
    Place,
    Positions,
    ShownItem,
    StoredItem,
    StoredKey,
    StoredSlate,
)

__all__ = [
    "Added",
    "DeletedUser",
    "Deletion",
    "Event",
    "EventStore",
    "ItemChange",
    "NoStore",
    "Place",
    "Positions",
    "ShownItem",
    "SqlEventStore",
    "StoredItem",
    "StoredKey",
    "StoredSlate",
]


class EventStore(Protocol):
    """Keeps what the service is told and what it answered. Every method may be called from several threads at once.

    Events, items and slates are numbered as they arrive, each kind on its own (`Positions`). Numbers rise, are never
    given twice, may have gaps, and become visible in their order: who has read up to one has missed none before it,
    whoever wrote it and from where.

    Every method that reads or writes raises `StoreError` when the store cannot be read or written. Nothing of the call
    was stored then, but where the connection broke at the last moment: the text says so, and the same call again is
    safe.
    """

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        """Store a batch durably, or nothing of it. An event whose id and content are known is counted as duplicate.

        Events of a deleted user that happened before the deletion are counted as forgotten.

        Raises:
            EventConflictError: an id is known with different content, or stands in the batch twice with different
                content; `field` names the event by its place.
        """
        ...

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        """Return the newest `limit` events of a user, oldest first; equal times in order of arrival."""
        ...

    def newest(self, limit: int, *, after_us: int) -> list[Event]:
        """Return the newest `limit` events of all users later than a moment, oldest first, as `newest_of` does."""
        ...

    def last_seq_of(self, user_id: str) -> int:
        """Return a number that changes whenever a user's events do: that of the newest to arrive, or of the deletion.

        0 for a user without either. Quick: meant to be asked with each request.
        """
        ...

    def since(self, timestamp_us: int) -> Iterator[Event]:
        """Yield all users' events later than a moment, in order of time and arrival; repeatable."""
        ...

    def events_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, Event]]:
        """Return at most `limit` events behind a place, each with its number, in order of time and arrival.

        Who goes on from the place of the last one reads no more than what follows.

        until_seq: leave out what arrived after this number, for who goes on with `events_after` from there.
        """
        ...

    def events_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        """Return at most `limit` events that arrived after a number, each with its own, in order of arrival."""
        ...

    def positions(self) -> Positions:
        """Return the newest number of each feed: what a follower compares with where it stands. Quick."""
        ...

    def delete_user(self, user_id: str, *, deleted_us: int) -> Deletion:
        """Delete all events and slates of a user durably and remember that, and return how much it was.

        A user whom the store does not know is remembered too, since a model may know them. The deletion counts as of
        the latest of `deleted_us`, an earlier deletion, and the newest event that is deleted; the receipt tells.
        """
        ...

    def deleted_us_of(self, user_id: str) -> int | None:
        """Return when a user was deleted, None for one who was not: what a model knows from before must not be used."""
        ...

    def users_deleted_after(self, seq: int, limit: int) -> list[DeletedUser]:
        """Return at most `limit` users deleted after a number of the feed of events, in order of deletion."""
        ...

    def put_item(self, item: StoredItem, *, updated_us: int) -> int:
        """Store an item durably in place of what was known of it, and return the number of the change."""
        ...

    def delete_item(self, item_id: str, *, updated_us: int) -> int:
        """Delete an item durably, one that the store does not know too, and return the number of the change."""
        ...

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """Return at most `limit` items that changed after a number, in order of their newest change.

        An item that changed twice is there once, as it is now.
        """
        ...

    def known_items(self, item_ids: Sequence[str]) -> dict[str, bool]:
        """Return whether each item is there now (False: it was deleted), for those that were ever put or deleted here.

        item_ids: a thousand at most.
        """
        ...

    def add_slates(self, batch: Sequence[StoredSlate]) -> None:
        """Store slates. One whose recommendation_id is known is left out, as is one from before its user's deletion."""
        ...

    def slates_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, StoredSlate]]:
        """Return at most `limit` slates behind a place, as `events_by_time` does events."""
        ...

    def slates_after(self, seq: int, limit: int) -> list[tuple[int, StoredSlate]]:
        """Return at most `limit` slates that were stored after a number, each with its own, in that order."""
        ...

    def add_key(self, key: StoredKey) -> None:
        """Store an API key.

        Raises:
            StoreError: its id is taken.
        """
        ...

    def keys(self) -> list[StoredKey]:
        """Return all API keys, revoked ones too, oldest first."""
        ...

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        """Revoke a key; return False when no key of this id was open."""
        ...

    def ping(self) -> None:
        """Return when the store answers."""
        ...

    def close(self) -> None:
        """Release all connections; the store cannot be used any more."""
        ...


_NONE = "no store was given; name one, such as sqlite:///recsys.db"


class NoStore:
    """Stands in where nothing is kept nor known: reads find nothing, writes are refused."""

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        raise StoreError(f"events cannot be stored: {_NONE}")

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        return []

    def newest(self, limit: int, *, after_us: int) -> list[Event]:
        return []

    def last_seq_of(self, user_id: str) -> int:
        return 0

    def since(self, timestamp_us: int) -> Iterator[Event]:
        return iter(())

    def events_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, Event]]:
        return []

    def events_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        return []

    def positions(self) -> Positions:
        return Positions()

    def delete_user(self, user_id: str, *, deleted_us: int) -> Deletion:
        raise StoreError(f"users cannot be deleted: {_NONE}")

    def deleted_us_of(self, user_id: str) -> int | None:
        return None

    def users_deleted_after(self, seq: int, limit: int) -> list[DeletedUser]:
        return []

    def put_item(self, item: StoredItem, *, updated_us: int) -> int:
        raise StoreError(f"items cannot be stored: {_NONE}")

    def delete_item(self, item_id: str, *, updated_us: int) -> int:
        raise StoreError(f"items cannot be deleted: {_NONE}")

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        return []

    def known_items(self, item_ids: Sequence[str]) -> dict[str, bool]:
        return {}

    def add_slates(self, batch: Sequence[StoredSlate]) -> None:
        raise StoreError(f"slates cannot be stored: {_NONE}")

    def slates_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, StoredSlate]]:
        return []

    def slates_after(self, seq: int, limit: int) -> list[tuple[int, StoredSlate]]:
        return []

    def add_key(self, key: StoredKey) -> None:
        raise StoreError(f"keys cannot be stored: {_NONE}")

    def keys(self) -> list[StoredKey]:
        return []

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        raise StoreError(f"keys cannot be revoked: {_NONE}")

    def ping(self) -> None:
        """Nothing to reach."""

    def close(self) -> None:
        """Nothing to release."""
