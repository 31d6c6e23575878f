"""Pairs for the text encoder: who makes them, how far apart they lie, and what never becomes one."""

import numpy as np
import pytest

from recsys.config import EncoderConfig
from recsys.histories import ImpressionLog, InteractionLog
from training.pairs import NO_ITEM, EncoderPairs, build_pairs

HOUR_US = 3_600_000_000


def log_of(histories: list[list[int]], n_items: int) -> InteractionLog:
    """Return a log in which user u does histories[u], one item an hour from hour 0."""
    users = np.repeat(np.arange(len(histories), dtype=np.int32), [len(items) for items in histories])
    items = np.asarray([item for items in histories for item in items], np.int32)
    hours = np.asarray([hour for items in histories for hour in range(len(items))], np.int64)
    weight = np.ones(len(items), np.float32)
    return InteractionLog.from_arrays(users, items, hours * HOUR_US, weight, n_users=len(histories), n_items=n_items)


def impressions_of(requests: list[tuple[int, int, list[int], list[int]]]) -> ImpressionLog:
    """Return impressions from (user_idx, hour, items shown, items clicked)."""
    shown = [items for _, _, items, _ in requests]
    return ImpressionLog(
        [f"r{i}" for i in range(len(requests))],
        np.asarray([user for user, *_ in requests], np.int32),
        np.asarray([hour * HOUR_US for _, hour, *_ in requests], np.int64),
        np.cumsum([0, *(len(items) for items in shown)]).astype(np.int64),
        np.asarray([item for items in shown for item in items], np.int32),
        np.asarray([item in clicked for _, _, items, clicked in requests for item in items], np.bool_),
        np.zeros(sum(len(items) for items in shown), np.int32),
    )


def draw(log: InteractionLog, impressions: ImpressionLog | None = None, **settings: object) -> EncoderPairs:
    seed = settings.pop("seed", 0)
    masks = {name: settings.pop(name) for name in ("positive_rows", "positive_requests") if name in settings}
    return build_pairs(log, impressions, EncoderConfig(**settings), np.random.default_rng(seed), **masks)


def test_positive_follows_its_anchor_with_at_most_the_window_between() -> None:
    pairs = draw(log_of([list(range(40))], 40), pair_window=3, max_pairs=500)
    steps = pairs.positive - pairs.anchor
    assert sorted(set(steps.tolist())) == [1, 2, 3, 4]
    assert (pairs.hard_negative == NO_ITEM).all()


def test_pairs_stay_within_one_user() -> None:
    pairs = draw(log_of([list(range(10)), [10, 11], list(range(20, 26))], 30), pair_window=5)
    assert len(pairs) > 20
    assert (pairs.anchor // 10 == pairs.positive // 10).all()


def test_all_pairs_there_are_come_once_at_most() -> None:
    pairs = draw(log_of([[4, 7, 9]], 10), pair_window=1, max_pairs=100)
    found = list(zip(pairs.anchor.tolist(), pairs.positive.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) <= {(4, 7), (7, 9), (4, 9)}


def test_an_item_done_twice_makes_no_pair_with_itself() -> None:
    pairs = draw(log_of([[3, 3, 3, 5]], 6), pair_window=3)
    assert set(pairs.anchor.tolist()) == {3}
    assert set(pairs.positive.tolist()) == {5}


def test_no_more_than_max_pairs_are_drawn() -> None:
    pairs = draw(log_of([list(range(200))], 200), max_pairs=50)
    assert 35 <= len(pairs) <= 50


def test_users_count_by_the_root_of_what_they_did() -> None:
    heavy, light = list(range(900)), list(range(900, 1_000))
    shares = [
        float((draw(log_of([heavy, light], 1_000), max_pairs=300, seed=seed).positive < 900).mean())
        for seed in range(5)
    ]
    # sqrt(899) / (sqrt(899) + sqrt(99)) = 0.75; in proportion to the interactions it would be 0.90, per head 0.50.
    assert np.mean(shares) == pytest.approx(0.75, abs=0.04)


def test_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    log = log_of([list(range(60)), list(range(60, 90))], 90)
    first, again, other = (draw(log, max_pairs=40, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.anchor, again.anchor)
    np.testing.assert_array_equal(first.positive, again.positive)
    assert first.anchor.tolist() != other.anchor.tolist()


def test_held_out_positives_have_earlier_anchors() -> None:
    log = log_of([list(range(20))], 20)
    pairs = draw(log, pair_window=4, positive_rows=log.item_idx >= 15)
    assert set(pairs.positive.tolist()) == {15, 16, 17, 18, 19}
    assert pairs.anchor.min() < 15


def test_click_is_paired_with_the_history_before_it_and_what_was_passed_over() -> None:
    log = log_of([[1, 2, 30, 31], [5, 6]], 40)  # user 0 does items 30 and 31 at hours 2 and 3
    impressions = impressions_of([(0, 2, [10, 11, 12], [11])])
    pairs = draw(log, impressions, positive_rows=np.zeros(len(log), np.bool_))
    assert set(pairs.positive.tolist()) == {11}
    assert set(pairs.anchor.tolist()) == {1, 2}
    assert set(pairs.hard_negative.tolist()) == {10, 12}


def test_click_without_anything_passed_over_has_no_hard_negative() -> None:
    log = log_of([[1, 2]], 9)
    pairs = draw(log, impressions_of([(0, 5, [7, 8], [7, 8])]), positive_rows=np.zeros(2, np.bool_))
    assert set(pairs.hard_negative.tolist()) == {NO_ITEM}
    assert set(pairs.positive.tolist()) == {7, 8}


def test_clicks_of_users_without_a_history_make_no_pairs() -> None:
    log = log_of([[1, 2], []], 9)
    impressions = impressions_of([(0, 0, [7, 8], [7]), (1, 9, [7, 8], [7]), (-1, 9, [7, 8], [7])])
    assert len(draw(log, impressions, positive_rows=np.zeros(2, np.bool_))) == 0


def test_only_allowed_requests_give_positives() -> None:
    log = log_of([[1, 2]], 20)
    impressions = impressions_of([(0, 5, [10, 11], [10]), (0, 6, [12, 13], [12])])
    nothing = np.zeros(2, np.bool_)
    pairs = draw(log, impressions, positive_rows=nothing, positive_requests=np.asarray([False, True]))
    assert set(pairs.positive.tolist()) == {12}


def test_clicks_and_next_items_share_the_pairs() -> None:
    log = log_of([list(range(100))], 200)
    impressions = impressions_of([(0, 200 + hour, [100 + hour, 199], [100 + hour]) for hour in range(60)])
    pairs = draw(log, impressions, max_pairs=80)
    from_clicks = int((pairs.positive >= 100).sum())
    assert 30 <= from_clicks <= 40
    assert 30 <= len(pairs) - from_clicks <= 40


def test_what_clicks_cannot_fill_goes_to_next_items() -> None:
    log = log_of([list(range(100))], 200)
    pairs = draw(log, impressions_of([(0, 200, [150], [150])]), max_pairs=80)
    assert (pairs.positive < 100).sum() >= 50


def test_frequencies_are_smoothed_shares_of_positives_with_hard_negatives() -> None:
    items = [np.asarray(column, np.int32) for column in ([0, 1, 1], [2, 2, 3], [4, NO_ITEM, 2])]
    pairs = EncoderPairs.from_items(*items, n_items=5)
    np.testing.assert_allclose(np.exp(pairs.log_frequency), np.asarray([1, 1, 4, 2, 2]) / 10, rtol=1e-6)
    np.testing.assert_allclose(np.exp(pairs.anchor_log_frequency), np.asarray([2, 3, 1, 1, 1]) / 8, rtol=1e-6)


def test_an_empty_log_gives_no_pairs() -> None:
    pairs = draw(log_of([[], []], 4))
    assert len(pairs) == 0
    assert pairs.log_frequency.shape == (4,)
