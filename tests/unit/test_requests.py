from collections.abc import Sequence

import numpy as np
import pytest

from recsys.histories import ImpressionLog, InteractionLog
from recsys.splits import Fold, Split
from training.requests import (
    ATTRIBUTION_US,
    LabelledRequest,
    cold_requests,
    fold_ends,
    held_out_requests,
    next_item_requests,
    sample_requests,
    sample_targets,
    shown_requests,
)

# user 0: items 0 1 2 1 3 at 10 … 50; user 2: items 4 5 at 15 and 15; users 1 and 3 did nothing.
LOG = InteractionLog.from_arrays(
    np.array([0, 0, 0, 0, 0, 2, 2], np.int32),
    np.array([0, 1, 2, 1, 3, 4, 5], np.int32),
    np.array([10, 20, 30, 40, 50, 15, 15], np.int64),
    np.array([1, 2, 1, 1, 1, 1, 1], np.float32),
    n_users=4,
    n_items=7,
)


def _shown(rows: list[tuple[int, int, list[int], list[int]]], position: Sequence[int] | None = None) -> ImpressionLog:
    """Make impressions of (user, time, items, clicked items) per request."""
    items = [item for _, _, shown, _ in rows for item in shown]
    return ImpressionLog(
        [f"r{i}" for i in range(len(rows))],
        np.array([row[0] for row in rows], np.int32),
        np.array([row[1] for row in rows], np.int64),
        np.concatenate([[0], np.cumsum([len(row[2]) for row in rows])]).astype(np.int64),
        np.array(items, np.int32),
        np.array([item in clicked for _, _, shown, clicked in rows for item in shown], np.bool_),
        np.array(position if position is not None else [0] * len(items), np.int32),
    )


def _history(labelled: LabelledRequest) -> list[int]:
    return labelled.request.history.item_idx.tolist()


def test_a_shown_list_becomes_a_request_with_the_history_strictly_before_it() -> None:
    shown = _shown([(0, 30, [5, 3, 6], [3]), (2, 15, [0, 1], [1]), (1, 99, [2, 4], [2, 4][:1])], range(1, 8))
    one, two, three = shown_requests(shown, LOG, np.arange(3), max_history=9)

    assert _history(one) == [0, 1]
    assert one.request.candidates is not None
    assert one.request.candidates.tolist() == [5, 3, 6]
    assert (one.request.as_of_us, one.request.user_idx, one.key) == (30, 0, (0, 30))
    assert one.relevant_idx.tolist() == [3]
    assert one.positions is not None
    assert one.positions.tolist() == [1, 2, 3]
    assert one.exclude.tolist() == []
    assert _history(two) == []
    assert _history(three) == []


@pytest.mark.parametrize("clicked", [[], [5, 3]])
def test_lists_without_both_a_click_and_a_non_click_are_left_out(clicked: list[int]) -> None:
    assert list(shown_requests(_shown([(0, 30, [5, 3], clicked)]), LOG, np.arange(1), max_history=9)) == []


def test_only_the_wanted_requests_come_with_the_newest_of_their_history() -> None:
    shown = _shown([(0, 30, [5, 3], [3]), (0, 60, [5, 6], [5])])
    (labelled,) = shown_requests(shown, LOG, np.array([1]), max_history=2)

    assert labelled.request.as_of_us == 60
    assert _history(labelled) == [1, 3]


def _worth(labelled: LabelledRequest) -> list[float]:
    assert labelled.worth is not None
    return labelled.worth.tolist()


def test_a_click_is_worth_the_strongest_event_that_followed_within_a_day_or_else_a_click() -> None:
    bought = InteractionLog.from_arrays(
        np.array([0, 0, 0, 0, 0, 2], np.int32),
        np.array([5, 3, 3, 3, 6, 1], np.int32),
        np.array([29, 30, 40, 50, 30 + ATTRIBUTION_US, 31], np.int64),
        np.array([9, 1, 4, 2, 8, 7], np.float32),
        n_users=4,
        n_items=7,
    )
    shown = _shown([(0, 30, [6, 5, 3, 2], [6, 5, 3])])
    (labelled,) = shown_requests(shown, LOG, np.arange(1), max_history=9, outcomes=bought)
    (without,) = shown_requests(shown, LOG, np.arange(1), max_history=9)

    # 5 was bought before, 6 a day later, 1 by someone else; 3 was clicked, bought for 4, and liked
    assert labelled.relevant_idx.tolist() == [6, 5, 3]
    assert _worth(labelled) == [1.0, 1.0, 4.0]
    assert without.worth is None


def test_what_comes_next_is_worth_its_strongest_event_within_the_horizon() -> None:
    log = InteractionLog.from_arrays(
        np.zeros(5, np.int32),
        np.array([0, 2, 1, 2, 2], np.int32),
        np.arange(5, dtype=np.int64),
        np.array([5, 1, 0.5, 4, 9], np.float32),
        n_users=1,
        n_items=3,
    )
    (labelled,) = next_item_requests(log, np.array([1]), horizon=3, max_history=9, last_of_fold=np.full(5, 5))

    assert labelled.relevant_idx.tolist() == [1, 2]
    assert _worth(labelled) == [0.5, 4.0]


def test_held_out_and_cold_items_are_worth_their_strongest_event() -> None:
    held = np.array([0, 1, 1, 0, 0, 0, 0], np.bool_)
    (labelled,) = held_out_requests(LOG, held, ~held & (LOG.item_idx != 1), np.array([0]), max_history=9)
    cold = next(iter(cold_requests(LOG, np.array([1, 3], np.int32), np.array([0]), max_history=9)))

    assert (labelled.relevant_idx.tolist(), _worth(labelled)) == ([1, 2], [2.0, 1.0])
    assert (cold.relevant_idx.tolist(), _worth(cold)) == ([1, 3], [2.0, 1.0])


def _next(
    targets: list[int], *, horizon: int = 1, max_history: int = 9, ends: list[int] | None = None
) -> list[LabelledRequest]:
    last_of_fold = np.array(ends or [5, 5, 5, 5, 5, 7, 7])
    return list(
        next_item_requests(
            LOG, np.array(targets), horizon=horizon, max_history=max_history, last_of_fold=last_of_fold
        )
    )  # fmt: skip


def test_the_next_item_is_relevant_and_what_came_before_is_history_and_excluded() -> None:
    (labelled,) = _next([2])

    assert _history(labelled) == [0, 1]
    assert labelled.relevant_idx.tolist() == [2]
    assert labelled.exclude.tolist() == [0, 1]
    assert (labelled.request.as_of_us, labelled.request.user_idx) == (30, 0)
    assert labelled.request.candidates is None
    assert labelled.positions is None


def test_a_first_interaction_has_an_empty_history() -> None:
    (labelled,) = _next([5])

    assert _history(labelled) == []
    assert labelled.relevant_idx.tolist() == [4]


def test_of_equal_times_the_log_says_what_came_first() -> None:
    (labelled,) = _next([6])

    assert _history(labelled) == [4]
    assert labelled.request.as_of_us == 15


def test_a_repeated_item_is_nothing_new() -> None:
    assert _next([3]) == []
    (labelled,) = _next([3], horizon=2)
    assert labelled.relevant_idx.tolist() == [3]


def test_a_horizon_takes_in_several_but_stays_with_the_user_and_the_fold() -> None:
    assert _next([1], horizon=3)[0].relevant_idx.tolist() == [1, 2]
    assert _next([4], horizon=9)[0].relevant_idx.tolist() == [3]
    assert _next([1], horizon=9, ends=[2, 2, 5, 5, 5, 7, 7])[0].relevant_idx.tolist() == [1]


def test_a_long_history_is_cut_but_excluded_whole() -> None:
    (labelled,) = _next([4], max_history=2)

    assert _history(labelled) == [2, 1]
    assert labelled.exclude.tolist() == [0, 1, 2]


def test_cold_items_leave_the_history_and_are_the_candidates() -> None:
    cold = np.array([1, 5, 6], np.int32)
    one, two = cold_requests(LOG, cold, np.arange(4), max_history=9)

    assert (one.request.user_idx, _history(one), one.relevant_idx.tolist()) == (0, [0, 2, 3], [1])
    assert (two.request.user_idx, _history(two), two.relevant_idx.tolist()) == (2, [4], [5])
    assert one.request.candidates is not None
    assert one.request.candidates.tolist() == [1, 5, 6]
    assert [one.request.as_of_us, two.request.as_of_us] == [51, 16]
    assert one.exclude.tolist() == []


@pytest.mark.parametrize("cold", [[4, 5], [6]])
def test_users_with_only_cold_or_only_warm_items_are_left_out(cold: list[int]) -> None:
    assert list(cold_requests(LOG, np.array(cold, np.int32), np.array([2]), max_history=9)) == []


def test_folds_end_where_the_user_or_the_fold_changes() -> None:
    split = Split(np.array([0, 0, 1, 1, 3, 0, 1], np.int8), None, None)

    assert fold_ends(LOG, split).tolist() == [2, 2, 4, 4, 5, 6, 7]


def test_folds_of_an_empty_log_have_no_ends() -> None:
    nothing = LOG.select(np.zeros(7, np.bool_))

    assert fold_ends(nothing, Split(np.empty(0, np.int8), None, None)).tolist() == []


def _many(counts: list[int]) -> InteractionLog:
    user = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    time = np.random.default_rng(0).permutation(len(user))
    return InteractionLog.from_arrays(
        user, np.zeros(len(user), np.int32), time, np.ones(len(user)), n_users=len(counts), n_items=1
    )


def test_users_count_alike_when_targets_are_sampled() -> None:
    log = _many([100, 3, 1, 50])
    chosen = sample_targets(log, np.ones(len(log), np.bool_), 8, np.random.default_rng(1))

    # one of each user, then one of each that has a second, then the first two drawn of a third round of three
    counts = np.bincount(log.user_idx[chosen], minlength=4)
    assert counts[2] == 1
    assert counts.sum() == 8
    assert counts.min() >= 1
    assert counts.max() <= 3


def test_sampled_targets_are_in_order_of_time_within_the_mask_and_without_repeats() -> None:
    log = _many([5, 9, 4])
    mask = np.arange(len(log)) % 2 == 0
    chosen = sample_targets(log, mask, 100, np.random.default_rng(1), eligible=np.arange(len(log)) != 4)

    assert (np.diff(log.timestamp_us[chosen]) > 0).all()
    assert sorted(chosen.tolist()) == [row for row in range(18) if row % 2 == 0 and row != 4]


def test_sampling_goes_by_the_generator_alone() -> None:
    log = _many([30, 30])
    one, same, other = (
        sample_targets(log, np.ones(60, np.bool_), 7, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)
    )

    assert one == same
    assert one != other


def test_the_newest_requests_of_a_fold_or_a_draw_of_them() -> None:
    split = Split(np.empty(0, np.int8), np.array([0, 0, 1, 1, 1, 1, 2], np.int8), np.zeros(3, np.int64))
    rng = np.random.default_rng(3)

    assert sample_requests(split, Fold.LABEL, 2, newest=True, rng=rng).tolist() == [4, 5]
    assert sample_requests(split, Fold.LABEL, 9, newest=False, rng=rng).tolist() == [2, 3, 4, 5]
    drawn = [tuple(sample_requests(split, Fold.LABEL, 2, newest=False, rng=rng).tolist()) for _ in range(30)]
    assert all(first < second for first, second in drawn)
    assert len(set(drawn)) > 1


def test_without_impressions_there_are_no_requests_to_sample() -> None:
    split = Split(np.empty(0, np.int8), None, None)

    assert sample_requests(split, Fold.LABEL, 2, newest=True, rng=np.random.default_rng(0)).tolist() == []
