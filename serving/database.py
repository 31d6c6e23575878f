"""The connection to SQLite or PostgreSQL: opened, brought up to date, read, written, and its failures told."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from recsys.event_tables import feeds_table
from serving.errors import StoreError
from serving.migrate import bring_up_to_date, upgraded_from

_BUSY_TIMEOUT_MS: Final = 5_000
_CONNECT_TIMEOUT_S: Final = 2
_STATEMENT_TIMEOUT_MS: Final = 10_000
_NETWORK_TIMEOUT_MS: Final = 5_000
# Who writes holds the row of a feed until the commit. Should they pause or lose their power there, PostgreSQL ends the
# transaction itself, so that the others can write again.
_SERVER_LIMITS: Final = {
    "statement_timeout": _STATEMENT_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": _STATEMENT_TIMEOUT_MS,
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}
_POOL_SIZE: Final = 8
_MAX_CONNECTIONS: Final = 40
_POOL_TIMEOUT_S: Final = 2.0
_LIBPQ_DRIVERS: Final = ("psycopg", "psycopg2")
_SQLITE: Final = "sqlite"
_IN_MEMORY: Final = (None, "", ":memory:")

T = TypeVar("T")


class Database:
    """A database whose schema is that of this code. May be used from several threads at once.

    A file of SQLite, memory with `sqlite://`, or PostgreSQL. Whatever another version of this code wrote is brought up
    to date on opening.

    is_read_only: leave everything as it is, the schema too, which `upgraded_from` then tells; a file of SQLite must be
        there.

    Raises:
        StoreError: the URL cannot be used, the database cannot be reached, or a newer version wrote it.
    """

    def __init__(self, url: str, *, is_read_only: bool = False) -> None:
        try:
            parsed = sa.make_url(url)
        except ArgumentError:
            raise StoreError(
                "the store's URL is no SQLAlchemy URL; it should read like sqlite:///recsys.db or "
                "postgresql+psycopg://user:password@host/database"
            ) from None
        self.shown_url = parsed.render_as_string(hide_password=True)
        if parsed.get_backend_name() not in (_SQLITE, "postgresql"):
            raise StoreError(f"the event store {self.shown_url} is neither SQLite nor PostgreSQL; use one of these")
        try:
            if parsed.get_backend_name() == _SQLITE:
                self.engine = _sqlite_reader(parsed) if is_read_only else _sqlite_engine(parsed)
            else:
                self.engine = _server_engine(parsed)
        except ImportError as error:
            raise StoreError(
                f"the event store {self.shown_url} needs the Python package {error.name}; install it beside this one, "
                "or pip install 'psycopg[binary]' and begin the URL with postgresql+psycopg://"
            ) from error
        self.is_sqlite = self.engine.dialect.name == _SQLITE
        self._driver_error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        # The isolation level is the connection's in PostgreSQL; in SQLite a transaction is begun by hand.
        self._writing = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="READ COMMITTED")
        )
        if is_read_only:
            return
        try:
            bring_up_to_date(self.engine, self.shown_url)
        except SQLAlchemyError as error:
            self.engine.dispose()
            raise self.failed("opened", error) from error
        except StoreError:
            self.engine.dispose()
            raise

    def upgraded_from(self) -> str | None:
        """Return the revision of the schema that is there, None where there are no tables yet.

        Raises:
            StoreError: the database cannot be read, or a newer version wrote it.
        """
        try:
            with self.engine.connect() as connection:
                return upgraded_from(connection, self.shown_url)
        except SQLAlchemyError as error:
            raise self.failed("read", error) from error

    def read(self, statement: sa.Executable, parameters: Mapping[str, Any] | None = None) -> Sequence[sa.Row[Any]]:
        """Return all rows of one statement.

        Raises:
            StoreError: the database cannot be read.
        """
        try:
            return _once_more(lambda: self._rows(statement, parameters))
        except SQLAlchemyError as error:
            raise self.failed("read", error) from error

    def prepared(self, statement: sa.CompoundSelect[Any]) -> Callable[[Mapping[str, Any]], Sequence[Sequence[Any]]]:
        """Return a function from parameters to the rows of one small statement that every request asks.

        It hands the statement to the driver: SQLAlchemy's execution costs more than such a statement itself. The
        function raises as `read` does.
        """
        compiled = statement.compile(dialect=self.engine.dialect)
        text, order = str(compiled), compiled.positiontup if compiled.positional else None

        def rows_of(parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
            given = parameters if order is None else tuple(parameters[name] for name in order)
            rows = self._driver_rows(text, given)
            return self.read(statement, parameters) if rows is None else rows

        return rows_of

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` returns, which runs in one transaction that is durable afterwards.

        `work` may be run a second time where the connection was lost, so it must bear that its first run took effect.

        Raises:
            StoreError: the database cannot be written; nothing of the work was stored, unless the text says otherwise.
        """
        try:
            return _once_more(lambda: self._transact(work))
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                what = "written; the connection was lost, and the batch may be stored or not: send it again unchanged"
                raise self.failed(what, error) from error
            raise self.failed("written; nothing of the batch was stored", error) from error

    def close(self) -> None:
        """Release all connections."""
        self.engine.dispose()

    def failed(self, what: str, error: SQLAlchemyError) -> StoreError:
        """Return the error to raise for a failure of the database."""
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return StoreError(
            f"the event store {self.shown_url} cannot be {what}: {cause}; check that it exists, can be reached and "
            "has room and permission to write"
        )

    def _rows(self, statement: sa.Executable, parameters: Mapping[str, Any] | None) -> Sequence[sa.Row[Any]]:
        with self.engine.connect() as connection:
            return connection.execute(statement, parameters).all()

    def _driver_rows(self, text: str, parameters: Any) -> Sequence[Sequence[Any]] | None:
        """Return the rows of a statement, None where the driver failed: `read` then finds out why, or succeeds."""
        try:
            connection = self.engine.raw_connection()
        except SQLAlchemyError as error:
            raise self.failed("read", error) from error
        try:
            cursor = connection.cursor()
            cursor.execute(text, parameters)
            return cursor.fetchall()
        except self._driver_error:
            connection.invalidate()
            return None
        finally:
            connection.close()

    def _transact(self, work: Callable[[sa.Connection], T]) -> T:
        with self._writing.begin() as connection:
            if self.is_sqlite:
                # Takes the write lock at once: what is read afterwards cannot change before the commit.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)


def next_numbers(connection: sa.Connection, feed: str, count: int = 1) -> int:
    """Return the first of `count` new numbers of a feed, which others wait for until this transaction ends."""
    statement = sa.update(feeds_table).where(feeds_table.c.name == feed).values(last=feeds_table.c.last + count)
    last: int = connection.execute(statement.returning(feeds_table.c.last)).scalar_one()
    return last - count + 1


def _once_more(work: Callable[[], T]) -> T:
    """Return what `work` returns; where the connection turns out to be lost, as after a restart, try a new one once."""
    try:
        return work()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return work()


def _server_engine(url: sa.URL) -> sa.Engine:
    """Return an engine whose calls end: an absent server is known within seconds. The URL's own query goes first."""
    given: dict[str, Any] = {}
    if url.get_driver_name() in _LIBPQ_DRIVERS:
        limits = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "tcp_user_timeout": _NETWORK_TIMEOUT_MS,
            "options": " ".join(f"-c {name}={value}" for name, value in _SERVER_LIMITS.items()),
        }
        given = {name: value for name, value in limits.items() if name not in url.query}
    return sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",  # a read is one statement and needs no transaction around it
        pool_size=_POOL_SIZE,
        max_overflow=_MAX_CONNECTIONS - _POOL_SIZE,
        pool_timeout=_POOL_TIMEOUT_S,
        connect_args=given,
    )


def _sqlite_reader(url: sa.URL) -> sa.Engine:
    """Return an engine that writes nothing to a file, nor beside it."""
    file = Path(str(url.database)).absolute()

    def connect() -> sqlite3.Connection:
        # SQLite makes files beside one in WAL mode even to read it, unless it is told that nobody writes. Without a
        # log beside it everything is in the file itself.
        how = "mode=ro" if file.with_name(f"{file.name}-wal").exists() else "immutable=1"
        return sqlite3.connect(f"{file.as_uri()}?{how}", uri=True, timeout=_BUSY_TIMEOUT_MS / 1_000)

    return sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    # A database in memory lives in its connection: there is one, and threads take turns with it.
    engine = (
        sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False},
        )
        if url.database in _IN_MEMORY
        else sa.create_engine(
            url, isolation_level="AUTOCOMMIT", pool_size=_POOL_SIZE, max_overflow=_MAX_CONNECTIONS - _POOL_SIZE
        )
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
