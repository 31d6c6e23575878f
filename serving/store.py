"""The events that reach the service, kept in SQL: taken whole or refused whole, once each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from serving.errors import EventConflictError, StoreError

_BUSY_TIMEOUT_MS: Final = 5_000
_PAGE: Final = 10_000
_MAX_SHOWN: Final = 80

metadata: Final = sa.MetaData()
events_table: Final = sa.Table(
    "events",
    metadata,
    # Order of arrival, which settles the order of events with equal times.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("timestamp_us", sa.BigInteger, nullable=False),
    sa.Column("recommendation_id", sa.Text),
    sa.Column("text", sa.Text),
    sa.Column("received_us", sa.BigInteger, nullable=False),
    sa.Index("ix_events_user", "user_id", "timestamp_us", "seq"),
    sa.Index("ix_events_time", "timestamp_us", "seq"),
)


@dataclass(frozen=True)
class Event:
    """One thing that a user did. timestamp_us: microseconds UTC.

    is_timed: whether the caller said when; where not, the time is the service's own and no part of the content that a
    repeat is compared by. Not stored.
    """

    event_id: str
    user_id: str
    item_id: str
    event: str
    timestamp_us: int
    value: float | None = None
    recommendation_id: str | None = None
    text: str | None = None
    is_timed: bool = True

    def same_content(self, stored: "Event") -> bool:
        """Return whether this is a repeat of an event that is stored already."""
        names = [name for name in _COLUMNS if name != "timestamp_us" or self.is_timed]
        return all(getattr(self, name) == getattr(stored, name) for name in names)


_COLUMNS: Final = tuple(field.name for field in fields(Event) if field.name != "is_timed")


@dataclass(frozen=True)
class Added:
    """What became of a batch. fresh: places in the batch of the events that were not known before, ascending."""

    fresh: tuple[int, ...]
    duplicates: int


class EventStore(Protocol):
    """Keeps events. Every method may be called from several threads at once."""

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        """Store a batch durably, or nothing of it. An event whose id and content are known is counted as duplicate.

        Raises:
            EventConflictError: an id is known with different content, or stands in the batch twice with different
                content; `field` names the event by its place.
            StoreError: the store cannot be written.
        """
        ...

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        """Return the newest `limit` events of a user, oldest first; equal times in order of arrival.

        Raises:
            StoreError: the store cannot be read.
        """
        ...

    def since(self, timestamp_us: int) -> Iterator[Event]:
        """Yield all users' events later than a moment, in order of time and arrival; repeatable.

        Raises:
            StoreError: the store cannot be read.
        """
        ...

    def close(self) -> None:
        """Release all connections; the store cannot be used any more."""
        ...


class NoStore:
    """Stands in where events are neither kept nor known."""

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        raise StoreError("events cannot be stored: no store was given; name one, such as sqlite:///recsys.db")

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        return []

    def since(self, timestamp_us: int) -> Iterator[Event]:
        return iter(())

    def close(self) -> None:
        """Nothing to release."""


class SqlEventStore:
    """Events in SQLite (a file, or memory with `sqlite://`) or PostgreSQL. Creates its table when there is none.

    Raises:
        StoreError: the URL cannot be used, or the database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            raise StoreError(
                "the store's URL is no SQLAlchemy URL; it should read like sqlite:///recsys.db or "
                "postgresql+psycopg://user:password@host/database"
            ) from None
        self.shown_url = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise StoreError(f"the event store {self.shown_url} is neither SQLite nor PostgreSQL; use one of these")
        try:
            self._engine = _sqlite_engine(parsed) if parsed.get_backend_name() == "sqlite" else sa.create_engine(parsed)
            with self._engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(events_table, if_not_exists=True))
                for index in sorted(events_table.indexes, key=lambda index: str(index.name)):
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
        except SQLAlchemyError as error:
            raise self._failed("opened", error) from error
        except ImportError as error:
            raise StoreError(
                f"the event store {self.shown_url} needs the Python package {error.name}; install it beside this one"
            ) from error

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        first_place = _places_of_ids(events)
        rows = [
            {name: getattr(events[place], name) for name in _COLUMNS} | {"received_us": received_us}
            for place in first_place.values()
        ]
        if not rows:
            return Added((), 0)
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        statement = insert(events_table).on_conflict_do_nothing(index_elements=["event_id"])
        try:
            # The insert comes first: it takes the write lock, so that what is read after it cannot change.
            with self._engine.begin() as connection:
                stored = set(connection.scalars(statement.returning(events_table.c.event_id), rows))
                known = [place for id_, place in first_place.items() if id_ not in stored]
                _check_repeats(connection, events, known)
        except SQLAlchemyError as error:
            raise self._failed("written; nothing of the batch was stored", error) from error
        fresh = tuple(sorted(first_place[id_] for id_ in stored))
        return Added(fresh, len(events) - len(fresh))

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        newest = (
            _select_events()
            .where(events_table.c.user_id == user_id)
            .order_by(events_table.c.timestamp_us.desc(), events_table.c.seq.desc())
            .limit(limit)
        )
        return [_event(row) for row in reversed(self._read(newest))]

    def since(self, timestamp_us: int) -> Iterator[Event]:
        time, seq = events_table.c.timestamp_us, events_table.c.seq
        statement = _select_events().add_columns(seq).order_by(time, seq).limit(_PAGE)
        after = time > timestamp_us
        while rows := self._read(statement.where(after)):
            yield from map(_event, rows)
            last_us, last_seq = rows[-1].timestamp_us, rows[-1].seq
            after = sa.or_(time > last_us, sa.and_(time == last_us, seq > last_seq))

    def close(self) -> None:
        self._engine.dispose()

    def _read(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(statement).all()
        except SQLAlchemyError as error:
            raise self._failed("read", error) from error

    def _failed(self, what: str, error: SQLAlchemyError) -> StoreError:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return StoreError(
            f"the event store {self.shown_url} cannot be {what}: {cause}; check that it exists, can be reached and "
            "has room and permission to write"
        )


def _select_events() -> sa.Select[Any]:
    return sa.select(*(events_table.c[name] for name in _COLUMNS))


def _event(row: sa.Row[Any]) -> Event:
    return Event(*row[: len(_COLUMNS)])


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    in_memory = url.database in (None, "", ":memory:")
    # A database in memory lives in its connection: there is one, and threads take turns with it.
    engine = (
        sa.create_engine(
            url,
            poolclass=sa.QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        if in_memory
        else sa.create_engine(url)
    )

    @sa.event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout = {_BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _places_of_ids(events: Sequence[Event]) -> dict[str, int]:
    """Return the first place of each event id; refuse an id that stands for two different events."""
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


def _check_repeats(connection: sa.Connection, events: Sequence[Event], places: Sequence[int]) -> None:
    """Raise unless each of these events, whose ids were known, has the content that is stored."""
    if not places:
        return
    ids = [events[place].event_id for place in places]
    found = connection.execute(_select_events().where(events_table.c.event_id.in_(ids)))
    stored = {event.event_id: event for event in map(_event, found)}
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
