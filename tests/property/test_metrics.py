"""Metrics against a slow and obvious second implementation, and what must not change them."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation.metrics import (
    gini_of_exposure,
    intra_list_diversity,
    list_metrics,
    list_metrics_by_request,
    pessimistic_ranks,
    ranking_metrics,
)

# Few distinct scores, so that ties are common.
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6), st.sampled_from([-math.inf, math.inf]))
Rows = list[tuple[float, bool]]
ROWS = st.lists(st.tuples(SCORES, st.booleans()), max_size=25)
CUT_OFFS = st.lists(st.integers(1, 30), min_size=1, max_size=3, unique=True)


def columns(rows: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    return np.array([score for score, _ in rows], np.float64), np.array([hit for _, hit in rows], bool)


def slow_order(rows: Rows) -> list[bool]:
    """Best first; among equal scores the irrelevant ones come first."""
    return [hit for _, hit in sorted(rows, key=lambda row: (-row[0], row[1]))]


def slow_ranking_metrics(order: list[bool], n_relevant: int, k: int) -> dict[str, float]:
    dcg = ideal = precision_sum = 0.0
    hits = 0
    for place in range(1, k + 1):
        if place <= n_relevant:
            ideal += math.log(2) / math.log(place + 1)
        if place <= len(order) and order[place - 1]:
            hits += 1
            dcg += math.log(2) / math.log(place + 1)
            precision_sum += hits / place
    most = min(k, n_relevant)
    return {
        f"ndcg@{k}": dcg / ideal,
        f"hr@{k}": 1.0 if hits else 0.0,
        f"recall@{k}": hits / most,
        f"precision@{k}": hits / k,
        f"map@{k}": precision_sum / most,
        "mrr": next((1.0 / place for place, hit in enumerate(order, start=1) if hit), 0.0),
    }


def slow_list_metrics(rows: Rows, worth_of_a_tie: float) -> dict[str, float]:
    order = slow_order(rows)
    clicks = [score for score, hit in rows if hit]
    others = [score for score, hit in rows if not hit]
    result = dict.fromkeys(("auc", "mrr", "ndcg@5", "ndcg@10"), math.nan)
    if clicks:
        result["mrr"] = sum(1 / place for place, hit in enumerate(order, start=1) if hit) / len(clicks)
        for k in (5, 10):
            result[f"ndcg@{k}"] = slow_ranking_metrics(order, len(clicks), k)[f"ndcg@{k}"]
    if clicks and others:
        won = sum((c > o) + worth_of_a_tie * (c == o) for c in clicks for o in others)
        result["auc"] = won / (len(clicks) * len(others))
    return result


@given(rows=ROWS)
def test_ranks_are_the_places_in_the_sorted_list(rows: Rows) -> None:
    expected = [place for place, hit in enumerate(slow_order(rows), start=1) if hit]

    assert pessimistic_ranks(*columns(rows)).tolist() == expected


@given(rows=ROWS, ks=CUT_OFFS, n_missed=st.integers(0, 4))
def test_ranking_metrics_equal_the_slow_ones(rows: Rows, ks: list[int], n_missed: int) -> None:
    scores, relevant = columns(rows)
    n_relevant = int(relevant.sum()) + n_missed

    metrics = ranking_metrics(pessimistic_ranks(scores, relevant), n_relevant, ks)

    for k in ks:
        if n_relevant:
            expected = slow_ranking_metrics(slow_order(rows), n_relevant, k)
            assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert all(math.isnan(value) for value in metrics.values()) is (n_relevant == 0)


@given(requests=st.lists(ROWS, max_size=6), ties=st.sampled_from([("against", 0.0), ("half", 0.5)]))
def test_list_metrics_of_many_requests_equal_the_slow_ones(requests: list[Rows], ties: tuple[Any, float]) -> None:
    scores, clicked = columns([row for rows in requests for row in rows])
    ptr = np.cumsum([0, *(len(rows) for rows in requests)])

    table = list_metrics_by_request(scores, clicked, ptr, ties=ties[0])

    for i, rows in enumerate(requests):
        expected = slow_list_metrics(rows, ties[1])
        assert {name: values[i] for name, values in table.items()} == pytest.approx(expected, nan_ok=True)


@given(rows=ROWS, ks=CUT_OFFS)
def test_ranking_metrics_lie_between_zero_and_one(rows: Rows, ks: list[int]) -> None:
    scores, relevant = columns(rows)
    metrics = ranking_metrics(pessimistic_ranks(scores, relevant), int(relevant.sum()), ks)

    assert all(math.isnan(value) or 0.0 <= value <= 1.0 + 1e-12 for value in metrics.values())


@given(rows=ROWS.filter(lambda rows: any(hit for _, hit in rows)), ks=CUT_OFFS)
def test_relevant_items_above_all_others_are_perfect(rows: Rows, ks: list[int]) -> None:
    relevant = columns(rows)[1]

    metrics = ranking_metrics(pessimistic_ranks(relevant.astype(float), relevant), int(relevant.sum()), ks)

    for k in ks:
        assert [metrics[f"{name}@{k}"] for name in ("ndcg", "hr", "recall", "map")] == pytest.approx([1.0] * 4)
    assert metrics["mrr"] == 1.0


@given(rows=ROWS, data=st.data())
def test_the_order_of_the_rows_does_not_matter(rows: Rows, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(rows))

    assert pessimistic_ranks(*columns(shuffled)).tolist() == pessimistic_ranks(*columns(rows)).tolist()
    assert list_metrics(*columns(shuffled)) == pytest.approx(list_metrics(*columns(rows)), nan_ok=True)


@given(rows=ROWS, data=st.data())
def test_irrelevant_items_may_trade_places(rows: Rows, data: st.DataObject) -> None:
    scores, relevant = columns(rows)
    swapped = scores.copy()
    swapped[~relevant] = data.draw(st.permutations(scores[~relevant].tolist()))

    assert pessimistic_ranks(swapped, relevant).tolist() == pessimistic_ranks(scores, relevant).tolist()
    assert list_metrics(swapped, relevant) == pytest.approx(list_metrics(scores, relevant), nan_ok=True)


@given(
    rows=st.lists(st.tuples(st.integers(-50, 50).map(float), st.booleans()), max_size=25),
    scale=st.sampled_from([0.25, 1.0, 8.0]),
    shift=st.integers(-9, 9),
)
def test_rising_transforms_of_the_scores_change_nothing(rows: Rows, scale: float, shift: int) -> None:
    scores, relevant = columns(rows)

    for transformed in (scores * scale + shift, np.exp(scores / 50), scores**3):
        assert pessimistic_ranks(transformed, relevant).tolist() == pessimistic_ranks(scores, relevant).tolist()
        assert list_metrics(transformed, relevant, ties="half") == pytest.approx(
            list_metrics(scores, relevant, ties="half"), nan_ok=True
        )


@given(rows=ROWS.filter(lambda rows: any(hit for _, hit in rows)), data=st.data(), ks=CUT_OFFS)
def test_a_better_score_for_a_relevant_item_never_costs(rows: Rows, data: st.DataObject, ks: list[int]) -> None:
    scores, relevant = columns(rows)
    raised = scores.copy()
    raised[data.draw(st.sampled_from(np.flatnonzero(relevant).tolist()))] = math.inf
    n_relevant = int(relevant.sum())

    before = ranking_metrics(pessimistic_ranks(scores, relevant), n_relevant, ks)
    after = ranking_metrics(pessimistic_ranks(raised, relevant), n_relevant, ks)

    assert all(after[name] >= before[name] - 1e-12 for name in before)


@given(lists=st.lists(st.lists(st.integers(-1, 6), min_size=3, max_size=3), min_size=1, max_size=8))
def test_gini_equals_the_mean_difference_of_all_pairs(lists: list[list[int]]) -> None:
    exposure = [sum(row.count(item) for row in lists) for item in range(7)]
    gini = gini_of_exposure(np.array(lists), 7)

    if sum(exposure) == 0:
        assert math.isnan(gini)
    else:
        differences = sum(abs(a - b) for a in exposure for b in exposure)
        assert gini == pytest.approx(differences / (2 * 7 * sum(exposure)))


@settings(max_examples=50)
@given(
    lists=st.lists(st.lists(st.integers(-1, 4), min_size=4, max_size=4), min_size=1, max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
def test_diversity_equals_the_loop_over_pairs(lists: list[list[int]], seed: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(5, 3))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    for row, value in zip(lists, intra_list_diversity(np.array(lists), embeddings), strict=True):
        items = [item for item in row if item >= 0]
        distances = [1.0 - float(unit[a] @ unit[b]) for i, a in enumerate(items) for j, b in enumerate(items) if i != j]
        assert value == pytest.approx(np.mean(distances) if distances else math.nan, abs=1e-9, nan_ok=True)
