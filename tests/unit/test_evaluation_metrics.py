"""Metrics against fractions worked by hand, ties, empty truth, short lists, and every error."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from recsys.errors import RecsysError
from recsys.evaluation.metrics import (
    EvaluationError,
    PerRequestMetrics,
    graded_ndcg,
    list_metrics,
    list_metrics_by_request,
    pessimistic_ranks,
    ranking_metrics,
)


def log2(value: float) -> float:
    return math.log(value) / math.log(2)


def relevant_at(places: list[int], n: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(n, dtype=bool)
    mask[places] = True
    return mask


@pytest.mark.parametrize(
    ("scores", "relevant", "ranks"),
    [
        ([0.9, 0.1, 0.5, 0.7], [2], [3]),
        ([0.9, 0.1, 0.5, 0.7], [1, 0], [1, 4]),
        ([0.5, 0.5, 0.5, 0.5], [0], [4]),  # one tie with all others: last
        ([0.5, 0.5, 0.5, 0.5], [0, 1], [3, 4]),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 2, 3], [1, 2, 3, 4]),  # relevant items do not harm one another
        ([3.0, 2.0, 2.0, 2.0, 1.0], [1, 3], [3, 4]),
        ([3.0, 2.0, 2.0, 2.0, 1.0], [4, 0], [1, 5]),
        ([0.0, -0.0, 1.0], [0], [3]),  # the two zeros are equal
        ([-math.inf, math.inf, -math.inf], [0], [3]),
        ([1.0, 2.0], [], []),
        ([], [], []),
    ],
)
def test_ranks_place_ties_against_the_system(scores: list[float], relevant: list[int], ranks: list[int]) -> None:
    result = pessimistic_ranks(np.array(scores), relevant_at(relevant, len(scores)))

    assert result.tolist() == ranks
    assert result.dtype == np.int64


def test_a_constant_system_scores_no_better_than_the_worst_order() -> None:
    relevant = relevant_at([0, 1], 30)

    metrics = ranking_metrics(pessimistic_ranks(np.zeros(30), relevant), 2, [10])

    assert metrics["ndcg@10"] == metrics["hr@10"] == 0.0
    assert metrics["mrr"] == pytest.approx(1 / 29)


@pytest.mark.parametrize(
    ("ranks", "n_relevant", "k", "expected"),
    [
        (
            [1, 3],
            2,
            3,
            {
                "ndcg": (1 / log2(2) + 1 / log2(4)) / (1 / log2(2) + 1 / log2(3)),
                "hr": 1.0,
                "recall": 2 / 2,
                "precision": 2 / 3,
                "map": (1 / 1 + 2 / 3) / 2,
            },
        ),
        (
            [2, 4, 11],
            5,
            4,
            {
                "ndcg": (1 / log2(3) + 1 / log2(5)) / (1 / log2(2) + 1 / log2(3) + 1 / log2(4) + 1 / log2(5)),
                "hr": 1.0,
                "recall": 2 / 4,  # 5 relevant items do not fit into 4 places
                "precision": 2 / 4,
                "map": (1 / 2 + 2 / 4) / 4,
            },
        ),
        (
            [2, 4, 11],
            5,
            20,
            {
                "ndcg": (1 / log2(3) + 1 / log2(5) + 1 / log2(12))
                / (1 + 1 / log2(3) + 1 / log2(4) + 1 / log2(5) + 1 / log2(6)),
                "hr": 1.0,
                "recall": 3 / 5,  # two were never retrieved
                "precision": 3 / 20,
                "map": (1 / 2 + 2 / 4 + 3 / 11) / 5,
            },
        ),
        ([10], 1, 10, {"ndcg": 1 / log2(11), "hr": 1.0, "recall": 1.0, "precision": 1 / 10, "map": 1 / 10}),
        ([11], 1, 10, {"ndcg": 0.0, "hr": 0.0, "recall": 0.0, "precision": 0.0, "map": 0.0}),
        ([], 3, 10, {"ndcg": 0.0, "hr": 0.0, "recall": 0.0, "precision": 0.0, "map": 0.0}),
    ],
)
def test_ranking_metrics_equal_the_hand_worked_fractions(
    ranks: list[int], n_relevant: int, k: int, expected: dict[str, float]
) -> None:
    metrics = ranking_metrics(ranks, n_relevant, [k])

    assert {name: metrics[f"{name}@{k}"] for name in expected} == pytest.approx(expected)
    assert metrics["mrr"] == pytest.approx(1 / ranks[0] if ranks else 0.0)


def test_a_cut_off_longer_than_the_list_still_divides_precision_by_k() -> None:
    ranks = pessimistic_ranks([0.3, 0.2, 0.1], relevant_at([0, 1], 3))

    metrics = ranking_metrics(ranks, 2, [10])

    assert metrics["precision@10"] == 2 / 10
    assert metrics["recall@10"] == metrics["ndcg@10"] == metrics["map@10"] == 1.0


def test_every_cut_off_gets_its_own_keys() -> None:
    metrics = ranking_metrics(np.array([3]), 1, (1, 5))

    assert list(metrics) == [
        *("ndcg@1", "hr@1", "recall@1", "precision@1", "map@1"),
        *("ndcg@5", "hr@5", "recall@5", "precision@5", "map@5"),
        "mrr",
    ]
    assert (metrics["hr@1"], metrics["hr@5"]) == (0.0, 1.0)


def test_a_request_without_relevant_items_has_no_value() -> None:
    metrics = ranking_metrics([], 0, [10])

    assert set(metrics) == {"ndcg@10", "hr@10", "recall@10", "precision@10", "map@10", "mrr"}
    assert all(math.isnan(value) for value in metrics.values())


SHOWN = [0.9, 0.2, 0.6, 0.4, 0.1]  # ranks 1, 4, 2, 3, 5


@pytest.mark.parametrize(
    ("scores", "clicked", "expected"),
    [
        (SHOWN, [2], {"auc": 3 / 4, "mrr": 1 / 2, "ndcg@5": 1 / log2(3), "ndcg@10": 1 / log2(3)}),
        (
            SHOWN,
            [2, 1],
            {
                "auc": (2 + 1) / 6,  # of three others, the first click loses to one and the second to two
                "mrr": (1 / 2 + 1 / 4) / 2,  # the mean over clicks, not 1/2
                "ndcg@5": (1 / log2(3) + 1 / log2(5)) / (1 + 1 / log2(3)),
            },
        ),
        ([0.5, 0.5, 0.1], [0], {"auc": 1 / 2, "mrr": 1 / 2, "ndcg@5": 1 / log2(3)}),
        ([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], [5], {"auc": 1 / 6, "ndcg@5": 0.0, "ndcg@10": 1 / log2(7)}),
    ],
)
def test_list_metrics_equal_the_hand_worked_fractions(
    scores: list[float], clicked: list[int], expected: dict[str, float]
) -> None:
    metrics = list_metrics(scores, relevant_at(clicked, len(scores)))

    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("ties", "auc"), [("against", 2 / 6), ("half", (2 + 0.5 + 0.5) / 6)])
def test_ties_cost_auc_the_whole_pair_or_half_of_it(ties: str, auc: float) -> None:
    scores, clicked = [0.5, 0.5, 0.5, 0.1, 0.9], relevant_at([0, 2], 5)

    metrics = list_metrics(scores, clicked, ties=ties)  # type: ignore[arg-type]

    assert metrics["auc"] == pytest.approx(auc)
    assert metrics["mrr"] == pytest.approx((1 / 3 + 1 / 4) / 2)  # whatever `ties` says


def test_equal_scores_in_different_requests_are_no_tie() -> None:
    values = list_metrics_by_request([0.5, 0.5], np.array([True, False]), [0, 1, 2], ties="half")

    assert np.isnan(values["auc"]).all()
    assert values["mrr"].tolist() == pytest.approx([1.0, math.nan], nan_ok=True)


def test_many_requests_at_once_equal_one_at_a_time() -> None:
    lists = [(SHOWN, [2, 1]), ([0.1, 0.3], []), ([], []), ([0.2, 0.2, 0.4], [0, 1, 2]), ([0.5, 0.5, 0.1], [0])]
    ptr = np.cumsum([0, *(len(scores) for scores, _ in lists)])
    scores = np.concatenate([np.array(scores) for scores, _ in lists])
    clicked = np.concatenate([relevant_at(places, len(scores)) for scores, places in lists])

    together = list_metrics_by_request(scores, clicked, ptr)

    for i, (own_scores, places) in enumerate(lists):
        alone = list_metrics(own_scores, relevant_at(places, len(own_scores)))
        assert {name: values[i] for name, values in together.items()} == pytest.approx(alone, nan_ok=True)
    assert np.isnan(together["auc"]).tolist() == [False, True, True, True, False]
    assert np.isnan(together["ndcg@5"]).tolist() == [False, True, True, False, False]


def test_nan_scores_are_refused_with_their_count() -> None:
    scores = np.array([1.0, math.nan, 0.5, math.nan])

    with pytest.raises(EvaluationError, match=r"2 of 4 scores are NaN, the first at \[1, 3\].*-inf") as caught:
        pessimistic_ranks(scores, relevant_at([0], 4))

    assert isinstance(caught.value, RecsysError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(EvaluationError, match="2 of 4 scores are NaN"):
        list_metrics(scores, relevant_at([0], 4))


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        ([0.1, 0.2], np.array([1, 0]), "relevant has dtype int64; pass a bool array"),
        ([0.1, 0.2], np.array([True]), r"shape \(2,\) and relevant \(1,\)"),
        ([[0.1, 0.2]], np.array([[True, False]]), r"shape \(1, 2\).*one length"),
    ],
)
def test_scores_and_relevance_that_do_not_fit_are_refused(
    scores: list[float], relevant: npt.NDArray[np.generic], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        pessimistic_ranks(scores, relevant)


@pytest.mark.parametrize(
    ("ranks", "n_relevant", "ks", "message"),
    [
        ([1], 1, [5, 0, -2], r"2 cut-offs are below 1: \[0, -2\]"),
        ([0, 3], 2, [5], r"1 of 2 ranks are below 1 or not above the one before, the first at \[0\]"),
        ([4, 2, 2], 3, [5], r"2 of 3 ranks are below 1 or not above the one before, the first at \[1, 2\]"),
        ([1, 2, 3], 2, [5], "n_relevant is 2, but 3 relevant items have ranks"),
        ([1.5], 1, [5], "dtype float64; pass integers"),
        ([[1, 2]], 2, [5], r"shape \(1, 2\).*pass integers"),
    ],
)
def test_ranks_that_are_none_are_refused(ranks: list[int], n_relevant: int, ks: list[int], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        ranking_metrics(ranks, n_relevant, ks)


@pytest.mark.parametrize("ptr", [[0, 2], [1, 3], [0, 2, 1, 3], [], [[0, 3]]])
def test_request_pointers_that_do_not_fit_are_refused(ptr: list[int]) -> None:
    with pytest.raises(EvaluationError, match="request_ptr must rise from 0 to the 3 scores"):
        list_metrics_by_request([0.1, 0.2, 0.3], np.array([True, False, False]), ptr)


def test_per_request_metrics_keep_order_and_number_users_by_first_appearance() -> None:
    metrics = PerRequestMetrics()
    metrics.add("zoe", {"mrr": 0.5, "hr@1": 0.0})
    metrics.add_batch(["ann", "zoe"], {"hr@1": np.array([1.0, 0.0]), "mrr": [1.0, 0.25]})

    arrays = metrics.arrays()

    assert len(metrics) == 3
    assert arrays["mrr"].tolist() == [0.5, 1.0, 0.25]
    assert arrays["hr@1"].tolist() == [0.0, 1.0, 0.0]
    assert arrays["mrr"].dtype == np.float64
    assert list(metrics.user_ids) == ["zoe", "ann", "zoe"]
    assert metrics.clusters().tolist() == [0, 1, 0]
    assert repr(metrics) == "PerRequestMetrics(3 requests × ['hr@1', 'mrr'])"


def test_per_request_metrics_refuse_other_metrics_and_add_nothing() -> None:
    metrics = PerRequestMetrics()
    metrics.add("u1", {"mrr": 0.5})

    with pytest.raises(EvaluationError, match=r"request 1 has the metrics \['auc'\], the ones before have \['mrr'\]"):
        metrics.add("u2", {"auc": 0.5})
    with pytest.raises(EvaluationError, match=r"2 requests, but metrics have \{'mrr': 1\} values"):
        metrics.add_batch(["u2", "u3"], {"mrr": [0.5]})

    assert metrics.arrays()["mrr"].tolist() == [0.5]
    assert len(metrics) == 1


def test_graded_ndcg_counts_what_items_are_worth() -> None:
    ideal = 4 + 2 / log2(3) + 1 / log2(4)

    # order: worth 2, 0, 4, 1
    assert graded_ndcg([0.9, 0.5, 0.7, 0.1], [2, 4, 0, 1], 3) == pytest.approx((2 + 4 / log2(4)) / ideal)
    assert graded_ndcg([0.9, 0.5, 0.7, 0.1], [2, 4, 0, 1], 1) == pytest.approx(2 / 4)
    assert graded_ndcg([3, 2, 1], [4, 2, 1], 3) == 1.0


def test_graded_ndcg_of_equal_worths_is_ndcg() -> None:
    scores = np.random.default_rng(0).integers(0, 6, 30).astype(float)
    relevant = np.random.default_rng(1).random(30) < 0.3
    expected = ranking_metrics(pessimistic_ranks(scores, relevant), int(relevant.sum()), (5,))["ndcg@5"]

    assert graded_ndcg(scores, 2.5 * relevant, 5) == pytest.approx(expected)


def test_graded_ndcg_breaks_ties_against_the_system() -> None:
    assert graded_ndcg([1, 1, 1], [4, 0, 1], 2) == pytest.approx(1 / log2(3) / (4 + 1 / log2(3)))
    assert graded_ndcg([0, -np.inf], [0, 3], 5) == 0.0


def test_graded_ndcg_without_anything_relevant_is_undefined() -> None:
    assert np.isnan(graded_ndcg([1, 2], [0, 0], 5))


@pytest.mark.parametrize(
    ("scores", "worth", "k", "message"),
    [
        ([1, 2], [0, -1], 5, r"numbers from 0, and is not at \[1\]"),
        ([1, 2], [float("nan"), 1], 5, r"is not at \[0\]"),
        ([1, 2], [1], 5, "two arrays of one length"),
        ([1, float("nan")], [1, 0], 5, "1 of 2 scores are NaN"),
        ([1, 2], [1, 0], 0, "cut-offs are below 1"),
    ],
)
def test_graded_ndcg_refuses_what_it_cannot_judge(
    scores: list[float], worth: list[float], k: int, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        graded_ndcg(scores, worth, k)
