"""What every store promises of numbered feeds, items, slates, deleted users and API keys, run against each."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from serving.errors import StoreError
from serving.store import (
    Added,
    DeletedUser,
    Deletion,
    Event,
    EventStore,
    ItemChange,
    Place,
    Positions,
    ShownItem,
    SqlEventStore,
    StoredItem,
    StoredKey,
    StoredSlate,
)

OpenStore = Callable[[], SqlEventStore]


def event(event_id: str, timestamp_us: int = 10, user_id: str = "ann") -> Event:
    return Event(event_id, user_id, "i0", "click", timestamp_us)


def slate(recommendation_id: str, timestamp_us: int = 10, user_id: str | None = "ann") -> StoredSlate:
    return StoredSlate(recommendation_id, user_id, timestamp_us, "12", (ShownItem("i0", 1), ShownItem("i1", 2)))


# Feeds of events


def test_events_are_fed_in_order_of_arrival_whatever_their_times(store: EventStore) -> None:
    store.add([event("e1", 30), event("e2", 10)], received_us=99)
    store.add([event("e3", 20, "bob")], received_us=99)

    fed = store.events_after(0, 10)

    assert [each.event_id for _, each in fed] == ["e1", "e2", "e3"]
    assert [seq for seq, _ in fed] == sorted({seq for seq, _ in fed})
    assert store.positions().events == fed[-1][0]


def test_a_feed_goes_on_where_it_stopped(store: EventStore) -> None:
    store.add([event(f"e{i}") for i in range(5)], received_us=99)

    first = store.events_after(0, 2)
    second = store.events_after(first[-1][0], 2)
    third = store.events_after(second[-1][0], 2)

    assert [each.event_id for _, each in first + second + third] == [f"e{i}" for i in range(5)]
    assert store.events_after(third[-1][0], 2) == []


def test_replay_up_to_a_number_and_the_feed_from_there_hold_each_event_once(store: EventStore) -> None:
    store.add([event("old", 1), event("e1", 30)], received_us=99)
    position = store.positions().events
    store.add([event("e2", 20)], received_us=99)

    replayed = [each.event_id for _, each in store.events_by_time(Place(5), 10, until_seq=position)]
    followed = [each.event_id for _, each in store.events_after(position, 10)]

    assert (replayed, followed) == (["e1"], ["e2"])


def test_positions_of_an_empty_store_are_zero(store: EventStore) -> None:
    assert store.positions() == Positions(0, 0, 0)


def test_a_follower_misses_nothing_while_others_write(open_store: OpenStore) -> None:
    writers = [open_store() for _ in range(4)]
    follower = open_store()
    finished = threading.Event()
    seen: list[str] = []

    def write(number: int) -> None:
        for batch in range(15):
            writers[number].add([event(f"{number}-{batch}-{i}") for i in range(3)], received_us=99)

    def follow() -> None:
        position = 0
        while True:
            is_last = finished.is_set()
            page = follower.events_after(position, 7)
            seen.extend(each.event_id for _, each in page)
            position = page[-1][0] if page else position
            if is_last and not page:
                return
            time.sleep(0.001)  # lets the writers of the one connection in memory have it

    reader = threading.Thread(target=follow)
    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in [reader, *threads]:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:
        finished.set()
        reader.join()

    assert len(seen) == len(set(seen)) == 4 * 15 * 3


def test_no_number_is_visible_before_a_smaller_one(open_store: OpenStore) -> None:
    """A slow transaction holds up the others: else a follower would pass by its numbers before they are visible."""
    slow, quick = open_store(), open_store()
    is_open, may_commit = threading.Event(), threading.Event()

    def write_slowly(connection: sa.Connection) -> None:
        from serving.sql_events import add_events

        add_events(connection, [event("slow")], 99)
        is_open.set()
        may_commit.wait()

    threads = [
        threading.Thread(target=lambda: slow._database.write(write_slowly)),
        threading.Thread(target=lambda: quick.add([event("quick")], received_us=99)),
    ]
    threads[0].start()
    is_open.wait()
    threads[1].start()
    time.sleep(0.2)  # enough for the quick one to overtake, were it not held up
    try:
        # In memory there is one connection, which is taken.
        overtaking = [] if slow is quick else quick.events_after(0, 10)
    finally:
        may_commit.set()
        for thread in threads:
            thread.join()

    assert overtaking == []
    assert [each.event_id for _, each in quick.events_after(0, 10)] == ["slow", "quick"]


# The number that tells whether a history is still the same


def test_the_last_number_of_a_user_changes_with_an_event_that_happened_long_ago(store: EventStore) -> None:
    assert store.last_seq_of("ann") == 0
    store.add([event("e1", 100)], received_us=99)
    first = store.last_seq_of("ann")
    store.add([event("bobs", 200, "bob")], received_us=99)
    assert store.last_seq_of("ann") == first > 0

    store.add([event("e2", 1)], received_us=99)

    assert store.last_seq_of("ann") > first


def test_a_repeat_does_not_change_the_last_number(store: EventStore) -> None:
    store.add([event("e1")], received_us=99)
    before = store.last_seq_of("ann")

    store.add([event("e1")], received_us=99)

    assert store.last_seq_of("ann") == before


def test_another_server_sees_the_last_number_at_once(open_store: OpenStore) -> None:
    writer, reader = open_store(), open_store()
    before = reader.last_seq_of("ann")

    writer.add([event("e1")], received_us=99)

    assert reader.last_seq_of("ann") > before


# Deleted users


def test_a_deleted_user_leaves_no_event_and_no_slate_but_a_receipt(store: EventStore) -> None:
    store.add([event("e1"), event("e2"), event("bobs", user_id="bob")], received_us=99)
    store.add_slates([slate("r1"), slate("bobs", user_id="bob"), slate("nobodys", user_id=None)])

    receipt = store.delete_user("ann", deleted_us=50)

    assert receipt == Deletion("ann", 50, 2, 1)
    assert store.newest_of("ann", 10) == []
    assert [each.event_id for each in store.since(0)] == ["bobs"]
    assert [each.recommendation_id for _, each in store.slates_after(0, 10)] == ["bobs", "nobodys"]


def test_a_deletion_changes_the_last_number_even_of_a_user_without_events(store: EventStore) -> None:
    store.add([event("e1"), event("bobs", user_id="bob")], received_us=99)
    before = store.last_seq_of("ann"), store.last_seq_of("only in the model")

    store.delete_user("ann", deleted_us=50)
    store.delete_user("only in the model", deleted_us=51)

    assert store.last_seq_of("ann") > before[0]
    assert store.last_seq_of("only in the model") > before[1] == 0
    assert (store.deleted_us_of("ann"), store.deleted_us_of("bob")) == (50, None)


def test_numbers_are_not_given_again_after_a_deletion(store: EventStore) -> None:
    store.add([event("e1")], received_us=99)
    last = store.last_seq_of("ann")
    store.delete_user("ann", deleted_us=50)

    store.add([event("e2", 60)], received_us=99)

    assert store.last_seq_of("ann") > last
    assert [each.event_id for _, each in store.events_after(last, 10)] == ["e2"]


def test_late_copies_of_what_a_deleted_user_did_are_not_stored(store: EventStore) -> None:
    store.add([event("e1", 10)], received_us=99)
    store.delete_user("ann", deleted_us=50)

    added = store.add([event("e1", 10), event("late", 50), event("new", 51), event("bobs", 10, "bob")], received_us=99)
    store.add_slates([slate("late", 50), slate("new", 51)])

    assert added == Added((2, 3), 0, forgotten=2)
    assert [each.event_id for each in store.newest_of("ann", 10)] == ["new"]
    assert [each.recommendation_id for _, each in store.slates_after(0, 10)] == ["new"]


def test_copies_of_what_a_clock_ahead_of_ours_dated_are_not_stored_after_a_deletion(store: EventStore) -> None:
    store.add([event("e1", 90), event("e0", 10), event("bobs", 95, "bob")], received_us=49)

    assert store.delete_user("ann", deleted_us=50) == Deletion("ann", 90, 2, 0)

    assert store.add([event("e1", 90), event("new", 91)], received_us=51) == Added((1,), 0, forgotten=1)
    assert store.deleted_us_of("ann") == 90


def test_a_deletion_by_a_clock_behind_takes_nothing_back_of_an_earlier_one(store: EventStore) -> None:
    store.add([event("e1", 45)], received_us=45)
    store.delete_user("ann", deleted_us=50)

    assert store.delete_user("ann", deleted_us=40) == Deletion("ann", 50, 0, 0)

    assert store.add([event("e1", 45)], received_us=51) == Added((), 0, forgotten=1)


def test_deleted_users_are_fed_in_order_of_deletion(store: EventStore) -> None:
    store.delete_user("zoe", deleted_us=50)
    store.delete_user("ann", deleted_us=51)
    (zoe, ann) = store.users_deleted_after(0, 10)

    assert (zoe, ann) == (DeletedUser(zoe.seq, "zoe", 50), DeletedUser(ann.seq, "ann", 51))
    assert store.users_deleted_after(zoe.seq, 10) == [ann]
    assert store.positions().events == ann.seq


def test_who_is_deleted_twice_is_fed_again(store: EventStore) -> None:
    store.delete_user("ann", deleted_us=50)
    (first,) = store.users_deleted_after(0, 10)

    assert store.delete_user("ann", deleted_us=60) == Deletion("ann", 60, 0, 0)

    (second,) = store.users_deleted_after(first.seq, 10)
    assert (second.user_id, second.deleted_us) == ("ann", 60)


# Items


FULL_ITEM = StoredItem(
    "b/c 📚",
    'said "no"',
    "long\ntext",
    ("socks", "grün"),
    -1_000,
    {"price": 12.5, "stock": 3, "new": True, "brand": "a|b", "sizes": ["s", "m"]},
)


def test_an_item_comes_back_with_all_its_content(store: EventStore) -> None:
    first = store.put_item(FULL_ITEM, updated_us=99)
    second = store.put_item(StoredItem("bare"), updated_us=100)

    assert store.item_changes(0, 10) == [
        ItemChange(first, "b/c 📚", FULL_ITEM, 99),
        ItemChange(second, "bare", StoredItem("bare"), 100),
    ]
    assert store.positions().items == second
    assert isinstance(store.item_changes(0, 1)[0].item.attributes["new"], bool)  # type: ignore[union-attr]


def test_items_are_known_that_were_ever_put_or_deleted(store: EventStore) -> None:
    store.put_item(StoredItem("there"), updated_us=1)
    store.put_item(StoredItem("gone"), updated_us=2)
    store.delete_item("gone", updated_us=3)

    assert store.known_items(["gone", "there", "never"]) == {"there": True, "gone": False}
    assert store.known_items([]) == {}


def test_an_item_that_changed_twice_is_fed_once_with_its_newest_change(store: EventStore) -> None:
    store.put_item(StoredItem("i1", "old"), updated_us=1)
    store.put_item(StoredItem("i2"), updated_us=2)
    third = store.put_item(StoredItem("i1", "new"), updated_us=3)

    changes = store.item_changes(0, 10)

    assert [change.item_id for change in changes] == ["i2", "i1"]
    assert changes[1] == ItemChange(third, "i1", StoredItem("i1", "new"), 3)
    assert store.item_changes(changes[0].change, 10) == changes[1:]
    assert store.item_changes(third, 10) == []


def test_a_deleted_item_is_fed_as_deleted_until_it_is_put_again(store: EventStore) -> None:
    store.put_item(FULL_ITEM, updated_us=1)
    deleted = store.delete_item(FULL_ITEM.item_id, updated_us=2)
    unknown = store.delete_item("only in the model", updated_us=3)

    assert store.item_changes(0, 10) == [
        ItemChange(deleted, FULL_ITEM.item_id, None, 2),
        ItemChange(unknown, "only in the model", None, 3),
    ]

    again = store.put_item(FULL_ITEM, updated_us=4)
    assert store.item_changes(unknown, 10) == [ItemChange(again, FULL_ITEM.item_id, FULL_ITEM, 4)]


def test_a_page_of_changes_has_a_limit(store: EventStore) -> None:
    for i in range(5):
        store.put_item(StoredItem(f"i{i}"), updated_us=i)

    assert [change.item_id for change in store.item_changes(0, 2)] == ["i0", "i1"]


# Slates


def test_a_slate_comes_back_with_all_its_content(store: EventStore) -> None:
    full = StoredSlate("r/1 📚", "ünal", 1_700_000_000_123_456, "12", (ShownItem("b/c", 1, 0.25),), "popular")
    bare = StoredSlate("r2", None, 5, "f00d", ())

    store.add_slates([full, bare])

    assert [each for _, each in store.slates_after(0, 10)] == [full, bare]
    assert store.positions().slates == store.slates_after(0, 10)[-1][0]


def test_slates_go_on_where_the_feed_stopped(store: EventStore) -> None:
    store.add_slates([slate("r1"), slate("r2")])
    position = store.slates_after(0, 1)[-1][0]
    store.add_slates([slate("r3")])

    assert [each.recommendation_id for _, each in store.slates_after(position, 10)] == ["r2", "r3"]


def test_a_slate_that_is_written_again_is_there_once(store: EventStore) -> None:
    store.add_slates([slate("r1")])
    store.add_slates([slate("r1"), slate("r2")])
    store.add_slates([])

    assert [each.recommendation_id for _, each in store.slates_after(0, 10)] == ["r1", "r2"]


def test_slates_later_than_a_moment_come_in_order_of_time(store: EventStore) -> None:
    store.add_slates([slate(f"r{t}", t) for t in (5, 3, 4, 1, 2)])
    position = store.positions().slates
    store.add_slates([slate("r9", 9)])

    assert [each.timestamp_us for _, each in store.slates_by_time(Place(2), 10, until_seq=position)] == [3, 4, 5]
    assert [each.timestamp_us for _, each in store.slates_by_time(Place(4), 10)] == [5, 9]


# API keys


def test_keys_come_back_oldest_first_revoked_ones_too(store: EventStore) -> None:
    newer = StoredKey("k2", "shop", ("read", "events"), b"\x00\xff", b"\x01" * 32, 20)
    older = StoredKey("k1", "ops 📚", ("admin",), b"salt", b"hash", 10)
    store.add_key(newer)
    store.add_key(older)

    assert store.revoke_key("k1", 30)

    assert store.keys() == [replace(older, revoked_us=30), newer]


def test_a_key_is_revoked_once(store: EventStore) -> None:
    store.add_key(StoredKey("k1", "shop", ("read",), b"s", b"h", 10))

    assert [store.revoke_key("k1", 30), store.revoke_key("k1", 40), store.revoke_key("k2", 40)] == [True, False, False]
    assert store.keys()[0].revoked_us == 30


def test_a_key_id_that_is_taken_is_refused(store: EventStore) -> None:
    store.add_key(StoredKey("k1", "shop", ("read",), b"s", b"h", 10))

    with pytest.raises(StoreError, match="key id 'k1' is taken"):
        store.add_key(StoredKey("k1", "thief", ("admin",), b"s", b"h", 11))
    (kept,) = store.keys()
    assert kept.name == "shop"


def test_a_store_that_is_there_answers_a_ping_and_one_that_lost_its_database_does_not(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ping()

    def lost(*_: object, **__: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(store, "_database", type("Lost", (), {"read": staticmethod(lost)})())
    with pytest.raises(StoreError, match="gone"):
        store.ping()
