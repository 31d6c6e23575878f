"""Lists without a model: what the store's events say is popular."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from recsys.errors import RequestError
from serving.errors import NotReadyError
from serving.fallback import PopularFallback
from serving.filters import Filter
from serving.rules import Boost, Exploration, Freshness, Pin, Rules
from serving.sessions import SessionItem
from serving.slates import Ignored, ModelInfo, Query
from serving.store import Event, SqlEventStore, StoredItem

HOUR_US = 3_600_000_000
NOW_US = 500_000 * HOUR_US


class Clock:
    now_us = NOW_US

    def __call__(self) -> int:
        return self.now_us


def events(item_id: str, users: str, hours_ago: float = 0.5) -> list[Event]:
    at_us = NOW_US - round(hours_ago * HOUR_US)
    return [Event(f"{user}-{item_id}-{hours_ago}", user, item_id, "click", at_us) for user in users]


@pytest.fixture
def store() -> Iterator[SqlEventStore]:
    store = SqlEventStore("sqlite://")
    yield store
    store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fallback(store: SqlEventStore, clock: Clock) -> PopularFallback:
    store.add(
        [*events("a", "uvw"), *events("b", "uvwx"), *events("c", "u"), *events("old", "uvwxyz", hours_ago=72)],
        received_us=NOW_US,
    )
    return PopularFallback(store, ModelInfo("recsys", "none", "champion"), clock=clock)


def ids(fallback: PopularFallback, **query: object) -> list[str]:
    return [item.item_id for item in fallback.recommend(Query(**query)).items]  # type: ignore[arg-type]


def test_what_many_users_touched_lately_comes_first(fallback: PopularFallback) -> None:
    assert ids(fallback) == ["b", "a", "c", "old"]


def test_an_answer_says_that_there_is_no_model(fallback: PopularFallback) -> None:
    slate = fallback.recommend(Query(n=1))

    assert (slate.degraded, slate.rung, slate.degraded_reason) == (True, "popular", "no_model")
    assert (slate.items[0].rank, slate.items[0].sources) == (1, ("popular",))


def test_one_user_counts_once_for_an_item(fallback: PopularFallback, store: SqlEventStore) -> None:
    store.add([replace(events("c", "u")[0], event_id=f"again-{i}") for i in range(50)], received_us=NOW_US)

    assert ids(fallback, n=2) == ["b", "a"]


def test_excluded_and_seen_items_never_return(fallback: PopularFallback) -> None:
    assert ids(fallback, exclude=["b"]) == ["a", "c", "old"]
    assert ids(fallback, user_id="x") == ["a", "c"]
    assert ids(fallback, user_id="x", rules=Rules(exclude_seen=False)) == ["b", "a", "c", "old"]
    assert ids(fallback, history=[SessionItem("a")]) == ["b", "c", "old"]


def test_given_candidates_are_all_ordered(fallback: PopularFallback) -> None:
    assert ids(fallback, candidates=["new", "c", "b", "newer", "b"], exclude=["newer"]) == ["b", "c", "new"]


def test_deleted_items_are_in_no_list_from_the_moment_of_their_deletion(
    fallback: PopularFallback, store: SqlEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.fallback._PAGE", 2)
    store.put_item(StoredItem("a"), updated_us=NOW_US)
    assert ids(fallback) == ["b", "a", "c", "old"]

    for item_id in ("b", "c"):
        store.delete_item(item_id, updated_us=NOW_US)

    assert ids(fallback) == ["a", "old"]
    assert ids(fallback, n=1) == ["a"]
    assert ids(fallback, candidates=["new", "c", "b", "a"]) == ["a", "new"]
    store.put_item(StoredItem("b"), updated_us=NOW_US)
    assert ids(fallback, n=2) == ["b", "a"]


def test_of_too_many_events_the_newest_are_counted(
    store: SqlEventStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.fallback._MOST", 4)
    store.add([*events("new", "uv", 0.1), *events("before", "uvwxyz", 0.9), *events("newest", "uv", 0.05)], received_us=NOW_US)  # fmt: skip  # noqa: E501

    assert ids(PopularFallback(store, ModelInfo("recsys", "none"), clock=clock)) == ["newest", "new"]


@pytest.mark.parametrize("rules", [Rules(filter=Filter()), Rules(pins=(Pin("a", 1),)), Rules(caps=(("category", 2),))])
def test_a_rule_on_what_items_are_is_refused(fallback: PopularFallback, rules: Rules) -> None:
    with pytest.raises(NotReadyError, match="nothing is known of items that filter, pins or caps could ask"):
        fallback.recommend(Query(rules=rules))


def test_wishes_about_the_order_are_left_aside_and_reported(fallback: PopularFallback) -> None:
    boosts = (Boost(2.0, items=("c",)), Boost(1.0, filter=Filter()))
    rules = Rules(boosts=boosts, freshness=Freshness(7.0, 0.3), exploration=Exploration(1, 100))
    slate = fallback.recommend(Query(rules=rules, diversity=0.5))

    assert [item.item_id for item in slate.items] == ["b", "a", "c", "old"]
    one = Ignored(1, ())
    assert slate.ignored == {"boosts": Ignored(2, ()), "freshness": one, "exploration": one, "diversity": one}
    assert fallback.recommend(Query()).ignored == {}


def test_it_is_read_again_after_some_seconds(fallback: PopularFallback, store: SqlEventStore, clock: Clock) -> None:
    assert ids(fallback, n=1) == ["b"]
    store.add(events("hit", "abcdefgh"), received_us=NOW_US)
    assert ids(fallback, n=1) == ["b"]

    clock.now_us += 11_000_000
    assert ids(fallback, n=1) == ["hit"]


def test_without_events_there_is_no_answer(store: SqlEventStore, clock: Clock) -> None:
    with pytest.raises(NotReadyError, match="the event store holds no recent events"):
        PopularFallback(store, ModelInfo("recsys", "none"), clock=clock).recommend(Query())


def test_a_list_of_no_items_is_refused(fallback: PopularFallback) -> None:
    with pytest.raises(RequestError, match="n must be at least 1"):
        fallback.recommend(Query(n=0))
