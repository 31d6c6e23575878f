"""Trees scored all nodes at once give what LightGBM gives, to the last bit."""

from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pytest

from recsys.models.ranker import Ranker
from recsys.models.trees import Trees

Float32 = npt.NDArray[np.float32]


def _rows(n: int, *, missing: float, seed: int = 0) -> Float32:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 7)).astype(np.float32)
    rows[:, 3] = np.round(rows[:, 3])  # thresholds that values are equal to
    rows[rng.random(rows.shape) < missing] = np.nan
    return rows


def _booster(rows: Float32, **settings: Any) -> lgb.Booster:
    label = (np.nan_to_num(rows[:, 0]) * np.nan_to_num(rows[:, 1]) + np.nan_to_num(rows[:, 3]) > 0).astype(int)
    group = [20] * (len(rows) // 20) if settings.get("objective") == "lambdarank" else None
    parameters = {"num_leaves": 31, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2} | settings
    return lgb.train(parameters, lgb.Dataset(rows, label, group=group), 12)


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
@pytest.mark.parametrize("num_leaves", [2, 3, 32, 33, 64])
@pytest.mark.parametrize(("in_training", "in_service"), [(0.0, 0.0), (0.2, 0.2), (0.0, 0.2)])
def test_scores_are_those_of_lightgbm(objective: str, num_leaves: int, in_training: float, in_service: float) -> None:
    booster = _booster(_rows(2_000, missing=in_training), objective=objective, num_leaves=num_leaves, sigmoid=0.7)
    rows = _rows(333, missing=in_service, seed=1)

    trees = Trees.of(booster)

    assert trees is not None
    assert trees.kept.dtype == (np.uint32 if num_leaves <= 32 else np.uint64)
    expected = booster.predict(rows)
    assert len(np.unique(expected)) > 2
    np.testing.assert_array_equal(trees.score(rows), expected)


def test_values_at_a_threshold_go_where_lightgbm_sends_them() -> None:
    booster = _booster(_rows(2_000, missing=0.1), objective="lambdarank")
    thresholds = Trees.of(booster).threshold  # type: ignore[union-attr]
    edges = np.concatenate([thresholds, np.nextafter(thresholds, np.float32(1e30)), np.float32([np.inf, -np.inf])])
    rows = np.repeat(edges[:, None], 7, axis=1)

    np.testing.assert_array_equal(Trees.of(booster).score(rows), booster.predict(rows))  # type: ignore[union-attr]


def test_trees_end_where_training_stopped() -> None:
    booster = _booster(_rows(2_000, missing=0.1), objective="lambdarank")
    booster.best_iteration = 5
    rows = _rows(50, missing=0.1, seed=1)

    np.testing.assert_array_equal(Trees.of(booster).score(rows), booster.predict(rows, num_iteration=5))  # type: ignore[union-attr]


def test_a_tree_without_a_split_counts_for_every_row() -> None:
    rows = _rows(200, missing=0.0)
    booster = _booster(rows, objective="binary", min_data_in_leaf=500)

    trees = Trees.of(booster)

    assert trees is not None
    assert len(trees.leaf_value) == len(trees.leaf_start) - 1
    np.testing.assert_array_equal(trees.score(rows), booster.predict(rows))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_leaves": 65},
        {"linear_tree": True},
        {"zero_as_missing": True},
        {"objective": "poisson"},
    ],
)
def test_what_cannot_be_scored_this_way_is_left_to_lightgbm(settings: dict[str, Any]) -> None:
    rows = _rows(4_000, missing=0.0)
    booster = _booster(rows, **({"objective": "binary"} | settings))

    assert Trees.of(booster) is None
    ranker = Ranker((booster, booster), tuple(booster.feature_name()))
    np.testing.assert_array_equal(ranker.score(rows[:9]), booster.predict(rows[:9]).astype(np.float32))
