"""Lists beyond accuracy: hand-worked fractions, a slow second implementation, edges, intervals, and every error."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation.beyond import (
    SMOOTHING,
    ItemFacts,
    beyond_accuracy,
    cold_share,
    compare_lists,
    joined,
    miscalibration,
)
from recsys.evaluation.intervals import Interval
from recsys.evaluation.metrics import EvaluationError, coverage, gini_of_exposure

# Items 0 and 1 are war, 2 is war and sea, 3 is sea, 4 has no category, 5 is land.
CATEGORIES = sp.csr_matrix(np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], np.float32))
N_ITEMS = 6
FACTS = ItemFacts(np.array([7, 3, 0, 0, 5, 1]), np.eye(N_ITEMS, 4, dtype=np.float32), CATEGORIES)


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def slow_miscalibration(list_: list[int], history: list[int], sets: list[set[int]]) -> float:
    """Return the divergence of Steck (2018), one item and one category at a time."""

    def mix(items: list[int]) -> dict[int, float]:
        with_any = [item for item in items if sets[item]]
        total: Counter[int] = Counter()
        for item in with_any:
            for category in sets[item]:
                total[category] += 1 / len(sets[item]) / len(with_any)  # type: ignore[assignment]
        return dict(total)

    p, q = mix(history), mix([item for item in list_ if item >= 0])
    if not p or not q:
        return math.nan
    return sum(share * math.log(share / (0.99 * q.get(g, 0.0) + 0.01 * share)) for g, share in p.items())


def test_a_list_with_the_mix_of_the_history_is_calibrated() -> None:
    # Both are three quarters war and one quarter sea.
    assert miscalibration([[0, 1, 2, 2]], [rows(1, 2)], CATEGORIES)[0] == pytest.approx(0.0, abs=1e-12)


def test_miscalibration_equals_the_hand_worked_divergence() -> None:
    # history: item 0 (war 1), item 2 (war ½, sea ½): p = ¾, ¼. list: 0, 1, -1, -1: q = 1, 0.
    expected = 0.75 * math.log(0.75 / (0.99 + 0.01 * 0.75)) + 0.25 * math.log(0.25 / (0.01 * 0.25))

    assert miscalibration([[0, 1, -1, -1]], [rows(0, 2)], CATEGORIES)[0] == pytest.approx(expected)
    assert pytest.approx(0.01) == SMOOTHING


def test_a_list_without_anything_of_the_history_is_as_wrong_as_can_be() -> None:
    assert miscalibration([[5]], [rows(0, 3)], CATEGORIES)[0] == pytest.approx(math.log(100))


def test_neither_order_nor_rank_counts_but_how_often_does() -> None:
    found = miscalibration([[0, 3], [3, 0], [0, 3]], [rows(0, 0, 3), rows(3, 0, 0), rows(0, 3)], CATEGORIES)

    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0.04
    assert found[2] == 0.0


def test_calibration_is_undefined_without_categories_on_both_sides() -> None:
    lists = [[0, 1], [4, -1], [-1, -1], [0, 4]]
    histories = [rows(), rows(0), rows(0), rows(4, 1)]

    assert np.isnan(miscalibration(lists, histories, CATEGORIES)).tolist() == [True, True, True, False]
    # Items without a category are left out on both sides.
    assert miscalibration(lists, histories, CATEGORIES)[3] == 0.0
    assert np.isnan(miscalibration(lists, histories, sp.csr_matrix((N_ITEMS, 0)))).all()


def test_weights_in_the_category_matrix_play_no_part_and_stay_as_they_are() -> None:
    weighted = CATEGORIES.copy()
    weighted.data[:] = [3.0, 1.0, 9.0, 0.5, 2.0, 4.0]
    lists, histories = [[2, 0], [3, 5]], [rows(2, 3), rows(5, 2)]

    found = miscalibration(lists, histories, weighted)

    assert found.tolist() == miscalibration(lists, histories, CATEGORIES).tolist()
    assert weighted.data.tolist() == [3.0, 1.0, 9.0, 0.5, 2.0, 4.0]


ITEM = st.integers(0, 7)


@given(
    requests=st.lists(
        st.tuples(st.lists(st.integers(-1, 7), min_size=3, max_size=3), st.lists(ITEM, max_size=6)), max_size=5
    ),
    sets=st.lists(st.sets(st.integers(0, 4)), min_size=8, max_size=8),
)
def test_miscalibration_equals_the_slow_implementation(
    requests: list[tuple[list[int], list[int]]], sets: list[set[int]]
) -> None:
    matrix = sp.csr_matrix(np.array([[float(g in own) for g in range(5)] for own in sets]))
    lists = np.array([list_ for list_, _ in requests], np.int32).reshape(-1, 3)

    found = miscalibration(lists, [np.array(history, np.int32) for _, history in requests], matrix)

    expected = [slow_miscalibration(list_, history, sets) for list_, history in requests]
    assert found.tolist() == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_miscalibration_is_the_same_however_requests_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    lists, histories = rng.integers(-1, 6, (11, 3)), [rng.integers(0, 6, n) for n in range(11)]
    whole = miscalibration(lists, histories, CATEGORIES)

    monkeypatch.setattr("recsys.evaluation.beyond._CHUNK_VALUES", 7)

    assert miscalibration(lists, histories, CATEGORIES).tolist() == pytest.approx(whole.tolist(), nan_ok=True)


def test_cold_share_is_that_of_items_without_behaviour_padding_left_out() -> None:
    lists = [[0, 2, 3], [2, 0, -1], [5, -1, -1], [-1, -1, -1]]

    assert cold_share(lists, FACTS.counts).tolist() == pytest.approx([2 / 3, 1 / 2, 0.0, math.nan], nan_ok=True)
    assert np.isnan(cold_share([[-1]], np.zeros(0, np.int64))).all()


def test_everything_beyond_accuracy_carries_the_length_of_the_lists() -> None:
    lists = np.array([[0, 3, 2], [0, 1, -1], [-1, -1, -1]], np.int32)
    found = beyond_accuracy(lists, [rows(0), rows(1, 1), rows()], FACTS)

    assert set(found.per_request) == {"novelty@3", "ild@3", "miscalibration@3", "cold_share@3"}
    assert found.aggregates == {"coverage@3": 4 / 6, "gini@3": gini_of_exposure(lists, N_ITEMS)}
    # 16 interactions and 6 items: shares 8, 4, 1, 1 of 22
    surprise = -np.log2(np.array([8, 4, 1, 1]) / 22)
    expected = [surprise[[0, 3, 2]].mean(), surprise[:2].mean(), math.nan]
    assert found.per_request["novelty@3"].tolist() == pytest.approx(expected, nan_ok=True)
    assert found.per_request["ild@3"].tolist() == pytest.approx([1.0, 1.0, math.nan], nan_ok=True)
    assert found.per_request["cold_share@3"].tolist() == pytest.approx([2 / 3, 0.0, math.nan], nan_ok=True)


def test_no_requests_have_no_values_and_no_items_are_covered() -> None:
    found = beyond_accuracy(np.empty((0, 5), np.int32), [], FACTS)

    assert {len(values) for values in found.per_request.values()} == {0}
    assert found.aggregates["coverage@5"] == 0.0
    assert math.isnan(found.aggregates["gini@5"])


# comparison


def compare(lists: dict[str, Any], users: list[int] | None = None, **more: Any) -> tuple[Any, Any]:
    arrays = {name: np.array(value, np.int32) for name, value in lists.items()}
    n = len(next(iter(arrays.values())))
    settings = {"n_bootstrap": 200, "rng": np.random.default_rng(1)} | more
    histories = [rows(0, 3)] * n
    return compare_lists(arrays, histories, FACTS, clusters=np.array(users or range(n)), **settings)


LISTS = {"full": [[0, 1], [2, 3], [3, 4], [0, 5]], "popular": [[0, 1], [0, 1], [0, 1], [0, 1]]}


def test_every_system_has_every_figure_with_bounds_around_it() -> None:
    systems, differences = compare(LISTS)

    names = {"novelty@2", "ild@2", "miscalibration@2", "cold_share@2", "coverage@2", "gini@2"}
    assert {system: set(table) for system, table in systems.items()} == {"full": names, "popular": names}
    assert set(differences) == {"popular"}
    assert set(differences["popular"]) == names
    assert systems["full"]["coverage@2"].mean == 1.0
    assert systems["popular"]["coverage@2"].mean == 2 / 6
    assert differences["popular"]["coverage@2"].mean == pytest.approx(4 / 6)
    assert differences["popular"]["cold_share@2"].mean == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    for table in (*systems.values(), *differences.values()):
        for interval in table.values():
            assert interval.lo <= interval.mean <= interval.hi
    # Lists that are all alike leave nothing to chance.
    gini = systems["popular"]["gini@2"]
    assert (gini.lo, gini.mean, gini.hi) == pytest.approx((4 / 6, 4 / 6, 4 / 6))


def test_requests_of_several_splits_are_each_judged_by_what_was_known_in_theirs() -> None:
    lists = np.array([[0, 1], [2, 3], [3, 4], [0, 5]], np.int32)
    others = replace(FACTS, counts=np.roll(FACTS.counts, 1))
    settings = {"clusters": np.arange(4), "n_bootstrap": 50}
    systems, _ = compare_lists(
        {"full": lists}, [rows(0)] * 4, [(1, FACTS), (3, others)], rng=np.random.default_rng(1), **settings
    )

    first = beyond_accuracy(lists[:1], [rows(0)], FACTS)
    then = beyond_accuracy(lists[1:], [rows(0)] * 3, others)
    pooled = beyond_accuracy(lists, [rows(0)] * 4, FACTS)
    for metric, values in first.per_request.items():
        expected = np.nanmean(np.concatenate([values, then.per_request[metric]]))
        assert systems["full"][metric].mean == pytest.approx(expected)
    for metric, value in pooled.aggregates.items():
        assert systems["full"][metric].mean == value
    with pytest.raises(EvaluationError, match=r"4 lists, but items for \[1, 2\] of them"):
        compare_lists(
            {"full": lists}, [rows(0)] * 4, [(1, FACTS), (2, others)], rng=np.random.default_rng(1), **settings
        )


def test_the_same_lists_do_not_differ() -> None:
    _, differences = compare({"full": LISTS["full"], "twin": LISTS["full"]})

    assert {(d.mean, d.lo, d.hi) for d in differences["twin"].values()} == {(0.0, 0.0, 0.0)}


def test_a_difference_is_over_the_requests_that_both_systems_answer() -> None:
    lists = {"full": [[0, 1], [2, 3], [-1, -1]], "other": [[0, 1], [-1, -1], [2, 3]], "mute": [[-1, -1]] * 3}
    systems, differences = compare(lists)

    assert systems["full"]["cold_share@2"].mean == 0.5
    assert (differences["other"]["cold_share@2"].mean, differences["other"]["cold_share@2"].n) == (0.0, 1)
    # A system without lists has no figures but covers nothing, which is one.
    assert math.isnan(systems["mute"]["novelty@2"].mean)
    assert "novelty@2" not in differences["mute"]
    assert differences["mute"]["coverage@2"].mean == pytest.approx(4 / 6)
    assert math.isnan(systems["mute"]["gini@2"].mean)


def test_without_a_full_system_there_are_no_differences() -> None:
    assert compare({"popular": LISTS["popular"]})[1] == {}


def test_one_user_gives_figures_without_bounds() -> None:
    systems, _ = compare(LISTS, users=[3, 3, 3, 3])

    assert systems["full"]["coverage@2"].mean == 1.0
    assert all(math.isnan(interval.lo) for interval in systems["full"].values())


def test_the_same_seed_draws_the_same_users_for_every_system_however_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    both, alone = compare(LISTS)[0]["popular"], compare({"popular": LISTS["popular"]})[0]["popular"]
    assert both == alone
    whole = compare(LISTS)[0]["full"]["coverage@2"]

    monkeypatch.setattr("recsys.evaluation.beyond._CHUNK_VALUES", 16)

    assert compare(LISTS)[0]["full"]["coverage@2"].lo == pytest.approx(whole.lo)


def slow_interval(lists: np.ndarray, metric: Any, n_bootstrap: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the moved percentile bounds of a figure of all lists, one user per list, resample by resample."""
    draws = np.array([metric(lists[rng.integers(0, len(lists), len(lists))], 40) for _ in range(n_bootstrap)])
    lo, hi = np.quantile(draws - draws.mean() + metric(lists, 40), [0.025, 0.975])
    return float(lo), float(hi)


@pytest.mark.parametrize(("name", "metric"), [("coverage@3", coverage), ("gini@3", gini_of_exposure)])
def test_bounds_of_aggregates_agree_with_the_slow_implementation(name: str, metric: Any) -> None:
    rng = np.random.default_rng(8)
    lists = np.minimum(rng.geometric(0.08, (60, 3)) - 1, 39)
    facts = ItemFacts(np.ones(40, np.int64), np.ones((40, 2), np.float32), sp.csr_matrix((40, 0)))

    found = compare_lists(
        {"x": lists}, [rows()] * 60, facts, clusters=np.arange(60), n_bootstrap=3_000, rng=np.random.default_rng(2)
    )[0]["x"][name]

    assert (found.lo, found.hi) == pytest.approx(slow_interval(lists, metric, 3_000, rng), abs=0.012)
    assert found.mean == metric(lists, 40)


def test_bounds_of_coverage_hold_the_coverage_of_as_many_other_users() -> None:
    """95 % bounds should hold the mean of the figure over samples of this size nearly that often."""
    rng = np.random.default_rng(5)
    popularity = 1.0 / np.arange(1, 121)
    popularity /= popularity.sum()

    def sample() -> np.ndarray:
        return np.array([rng.choice(120, 4, replace=False, p=popularity) for _ in range(50)])

    facts = ItemFacts(np.ones(120, np.int64), np.ones((120, 2), np.float32), sp.csr_matrix((120, 0)))
    expected = np.mean([coverage(sample(), 120) for _ in range(300)])
    bounds = []
    for _ in range(60):
        systems, _ = compare_lists(
            {"x": sample()}, [rows()] * 50, facts, clusters=np.arange(50), n_bootstrap=200, rng=rng
        )
        bounds.append(systems["x"]["coverage@4"])

    assert sum(bound.lo <= expected <= bound.hi for bound in bounds) >= 51


def test_tables_are_joined_row_by_row() -> None:
    one, two = Interval(1.0, 0.0, 2.0, 3), Interval(2.0, 1.0, 3.0, 3)

    assert joined({"full": {"mrr": one}, "als": {}}, {"full": {"gini@2": two}, "more": {"gini@2": two}}) == {
        "full": {"mrr": one, "gini@2": two},
        "als": {},
    }


@pytest.mark.parametrize(
    ("lists", "histories", "message"),
    [
        ([[0, 9]], [rows(0)], r"1 recommended rows are outside 0..5, the first: \[9\]"),
        ([[0, 1]], [], "1 lists but 0 histories; pass one history per request"),
        ([[0, 1], [1, 0]], [rows(0, 6), rows(-1)], r"2 rows of the histories are outside 0..5, the first at \[1, 2\]"),
        ([0, 1], [rows(0)], r"recommended has shape \(2,\)"),
    ],
)
def test_input_that_does_not_fit_is_refused(lists: Any, histories: list[np.ndarray], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        beyond_accuracy(lists, histories, FACTS)


def test_arrays_about_other_numbers_of_items_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"have \{'counts': 5, 'embeddings': 6, 'categories': 6\} rows"):
        ItemFacts(np.zeros(5, np.int64), np.zeros((6, 2)), CATEGORIES)


def test_systems_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"lists of different shapes, \{'full': \(4, 2\), 'popular': \(1, 2\)\}"):
        compare(LISTS | {"popular": [[0, 1]]})
    with pytest.raises(EvaluationError, match=r"lists have shape \(4, 2\), but 3 clusters; name the user"):
        compare(LISTS, users=[1, 2, 3])
    with pytest.raises(EvaluationError, match="there are no lists to judge"):
        compare_lists({}, [], FACTS, clusters=np.array([]), rng=np.random.default_rng(0))
