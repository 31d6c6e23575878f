"""Histories put together from training, store and request."""

import numpy as np
import pytest

from recsys.config import DataConfig
from recsys.histories import History
from recsys.ids import IdMap
from serving.sessions import (
    Session,
    SessionItem,
    add_without_repeats,
    kind_weight,
    stored_history,
    weigh_events,
)
from serving.store import Event

ITEMS = IdMap(["a", "b", "c", "d"])
CONFIG = DataConfig(event_weights={"view": 0.3, "purchase": 4.0, "report": 0.0}, min_rating=3.5)
NOW_US = 1_000


def history(*rows: tuple[int, int, float]) -> History:
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return History(np.array(columns[0], np.int32), np.array(columns[1], np.int64), np.array(columns[2], np.float32))


def rows(of: History) -> list[tuple[int, int, float]]:
    return [
        (int(i), int(t), round(float(w), 3)) for i, t, w in zip(of.item_idx, of.timestamp_us, of.weight, strict=True)
    ]


def unread(events: list[Event]) -> np.ndarray:
    """Return the weights of events whose texts nobody reads."""
    return weigh_events(events, np.full(len(events), np.nan), CONFIG).weight


@pytest.mark.parametrize(
    ("event", "value", "weight"),
    [
        ("purchase", None, 4.0),
        ("view", 9.0, 0.3),
        ("report", None, 0.0),
        ("unheard-of", None, 1.0),
        (None, None, 1.0),
        ("rating", 3.0, 0.0),
        ("rating", 3.5, 1.0),
        ("rating", None, 1.0),
    ],
)
def test_an_event_weighs_what_it_weighs_in_training(event: str | None, value: float | None, weight: float) -> None:
    assert kind_weight(event, value, CONFIG) == weight


def test_a_negative_weight_counts_as_none() -> None:
    assert kind_weight("dislike", None, DataConfig(event_weights={"dislike": -1.0})) == 0.0


def test_stored_events_become_a_history_without_unknown_items_and_weightless_kinds() -> None:
    events = [
        Event("1", "u", "c", "purchase", 10),
        Event("2", "u", "gone", "view", 20),
        Event("3", "u", "a", "report", 30),
        Event("4", "u", "b", "rating", 40, 1.0),
        Event("5", "u", "b", "view", 50),
    ]

    assert rows(stored_history(events, unread(events), ITEMS)) == [(2, 10, 4.0), (1, 50, 0.3)]


def test_a_session_without_times_ends_just_before_the_request() -> None:
    session = [SessionItem("b"), SessionItem("nowhere"), SessionItem("d", event="purchase"), SessionItem("a")]

    assert rows(Session.of(session, ITEMS, as_of_us=NOW_US).history(CONFIG)) == [
        (1, 996, 1.0),
        (3, 998, 4.0),
        (0, 999, 1.0),
    ]


def test_entries_without_a_time_stay_before_the_entry_that_follows() -> None:
    session = [SessionItem("b"), SessionItem("c", 500), SessionItem("d"), SessionItem("a", NOW_US + 5)]

    assert rows(Session.of(session, ITEMS, as_of_us=NOW_US).history(CONFIG)) == [
        (1, 499, 1.0),
        (2, 500, 1.0),
        (3, 998, 1.0),
        (0, 999, 1.0),
    ]


def test_an_empty_session_is_an_empty_history() -> None:
    empty = Session.of([], ITEMS, as_of_us=NOW_US).history(CONFIG)

    assert len(empty) == 0
    assert (empty.item_idx.dtype, empty.timestamp_us.dtype, empty.weight.dtype) == (np.int32, np.int64, np.float32)


def test_what_training_knows_already_is_not_counted_twice() -> None:
    trained = history((0, 10, 1.0), (1, 20, 1.0), (2, 30, 1.0))
    stored = history((1, 20, 0.3), (1, 21, 0.3), (2, 20, 0.3), (3, 40, 0.3))

    assert rows(add_without_repeats(trained, stored)) == [
        (0, 10, 1.0),
        (1, 20, 1.0),
        (2, 20, 0.3),
        (1, 21, 0.3),
        (2, 30, 1.0),
        (3, 40, 0.3),
    ]


def test_repeats_within_the_newer_history_stay() -> None:
    assert rows(add_without_repeats(history(), history((1, 5, 1.0), (1, 5, 1.0)))) == [(1, 5, 1.0), (1, 5, 1.0)]


def test_nothing_new_leaves_the_history_as_it_is() -> None:
    known = history((0, 10, 1.0))

    assert add_without_repeats(known, History.empty()) is known


SIGNED = DataConfig(event_weights={"rating": 2.0, "comment": 2.0, "purchase": 4.0, "review": 0.0}, rating_scale=(1, 5))
NAN = float("nan")


@pytest.mark.parametrize(
    ("event", "value", "text_signal", "weight", "is_complaint"),
    [
        ("rating", 4.0, NAN, 1.0, False),
        ("rating", 1.0, NAN, 0.0, True),
        ("rating", 3.0, NAN, 0.0, True),
        ("rating", None, NAN, 2.0, False),
        ("comment", None, 0.75, 1.5, False),
        ("comment", None, -0.5, 0.0, True),
        ("comment", 3.0, 0.5, 0.25, False),
        ("rating", 4.0, -1.0, 0.25, False),
        ("rating", 2.0, 1.0, 0.0, True),
        ("purchase", 1.0, NAN, 4.0, False),
        ("review", 1.0, -1.0, 0.0, False),
    ],
)
def test_reviews_weigh_by_rating_and_text_where_training_weighed_them_so(
    event: str, value: float | None, text_signal: float, weight: float, is_complaint: bool
) -> None:
    stored = [Event("1", "u", "a", event, 10, value)]

    weighed = weigh_events(stored, np.array([text_signal]), SIGNED)

    assert weighed.weight.tolist() == [weight]
    assert weighed.is_complaint.tolist() == [is_complaint]


@pytest.mark.parametrize("changed", [{"sentiment": "off"}, {"rating_scale": None}])
def test_where_training_did_not_read_reviews_neither_rating_nor_text_matters(changed: dict[str, object]) -> None:
    events = [Event("1", "u", "a", "rating", 10, 1.0), Event("2", "u", "b", "comment", 20)]

    weighed = weigh_events(events, np.array([NAN, -1.0]), SIGNED.model_copy(update=changed))

    assert weighed.weight.tolist() == [2.0, 2.0]
    assert not weighed.is_complaint.any()


def test_no_events_weigh_nothing() -> None:
    weighed = weigh_events([], np.empty(0), SIGNED)

    assert len(weighed.weight) == len(weighed.is_complaint) == 0
