"""The schema of the database: what earlier versions left is taken over, what later ones left is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from recsys.event_tables import SCHEMA_REVISION, VERSION_TABLE, metadata
from serving.errors import StoreError
from serving.migrate import SCRIPTS
from serving.store import Event, SqlEventStore

ROOT = Path(__file__).resolve().parents[2]

# What version 0.1.0 made, by itself.
FIRST_SCHEMA = {
    "sqlite": """CREATE TABLE events (seq INTEGER NOT NULL, event_id TEXT NOT NULL, user_id TEXT NOT NULL,
        item_id TEXT NOT NULL, event TEXT NOT NULL, value DOUBLE, timestamp_us BIGINT NOT NULL, recommendation_id TEXT,
        text TEXT, received_us BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (event_id))""",
    "postgresql": """CREATE TABLE events (seq BIGSERIAL NOT NULL, event_id TEXT NOT NULL, user_id TEXT NOT NULL,
        item_id TEXT NOT NULL, event TEXT NOT NULL, value DOUBLE PRECISION, timestamp_us BIGINT NOT NULL,
        recommendation_id TEXT, text TEXT, received_us BIGINT NOT NULL, PRIMARY KEY (seq), UNIQUE (event_id))""",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    created: str = request.getfixturevalue("postgres").new_database("migrations")
    return created


def run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_the_migrations_make_the_tables_of_the_code(url: str) -> None:
    SqlEventStore(url).close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()

    assert differences == []


def test_the_newest_migration_is_the_revision_of_the_code() -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))

    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


def test_a_database_from_before_migrations_keeps_its_events(url: str) -> None:
    run(
        url,
        FIRST_SCHEMA[sa.make_url(url).get_backend_name()],
        "CREATE INDEX ix_events_user ON events (user_id, timestamp_us, seq)",
        "CREATE INDEX ix_events_time ON events (timestamp_us, seq)",
        "INSERT INTO events (event_id, user_id, item_id, event, timestamp_us, received_us) "
        "VALUES ('e1', 'ann', 'i0', 'click', 10, 99), ('e2', 'ann', 'i1', 'view', 5, 99)",
    )

    store = SqlEventStore(url)
    store.add([Event("e3", "ann", "i2", "click", 7)], received_us=99)

    assert [event.event_id for _, event in store.events_after(0, 10)] == ["e1", "e2", "e3"]
    assert [event.event_id for event in store.newest_of("ann", 10)] == ["e2", "e3", "e1"]
    assert store.positions().events == store.last_seq_of("ann") == 3
    store.close()
    assert [event.event_id for _, event in SqlEventStore(url).events_after(2, 10)] == ["e3"]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(url: str) -> None:
    store = SqlEventStore(url)
    store.add([Event("e1", "ann", "i0", "click", 1)], received_us=1)
    store.close()
    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '0999'")

    with pytest.raises(StoreError, match=rf"is at revision 0999, .* revisions up to {SCHEMA_REVISION}; upgrade"):
        SqlEventStore(url)

    run(url, f"UPDATE {VERSION_TABLE} SET version_num = '{SCHEMA_REVISION}'")
    assert len(SqlEventStore(url).newest_of("ann", 10)) == 1


def test_a_database_may_be_shared_with_another_program_that_uses_alembic(url: str) -> None:
    run(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('mlflow')")

    store = SqlEventStore(url)
    store.add([Event("e9", "ann", "i0", "click", 1)], received_us=1)

    assert [event.event_id for event in store.newest_of("ann", 1)] == ["e9"]
    store.close()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == ["mlflow"]
    engine.dispose()


def test_servers_that_start_at_once_make_the_tables_once(url: str) -> None:
    code = "import sys\nfrom serving.store import SqlEventStore\nSqlEventStore(sys.argv[1]).ping()"
    command = [sys.executable, "-c", code, url]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]

    complaints = [process.communicate()[1] for process in started]

    assert [process.returncode for process in started] == [0] * 4, complaints


def test_an_absent_server_is_an_error_at_once() -> None:
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/none"

    with pytest.raises(StoreError, match=re.escape("postgresql+psycopg://me:***@127.0.0.1:1/none cannot be opened")):
        SqlEventStore(url)
