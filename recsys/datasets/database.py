"""The database of a service as a data set: what it was told, and what it showed."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from recsys.config import DataConfig
from recsys.datasets.check_behaviour import RATING
from recsys.datasets.detect import reader_for
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.metarank import attribute_frame
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.tables import read_table
from recsys.errors import DataError
from recsys.event_tables import SCHEMA_REVISION, VERSION_TABLE, events_table, items_table, slates_table
from recsys.schema import TIMESTAMP, Col

DATABASE: Final = "database"
NOTE_DELETED: Final = "rows on deleted items, left out"
NOTE_ANONYMOUS: Final = "slates of someone without an id, left out"
_PAGE: Final = 50_000
_EVENTS: Final = {
    Col.USER_ID: pl.String(),
    Col.ITEM_ID: pl.String(),
    Col.TIMESTAMP: pl.Int64(),
    Col.EVENT: pl.String(),
    Col.VALUE: pl.Float64(),
    Col.REQUEST_ID: pl.String(),
    Col.TEXT: pl.String(),
    ROW: pl.Int64(),
}
_SHOWN: Final = {
    Col.REQUEST_ID: pl.String(),
    Col.USER_ID: pl.String(),
    Col.TIMESTAMP: pl.Int64(),
    Col.ITEM_ID: pl.String(),
    Col.POSITION: pl.Int32(),
    Col.PROPENSITY: pl.Float64(),
    ROW: pl.Int64(),
}
_RESERVED: Final = (Col.ITEM_ID, Col.TITLE, Col.DESCRIPTION, Col.CATEGORIES, Col.CREATED_AT, ROW, FILE)


def is_database(source: Path | str) -> bool:
    """Return whether a source of data is the URL of a database, not a folder."""
    return isinstance(source, str) and "://" in source


def database_name(url: str) -> str:
    """Return a short name of a database that holds no password and is fit to name a folder."""
    name = Path(_parsed(url).database or DATABASE).stem
    return re.sub(r"[^\w-]+", "-", name) or DATABASE


def shown_database(url: str) -> str:
    """Return a database's URL without its password."""
    return _parsed(url).render_as_string(hide_password=True)


def read_database(url: str, config: DataConfig, faults: FaultLog) -> RawTables:
    """Return the raw tables of a service's database, as of one moment; the rows of a fault are its numbers.

    Items are those that were put and not deleted, with those of `config.items_file` that the database does not know
    beside them. A shown item counts as clicked where its user did something positive to it that names the slate.

    Raises:
        DataError: the database cannot be read, or is not of this version.
    """
    try:
        with _snapshot(url) as connection:
            _check_revision(connection, url)
            item_rows = connection.execute(sa.select(items_table).order_by(items_table.c.change)).all()
            events = _events(connection)
            shown = _shown(connection, faults)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise _error(
            url, f"the database cannot be read: {cause}", "Check its URL and that it can be reached."
        ) from None
    deleted = pl.Series([row.item_id for row in item_rows if row.is_deleted], dtype=pl.String)
    events, shown = (_without(deleted, table, faults) for table in (events, shown))
    return RawTables(
        items=_items(item_rows, config, faults),
        interactions=_with_times(events) if events.height else None,
        impressions=_with_times(_with_clicks(shown, events, config)) if shown.height else None,
    )


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except ArgumentError:
        fault = Fault(
            "data", "this is no SQLAlchemy URL", "Write sqlite:///recsys.db or postgresql+psycopg://host/name."
        )
        raise DataError(str(fault), (fault,)) from None


def _error(url: str, problem: str, remedy: str) -> DataError:
    fault = Fault(shown_database(url), problem, remedy)
    return DataError(str(fault), (fault,))


@contextmanager
def _snapshot(url: str) -> Iterator[sa.Connection]:
    """Yield a connection that sees the database as it is now, whatever is written meanwhile."""
    parsed = _parsed(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and not (parsed.database and Path(parsed.database).is_file()):
        raise _error(url, "there is no such file", "Name the database of a service that has run.")
    try:
        engine = sa.create_engine(parsed, isolation_level="AUTOCOMMIT" if is_sqlite else "REPEATABLE READ")
    except ImportError as error:
        raise _error(
            url,
            f"the Python package {error.name} is missing",
            "pip install 'psycopg[binary]', and begin the URL with postgresql+psycopg://.",
        ) from None
    try:
        with engine.connect() as connection:
            if is_sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection
    finally:
        engine.dispose()


def _check_revision(connection: sa.Connection, url: str) -> None:
    found = None
    if sa.inspect(connection).has_table(VERSION_TABLE):
        found = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    if found != SCHEMA_REVISION:
        raise _error(
            url,
            f"the database is at revision {found}, this version of recsys-engine reads {SCHEMA_REVISION}",
            "Start the service of this version once, which updates an older database; for a newer one, upgrade.",
        )


def _frame(connection: sa.Connection, statement: sa.Select[Any], schema: dict[Any, Any]) -> pl.DataFrame:
    pages = connection.execution_options(yield_per=_PAGE).execute(statement).partitions()
    frames = [pl.DataFrame([tuple(row) for row in page], schema, orient="row") for page in pages]
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def _events(connection: sa.Connection) -> pl.DataFrame:
    table = events_table.c
    columns = (table.user_id, table.item_id, table.timestamp_us, table.event, table.value, table.recommendation_id)
    return _frame(connection, sa.select(*columns, table.text, table.seq).order_by(table.seq), _EVENTS).with_columns(
        pl.lit("events").alias(FILE)
    )


def _shown(connection: sa.Connection, faults: FaultLog) -> pl.DataFrame:
    """Return one row per item of each slate whose user has an id."""
    table = slates_table.c
    columns = (table.recommendation_id, table.user_id, table.timestamp_us, table["items"], table.seq)
    anonymous = connection.scalar(sa.select(sa.func.count(table.seq)).where(table.user_id.is_(None)))
    faults.note(NOTE_ANONYMOUS, anonymous or 0)
    statement = sa.select(*columns).where(table.user_id.is_not(None)).order_by(table.seq)
    frames = [
        pl.DataFrame(
            [
                (slate_id, user_id, timestamp_us, *shown, seq)
                for slate_id, user_id, timestamp_us, items, seq in page
                for shown in json.loads(items)
            ],
            _SHOWN,
            orient="row",
        )
        for page in connection.execution_options(yield_per=_PAGE).execute(statement).partitions()
    ]
    found = pl.concat(frames) if frames else pl.DataFrame(schema=_SHOWN)
    return found.with_columns(pl.lit("slates").alias(FILE))


def _without(deleted: pl.Series, table: pl.DataFrame, faults: FaultLog) -> pl.DataFrame:
    kept = table.filter(~pl.col(Col.ITEM_ID).is_in(deleted.implode()))
    faults.note(NOTE_DELETED, table.height - kept.height)
    return kept


def _with_clicks(shown: pl.DataFrame, events: pl.DataFrame, config: DataConfig) -> pl.DataFrame:
    worthless = [kind for kind, weight in config.event_weights.items() if weight <= 0]
    positive = events.filter(~pl.col(Col.EVENT).is_in(worthless))
    if config.min_rating is not None:
        low = (pl.col(Col.EVENT) == RATING) & (pl.col(Col.VALUE) < config.min_rating).fill_null(False)
        positive = positive.filter(~low)
    keys = [Col.REQUEST_ID, Col.USER_ID, Col.ITEM_ID]
    clicked = positive.select(keys).unique().with_columns(pl.lit(True).alias(Col.CLICKED))
    joined = shown.join(clicked, on=keys, how="left", maintain_order="left")
    return joined.with_columns(pl.col(Col.CLICKED).fill_null(False))


def _with_times(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(Col.TIMESTAMP).cast(TIMESTAMP))


def _items(rows: Sequence[sa.Row[Any]], config: DataConfig, faults: FaultLog) -> pl.DataFrame | None:
    """Return the items of the database and, after them, those of the file that it does not know."""
    records = [_item_record(row, faults) for row in rows if not row.is_deleted]
    tables = []
    if records:
        frame = attribute_frame(records, faults)
        times = pl.Series(Col.CREATED_AT, [record[Col.CREATED_AT] for record in records], pl.Int64).cast(TIMESTAMP)
        tables.append(frame.with_columns(times))
    if config.items_file is not None and (file := _file_items(Path(config.items_file), config, faults)) is not None:
        known = pl.Series([row.item_id for row in rows], dtype=pl.String)
        tables.append(file.filter(~pl.col(Col.ITEM_ID).cast(pl.String).is_in(known.implode())))
    if tables:
        return tables[0] if len(tables) == 1 else _stacked(tables)
    if config.unknown_items == "keep":
        return pl.DataFrame(schema={Col.ITEM_ID: pl.String, ROW: pl.Int64, FILE: pl.String})
    if not faults.n_faults:
        remedy = (
            "Put them with PUT /v1/items, name a file of items with --items FILE, or train on behaviour alone with "
            "--set data.unknown_items=keep."
        )
        faults.add(Fault("items", "the database holds no items", remedy))
    return None


def _item_record(row: sa.Row[Any], faults: FaultLog) -> dict[str, Any]:
    attributes = json.loads(row.attributes)
    reserved = [name for name in attributes if name in _RESERVED]
    faults.note("attributes named like a column of items, left out", len(reserved))
    return {name: value for name, value in attributes.items() if name not in reserved} | {
        Col.ITEM_ID: row.item_id,
        Col.TITLE: row.title,
        Col.DESCRIPTION: row.description,
        Col.CATEGORIES: json.loads(row.categories),
        Col.CREATED_AT: row.created_at_us,
        ROW: row.change,
        FILE: "items",
    }


def _file_items(path: Path, config: DataConfig, faults: FaultLog) -> pl.DataFrame | None:
    """Return the items of a file of the generic tables, or of a folder in any format."""
    if path.is_dir():
        return reader_for(path).read(path, config, faults).items
    if not path.is_file():
        faults.add(Fault(str(path), "there is no such file or folder of items", "Check --items, or data.items_file."))
        return None
    return read_table(path, faults)


def _stacked(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return tables below each other; a column of different types in them becomes text, which validation judges."""
    schemas = [table.schema for table in tables]
    differing = {
        name
        for schema in schemas
        for name, dtype in schema.items()
        if any(name in other and other[name] != dtype for other in schemas)
    }
    return pl.concat(
        [table.with_columns(_as_text(table[name]) for name in table.columns if name in differing) for table in tables],
        how="diagonal",
    )


def _as_text(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        texts = [None if part is None else json.dumps(part.to_list(), ensure_ascii=False) for part in column]
        return pl.Series(column.name, texts, pl.String)
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.to_string("iso")
    return column.cast(pl.String)
