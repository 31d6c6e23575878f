"""What was acknowledged is there after everything was killed, whole batches, each event once."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import sqlalchemy as sa

from recsys.event_tables import events_table

if TYPE_CHECKING:
    from postgres import PostgresCluster

ROOT: Final = Path(__file__).resolve().parents[2]
BATCH: Final = 7
ENOUGH: Final = 40

# Posts batch after batch and prints the number of each that was acknowledged.
WRITER: Final = """
import itertools, sys
from serving.store import Event, SqlEventStore
url, name, first, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = SqlEventStore(url)
for number in itertools.count(first):
    ids = [f"{name}-{number}-{place}" for place in range(batch)]
    events = [Event(id_, f"u{number % 5}", "i0", "click", number * batch + place) for place, id_ in enumerate(ids)]
    store.add(events, received_us=1)
    print(number, flush=True)
"""
# Stores the same events as others do, in an order of its own, and prints how many were new.
SENDER: Final = """
import random, sys
from serving.store import Event, SqlEventStore
store = SqlEventStore(sys.argv[1])
batches = list(range(60))
random.Random(int(sys.argv[2])).shuffle(batches)
print("ready", flush=True)
sys.stdin.readline()
fresh = 0
for number in batches:
    events = [Event(f"e{number}-{place}", "ann", "i0", "click", number) for place in range(5)]
    fresh += len(store.add(events, received_us=1).fresh)
print(fresh, flush=True)
"""


def begin(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def acknowledged(writer: "subprocess.Popen[str]", count: int) -> list[int]:
    """Return the numbers of the first batches that a writer reports."""
    assert writer.stdout is not None
    # The count comes first: of the other order the line behind the last would be read and lost.
    return [int(line) for _, line in zip(range(count), writer.stdout, strict=False)]


def stored_batches(url: str) -> dict[str, int]:
    """Return how many events of each batch a database holds; fail where an event is there twice."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        ids = list(connection.scalars(sa.select(events_table.c.event_id)))
    engine.dispose()
    assert len(ids) == len(set(ids))
    counts: dict[str, int] = {}
    for id_ in ids:
        batch = id_.rpartition("-")[0]
        counts[batch] = counts.get(batch, 0) + 1
    return counts


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    created: str = request.getfixturevalue("postgres").new_database("durability")
    return created


def rest_of(writer: "subprocess.Popen[str]") -> list[str]:
    """Return the lines that a process has still written, those too that were read ahead, which communicate loses."""
    assert writer.stdout is not None
    lines = writer.stdout.read().split()
    writer.wait()
    return lines


def test_what_was_acknowledged_survives_the_death_of_the_server_process(url: str) -> None:
    told: list[int] = []
    for _ in range(3):
        writer = begin(WRITER, url, "w", str(max(told, default=-1) + 1_000), str(BATCH))
        told += acknowledged(writer, ENOUGH)
        writer.send_signal(signal.SIGKILL)  # amid the next batch
        told += [int(line) for line in rest_of(writer)]

    found = stored_batches(url)

    assert len(told) >= 3 * ENOUGH
    assert {f"w-{number}" for number in told} <= set(found)
    assert set(found.values()) == {BATCH}
    assert len(found) <= len(told) + 3  # at most the batch that each was about to report


def test_what_was_acknowledged_survives_the_death_of_the_database(postgres: "PostgresCluster") -> None:
    url = postgres.new_database("killed")
    writer = begin(WRITER, url, "w", "0", str(BATCH))
    told = acknowledged(writer, ENOUGH)

    postgres.kill()
    told += [int(line) for line in rest_of(writer)]
    assert writer.stderr is not None
    complaint = writer.stderr.read()
    postgres.start()

    found = stored_batches(url)
    assert {f"w-{number}" for number in told} <= set(found)
    assert set(found.values()) == {BATCH}
    assert len(found) <= len(told) + 1
    assert "StoreError" in complaint


def test_a_store_goes_on_when_the_database_is_back(postgres: "PostgresCluster") -> None:
    from serving.store import Event, SqlEventStore

    store = SqlEventStore(postgres.new_database("goes_on"))
    event = Event("e1", "ann", "i0", "click", 1)
    store.add([event], received_us=1)

    postgres.kill()
    postgres.start()

    assert store.last_seq_of("ann") > 0
    assert store.newest_of("ann", 10) == [event]
    assert store.add([event], received_us=1).duplicates == 1
    store.close()


def test_processes_that_send_the_same_events_at_once_store_each_once(url: str) -> None:
    senders = [begin(SENDER, url, str(seed)) for seed in range(2)]  # both make the tables, too
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write(os.linesep)
        sender.stdin.flush()
    results = [sender.communicate() for sender in senders]

    assert [sender.returncode for sender in senders] == [0, 0], results
    assert sum(int(out) for out, _ in results) == 60 * 5
    assert set(stored_batches(url).values()) == {5}
    assert len(stored_batches(url)) == 60
