"""What every feature group promises, on a simulated corpus."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from features.assemble import GROUPS, feature_names, feature_rows
from features.context import ItemTable, RequestContext
from recsys.counters import BucketCounts, Counters
from recsys.histories import History, InteractionLog, Request
from recsys.models.fitted import FittedModels

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
CANDIDATES = np.array([149, 3, 77, 0, 12, 140, 55, 31], np.int32)

# Columns whose value depends on which other candidates there are, by design.
RELATIVE = {
    "text": {"text_profile_share_below", "text_content_share_below"},
    "collaborative": {
        "als_share_below",
        "covisitation_share_below",
        "ease_share_below",
        "next_item_share_below",
    },
    "sequence": {"sequence_share_below", "sequence_log_probability"},
    "session": {"n_given_candidates"},
    "popularity": {"popularity_share_below"},
    "item": set(),
    "user": set(),
}


@pytest.fixture(scope="module")
def items(tiny_models: FittedModels) -> ItemTable:
    return ItemTable.build(tiny_models)


@pytest.fixture(params=sorted(GROUPS))
def group(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _requests(models: FittedModels) -> Iterator[Request]:
    log = models.log
    end = int(log.timestamp_us.max())
    lengths = np.diff(log.indptr)
    for user in (int(lengths.argmax()), int(np.flatnonzero(lengths == 1)[0]), int(np.flatnonzero(lengths == 0)[0])):
        for as_of in (end + 1, end - 2 * DAY_US):
            yield Request(log.history_of(user, as_of), as_of, user)
    yield Request(log.history_of(int(lengths.argmax())), end + 1, -1, CANDIDATES)
    yield Request(History.empty(), int(log.timestamp_us.min()) - DAY_US)


def _compute(group: str, models: FittedModels, items: ItemTable, request: Request, rows: np.ndarray) -> np.ndarray:
    return GROUPS[group].compute(RequestContext.build(models, items, request, rows))


def _names(group: str, models: FittedModels, items: ItemTable) -> tuple[str, ...]:
    return GROUPS[group].names(RequestContext.build(models, items, Request(History.empty(), 0), CANDIDATES))


def test_there_is_one_named_column_per_feature_in_float32(
    group: str, tiny_models: FittedModels, items: ItemTable
) -> None:
    names = _names(group, tiny_models, items)
    assert len(set(names)) == len(names) > 0
    for request in _requests(tiny_models):
        rows = _compute(group, tiny_models, items, request, CANDIDATES)

        assert rows.shape == (len(CANDIDATES), len(names))
        assert rows.dtype == np.float32


@pytest.mark.parametrize("n", [0, 1])
def test_few_candidates_have_as_many_rows(group: str, n: int, tiny_models: FittedModels, items: ItemTable) -> None:
    names = _names(group, tiny_models, items)
    for request in _requests(tiny_models):
        assert _compute(group, tiny_models, items, request, CANDIDATES[:n]).shape == (n, len(names))


def test_nothing_is_infinite(group: str, tiny_models: FittedModels, items: ItemTable) -> None:
    everything = np.arange(len(tiny_models.catalogue), dtype=np.int32)
    for request in _requests(tiny_models):
        assert not np.isinf(_compute(group, tiny_models, items, request, everything)).any()


def _may_be_missing(name: str, request: Request, item_idx: int, models: FittedModels) -> bool:
    """Whether the groups' docstrings say that this value is NaN."""
    has_history = len(request.history) > 0
    if name == "text_session":
        gap = models.config.features.session_gap_minutes * 60_000_000
        return not has_history or request.as_of_us - int(request.history.timestamp_us[-1]) > gap
    if name.startswith(("text_", "als_", "ease_", "next_item_", "sequence_", "minutes_since_last")):
        return not has_history
    if name.startswith("covisitation_"):
        votes = {"covisitation_second_last": 2, "covisitation_third_last": 3}
        return len(request.history) < votes.get(name, 1)
    if name == "n_given_candidates":
        return request.candidates is None
    one = np.array([item_idx], np.int32)
    if name == "hours_since_seen":
        return bool(models.counters.last_seen_us(one, request.as_of_us)[0] < 0)
    if name == "hours_since_first":
        return bool(models.counters.first_seen_us(one, request.as_of_us)[0] < 0)
    if name in ("user_mean_popularity", "popularity_against_user", "times_in_history"):
        return not has_history
    if name == "reading_minutes_against_user":
        return not has_history
    return name in ("user_country", "user_device") and request.user_idx < 0


def test_a_value_is_nan_exactly_where_its_group_says(group: str, tiny_models: FittedModels, items: ItemTable) -> None:
    names = _names(group, tiny_models, items)
    for request in _requests(tiny_models):
        rows = _compute(group, tiny_models, items, request, CANDIDATES)
        expected = [[_may_be_missing(name, request, int(item), tiny_models) for name in names] for item in CANDIDATES]
        different = np.argwhere(np.isnan(rows) != np.array(expected))

        assert [(int(CANDIDATES[i]), names[j]) for i, j in different] == []


def test_a_row_does_not_depend_on_the_other_candidates(group: str, tiny_models: FittedModels, items: ItemTable) -> None:
    names = _names(group, tiny_models, items)
    own = [column for column, name in enumerate(names) if name not in RELATIVE[group]]
    assert len(names) - len(own) == len(RELATIVE[group])
    for request in _requests(tiny_models):
        together = _compute(group, tiny_models, items, request, CANDIDATES)
        for place in range(len(CANDIDATES)):
            alone = _compute(group, tiny_models, items, request, CANDIDATES[place : place + 1])
            # BLAS may add up in another order for another number of rows, so the last bit is left out.
            np.testing.assert_allclose(alone[0, own], together[place, own], rtol=2e-6, atol=2e-6)


def test_the_order_of_the_candidates_only_orders_the_rows(
    group: str, tiny_models: FittedModels, items: ItemTable
) -> None:
    order = np.array([5, 2, 7, 0, 1, 6, 3, 4])
    for request in _requests(tiny_models):
        rows = _compute(group, tiny_models, items, request, CANDIDATES)
        reordered = _compute(group, tiny_models, items, request, CANDIDATES[order])

        np.testing.assert_allclose(reordered, rows[order], rtol=2e-6, atol=2e-6)


def test_the_same_request_gives_the_same_bits_again(group: str, tiny_models: FittedModels, items: ItemTable) -> None:
    for request in _requests(tiny_models):
        one, other = (_compute(group, tiny_models, items, request, CANDIDATES) for _ in range(2))

        assert one.tobytes() == other.tobytes()


def _with_events(models: FittedModels, item_idx: np.ndarray, timestamp_us: np.ndarray) -> FittedModels:
    """Return models whose log and counters hold further interactions, impressions and clicks."""
    log = models.log
    n = len(item_idx)
    longer = InteractionLog.from_arrays(
        np.concatenate([log.user_idx, np.arange(n, dtype=np.int32) % log.n_users]),
        np.concatenate([log.item_idx, item_idx]),
        np.concatenate([log.timestamp_us, timestamp_us]),
        np.concatenate([log.weight, np.full(n, 4.0, np.float32)]),
        n_users=log.n_users,
        n_items=log.n_items,
    )
    bucket_us = models.counters.interactions.bucket_us
    interactions = BucketCounts.build(longer.item_idx, longer.timestamp_us, longer.weight, bucket_us=bucket_us)
    counters = Counters(interactions, models.counters.shown, models.counters.clicked)
    for kind in ("shown", "clicked"):
        for item, time in zip(item_idx.tolist(), timestamp_us.tolist(), strict=True):
            counters.record(item, time, kind=kind)
    return replace(models, log=longer, counters=counters)


@pytest.mark.parametrize("as_of_offset_us", [0, 1, HOUR_US // 2])
def test_nothing_that_happens_later_changes_a_bit(
    group: str, as_of_offset_us: int, tiny_models: FittedModels, items: ItemTable
) -> None:
    log = tiny_models.log
    as_of = int(log.timestamp_us.min()) // HOUR_US * HOUR_US + 4 * DAY_US + as_of_offset_us
    # From the very moment on: everybody turns to every candidate, at once and over the next days.
    later = as_of + np.repeat([0, 1, 10 * 60_000_000, HOUR_US, DAY_US], len(CANDIDATES) * 10)
    future = _with_events(tiny_models, np.tile(CANDIDATES, 50), later)

    for user in (int(np.diff(log.indptr).argmax()), 5, 11):
        request = Request(log.history_of(user, as_of), as_of, user)
        with_future = Request(future.log.history_of(user, as_of), as_of, user)
        one = _compute(group, tiny_models, items, request, CANDIDATES)
        other = _compute(group, future, items, with_future, CANDIDATES)
        assert one.tobytes() == other.tobytes()


def test_what_happened_earlier_does_change_popularity_and_history(tiny_models: FittedModels, items: ItemTable) -> None:
    """The check above would hold of features that read nothing at all."""
    log = tiny_models.log
    as_of = int(log.timestamp_us.min()) + 4 * DAY_US
    earlier = as_of - np.repeat([2 * HOUR_US, DAY_US], len(CANDIDATES) * 10)
    past = _with_events(tiny_models, np.tile(CANDIDATES, 20), earlier)

    for group in ("popularity", "user", "session", "text", "collaborative"):
        request, with_past = (Request(models.log.history_of(5, as_of), as_of, 5) for models in (tiny_models, past))
        one = _compute(group, tiny_models, items, request, CANDIDATES)
        assert one.tobytes() != _compute(group, past, items, with_past, CANDIDATES).tobytes()


def test_rows_are_the_groups_side_by_side_under_the_names(tiny_models: FittedModels, items: ItemTable) -> None:
    names = feature_names(tiny_models, items)
    request = next(_requests(tiny_models))
    rows = feature_rows(tiny_models, items, request, CANDIDATES)

    assert rows.shape == (len(CANDIDATES), len(names))
    assert rows.flags["C_CONTIGUOUS"]
    start = 0
    for group in tiny_models.config.features.groups:
        part = _compute(group, tiny_models, items, request, CANDIDATES)
        assert part.tobytes() == np.ascontiguousarray(rows[:, start : start + part.shape[1]]).tobytes()
        assert list(names.values())[start : start + part.shape[1]] == [group] * part.shape[1]
        start += part.shape[1]
    assert start == len(names)


def test_only_configured_groups_are_computed(tiny_models: FittedModels, items: ItemTable) -> None:
    few = replace(tiny_models, config=tiny_models.config.with_overrides({"features.groups": ["user", "item"]}))

    assert list(dict.fromkeys(feature_names(few, items).values())) == ["user", "item"]
    assert feature_rows(few, items, Request(History.empty(), 0), CANDIDATES).shape[1] == len(feature_names(few, items))
