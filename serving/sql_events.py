"""Events in SQL: rows in and out, repeats, deleted users. Each function works on a connection within a transaction."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from recsys.event_tables import EVENTS_FEED, SLATES_FEED, deleted_users_table, events_table, slates_table
from serving.database import next_numbers
from serving.errors import EventConflictError
from serving.stored import EVENT_COLUMNS, Added, DeletedUser, Deletion, Event

_MAX_SHOWN: Final = 80
_NEVER_US: Final = -(2**63)

SELECT_EVENTS: Final = sa.select(*(events_table.c[name] for name in EVENT_COLUMNS))
SELECT_NUMBERED: Final = SELECT_EVENTS.add_columns(events_table.c.seq)
NEWEST_OF: Final = (
    SELECT_EVENTS.where(events_table.c.user_id == sa.bindparam("user_id"))
    .order_by(events_table.c.timestamp_us.desc(), events_table.c.seq.desc())
    .limit(sa.bindparam("max_rows"))
)
NEWEST: Final = (
    SELECT_EVENTS.where(events_table.c.timestamp_us > sa.bindparam("after_us"))
    .order_by(events_table.c.timestamp_us.desc(), events_table.c.seq.desc())
    .limit(sa.bindparam("max_rows"))
)
EVENTS_AFTER: Final = (
    SELECT_NUMBERED.where(events_table.c.seq > sa.bindparam("after"))
    .order_by(events_table.c.seq)
    .limit(sa.bindparam("max_rows"))
)


def by_time(select: sa.Select[Any], table: sa.Table) -> sa.Select[Any]:
    """Return the query of a page of a table's rows behind a place, in order of time and number."""
    time, seq = table.c.timestamp_us, table.c.seq
    after = sa.tuple_(sa.bindparam("after_us", type_=sa.BigInteger), sa.bindparam("after_seq", type_=sa.BigInteger))
    # Rows are compared as a whole: PostgreSQL finds no range of the index in `time > a OR (time = a AND seq > b)`, and
    # every page would read all that came before it.
    is_wanted = sa.and_(sa.tuple_(time, seq) > after, seq <= sa.bindparam("until_seq"))
    return select.where(is_wanted).order_by(time, seq).limit(sa.bindparam("max_rows"))


EVENTS_BY_TIME: Final = by_time(SELECT_NUMBERED, events_table)
LAST_SEQ_OF: Final = sa.union_all(
    sa.select(sa.func.max(events_table.c.seq)).where(events_table.c.user_id == sa.bindparam("user_id")),
    sa.select(deleted_users_table.c.seq).where(deleted_users_table.c.user_id == sa.bindparam("user_id")),
)
_NEWEST_US_OF: Final = sa.select(sa.func.max(events_table.c.timestamp_us)).where(
    events_table.c.user_id == sa.bindparam("user_id")
)
DELETED_US_OF: Final = sa.select(deleted_users_table.c.deleted_us).where(
    deleted_users_table.c.user_id == sa.bindparam("user_id")
)
DELETED_AFTER: Final = (
    sa.select(deleted_users_table.c.seq, deleted_users_table.c.user_id, deleted_users_table.c.deleted_us)
    .where(deleted_users_table.c.seq > sa.bindparam("after"))
    .order_by(deleted_users_table.c.seq)
    .limit(sa.bindparam("max_rows"))
)


def event_of(row: Sequence[Any]) -> Event:
    """Return the event of a row that begins with the columns of events."""
    return Event(*row[: len(EVENT_COLUMNS)])


def deleted_user_of(row: Sequence[Any]) -> DeletedUser:
    """Return the deleted user of a row of `DELETED_AFTER`."""
    return DeletedUser(*row)


def add_events(connection: sa.Connection, events: Sequence[Event], received_us: int) -> Added:
    """Store a batch; see `EventStore.add`."""
    first_place = places_of_ids(events)
    if not first_place:
        return Added((), 0)
    # Numbers come first: they take the lock, so that what is read after it cannot change.
    first_seq = next_numbers(connection, EVENTS_FEED, len(first_place))
    deleted_us = deletions_of(connection, {event.user_id for event in events})
    kept = [
        place
        for place in first_place.values()
        if events[place].timestamp_us > deleted_us.get(events[place].user_id, _NEVER_US)
    ]
    rows = [
        {name: getattr(events[place], name) for name in EVENT_COLUMNS}
        | {"received_us": received_us, "seq": first_seq + number}
        for number, place in enumerate(kept)
    ]
    stored: set[str] = set()
    if rows:
        insert = insert_for(connection)(events_table).on_conflict_do_nothing(index_elements=["event_id"])
        stored = set(connection.scalars(insert.returning(events_table.c.event_id), rows))
    _check_repeats(connection, events, [place for place in kept if events[place].event_id not in stored])
    fresh = tuple(sorted(first_place[id_] for id_ in stored))
    forgotten = len(first_place) - len(kept)
    return Added(fresh, len(events) - len(fresh) - forgotten, forgotten)


def delete_user(connection: sa.Connection, user_id: str, deleted_us: int) -> Deletion:
    """Delete a user's rows and remember that; see `EventStore.delete_user`."""
    seq = next_numbers(connection, EVENTS_FEED)
    next_numbers(connection, SLATES_FEED)  # slates that are being written wait, and then find the deletion
    # No moment before one of an event that goes, nor before an earlier deletion: clocks differ, and a late copy of what
    # was deleted must not come back.
    newest_us = connection.scalar(_NEWEST_US_OF, {"user_id": user_id})
    before_us = deletions_of(connection, {user_id}).get(user_id, _NEVER_US)
    deleted_us = max(deleted_us, before_us, _NEVER_US if newest_us is None else newest_us)
    n_events = connection.execute(sa.delete(events_table).where(events_table.c.user_id == user_id)).rowcount
    n_slates = connection.execute(sa.delete(slates_table).where(slates_table.c.user_id == user_id)).rowcount
    insert = insert_for(connection)(deleted_users_table).values(user_id=user_id, deleted_us=deleted_us, seq=seq)
    connection.execute(
        insert.on_conflict_do_update(index_elements=["user_id"], set_={"deleted_us": deleted_us, "seq": seq})
    )
    return Deletion(user_id, deleted_us, n_events, n_slates)


def insert_for(connection: sa.Connection) -> Any:
    """Return the insert of the connection's database, which can say what becomes of a conflict."""
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def places_of_ids(events: Sequence[Event]) -> dict[str, int]:
    """Return the first place of each event id.

    Raises:
        EventConflictError: an id stands for two different events.
    """
    first_place: dict[str, int] = {}
    for place, event in enumerate(events):
        first = first_place.setdefault(event.event_id, place)
        if not event.same_content(events[first]):
            raise EventConflictError(
                f"events.{place}.event_id: {_quoted(event.event_id)} stands for different content at events.{first}; "
                "nothing was stored; give every event an id of its own",
                field=f"events.{place}.event_id",
            )
    return first_place


def deletions_of(connection: sa.Connection, user_ids: set[str]) -> dict[str, int]:
    """Return when those of the users were deleted who were (µs)."""
    table = deleted_users_table.c
    found = connection.execute(sa.select(table.user_id, table.deleted_us).where(table.user_id.in_(user_ids)))
    return {row.user_id: row.deleted_us for row in found}


def _check_repeats(connection: sa.Connection, events: Sequence[Event], places: Sequence[int]) -> None:
    """Raise unless each of these events, whose ids were known, has the content that is stored."""
    if not places:
        return
    ids = [events[place].event_id for place in places]
    found = connection.execute(SELECT_EVENTS.where(events_table.c.event_id.in_(ids)))
    stored = {event.event_id: event for event in map(event_of, found)}
    differing = [place for place in places if not events[place].same_content(stored[events[place].event_id])]
    if differing:
        first = events[differing[0]].event_id
        raise EventConflictError(
            f"events.{differing[0]}.event_id: {_quoted(first)} is already stored with different content "
            f"({len(differing)} such event(s) in this batch); nothing was stored; give new events new ids",
            field=f"events.{differing[0]}.event_id",
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
