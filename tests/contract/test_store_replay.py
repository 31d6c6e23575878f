"""What every store promises of reading by time, page by page, and what a page costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from serving.store import Event, EventStore, Place, ShownItem, SqlEventStore, StoredSlate

OpenStore = Callable[[], SqlEventStore]
Read = Callable[[EventStore, Place], object]

# Of 1,000 rows, ten each at one moment: by number the latest come first.
N_ROWS = 1_000


def fill(store: EventStore) -> None:
    times = [(N_ROWS - number) // 10 for number in range(N_ROWS)]
    store.add([Event(f"e{i}", f"u{i % 9}", "i0", "click", time) for i, time in enumerate(times)], received_us=99)
    shown = (ShownItem("i0", 1),)
    store.add_slates([StoredSlate(f"r{i}", f"u{i % 9}", time, "12", shown) for i, time in enumerate(times)])


def pages(read: Callable[[Place], list[tuple[int, Any]]], after: Place) -> Iterator[list[tuple[Place, Any]]]:
    while numbered := read(after):
        placed = [(Place(value.timestamp_us, seq), value) for seq, value in numbered]
        yield placed
        after = placed[-1][0]


def test_pages_hold_every_event_and_slate_once_in_order_of_time_and_arrival(store: EventStore) -> None:
    fill(store)

    events = [each for page in pages(lambda at: store.events_by_time(at, 7), Place(4)) for each in page]
    slates = [each for page in pages(lambda at: store.slates_by_time(at, 7), Place(4)) for each in page]

    for found in (events, slates):
        places = [place for place, _ in found]
        assert places == sorted(set(places))
        assert len(places) == sum((N_ROWS - number) // 10 > 4 for number in range(N_ROWS))
    assert [event for _, event in events] == list(store.since(4))


def test_pages_go_on_behind_a_user_who_was_deleted_in_between(store: EventStore) -> None:
    fill(store)
    place, last = next(pages(lambda at: store.events_by_time(at, 7), Place(0)))[-1]
    rest = [event for _, event in store.events_by_time(place, N_ROWS) if event.user_id != last.user_id]

    store.delete_user(last.user_id, deleted_us=99)

    assert [event for _, event in store.events_by_time(place, N_ROWS)] == rest


@contextmanager
def recorded() -> Iterator[list[tuple[str, Any]]]:
    """Yield the statements that are executed, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _x: object, _many: object) -> None:
        statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("table", "read"),
    [
        ("events", lambda store, after: store.events_by_time(after, 10, until_seq=N_ROWS)),
        ("events", lambda store, after: next(store.since(after.timestamp_us))),
        ("slates", lambda store, after: store.slates_by_time(after, 10, until_seq=N_ROWS)),
    ],
    ids=["events_by_time", "since", "slates_by_time"],
)
def test_a_page_begins_in_the_index_where_the_last_one_ended(store: EventStore, table: str, read: Read) -> None:
    assert isinstance(store, SqlEventStore)
    fill(store)
    with recorded() as statements:
        read(store, Place(50, 490))
    statement, parameters = statements[0]

    with store._database.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            steps = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert steps == [f"SEARCH {table} USING INDEX ix_{table}_time (timestamp_us>?)"]
            return
        connection.exec_driver_sql("ANALYZE")
        connection.exec_driver_sql("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
    assert f"Index Scan using ix_{table}_time on {table}" in plan
    assert "Index Cond: ((ROW(timestamp_us, seq) > ROW(" in plan
    assert "Filter" not in plan
    assert "Sort" not in plan
