"""Lists without a model: what the store's events say is popular."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from recsys.errors import RequestError
from serving.errors import NotReadyError
from serving.fallback import PopularFallback
from serving.rules import Rules
from serving.sessions import SessionItem
from serving.slates import ModelInfo, Query
from serving.store import Event, SqlEventStore

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
