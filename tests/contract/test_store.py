"""What every event store promises, run against each."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from recsys.event_tables import events_table
from serving.errors import EventConflictError, StoreError
from serving.store import Added, Event, EventStore, SqlEventStore

DURABLE = ["file", "postgres"]
OpenStore = Callable[[], SqlEventStore]


def event(event_id: str, timestamp_us: int = 10, **changes: object) -> Event:
    return replace(Event(event_id, "ann", "i0", "click", timestamp_us), **changes)  # type: ignore[arg-type]


def test_an_event_comes_back_with_all_its_content(store: EventStore) -> None:
    full = Event(
        "e/1 📚", "ünal", "b/c", "rating", 1_700_000_000_123_456, 4.5, "rec-1", 'said "no";\n DROP TABLE', True
    )
    bare = Event("e2", "ünal", "i1", "view", 1_700_000_000_123_457)

    store.add([full, bare], received_us=99)

    assert store.newest_of("ünal", 10) == [full, bare]


def test_histories_are_per_user_oldest_first_whatever_the_order_of_arrival(store: EventStore) -> None:
    store.add([event("late", 30), event("bobs", 20, user_id="bob"), event("early", 10)], received_us=99)
    store.add([event("middle", 20)], received_us=100)

    assert [e.event_id for e in store.newest_of("ann", 10)] == ["early", "middle", "late"]
    assert [e.event_id for e in store.newest_of("bob", 10)] == ["bobs"]
    assert store.newest_of("nobody", 10) == []


def test_events_of_one_moment_keep_the_order_of_arrival(store: EventStore) -> None:
    ids = [f"e{i}" for i in (5, 3, 9, 1, 7)]
    store.add([event(id_) for id_ in ids[:3]], received_us=99)
    store.add([event(id_) for id_ in ids[3:]], received_us=99)

    assert [e.event_id for e in store.newest_of("ann", 10)] == ids
    assert [e.event_id for e in store.since(9)] == ids


def test_a_limit_keeps_the_newest_events(store: EventStore) -> None:
    store.add([event(f"e{t}", t) for t in range(20)], received_us=99)

    assert [e.timestamp_us for e in store.newest_of("ann", 3)] == [17, 18, 19]


def test_the_newest_events_of_all_users_are_read_oldest_first(store: EventStore) -> None:
    store.add([event(f"e{t}", t, user_id=f"u{t % 3}") for t in (3, 9, 5, 7, 1)], received_us=99)
    store.add([event("late", 7)], received_us=99)

    assert [e.event_id for e in store.newest(3, after_us=1)] == ["e7", "late", "e9"]
    assert [e.event_id for e in store.newest(10, after_us=5)] == ["e7", "late", "e9"]
    assert store.newest(10, after_us=9) == []


def test_user_ids_differ_by_case_and_trailing_space(store: EventStore) -> None:
    store.add([event("e1", user_id="Ann"), event("e2", user_id="ann ")], received_us=99)

    assert store.newest_of("ann", 10) == []
    assert [e.event_id for e in store.newest_of("Ann", 10)] == ["e1"]


def test_a_repeat_is_counted_and_changes_nothing(store: EventStore) -> None:
    assert store.add([event("e1"), event("e2", 11)], received_us=99) == Added((0, 1), 0)

    assert store.add([event("e3", 12), event("e1"), event("e2", 11)], received_us=100) == Added((0,), 2)
    assert [e.event_id for e in store.newest_of("ann", 10)] == ["e1", "e2", "e3"]


def test_a_repeat_within_a_batch_is_stored_once(store: EventStore) -> None:
    assert store.add([event("e1"), event("e2"), event("e1")], received_us=99) == Added((0, 1), 1)
    assert len(store.newest_of("ann", 10)) == 2


def test_a_repeat_without_a_time_of_its_own_is_a_repeat(store: EventStore) -> None:
    store.add([event("e1", 10, is_timed=False)], received_us=10)

    assert store.add([event("e1", 5_000, is_timed=False)], received_us=5_000) == Added((), 1)
    assert store.newest_of("ann", 10)[0].timestamp_us == 10


@pytest.mark.parametrize(
    "changes",
    [
        {"item_id": "i1"},
        {"user_id": "bob"},
        {"event": "view"},
        {"timestamp_us": 11},
        {"value": 1.0},
        {"recommendation_id": "r"},
        {"text": ""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_id_with_different_content_refuses_the_whole_batch(store: EventStore, changes: dict[str, object]) -> None:
    store.add([event("e1")], received_us=99)

    with pytest.raises(
        EventConflictError, match=r"events\.1\.event_id: 'e1' is already stored with different"
    ) as caught:
        store.add([event("e2"), event("e1", **changes)], received_us=100)  # type: ignore[arg-type]

    assert caught.value.field == "events.1.event_id"
    assert [*store.newest_of("ann", 10), *store.newest_of("bob", 10)] == [event("e1")]


def test_an_id_that_stands_for_two_events_of_a_batch_refuses_it(store: EventStore) -> None:
    with pytest.raises(
        EventConflictError, match=r"events\.2\.event_id: 'e1' stands for different content at events\.0"
    ):
        store.add([event("e1"), event("e2"), event("e1", item_id="i1")], received_us=99)

    assert store.newest_of("ann", 10) == []


def test_an_empty_batch_stores_nothing(store: EventStore) -> None:
    assert store.add([], received_us=99) == Added((), 0)


def test_a_batch_of_a_thousand_events_is_taken(store: EventStore) -> None:
    added = store.add([event(f"e{i}", i) for i in range(1_000)], received_us=99)

    assert added.fresh == tuple(range(1_000))
    assert len(store.newest_of("ann", 2_000)) == 1_000


def test_since_yields_later_events_of_all_users_in_order_of_time(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.sql_store._PAGE", 3)  # the second page begins amid events of one moment
    store.add([event(f"e{t}", t // 2, user_id=f"u{t % 3}") for t in (9, 8, 7, 6, 5, 4, 3, 2)], received_us=99)

    assert [e.event_id for e in store.since(1)] == ["e5", "e4", "e7", "e6", "e9", "e8"]
    assert list(store.since(4)) == []


@pytest.mark.parametrize("open_store", DURABLE, indirect=True)
def test_events_are_there_after_reopening(open_store: OpenStore) -> None:
    first = open_store()
    first.add([event("e1")], received_us=99)
    first.close()

    assert open_store().newest_of("ann", 10) == [event("e1")]


def test_what_one_server_stores_another_reads_at_once(open_store: OpenStore) -> None:
    writer, reader = open_store(), open_store()

    assert reader.newest_of("ann", 10) == []
    writer.add([event("e1")], received_us=99)
    assert reader.newest_of("ann", 10) == [event("e1")]
    assert reader.add([event("e1")], received_us=99) == Added((), 1)


def test_threads_that_send_the_same_events_store_each_once(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    results: list[Added] = []

    def send(store: EventStore) -> None:
        results.extend(
            store.add([event(f"e{i}", i) for i in range(start, start + 20)], received_us=99) for start in (0, 20, 40)
        )

    threads = [threading.Thread(target=send, args=(stores[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 18
    assert sum(len(added.fresh) for added in results) == 60
    assert sum(added.duplicates for added in results) == 5 * 60
    assert len(stores[0].newest_of("ann", 1_000)) == 60


def test_a_store_whose_table_is_gone_says_so(open_store: OpenStore, store: EventStore) -> None:
    assert isinstance(store, SqlEventStore)
    events_table.drop(store._database.engine)

    with pytest.raises(StoreError, match=r"cannot be read: .*events.*; check that it exists"):
        store.newest_of("ann", 10)
    with pytest.raises(StoreError, match="cannot be written; nothing of the batch was stored"):
        store.add([event("e1")], received_us=99)
