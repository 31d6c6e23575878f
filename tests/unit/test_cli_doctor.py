"""What `recsys doctor` looks at stays as it was: an event store of any revision, and a bundle that lies elsewhere."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recsys import cli_doctor
from recsys.event_tables import SCHEMA_REVISION, VERSION_TABLE
from recsys.mlflow_store import mlflow
from recsys.registry import Registry
from serving.store import Event, SqlEventStore

pytestmark = pytest.mark.usefixtures("own_folder")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def event_store() -> cli_doctor.Finding:
    (found,) = cli_doctor._event_store()
    return found


def execute(*statements: str) -> None:
    connection = sqlite3.connect("recsys.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def old_store() -> None:
    execute("PRAGMA journal_mode = WAL", "CREATE TABLE events (seq INTEGER PRIMARY KEY, event_id TEXT)")


def newer_store() -> None:
    SqlEventStore("sqlite:///recsys.db").close()
    execute(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")


@pytest.mark.parametrize(
    ("make", "state", "text"),
    [
        (lambda: SqlEventStore("sqlite:///recsys.db").close(), "ok", f"at revision {SCHEMA_REVISION}, that of this"),
        (old_store, "note", f"at revision 0001; recsys serve upgrades it to {SCHEMA_REVISION}: stop servers"),
        (newer_store, "fault", "at revision 0999, made by a newer version"),
        (lambda: Path("recsys.db").touch(), "note", "no tables yet; recsys serve makes them"),
        (lambda: Path("recsys.db").write_text("this is no database " * 50), "fault", "not a database"),
    ],
    ids=["current", "old", "newer", "empty", "broken"],
)
def test_the_event_store_is_described_and_left_as_it_is(
    make: Callable[[], Any], state: str, text: str, tmp_path: Path
) -> None:
    make()
    before = contents(tmp_path)

    found = event_store()

    assert found.state == state
    assert text in found.text
    assert contents(tmp_path) == before


def test_what_a_running_server_has_written_is_seen(tmp_path: Path) -> None:
    store = SqlEventStore("sqlite:///recsys.db")
    store.add([Event("e1", "ann", "i0", "click", 1)], received_us=1)
    before = set(contents(tmp_path))

    found = event_store()

    assert found.state == "ok"
    assert set(contents(tmp_path)) == before
    store.close()


def test_an_old_store_in_postgresql_is_left_as_it_is(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue("postgres").new_database("doctor")
    monkeypatch.setenv("RECSYS_STORE_URL", url)
    engine = sa.create_engine(url)

    def tables() -> list[str]:
        with engine.connect() as connection:
            return sa.inspect(connection).get_table_names()

    empty = event_store()
    assert tables() == []
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE events (seq BIGSERIAL NOT NULL, event_id TEXT NOT NULL)")
    old = event_store()

    assert (empty.state, old.state) == ("note", "note")
    assert "no tables yet" in empty.text
    assert f"recsys serve upgrades it to {SCHEMA_REVISION}" in old.text
    assert tables() == ["events"]
    engine.dispose()


def test_a_bundle_elsewhere_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    run = client.create_run("0")
    Registry(uri).register(run.info.run_id, (tmp_path / "model").as_uri())
    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_download_uri", lambda *_: "s3://bucket/model")
    asked: list[object] = []
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **given: asked.append(given))
    before = set(contents(tmp_path))

    store, champion = cli_doctor._registry(None)

    assert (store.state, champion.state) == ("ok", "note")
    assert champion.text == "version 1, not looked into: recsys serve downloads its files, which are not here yet"
    assert asked == []
    assert set(contents(tmp_path)) == before
