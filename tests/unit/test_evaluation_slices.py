"""Slices of the requests: who falls where, what small slices show, and every error."""

import math
from typing import Any

import numpy as np
import pytest

from recsys.evaluation.intervals import bootstrap_mean
from recsys.evaluation.metrics import EvaluationError
from recsys.evaluation.slices import TIERS, popularity_tiers, slice_masks, summarise
from recsys.schema import Warmth


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("counts", "tiers"),
    [
        # 20 interactions: 10 before the second item are not less than half, 16 before the fourth not less than 80 %.
        ([1, 10, 3, 3, 3, 0], ["tail", "head", "torso", "torso", "torso", "tail"]),
        ([5, 4, 1], ["head", "torso", "tail"]),
        (
            [49, 31, 20],
            ["head", "head", "tail"],
        ),  # the second item begins below half and 80 % are held before the third
        ([2, 2, 2], ["head", "head", "head"]),  # nobody is more popular: equal items are not torn apart
        ([0, 0], ["tail", "tail"]),
        ([0, 7, 0], ["tail", "head", "tail"]),
        ([], []),
    ],
)
def test_tiers_hold_half_then_thirty_then_twenty_per_cent(counts: list[int], tiers: list[str]) -> None:
    assert [TIERS[tier] for tier in popularity_tiers(np.array(counts, dtype=np.int64))] == tiers


def test_tiers_follow_the_items_wherever_they_stand() -> None:
    counts = rng(1).zipf(1.6, size=200)
    order = rng(2).permutation(200)

    assert popularity_tiers(counts[order]).tolist() == popularity_tiers(counts)[order].tolist()


def test_masks_name_the_requests_of_each_slice_and_keep_empty_ones() -> None:
    masks = slice_masks(
        user_warmth=[Warmth.WARM, Warmth.COLD, Warmth.WARM],
        item_warmth=np.array(["cold", "", "warm"]),
        relevant_item_idx=np.array([1, -1, 2], np.int32),
        item_counts=np.array([1, 5, 4]),
        history_length=np.array([7, 0, 3]),
        history_edges=(1, 2, 5),
    )

    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "user=warm": [True, False, True],
        "user=cold": [False, True, False],
        "user=unknown": [False, False, False],
        "item=warm": [False, False, True],
        "item=cold": [True, False, False],
        "item=unknown": [False, False, False],
        "tier=head": [True, False, False],
        "tier=torso": [False, False, True],
        "tier=tail": [False, False, False],
        "history=0": [False, True, False],
        "history=1": [False, False, False],
        "history=2-4": [False, False, True],
        "history=5+": [True, False, False],
    }


def test_history_buckets_begin_at_their_edges() -> None:
    masks = slice_masks(history_length=np.array([0, 1, 4, 5, 19, 20, 99, 100]))

    assert {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()} == {
        "history=0": [0],
        "history=1-4": [1, 2],
        "history=5-19": [3, 4],
        "history=20-99": [5, 6],
        "history=100+": [7],
    }


def test_what_is_not_given_makes_no_slices() -> None:
    assert slice_masks() == {}
    assert list(slice_masks(user_warmth=["cold"])) == ["user=warm", "user=cold", "user=unknown"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"user_warmth": ["warm", "hot", "tepid"]},
            r"2 user_warmth values are not one of \['warm', 'cold', 'unknown'\], the first: \['hot', 'tepid'\] at \[1,",
        ),
        ({"item_warmth": ["WARM"]}, r"1 item_warmth values are not one of.*recsys.schema.Warmth"),
        ({"relevant_item_idx": np.array([0])}, "relevant_item_idx needs item_counts"),
        (
            {"relevant_item_idx": np.array([0, 3, -2]), "item_counts": np.array([1, 2, 3])},
            r"2 relevant items are outside 0..2, the first: \[3, -2\]",
        ),
        ({"relevant_item_idx": np.array([0]), "item_counts": np.array([-1])}, "pass non-negative integers"),
        ({"relevant_item_idx": np.array([0]), "item_counts": np.array([0.5])}, "dtype float64; pass non-negative"),
        ({"history_length": np.array([3]), "history_edges": (5, 5)}, r"history_edges are \[5, 5\]; give ascending"),
        ({"history_length": np.array([3]), "history_edges": (0, 5)}, r"history_edges are \[0, 5\]; give ascending"),
        ({"history_length": np.array([3, -1])}, r"1 history lengths are negative, the first: \[-1\]"),
        (
            {"user_warmth": ["warm"], "history_length": np.array([3, 4])},
            "slices speak of different numbers of requests.*'user=warm': 1.*'history=0': 2",
        ),
    ],
)
def test_what_makes_no_slices_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        slice_masks(**options)


def test_a_summary_is_the_interval_of_each_slice_by_itself() -> None:
    values = rng(3).random(100)
    mask = np.arange(100) < 60
    users = [f"u{i % 23}" for i in range(100)]

    table = summarise({"ndcg@10": values}, {"first": mask, "rest": ~mask}, clusters=users, rng=rng(4))

    assert table["first"]["ndcg@10"].mean == pytest.approx(values[:60].mean())
    assert table["rest"]["ndcg@10"].mean == pytest.approx(values[60:].mean())
    assert (table["first"]["ndcg@10"].n, table["rest"]["ndcg@10"].n) == (60, 40)
    alone = bootstrap_mean(values[:60], clusters=users[:60], rng=rng(5))
    assert table["first"]["ndcg@10"].lo == pytest.approx(alone.lo, abs=0.02)


def test_a_slice_keeps_each_request_with_its_user() -> None:
    values, mask = rng(10).random(90), np.arange(90) % 3 == 1
    users = np.arange(90) // 7

    sliced = summarise({"mrr": values}, {"part": mask}, clusters=users, rng=rng(11))
    alone = summarise({"mrr": values[mask]}, {"part": np.ones(30, bool)}, clusters=users[mask], rng=rng(11))

    assert sliced == alone


def test_one_more_slice_leaves_the_others_as_they_are() -> None:
    values, mask = rng(6).random(80), np.arange(80) % 2 == 0

    alone = summarise({"mrr": values}, {"even": mask}, rng=rng(7))
    beside = summarise({"mrr": values}, {"odd": ~mask, "even": mask}, rng=rng(7))

    assert beside["even"] == alone["even"]


@pytest.mark.parametrize(("n", "shown"), [(29, False), (30, True)])
def test_slices_below_thirty_requests_show_their_size_only(n: int, shown: bool) -> None:
    interval = summarise({"mrr": rng(8).random(50)}, {"few": np.arange(50) < n}, rng=rng(9))["few"]["mrr"]

    assert interval.n == n
    assert math.isnan(interval.mean) is not shown
    assert math.isnan(interval.lo) is not shown


def test_requests_without_the_metric_do_not_count_towards_the_slice() -> None:
    values = np.where(np.arange(70) < 35, np.nan, 0.5)

    table = summarise(
        {"auc": values, "mrr": np.ones(70)}, {"all": np.ones(70, bool), "none": np.zeros(70, bool)}, rng=rng()
    )

    assert table["all"]["auc"].n == 35
    assert table["all"]["mrr"].n == 70
    assert table["none"]["mrr"].n == 0


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(EvaluationError, match=r"differ in length: \{'mrr': 3, 'all': 2\}"):
        summarise({"mrr": np.zeros(3)}, {"all": np.ones(2, bool)}, rng=rng())
    with pytest.raises(EvaluationError, match=r"differ in length: \{'mrr': 3, 'all': 3, 'clusters': 1\}"):
        summarise({"mrr": np.zeros(3)}, {"all": np.ones(3, bool)}, clusters=["u1"], rng=rng())
