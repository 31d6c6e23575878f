"""`recsys keys`, on keys in a file."""

import json
from pathlib import Path

import pytest
from serving_process import KeyFile
from typer.testing import CliRunner

from recsys.cli import app
from serving.keys import KeyRing


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFile:
    store = KeyFile(tmp_path / "keys.jsonl")
    monkeypatch.setattr("serving.key_store.open_key_store", lambda url: store)
    return store


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_key_that_was_made_opens_until_it_is_revoked(store: KeyFile) -> None:
    made = json.loads(run("create", "--name", "shop", "--scope", "events", "--scope", "read", "--json"))
    ring = KeyRing(lambda: store, max_age_s=60)
    ring.refresh(store)
    assert made["scopes"] == ["read", "events"]
    found = ring.find(made["key"])
    assert found is not None
    assert found.key_id == made["key_id"]

    run("revoke", made["key_id"])

    ring.refresh(store)
    assert ring.find(made["key"]) is None
    listed = json.loads(run("list", "--json"))
    assert [(key["key_id"], key["revoked"] is None) for key in listed] == [(made["key_id"], False)]
    assert made["key"].split("_", 2)[2] not in run("list")


def test_a_key_is_printed_by_itself(store: KeyFile) -> None:
    assert run("create", "--name", "shop", "--scope", "read").startswith("rk_")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["revoke", "abc"], "no open key has the id 'abc'"),
        (["create", "--name", "x", "--scope", "root"], "unknown scope(s) 'root'"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(store: KeyFile, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["keys", *arguments])

    assert result.exit_code == 2
    assert message in result.output
    assert store.keys() == []
