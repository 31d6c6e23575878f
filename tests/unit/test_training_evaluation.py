from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from features.path import RankingPath
from recsys.catalogue import Catalogue
from recsys.config import EvaluationConfig
from recsys.histories import History, InteractionLog, Request
from recsys.ids import IdMap
from training.evaluation import Evaluation, evaluate, item_warmth, user_warmth
from training.requests import LabelledRequest

N_ITEMS = 6
NONE = np.empty(0, np.int32)
BEYOND = {"novelty@2", "ild@2", "miscalibration@2", "cold_share@2", "coverage@2", "gini@2"}


@dataclass
class ToySource:
    """Scores every item by a fixed list."""

    name: str
    scores: list[float]

    def score_all(self, request: Request) -> np.ndarray:
        return np.array(self.scores, np.float32)


@dataclass
class ToyPath:
    """Retrieves the items of `order` and ranks them so, whoever asks."""

    order: list[int]
    sources: tuple[ToySource, ...]
    models: Any = field(default_factory=lambda: _models())

    def rank(self, request: Request, *, exclude: np.ndarray) -> Any:
        wanted = self.order if request.candidates is None else [i for i in self.order if i in request.candidates]
        found = np.array([item for item in wanted if item not in exclude or request.candidates is not None], np.int32)
        return SimpleNamespace(item_idx=found, score=-np.arange(len(found), dtype=np.float32))


def _catalogue() -> Catalogue:
    table = pl.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(N_ITEMS)],
            "colour": ["red", "red", "blue", "blue", "blue", "red"],
            "categories": [["war"], ["war"], ["war", "sea"], ["sea"], [], None],
        }
    )
    return Catalogue.from_items(table, ())


def _models() -> Any:
    log = InteractionLog.from_arrays(
        np.array([0, 0, 0], np.int32),
        np.array([0, 1, 1], np.int32),
        np.arange(3),
        np.ones(3, np.float32),
        n_users=2,
        n_items=N_ITEMS,
    )
    return SimpleNamespace(
        catalogue=_catalogue(),
        user_ids=IdMap(["ann", "bob"]),
        log=log,
        factors=SimpleNamespace(is_warm=np.array([True, True, False, False, False, False])),
        item_embeddings=np.eye(N_ITEMS, dtype=np.float32) * np.array([1, 1, 1, 0, 1, 1])[:, None],
        item_counts=log.item_counts(),
    )


def _request(
    relevant: list[int], *, exclude: list[int] | None = None, given: list[int] | None = None, user_idx: int = 0
) -> LabelledRequest:
    history = History(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.float32))
    candidates = None if given is None else np.array(given, np.int32)
    return LabelledRequest(
        Request(history, 10, user_idx, candidates), np.array(relevant, np.int32), np.array(exclude or [], np.int32)
    )


def _evaluate(
    requests: list[LabelledRequest], order: list[int], scores: list[float] | None = None, *, as_lists: bool = False
) -> Evaluation:
    path = ToyPath(order, (ToySource("toy", scores or [0.0] * N_ITEMS),))
    config = EvaluationConfig(k=2, n_bootstrap=10)
    return evaluate(cast(RankingPath, path), requests, config, np.random.SeedSequence(0), as_lists=as_lists)


def _mean(evaluation: Evaluation, system: str, metric: str) -> float:
    return evaluation.systems[system][metric].mean


def test_the_rank_of_what_was_wanted_is_measured_in_the_catalogue() -> None:
    evaluation = _evaluate([_request([3])], [5, 3, 1], [0.1, 0.9, 0.5, 0.2, 0.0, 0.3])

    assert _mean(evaluation, "full", "hr@2") == 1.0
    assert _mean(evaluation, "full", "ndcg@2") == pytest.approx(1 / np.log2(3))
    assert _mean(evaluation, "toy", "hr@2") == 0.0
    assert _mean(evaluation, "toy", "mrr") == pytest.approx(1 / 4)
    assert _mean(evaluation, "toy", "hr@4") == 1.0


def test_what_the_full_system_did_not_retrieve_is_a_miss() -> None:
    evaluation = _evaluate([_request([0])], [5, 3])

    assert _mean(evaluation, "full", "mrr") == 0.0
    assert _mean(evaluation, "full", "recall@4") == 0.0


def test_half_of_what_was_wanted_is_half_the_recall() -> None:
    evaluation = _evaluate([_request([0, 5])], [5, 3])

    assert _mean(evaluation, "full", "recall@2") == 0.5
    assert _mean(evaluation, "full", "mrr") == 1.0


def test_excluded_items_take_no_place_in_any_ranking() -> None:
    evaluation = _evaluate([_request([3], exclude=[5, 1, 2])], [5, 1, 3], [0.1, 0.9, 0.5, 0.2, 0.0, 0.3])

    assert _mean(evaluation, "full", "mrr") == 1.0
    assert _mean(evaluation, "toy", "mrr") == 1.0
    assert evaluation.lists is not None
    assert evaluation.lists["toy"].tolist() == [[3, 0]]
    assert evaluation.lists["full"].tolist() == [[3, -1]]


def test_a_tie_is_broken_against_the_system() -> None:
    assert _mean(_evaluate([_request([0])], [0]), "toy", "mrr") == pytest.approx(1 / N_ITEMS)


def test_own_candidates_are_ranked_among_themselves() -> None:
    scores = [0.1, 0.9, 0.5, 0.2, 0.0, 0.3]
    evaluation = _evaluate([_request([3], given=[4, 3, 0])], [4, 0, 3, 5], scores)

    assert _mean(evaluation, "full", "mrr") == pytest.approx(1 / 3)
    assert _mean(evaluation, "toy", "mrr") == 1.0


def test_shown_lists_are_measured_by_their_order() -> None:
    scores = [0.1, 0.9, 0.5, 0.2, 0.0, 0.3]
    requests = [_request([3], given=[5, 3, 4]), _request([0, 2], given=[0, 1, 2, 4])]
    evaluation = _evaluate(requests, [3, 5, 4, 1, 0, 2], scores, as_lists=True)

    # full: 3 before 5 and 4 is right; of {0, 2} against {1, 4}: order 4 1 0 2 is wrong throughout
    assert _mean(evaluation, "full", "auc") == pytest.approx((1.0 + 0.0) / 2)
    # toy: 5 3 4, half right; 1 2 0 4, 2 of 4 pairs right
    assert _mean(evaluation, "toy", "auc") == pytest.approx((0.5 + 0.5) / 2)
    assert evaluation.lists is None
    assert set(evaluation.systems["full"]) - BEYOND == {"auc", "mrr", "ndcg@5", "ndcg@10"}
    assert set(evaluation.systems["toy"]) > BEYOND
    # The best two of what was shown: {3, 5} and {4, 1} for full, {5, 3} and {1, 2} for toy.
    assert _mean(evaluation, "full", "coverage@2") == 4 / 6
    assert _mean(evaluation, "toy", "cold_share@2") == pytest.approx((1.0 + 0.5) / 2)


@pytest.mark.parametrize("as_lists", [True, False])
def test_what_differs_in_worth_is_measured_by_it(as_lists: bool) -> None:
    two = replace(_request([2, 0], given=[0, 1, 2, 4]), worth=np.array([4, 1], np.float32))
    one = replace(_request([3], given=[5, 3, 4]), worth=np.array([1], np.float32))
    evaluation = _evaluate([one, two], [3, 5, 0, 1, 2, 4], [0.1, 0.9, 0.5, 0.2, 0.0, 0.3], as_lists=as_lists)

    best = 4 + 1 / np.log2(3)
    assert _mean(evaluation, "full", "graded_ndcg@2") == pytest.approx((1 + 1 / best) / 2)
    # toy: 5 3 4 and 1 2 0 4
    assert _mean(evaluation, "toy", "graded_ndcg@2") == pytest.approx((1 + 4 / best) / 2 / np.log2(3))


def test_what_is_worth_the_same_is_measured_as_before() -> None:
    alike = [replace(_request([item]), worth=np.array([2], np.float32)) for item in (3, 5)]
    partly = [alike[0], replace(alike[1], worth=None)]

    for requests in (alike, partly):
        assert "graded_ndcg@2" not in _evaluate(requests, [5, 3]).systems["full"]


def test_every_system_is_judged_beyond_accuracy_by_its_best_items() -> None:
    # toy lists 1 2; the history is item 0, a war film; items 0 and 1 have 1 and 2 of the 3 interactions
    evaluation = _evaluate([_request([3], exclude=[0], user_idx=user) for user in (0, 1)], [5, 3], [0, 9, 8, 1, 2, 3])

    assert set(evaluation.systems["full"]) > BEYOND
    assert _mean(evaluation, "toy", "coverage@2") == 2 / 6
    assert _mean(evaluation, "toy", "cold_share@2") == 0.5
    assert _mean(evaluation, "toy", "novelty@2") == pytest.approx(np.mean(-np.log2([3 / 9, 1 / 9])))
    assert _mean(evaluation, "toy", "ild@2") == 1.0
    assert _mean(evaluation, "toy", "miscalibration@2") == pytest.approx(-np.log(0.99 * 0.75 + 0.01))
    assert _mean(evaluation, "toy", "gini@2") == pytest.approx(4 / 6)
    # full lists 5 3, and 5 has no category
    assert _mean(evaluation, "full", "miscalibration@2") == pytest.approx(np.log(100))
    assert evaluation.differences["toy"]["cold_share@2"].mean == 0.5
    assert "coverage@2" not in evaluation.slices["full"]["user=warm"]


def test_every_system_is_compared_with_the_full_one_on_the_same_requests() -> None:
    requests = [_request([3], user_idx=0), _request([5], user_idx=1), _request([5], user_idx=-1)]
    evaluation = _evaluate(requests, [5, 3])

    assert list(evaluation.systems) == ["full", "random", "toy"]
    assert set(evaluation.differences) == {"random", "toy"}
    expected = _mean(evaluation, "full", "mrr") - _mean(evaluation, "toy", "mrr")
    assert evaluation.differences["toy"]["mrr"].mean == pytest.approx(expected)
    assert evaluation.n_requests == 3


def test_measuring_changes_no_scores_of_a_source() -> None:
    source = ToySource("toy", [0.1, 0.9, 0.5, 0.2, 0.0, 0.3])
    kept = source.score_all(_request([0]).request)
    source.score_all = lambda request: kept  # type: ignore[method-assign]
    path = ToyPath([0, 1], (source,))
    evaluate(
        cast(RankingPath, path),
        [_request([3], exclude=[1]), _request([1])],
        EvaluationConfig(k=2, n_bootstrap=10),
        np.random.SeedSequence(0),
        as_lists=False,
    )

    assert kept.tolist() == np.array([0.1, 0.9, 0.5, 0.2, 0.0, 0.3], np.float32).tolist()


def test_the_same_seed_measures_the_same() -> None:
    requests = [_request([item]) for item in range(N_ITEMS)]
    one, same = (_evaluate(requests, [5, 3]) for _ in range(2))

    assert one.systems == same.systems
    assert one.differences == same.differences


@pytest.mark.parametrize(
    ("user_idx", "has_history", "expected"),
    [
        (0, True, "warm"),
        (0, False, "warm"),
        (1, True, "cold"),
        (-1, True, "cold"),
        (-1, False, "unknown"),
        (7, False, "unknown"),
    ],
)
def test_a_user_is_warm_by_what_was_fitted_and_cold_by_a_session(
    user_idx: int, has_history: bool, expected: str
) -> None:
    history = _request([0]).request.history if has_history else History.empty()
    path = cast(RankingPath, ToyPath([], ()))

    assert user_warmth(path, Request(history, 0, user_idx)) == expected


@pytest.mark.parametrize(("item_idx", "expected"), [(0, "warm"), (2, "cold"), (3, "unknown")])
def test_an_item_is_warm_by_its_behaviour_and_cold_by_its_text(item_idx: int, expected: str) -> None:
    assert item_warmth(cast(RankingPath, ToyPath([], ())), item_idx) == expected
