"""The store in SQLite or PostgreSQL."""

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa

from recsys.event_tables import feeds_table
from serving import sql_catalogue, sql_events, sql_slates
from serving.database import Database
from serving.errors import StoreError
from serving.stored import (
    LAST_SEQ,
    Added,
    DeletedUser,
    Deletion,
    Event,
    ItemChange,
    Place,
    Positions,
    StoredItem,
    StoredKey,
    StoredSlate,
)

_PAGE: Final = 10_000
_POSITIONS: Final = sa.select(feeds_table.c.name, feeds_table.c.last)
_ONE: Final = sa.select(sa.literal(1))


class SqlEventStore:
    """Keeps everything in one database; `EventStore` says what each method does.

    url: a file of SQLite, memory with `sqlite://`, or PostgreSQL. Opening creates its tables or brings them up to date.

    Raises:
        StoreError: the URL cannot be used, the database cannot be reached, or a newer version of this code wrote it.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self.shown_url = self._database.shown_url
        self._last_seq_of = self._database.prepared(sql_events.LAST_SEQ_OF)

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        sql_events.places_of_ids(events)  # a batch at odds with itself costs no transaction
        if not events:
            return Added((), 0)
        return self._database.write(lambda connection: sql_events.add_events(connection, events, received_us))

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        rows = self._database.read(sql_events.NEWEST_OF, {"user_id": user_id, "max_rows": limit})
        return [sql_events.event_of(row) for row in reversed(rows)]

    def newest(self, limit: int, *, after_us: int) -> list[Event]:
        rows = self._database.read(sql_events.NEWEST, {"after_us": after_us, "max_rows": limit})
        return [sql_events.event_of(row) for row in reversed(rows)]

    def last_seq_of(self, user_id: str) -> int:
        rows = self._last_seq_of({"user_id": user_id})
        return max((row[0] or 0 for row in rows), default=0)

    def since(self, timestamp_us: int) -> Iterator[Event]:
        after = Place(timestamp_us)
        while numbered := self.events_by_time(after, _PAGE):
            yield from (event for _, event in numbered)
            after = Place(numbered[-1][1].timestamp_us, numbered[-1][0])

    def events_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, Event]]:
        rows = self._database.read(sql_events.EVENTS_BY_TIME, _page(after, limit, until_seq))
        return [(row.seq, sql_events.event_of(row)) for row in rows]

    def events_after(self, seq: int, limit: int) -> list[tuple[int, Event]]:
        rows = self._database.read(sql_events.EVENTS_AFTER, {"after": seq, "max_rows": limit})
        return [(row.seq, sql_events.event_of(row)) for row in rows]

    def positions(self) -> Positions:
        return Positions(**{row.name: row.last for row in self._database.read(_POSITIONS)})

    def delete_user(self, user_id: str, *, deleted_us: int) -> Deletion:
        return self._database.write(lambda connection: sql_events.delete_user(connection, user_id, deleted_us))

    def deleted_us_of(self, user_id: str) -> int | None:
        rows = self._database.read(sql_events.DELETED_US_OF, {"user_id": user_id})
        return rows[0].deleted_us if rows else None

    def users_deleted_after(self, seq: int, limit: int) -> list[DeletedUser]:
        rows = self._database.read(sql_events.DELETED_AFTER, {"after": seq, "max_rows": limit})
        return [sql_events.deleted_user_of(row) for row in rows]

    def put_item(self, item: StoredItem, *, updated_us: int) -> int:
        return self._database.write(lambda connection: sql_catalogue.put_item(connection, item, updated_us))

    def delete_item(self, item_id: str, *, updated_us: int) -> int:
        return self._database.write(lambda connection: sql_catalogue.delete_item(connection, item_id, updated_us))

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        rows = self._database.read(sql_catalogue.ITEMS_AFTER, {"after": after, "max_rows": limit})
        return [sql_catalogue.item_change_of(row) for row in rows]

    def known_items(self, item_ids: Sequence[str]) -> dict[str, bool]:
        rows = self._database.read(sql_catalogue.select_known(item_ids))
        return {row.item_id: not row.is_deleted for row in rows}

    def add_slates(self, batch: Sequence[StoredSlate]) -> None:
        if batch:
            self._database.write(lambda connection: sql_slates.add_slates(connection, batch))

    def slates_by_time(self, after: Place, limit: int, *, until_seq: int = LAST_SEQ) -> list[tuple[int, StoredSlate]]:
        rows = self._database.read(sql_slates.SLATES_BY_TIME, _page(after, limit, until_seq))
        return [(row.seq, sql_slates.slate_of(row)) for row in rows]

    def slates_after(self, seq: int, limit: int) -> list[tuple[int, StoredSlate]]:
        rows = self._database.read(sql_slates.SLATES_AFTER, {"after": seq, "max_rows": limit})
        return [(row.seq, sql_slates.slate_of(row)) for row in rows]

    def add_key(self, key: StoredKey) -> None:
        if not self._database.write(lambda connection: sql_catalogue.add_key(connection, key)):
            raise StoreError(f"the key id {key.key_id!r} is taken; give the key another id; nothing was stored")

    def keys(self) -> list[StoredKey]:
        return [sql_catalogue.key_of(row) for row in self._database.read(sql_catalogue.KEYS)]

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        return self._database.write(lambda connection: sql_catalogue.revoke_key(connection, key_id, at_us))

    def ping(self) -> None:
        self._database.read(_ONE)

    def close(self) -> None:
        self._database.close()


def _page(after: Place, limit: int, until_seq: int) -> dict[str, int]:
    return {"after_us": after.timestamp_us, "after_seq": after.seq, "until_seq": until_seq, "max_rows": limit}
