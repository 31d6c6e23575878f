"""Stores of each kind, for the tests of what every store promises."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.store import EventStore, SqlEventStore

DURABLE = ["file", "postgres"]
OpenStore = Callable[[], SqlEventStore]


@pytest.fixture(params=[*DURABLE, "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same empty store, as often as it is called; one in memory is opened once."""
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database("contract")
    else:
        url = {"file": f"sqlite:///{tmp_path / 'events.db'}", "memory": "sqlite://"}[request.param]
    opened: list[SqlEventStore] = []

    def opener() -> SqlEventStore:
        if not opened or request.param != "memory":
            opened.append(SqlEventStore(url))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> EventStore:
    return open_store()
