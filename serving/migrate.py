"""Brings a database to the schema of this code. Servers that start at once take turns; what is there is kept."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from recsys.event_tables import SCHEMA_REVISION, VERSION_TABLE, events_table
from serving.errors import StoreError

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS: Final = Path(__file__).parent / "migrations"
# What a database holds that was made before there were migrations.
_UNVERSIONED: Final = "0001"
_LOCK: Final = 7_265_637_379  # any number that all servers of one database agree on
_WAIT_MS: Final = 60_000


def bring_up_to_date(engine: sa.Engine, shown_url: str) -> None:
    """Run the migrations that the database lacks, all of them or none.

    Raises:
        StoreError: a newer version of this code has changed the database.
        SQLAlchemyError: the database cannot be read or written.
    """
    with engine.connect() as connection:
        if revision_of(connection) == SCHEMA_REVISION:
            return
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            usual_ms = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {_WAIT_MS}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {usual_ms}")
            _upgrade(connection, shown_url)
        return
    with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # an index over many events takes its time
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        _upgrade(connection, shown_url)


def revision_of(connection: sa.Connection) -> str | None:
    """Return the revision of a database, None where nothing has recorded one."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    return revision


def upgraded_from(connection: sa.Connection, shown_url: str) -> str | None:
    """Return the revision that `bring_up_to_date` begins at, None where there are no tables yet. Changes nothing.

    Raises:
        StoreError: a newer version of this code has changed the database.
        SQLAlchemyError: the database cannot be read.
    """
    found = revision_of(connection)
    if found is None:
        return _UNVERSIONED if sa.inspect(connection).has_table(events_table.name) else None
    if found != SCHEMA_REVISION:
        _check_known(found, shown_url)
    return found


def _config() -> "Config":
    # Alembic takes a while to load, which a database that is up to date does not need.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _check_known(before: str, shown_url: str) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if before not in known:
        raise StoreError(
            f"the event store {shown_url} is at revision {before}, made by a newer version of recsys-engine; this one "
            f"knows revisions up to {SCHEMA_REVISION}; upgrade this installation, or name another store"
        )


def _upgrade(connection: sa.Connection, shown_url: str) -> None:
    from alembic import command

    before = upgraded_from(connection, shown_url)
    config = _config()
    config.attributes["connection"] = connection
    if before is not None and revision_of(connection) is None:
        command.stamp(config, before)
    command.upgrade(config, SCHEMA_REVISION)
