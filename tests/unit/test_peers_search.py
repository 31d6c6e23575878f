"""What runs in the peers' environment and needs none of their libraries: the search and its figures."""

import ast
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from test_peers_exchange import N_ITEMS, make_task

from benchmarks.peers.exchange import Float32, Ragged, Requests
from benchmarks.peers.registry import PEERS, peers_for
from benchmarks.peers.search import (
    FitData,
    Scorer,
    SearchError,
    Settings,
    answers,
    attempt,
    best_place,
    by_search,
    feature_matrix,
    grid,
    history_matrix,
    mean_figure,
)
from benchmarks.suites import SUITES
from recsys.evaluation.metrics import list_metrics, pessimistic_ranks, ranking_metrics

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
TRAINING = FOLDER.parents[1] / "training"


def asked(n_requests: int, candidates: list[list[int]] | None = None) -> Requests:
    nothing = Ragged.of([np.empty(0, np.int32)] * n_requests)
    given = nothing if candidates is None else Ragged.of([np.array(row) for row in candidates])
    return Requests(np.arange(n_requests, dtype=np.int32), np.zeros(n_requests, np.int64), nothing, nothing, given)


def scorer_of(scores: Float32) -> Scorer:
    return lambda requests: scores[requests.user_idx]


@pytest.mark.parametrize("seed", range(5))
def test_the_figure_on_validation_data_is_the_one_of_the_evaluation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (300, 40)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    relevant = [np.sort(rng.choice(40, rng.integers(1, 15), replace=False)) for _ in range(300)]

    figure = mean_figure(scorer_of(scores), asked(300), Ragged.of(relevant), "ndcg@10")

    expected = []
    for values, items in zip(scores, relevant, strict=True):
        ranked = values > -np.inf
        ranks = pessimistic_ranks(values[ranked], np.isin(np.arange(40), items)[ranked])
        expected.append(ranking_metrics(ranks, len(items), (10,))["ndcg@10"])
    assert figure == pytest.approx(np.mean(expected))


def test_the_area_under_the_curve_is_the_one_of_the_evaluation() -> None:
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 4, (50, 20)).astype(np.float32)
    candidates = [rng.choice(20, 8, replace=False).tolist() for _ in range(50)]
    relevant = [np.array(row[:3]) for row in candidates]

    figure = mean_figure(scorer_of(scores), asked(50, candidates), Ragged.of(relevant), "auc")

    expected = [
        list_metrics(values[row], np.arange(8) < 3)["auc"] for values, row in zip(scores, candidates, strict=True)
    ]
    assert figure == pytest.approx(np.mean(expected))


def test_a_request_without_an_unwanted_item_has_no_area_under_the_curve() -> None:
    figure = mean_figure(scorer_of(np.ones((1, 3), np.float32)), asked(1, [[1]]), Ragged.of([np.array([1])]), "auc")

    assert math.isnan(figure)


def test_excluded_items_take_no_place() -> None:
    requests = asked(1)
    requests = Requests(
        requests.user_idx, requests.as_of_us, requests.history, Ragged.of([np.array([0])]), requests.candidates
    )

    figure = mean_figure(scorer_of(np.array([[9.0, 5.0, 1.0]], np.float32)), requests, Ragged.of([[1]]), "ndcg@10")

    assert figure == 1.0


def test_the_best_setting_on_validation_data_is_fitted_on_everything() -> None:
    task = make_task()
    fitted: list[tuple[float, int]] = []

    def fit(data: FitData, settings: Settings) -> Scorer:
        fitted.append((settings["bias"], len(data.train)))
        wanted = {0: [2], 2: [1, 2]}

        def score(requests: Requests) -> Float32:
            scores = np.tile(np.arange(N_ITEMS, dtype=np.float32), (len(requests), 1))
            for row, user in enumerate(requests.user_idx):
                scores[row, wanted[int(user)]] += settings["bias"]
            return scores

        return score

    outcome = by_search(fit, grid(bias=(0.0, 10.0, -10.0)))(task)

    assert outcome.settings == {"bias": 10.0}
    assert fitted == [(0.0, 3), (10.0, 3), (-10.0, 3), (10.0, 5)]
    assert [row["ndcg@10"] for row in outcome.tried] == [pytest.approx(f, abs=1e-4) for f in (0.6622, 1.0, 0.5967)]


def test_a_setting_that_fails_or_gives_nan_is_named_and_not_chosen() -> None:
    def fit(data: FitData, settings: Settings) -> Scorer:
        if settings["kind"] == "raises":
            raise ValueError("no terms remain")
        return scorer_of(np.zeros((3, N_ITEMS), np.float32))

    def figure_of(settings: Settings) -> float:
        return math.nan

    outcome = by_search(fit, grid(kind=("raises", "works")))(make_task())
    nan = attempt({"kind": "nan"}, "ndcg@10", figure_of)

    assert outcome.settings == {"kind": "works"}
    assert [(row["ndcg@10"], row["error"]) for row in (outcome.tried[0], nan)] == [
        (None, "ValueError: no terms remain"),
        (None, "its ndcg@10 is NaN"),
    ]
    assert "error" not in outcome.tried[1]
    assert best_place([nan, {"ndcg@10": 0.0}, {"ndcg@10": 0.5}, {"ndcg@10": 0.5}], "ndcg@10") == 2


def test_a_peer_of_which_every_setting_fails_says_so() -> None:
    def fit(data: FitData, settings: Settings) -> Scorer:
        raise ValueError("no terms remain")

    with pytest.raises(SearchError, match="all 2 settings failed, the first with: ValueError: no terms remain; mend"):
        by_search(fit, grid(last=(5, 20)))(make_task())


def test_one_setting_needs_no_search() -> None:
    outcome = by_search(lambda data, _: scorer_of(np.zeros((3, N_ITEMS), np.float32)), [{"k": 3}])(make_task())

    assert outcome.tried == []
    assert outcome.settings == {"k": 3}


def test_settings_that_are_known_are_not_searched() -> None:
    fitted: list[tuple[float, int]] = []

    def fit(data: FitData, settings: Settings) -> Scorer:
        fitted.append((settings["bias"], len(data.train)))
        return scorer_of(np.zeros((3, N_ITEMS), np.float32))

    outcome = by_search(fit, grid(bias=(0.0, 10.0)))(make_task(), {"bias": 7.0})

    assert fitted == [(7.0, 5)]
    assert (outcome.settings, outcome.tried) == ({"bias": 7.0}, [])


def test_answers_are_those_of_the_candidates_in_their_order() -> None:
    scores = np.arange(3 * N_ITEMS, dtype=np.float32).reshape(3, N_ITEMS)
    task = make_task("given")

    assert answers(scorer_of(scores), task.requests, "given").tolist() == [0.0, 2.0, 13.0, 10.0, 11.0]
    assert answers(scorer_of(scores), task.requests, "whole").shape == (2, N_ITEMS)


def test_a_history_counts_an_item_once() -> None:
    requests = asked(2)
    history = Ragged.of([np.array([1, 1, 0]), np.array([2])])
    requests = Requests(requests.user_idx, requests.as_of_us, history, requests.exclude, requests.candidates)

    assert history_matrix(requests, 4).toarray().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]


def test_features_are_columns_in_order_of_their_names() -> None:
    items = [{"features": ["b", "a"]}, {"features": []}, {"features": ["b", "c"]}]

    matrix, names = feature_matrix(items)
    frequent, kept = feature_matrix(items, min_count=2)

    assert names == ["a", "b", "c"]
    assert matrix.toarray().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert kept == ["b"]
    assert frequent.toarray().tolist() == [[1], [0], [1]]
    assert feature_matrix([{"features": []}])[0].shape == (1, 0)


def test_a_grid_holds_every_combination() -> None:
    assert grid(a=(1, 2), b=("x",)) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


def test_every_peer_of_the_registry_is_run_by_its_module() -> None:
    for name, spec in PEERS.items():
        tree = ast.parse((FOLDER / f"{spec.module}.py").read_text(encoding="utf-8"))
        tables = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and _is_named(node, "RUNS")]
        keys = [key.value for table in tables for key in getattr(table, "keys", []) if isinstance(key, ast.Constant)]

        assert name in keys


def test_every_suite_has_peers_and_every_peer_a_suite() -> None:
    for suite in SUITES:
        assert len(peers_for(suite)) >= 3
    assert {suite for spec in PEERS.values() for suite in spec.suites} == set(SUITES)


def test_both_environments_can_import_the_exchange() -> None:
    """What both import needs NumPy alone; peers import of ours what lies in benchmarks/peers, and a loss in torch."""
    for name in ("exchange", "registry"):
        assert _imported(FOLDER / f"{name}.py") <= {"numpy", *sys.stdlib_module_names}
    for name in {spec.module for spec in PEERS.values()} - {"rectools_transformers"}:
        assert not _imported(FOLDER / f"{name}.py") & {"recsys", "training", "features", "serving"}
    source = (FOLDER / "rectools_transformers.py").read_text(encoding="utf-8")
    assert [line for line in source.split("\n") if "import" in line and "training" in line] == [
        "from training import sequence_loss"
    ]
    for path in ("sequence_loss.py", "__init__.py"):
        assert _imported(TRAINING / path) <= {"torch", *sys.stdlib_module_names}


def _imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def _is_named(node: ast.AnnAssign, name: str) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == name
