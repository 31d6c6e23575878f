"""The engine over a ranking whose answers are known."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from serving_toys import (
    DATA_UNTIL_US,
    ITEM_IDS,
    NOW_US,
    ORDER,
    ORDERED_IDS,
    SECOND_US,
    ToyClock,
    ToyPath,
    toy_bundle,
    toy_engine,
)

from recsys.errors import RequestError
from recsys.schema import Warmth
from serving.clicks import FirstClicks
from serving.engine import Engine
from serving.errors import EventConflictError, StoreError, UnknownItemError
from serving.rules import Rules, SeenWindow
from serving.sessions import SessionItem
from serving.slates import Ignored, ModelInfo, NewEvent, Query, ServedRequest
from serving.store import Event, NoStore, Place, ShownItem, SqlEventStore, StoredSlate


def ids(engine: Engine, query: Query) -> list[str]:
    return [item.item_id for item in engine.recommend(query).items]


def click(user_id: str, item_id: str, timestamp_us: int | None = None, **more: object) -> NewEvent:
    return NewEvent(user_id, item_id, "click", timestamp_us=timestamp_us, **more)  # type: ignore[arg-type]


def test_a_slate_carries_ranks_scores_sources_and_the_model() -> None:
    slate = toy_engine().recommend(Query(n=3))

    assert [(i.item_id, i.rank, i.score, i.sources) for i in slate.items] == [
        ("i3", 1, 7.0, ("als", "popular")),
        ("i1", 2, 6.0, ("als", "popular")),
        ("i6", 3, 5.0, ("als", "popular")),
    ]
    assert slate.model == ModelInfo("recsys", "12", "champion")
    assert str(uuid.UUID(slate.recommendation_id)) == slate.recommendation_id
    assert not slate.degraded
    assert slate.ignored == {}


def test_every_answer_has_an_id_of_its_own() -> None:
    engine = toy_engine()

    assert len({engine.recommend(Query()).recommendation_id for _ in range(5)}) == 5


def test_a_list_longer_than_the_catalogue_is_the_catalogue() -> None:
    assert ids(toy_engine(), Query(n=1_000)) == ORDERED_IDS


def test_a_known_user_brings_the_history_of_training() -> None:
    path = ToyPath()
    slate = toy_engine(path=path).recommend(Query(user_id="ann"))

    request = path.requests[0]
    assert slate.user == Warmth.WARM
    assert request.user_idx == 0
    assert request.as_of_us == NOW_US
    assert request.history.item_idx.tolist() == [0, 4]
    assert request.history.timestamp_us.tolist() == [1_000 * SECOND_US, 2_000 * SECOND_US]
    assert request.history.weight.tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("query", "warmth"),
    [
        (Query(user_id="bob"), Warmth.WARM),
        (Query(user_id="shown-only"), Warmth.UNKNOWN),
        (Query(user_id="shown-only", history=[SessionItem("i1")]), Warmth.COLD),
        (Query(user_id="stranger"), Warmth.UNKNOWN),
        (Query(user_id="stranger", history=[SessionItem("i1")]), Warmth.COLD),
        (Query(user_id="stranger", history=[SessionItem("no-such-item")]), Warmth.UNKNOWN),
        (Query(), Warmth.UNKNOWN),
        (Query(history=[SessionItem("i1")]), Warmth.COLD),
    ],
)
def test_warmth_says_what_is_known_of_the_user(query: Query, warmth: Warmth) -> None:
    assert toy_engine().recommend(query).user == warmth


def test_someone_without_an_id_never_gets_the_events_of_another() -> None:
    path = ToyPath()
    engine = toy_engine(path=path)
    engine.add_events([click("ann", "i1")])

    engine.recommend(Query())

    assert path.requests[0].user_idx == -1
    assert len(path.requests[0].history) == 0


def test_an_event_is_known_in_the_very_next_request_of_its_user_alone() -> None:
    path = ToyPath()
    engine = toy_engine(path=path)
    assert "i3" in ids(engine, Query(user_id="stranger"))

    engine.add_events([click("stranger", "i3")])

    assert "i3" not in ids(engine, Query(user_id="stranger"))
    assert "i3" in ids(engine, Query(user_id="ann"))
    assert path.requests[1].history.item_idx.tolist() == [3]
    assert path.requests[1].history.timestamp_us.tolist() == [NOW_US - 1]


def test_an_event_from_a_clock_ahead_of_ours_is_known_at_once() -> None:
    engine = toy_engine()
    engine.add_events([click("stranger", "i3", NOW_US + 4 * 60 * SECOND_US)])

    assert "i3" not in ids(engine, Query(user_id="stranger"))


def test_training_store_and_session_are_joined_in_order_of_time() -> None:
    path = ToyPath()
    engine = toy_engine(path=path, overrides={"features.max_history": 100})
    engine.add_events([click("ann", "i1", 1_500 * SECOND_US), click("ann", "i2", 5_000 * SECOND_US)])

    engine.recommend(Query(user_id="ann", history=[SessionItem("i6"), SessionItem("i3")]))

    assert path.requests[0].history.item_idx.tolist() == [0, 1, 4, 2, 6, 3]
    assert path.requests[0].history.timestamp_us.tolist()[-2:] == [NOW_US - 2, NOW_US - 1]


def test_events_that_training_knew_are_not_counted_twice() -> None:
    path = ToyPath()
    engine = toy_engine(path=path)
    engine.add_events([click("ann", "i4", 2_000 * SECOND_US), click("ann", "i4", 2_001 * SECOND_US)])

    engine.recommend(Query(user_id="ann"))

    assert path.requests[0].history.timestamp_us.tolist() == [t * SECOND_US for t in (1_000, 2_000, 2_001)]


def test_the_ranker_reads_the_newest_history_but_all_of_it_is_excluded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.engine.MAX_REQUEST_HISTORY", 4)
    path = ToyPath()
    engine = toy_engine(path=path)
    engine.add_events([click("ann", id_, (4_000 + i) * SECOND_US) for i, id_ in enumerate(["i1", "i2", "i3", "i6"])])

    assert ids(engine, Query(user_id="ann")) == ["b/c 📚"]
    assert path.requests[0].history.item_idx.tolist() == [1, 2, 3, 6]


def test_only_the_newest_stored_events_are_read() -> None:
    path = ToyPath()
    engine = toy_engine(path=path, max_user_events=2)
    engine.add_events([click("stranger", f"i{i}", (4_000 + i) * SECOND_US) for i in range(4)])

    engine.recommend(Query(user_id="stranger"))

    assert path.requests[0].history.item_idx.tolist() == [2, 3]


def test_seen_items_never_return_unless_asked_for() -> None:
    engine = toy_engine()

    assert ids(engine, Query(user_id="ann")) == [id_ for id_ in ORDERED_IDS if id_ not in ("i0", "i4")]
    assert ids(engine, Query(user_id="ann", rules=Rules(exclude_seen=False))) == ORDERED_IDS


def test_what_training_knows_counts_as_every_kind_unless_the_store_knows_the_same_event() -> None:
    engine = toy_engine()
    bought = Rules(exclude_seen=SeenWindow(("purchase",)))
    assert left_out(engine, Query(user_id="ann", rules=bought)) == {"i0", "i4"}

    # The events of the training, as the store has them: ann clicked i0 and bought i4.
    engine.add_events([click("ann", "i0", 1_000 * SECOND_US), NewEvent("ann", "i4", "purchase", None, 2_000 * SECOND_US)])  # fmt: skip  # noqa: E501

    assert left_out(engine, Query(user_id="ann", rules=bought)) == {"i4"}
    engine.add_events([click("ann", "i0", 5_000 * SECOND_US)])
    assert left_out(engine, Query(user_id="ann", rules=bought)) == {"i4"}
    assert left_out(engine, Query(user_id="ann", rules=Rules(exclude_seen=SeenWindow(("click",))))) == {"i0"}


def test_a_window_for_seen_items_reads_the_history_of_the_request_too() -> None:
    entries = [
        SessionItem("i1", event="purchase"),
        SessionItem("i2", event="click"),
        SessionItem("i3"),
        SessionItem("i6", NOW_US - 2 * 86_400 * SECOND_US, "purchase"),
    ]
    for window, items in (
        (SeenWindow(("purchase",)), {"i1", "i3", "i6"}),
        (SeenWindow(("purchase",), 1.0), {"i1", "i3"}),
        (SeenWindow((), 1.0), {"i1", "i2", "i3"}),
    ):
        assert left_out(toy_engine(), Query(history=entries[::-1], rules=Rules(exclude_seen=window))) == items


def left_out(engine: Engine, query: Query) -> set[str]:
    return set(ITEM_IDS) - set(ids(engine, query))


def test_excluded_items_are_left_out_and_unknown_ones_reported() -> None:
    slate = toy_engine().recommend(Query(exclude=["i3", "zz", "i6"]))

    assert [item.item_id for item in slate.items] == ["i1", "i0", "b/c 📚", "i2", "i4"]
    assert slate.ignored == {"exclude": Ignored(1, ("zz",))}


def test_given_candidates_alone_are_ordered_seen_or_not() -> None:
    path = ToyPath()
    slate = toy_engine(path=path).recommend(Query(user_id="ann", candidates=["i4", "i0", "i3", "i0"], n=2))

    assert [(item.item_id, item.rank, item.sources) for item in slate.items] == [("i3", 1, ()), ("i0", 2, ())]
    candidates = path.requests[0].candidates
    assert candidates is not None
    assert set(candidates.tolist()) == {4, 0, 3}


def test_excluded_candidates_are_left_out() -> None:
    engine = toy_engine()

    assert ids(engine, Query(candidates=["i4", "i0", "i3"], exclude=["i3"])) == ["i0", "i4"]
    assert ids(engine, Query(candidates=["i4", "i0"], exclude=["i0", "i4"])) == []


def test_unknown_ids_are_left_aside_counted_and_the_first_three_shown() -> None:
    engine = toy_engine()
    slate = engine.recommend(
        Query(
            history=[SessionItem("x1"), SessionItem("i1"), SessionItem("x2"), SessionItem("x3"), SessionItem("x4")],
            candidates=["y1", "i2", "y2"],
        )
    )

    assert slate.ignored == {"history": Ignored(4, ("x1", "x2", "x3")), "candidates": Ignored(2, ("y1", "y2"))}
    assert [item.item_id for item in slate.items] == ["i2"]


def test_stored_events_on_items_of_another_model_are_reported() -> None:
    store = SqlEventStore("sqlite://")
    store.add([Event("e", "ann", "of-last-year", "click", 5)], received_us=5)

    assert toy_engine(store).recommend(Query(user_id="ann")).ignored == {"events": Ignored(1, ("of-last-year",))}


def test_candidates_that_are_all_unknown_are_refused() -> None:
    with pytest.raises(
        RequestError, match=r"none of the 4 items is in the catalogue of model recsys version 12"
    ) as caught:
        toy_engine().recommend(Query(candidates=["y1", "y2", "y3", "y4"]))

    assert caught.value.field == "candidates"
    assert "'y1', 'y2', 'y3';" in str(caught.value)


@pytest.mark.parametrize("n", [0, -3])
def test_an_empty_list_cannot_be_asked_for(n: int) -> None:
    with pytest.raises(RequestError, match=rf"n must be at least 1 \(got {n}\)"):
        toy_engine().recommend(Query(n=n))
    with pytest.raises(RequestError, match=rf"n must be at least 1 \(got {n}\)"):
        toy_engine().similar("i0", n)


def test_a_wish_for_diversity_reaches_the_ranking_with_the_length_of_the_list() -> None:
    path = ToyPath()
    served: list[ServedRequest] = []
    engine = toy_engine(path=path)
    engine.on_served = served.append

    assert ids(engine, Query(n=2, diversity=0.25)) == ORDERED_IDS[::-1][:2]
    assert path.diversified == [(2, 0.25)]
    # What is remembered of the answer begins with its list.
    assert served[0].ranking.item_idx.tolist() == ORDER[::-1]
    assert ids(engine, Query(n=2)) == ids(engine, Query(n=2, diversity=0.0)) == ORDERED_IDS[:2]
    assert len(path.diversified) == 1


@pytest.mark.parametrize("diversity", [-0.5, 1.5, float("nan")])
def test_a_diversity_that_is_no_share_is_refused_before_ranking(diversity: float) -> None:
    path = ToyPath()
    with pytest.raises(RequestError, match=rf"diversity must be between 0 and 1 \(got {diversity}\)") as caught:
        toy_engine(path=path).recommend(Query(diversity=diversity))

    assert caught.value.field == "diversity"
    assert path.requests == []


def test_a_session_from_the_future_is_refused() -> None:
    entries = [SessionItem("i1"), SessionItem("i2", NOW_US + 301 * SECOND_US)]

    with pytest.raises(RequestError, match=r"history\.1\.timestamp lies 301 seconds in the future") as caught:
        toy_engine().recommend(Query(history=entries))

    assert caught.value.field == "history.1.timestamp"


def test_similar_items_leave_out_the_item_itself_and_what_is_excluded() -> None:
    found = toy_engine().similar("i1", 3, exclude=["i6", "unknown"])

    assert [(item.item_id, item.rank) for item in found.items] == [("i3", 1), ("i0", 2), ("b/c 📚", 3)]
    assert found.items[0].score == pytest.approx(0.9)
    assert found.model.version == "12"


def test_similar_to_an_unknown_item_names_the_item_and_the_model() -> None:
    with pytest.raises(
        UnknownItemError, match=r"item 'nope' is not in the catalogue of model recsys version 12"
    ) as caught:
        toy_engine().similar("nope")

    assert caught.value.field == "item_id"


def test_events_get_ids_and_times_where_they_bring_none() -> None:
    store = SqlEventStore("sqlite://")
    stored = toy_engine(store).add_events([click("u", "i1"), click("u", "i2", 7, event_id="mine")])

    assert stored.duplicates == 0
    assert stored.event_ids[1] == "mine"
    uuid.UUID(stored.event_ids[0])
    assert [(e.event_id, e.timestamp_us) for e in store.newest_of("u", 9)] == [
        ("mine", 7),
        (stored.event_ids[0], NOW_US),
    ]


def test_a_repeated_event_is_counted_once() -> None:
    clock, path = ToyClock(), ToyPath()
    engine = toy_engine(path=path, clock=clock)
    engine.add_events([click("u", "i1", event_id="e1")])
    clock.now_us += SECOND_US

    assert engine.add_events([click("u", "i1", event_id="e1"), click("u", "i2", event_id="e2")]).duplicates == 1
    engine.follower.catch_up()
    assert [item for item, *_ in path.recorded] == [1, 2]


def test_an_event_id_with_other_content_is_refused_and_nothing_counted() -> None:
    path = ToyPath()
    engine = toy_engine(path=path)
    engine.add_events([click("u", "i1", event_id="e1")])

    with pytest.raises(EventConflictError, match="already stored with different content"):
        engine.add_events([click("u", "i3"), click("u", "i2", event_id="e1")])

    engine.follower.catch_up()
    assert len(path.recorded) == 1


def test_an_unknown_item_refuses_the_whole_batch_and_names_the_place() -> None:
    store, path = SqlEventStore("sqlite://"), ToyPath()
    batch = [click("u", "i1"), click("u", "x1"), click("u", "i2"), click("u", "x2")]

    with pytest.raises(
        RequestError, match=r"events\.1\.item_id: 2 of 4 events .* the first: 'x1', 'x2'; nothing was"
    ) as e:
        toy_engine(store, path=path).add_events(batch)

    assert e.value.field == "events.1.item_id"
    assert store.newest_of("u", 9) == []
    assert list(store.since(0)) == []


def test_events_may_be_five_minutes_ahead_and_no_more() -> None:
    store = SqlEventStore("sqlite://")
    engine = toy_engine(store)
    engine.add_events([click("u", "i1", NOW_US + 300 * SECOND_US)])

    with pytest.raises(RequestError, match=r"events\.1\.timestamp lies 300 seconds in the future; at most 300"):
        engine.add_events([click("u", "i2"), click("u", "i2", NOW_US + 300 * SECOND_US + 1)])

    assert len(store.newest_of("u", 9)) == 1


def test_new_events_count_for_popularity_by_their_weight_and_those_of_training_do_not() -> None:
    path = ToyPath()
    engine = toy_engine(path=path, overrides={"data.event_weights": {"purchase": 4.0, "report": 0.0}})

    engine.add_events(
        [
            NewEvent("u", "i1", "purchase", timestamp_us=DATA_UNTIL_US + 1),
            NewEvent("u", "i2", "report", timestamp_us=DATA_UNTIL_US + 2),
            NewEvent("u", "i3", "purchase", timestamp_us=DATA_UNTIL_US),
            NewEvent("u", "i4", "click"),
        ]
    )

    engine.follower.catch_up()
    assert path.recorded == [(1, DATA_UNTIL_US + 1, "interactions", 4.0), (4, NOW_US, "interactions", 1.0)]


def broken_once(read: Callable[..., Any], asked: list[Place]) -> Callable[..., Any]:
    """Return `read`, which fails at its third call and notes from where it is asked to read."""

    def reading(after: Place, *arguments: Any, **options: Any) -> Any:
        asked.append(after)
        if len(asked) == 3:
            raise StoreError("the connection was lost")
        return read(after, *arguments, **options)

    return reading


def test_a_replay_that_the_store_breaks_off_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.follower._PAGE", 2)
    store, path, asked = SqlEventStore("sqlite://"), ToyPath(), list[Place]()
    users = ["u", "leaves", "u", "u", "u", "u", "u"]
    toy_engine(store).add_events([click(u, "i1", DATA_UNTIL_US + place) for place, u in enumerate(users, 1)])
    monkeypatch.setattr(store, "events_by_time", broken_once(store.events_by_time, asked))
    engine = toy_engine(store, path=path)
    with pytest.raises(StoreError, match="lost"):
        engine.follower.catch_up()
    store.delete_user("leaves", deleted_us=NOW_US)  # what follows moves up by one row
    engine.add_events([click("u", "i2", DATA_UNTIL_US + 9)])
    engine.follower.catch_up()
    engine.follower.catch_up()

    assert [us - DATA_UNTIL_US for _, us, _, _ in path.recorded] == [1, 2, 3, 4, 5, 6, 7, 9]
    assert asked[3].timestamp_us == DATA_UNTIL_US + 4  # nothing is read again


def test_a_replay_of_slates_that_breaks_off_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.follower._PAGE", 2)
    store, path, asked = SqlEventStore("sqlite://"), ToyPath(), list[Place]()
    users = ["u", "leaves", "u", "u", "u", "u", "u"]
    slates = [
        StoredSlate(f"r{place}", user, DATA_UNTIL_US + place, "12", (ShownItem("i1", 1),))
        for place, user in enumerate(users, 1)
    ]
    store.add_slates(slates)
    monkeypatch.setattr(store, "slates_by_time", broken_once(store.slates_by_time, asked))
    engine = toy_engine(store, path=path)
    with pytest.raises(StoreError, match="lost"):
        engine.follower.catch_up()
    store.delete_user("leaves", deleted_us=NOW_US)
    engine.follower.catch_up()

    assert [(us - DATA_UNTIL_US, kind) for _, us, kind, _ in path.recorded] == [(us, "shown") for us in range(1, 8)]
    assert asked[3].timestamp_us == DATA_UNTIL_US + 4


def test_an_item_of_a_slate_is_clicked_once_and_after_a_restart_too() -> None:
    store, before, after = SqlEventStore("sqlite://"), ToyPath(), ToyPath()
    engine = toy_engine(store, path=before)
    for place in range(10):  # in ten batches, the follower between them
        engine.add_events([click("u", "i1", DATA_UNTIL_US + 10 - place, recommendation_id="one")])
        engine.follower.catch_up()
    engine.add_events([click("u", "i1", recommendation_id="two"), click("u", "i2", recommendation_id="one")])
    engine.follower.catch_up()
    toy_engine(store, path=after).follower.catch_up()

    for path in (before, after):
        clicked = [item for item, _, kind, _ in path.recorded if kind == "clicked"]
        assert sorted(clicked) == [1, 1, 2]
        assert sum(kind == "interactions" for _, _, kind, _ in path.recorded) == 12


def test_a_click_that_training_counted_is_no_click_again() -> None:
    store, before, after = SqlEventStore("sqlite://"), ToyPath(), ToyPath()
    engine = toy_engine(store, path=before)
    engine.follower.catch_up()
    for place in range(2):
        engine.add_events([click("u", "i1", DATA_UNTIL_US + place, recommendation_id="one")])
    engine.follower.catch_up()
    toy_engine(store, path=after).follower.catch_up()

    for path in (before, after):
        assert [kind for _, _, kind, _ in path.recorded] == ["interactions"]


def test_first_clicks_are_remembered_in_bounded_memory() -> None:
    first = FirstClicks(n_kept=10)

    assert [first.is_first("x" * 512, item) for item in (1, 1, 2, 1)] == [True, False, True, False]
    assert all(first.is_first(f"slate {number}", 1) for number in range(1_000))
    assert len(first._young) + len(first._old) <= 20
    assert [first.is_first(f"slate {number}", 1) for number in range(990, 1_000)] == [False] * 10


def test_a_restart_counts_the_stored_events_again() -> None:
    store, before, after = SqlEventStore("sqlite://"), ToyPath(), ToyPath()
    toy_engine(store, path=before).add_events(
        [click("u", "i1", DATA_UNTIL_US + 9), click("v", "i2", DATA_UNTIL_US + 3), click("v", "i2", DATA_UNTIL_US - 3)]
    )

    toy_engine(store, path=after).follower.catch_up()
    assert sorted(after.recorded) == [
        (1, DATA_UNTIL_US + 9, "interactions", 1.0),
        (2, DATA_UNTIL_US + 3, "interactions", 1.0),
    ]


def test_an_event_from_a_clock_ahead_of_ours_has_just_happened() -> None:
    store, path, clock = SqlEventStore("sqlite://"), ToyPath(), ToyClock()
    engine = toy_engine(store, path=path, clock=clock)
    engine.add_events([click("u", "i2", NOW_US - 5), click("u", "i1", NOW_US + 77)])

    engine.recommend(Query(user_id="u"))
    clock.now_us += 100
    engine.recommend(Query(user_id="u"))

    assert [request.history.timestamp_us.tolist() for request in path.requests] == [
        [NOW_US - 5, NOW_US - 1],
        [NOW_US - 5, NOW_US + 77],
    ]


def test_without_a_store_there_is_no_history_and_no_place_for_events() -> None:
    engine = toy_engine(NoStore())

    assert ids(engine, Query(user_id="stranger")) == ORDERED_IDS
    engine.follower.catch_up()
    with pytest.raises(StoreError, match="no store was given"):
        engine.add_events([click("u", "i1")])


def test_what_was_served_is_handed_on_with_its_feature_rows() -> None:
    served: list[ServedRequest] = []
    path = ToyPath()
    engine = toy_engine(path=path)
    engine.on_served = served.append

    slate = engine.recommend(Query(user_id="ann", n=2))

    assert len(served) == 1
    assert served[0].recommendation_id == slate.recommendation_id
    assert served[0].user_id == "ann"
    assert served[0].request.history is path.requests[0].history
    assert served[0].exclude.tolist() == [0, 4]
    assert served[0].ranking.item_idx.tolist() == [idx for idx in ORDER if idx not in (0, 4)]
    assert served[0].ranking.features.shape == (5, 2)


def test_arrays_have_the_types_that_the_ranking_expects() -> None:
    path = ToyPath()
    captured: Sequence[np.dtype] = []

    class Recording(ToyPath):
        def rank(self, request, **options):  # type: ignore[no-untyped-def]
            nonlocal captured
            captured = [options["exclude"].dtype, request.candidates.dtype, request.history.item_idx.dtype]
            return super().rank(request, **options)

    path = Recording()
    toy_engine(path=path).recommend(
        Query(user_id="ann", candidates=["i1", "no"], exclude=["i2"], history=[SessionItem("i6")])
    )

    assert captured == [np.int32, np.int32, np.int32]


def test_a_bundle_from_a_folder_is_named_by_its_id() -> None:
    engine = Engine(toy_bundle(), NoStore(), path=ToyPath())  # type: ignore[arg-type]

    assert engine.model == ModelInfo("bundle", "f00d" * 16, None)
    assert engine.recommend(Query(n=1)).items[0].item_id == ITEM_IDS[3]
