import numpy as np
import pytest

from recsys.config import SplitConfig
from recsys.errors import ConfigError, DataError, LeakageError
from recsys.histories import ImpressionLog, InteractionLog
from recsys.splits import Fold, Split, check_no_overlap, make_split

SECOND = 1_000_000


def _log(times: list[int], users: list[int] | None = None) -> InteractionLog:
    n = len(times)
    users = users or [i % 3 for i in range(n)]
    return InteractionLog.from_arrays(
        np.array(users, np.int32),
        np.arange(n, dtype=np.int32) % 4,
        np.array(times, np.int64),
        np.ones(n, np.float32),
        n_users=max(users, default=0) + 1,
        n_items=4,
    )


def _impressions(times: list[int]) -> ImpressionLog:
    n = len(times)
    return ImpressionLog(
        [f"r{i}" for i in range(n)],
        np.zeros(n, np.int32),
        np.array(times, np.int64),
        np.arange(0, 2 * n + 1, 2),
        np.tile(np.array([0, 1], np.int32), n),
        np.tile(np.array([True, False]), n),
        np.zeros(2 * n, np.int32),
    )


def _by_time(log: InteractionLog, split: Split) -> list[int]:
    return split.interaction_fold[np.argsort(log.timestamp_us, kind="stable")].tolist()


def test_a_time_split_cuts_the_calendar_by_shares_of_the_feedback() -> None:
    log = _log(list(range(100, 120)))
    config = SplitConfig(test_share=0.1, valid_share=0.05, label_share=0.2)
    split = make_split(log, None, config)

    assert _by_time(log, split) == [0] * 13 + [1] * 4 + [2] * 1 + [3] * 2
    assert split.boundaries_us is not None
    assert split.boundaries_us.tolist() == [113, 117, 118]
    assert split.request_fold is None
    assert split.interaction_fold.dtype == np.int8


def test_equal_times_are_never_divided() -> None:
    log = _log([1, 2, 3, 4, 4, 5, 6, 7, 7, 8])
    split = make_split(log, None, SplitConfig(test_share=0.2, valid_share=0.2, label_share=0.2))

    assert _by_time(log, split) == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3]


def test_impressions_set_the_calendar_that_interactions_follow() -> None:
    log = _log([0, 1, 2, 3, 50, 60, 70, 99])
    split = make_split(
        log, _impressions(list(range(50, 60))), SplitConfig(test_share=0.2, valid_share=0.2, label_share=0.3)
    )

    assert split.request_fold is not None
    assert split.request_fold.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert _by_time(log, split) == [0, 0, 0, 0, 0, 3, 3, 3]


def test_what_came_with_a_request_of_the_test_belongs_to_the_test_however_it_is_dated() -> None:
    log = _log([0, 1, 2, 3, 4, 56], users=[0] * 6)
    config = SplitConfig(test_share=0.2, valid_share=0.2, label_share=0.3)
    came_with = np.array([8, -1, 0, 5, 7, -1], np.int32)  # requests 8 and 9 are the test
    split = make_split(log, _impressions(list(range(50, 60))), config, came_with=came_with)

    assert split.interaction_fold.tolist() == [3, 0, 0, 0, 0, 2]
    assert split.in_time(log.timestamp_us).tolist() == [False, True, True, True, True, True]


def test_the_test_begins_at_the_moment_given_and_the_shares_divide_what_is_before() -> None:
    midnight = 1_573_603_200 * SECOND  # 2019-11-13T00:00Z
    log = _log([midnight - 10 + i for i in range(10)] + [midnight, midnight + 1])
    config = SplitConfig(test_from="2019-11-13", test_share=0.0, valid_share=0.2, label_share=0.3)
    split = make_split(log, None, config)

    assert _by_time(log, split) == [0] * 5 + [1] * 3 + [2] * 2 + [3] * 2
    assert split.boundaries_us is not None
    assert split.boundaries_us[-1] == midnight


@pytest.mark.parametrize("moment", ["2019-11-13T00:00:00+00:00", "2019-11-13T01:00+01:00", "2019-11-13T00:00"])
def test_a_moment_without_a_zone_is_utc(moment: str) -> None:
    midnight = 1_573_603_200 * SECOND
    log = _log([midnight - 10 + i for i in range(20)])
    split = make_split(log, None, SplitConfig(test_from=moment, valid_share=0.2, label_share=0.3))

    assert split.boundaries_us is not None
    assert split.boundaries_us[-1] == midnight


def test_leave_last_takes_each_users_own_end() -> None:
    # user 0: nine interactions, user 1: three, user 2: two, user 3: one
    users = [0] * 9 + [1] * 3 + [2] * 2 + [3]
    log = _log([*range(9), 100, 101, 102, 5, 6, 7], users)
    split = make_split(log, None, SplitConfig(kind="leave_last", n_test=1, n_valid=1, n_label=3))

    assert split.interaction_fold.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 3, 1, 2, 3, 0, 0, 0]
    assert split.boundaries_us is None


def test_leave_last_can_keep_several_for_each_fold() -> None:
    log = _log(list(range(9)), [0] * 9)
    split = make_split(log, None, SplitConfig(kind="leave_last", n_test=2, n_valid=3, n_label=1))

    assert split.interaction_fold.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3]


def test_what_is_known_before_a_fold_are_the_earlier_folds() -> None:
    split = Split(np.array([0, 1, 2, 3, 0], np.int8), None, None)

    assert split.known_before(Fold.VALID).tolist() == [True, True, False, False, True]
    assert not split.known_before(Fold.FIT).any()


def test_leave_last_cannot_split_impressions() -> None:
    with pytest.raises(ConfigError, match=r"leave_last cannot split impressions; use split\.kind time"):
        make_split(_log([1, 2, 3]), _impressions([1, 2]), SplitConfig(kind="leave_last"))


def test_nothing_to_split_is_said() -> None:
    with pytest.raises(DataError, match="there is no feedback to split; the interactions table is empty"):
        make_split(_log([]), None, SplitConfig())


@pytest.mark.parametrize("text", ["soon", "2019-13-01", "1573603200"])
def test_a_moment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"split\.test_from '{text}' is no ISO 8601 time; write 2019-11-13T00:00"):
        make_split(_log([1, 2, 3]), None, SplitConfig(test_from=text))


def test_a_test_before_all_feedback_is_refused() -> None:
    with pytest.raises(DataError, match=r"split\.test_from 2019-11-13 lies before all feedback; choose a later time"):
        make_split(_log([2 * 10**15, 2 * 10**15 + 1]), None, SplitConfig(test_from="2019-11-13"))


def test_shares_that_leave_nothing_to_fit_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"split shares add up to 1\.10; leave something to fit on"):
        make_split(_log(list(range(9))), None, SplitConfig(test_share=0.5, valid_share=0.3, label_share=0.3))


def test_an_empty_fold_is_named_with_the_counts() -> None:
    message = r"the time split leaves VALID empty \(interactions per fold: \[7, 2, 0, 1\]\); bring more feedback"
    with pytest.raises(DataError, match=message):
        make_split(_log(list(range(10))), None, SplitConfig(test_share=0.1, valid_share=0.0, label_share=0.2))


def test_a_long_history_with_few_impressions_names_the_way_without_them() -> None:
    message = (
        r"leaves LABEL empty \(interactions to fit on, then 3 requests with impressions, per fold: \[90, 0, 1, 1\]\); "
        r"bring more impressions over more time, learn from interactions alone \(data.use_impressions: false\)"
    )
    config = SplitConfig(test_share=0.3, valid_share=0.3, label_share=0.1)
    with pytest.raises(DataError, match=message):
        make_split(_log(list(range(90))), _impressions([100, 101, 102]), config)
    assert make_split(_log(list(range(90))), None, config).request_fold is None


def test_users_too_short_for_leave_last_leave_folds_empty() -> None:
    with pytest.raises(DataError, match="the leave_last split leaves LABEL, VALID, TEST empty"):
        make_split(_log([1, 2, 3]), None, SplitConfig(kind="leave_last"))


def test_impressions_without_earlier_interactions_leave_nothing_to_fit_on() -> None:
    config = SplitConfig(test_share=0.2, valid_share=0.2, label_share=0.2)
    with pytest.raises(DataError, match="leaves FIT empty"):
        make_split(_log([9, 9]), _impressions(list(range(10))), config)


BOUNDARIES = np.array([30, 50, 70], np.int64)


@pytest.mark.parametrize(("row", "fold"), [(0, Fold.LABEL), (2, Fold.FIT), (3, Fold.TEST), (6, Fold.VALID)])
def test_an_interaction_in_the_wrong_fold_of_a_time_split_is_found(row: int, fold: Fold) -> None:
    log = _log([10, 20, 30, 40, 50, 60, 70], [0] * 7)
    folds = np.array([0, 0, 1, 1, 2, 2, 3], np.int8)
    check_no_overlap(Split(folds, None, BOUNDARIES), log, None)

    folds[row] = fold
    with pytest.raises(LeakageError, match=r"interactions of fold [A-Z]+ overlap an earlier fold at \d+ µs"):
        check_no_overlap(Split(folds, None, BOUNDARIES), log, None)


def test_a_request_in_the_wrong_fold_is_found() -> None:
    log, impressions = _log([10], [0]), _impressions([10, 30, 50, 70])
    folds = np.array([0, 1, 2, 3], np.int8)
    check_no_overlap(Split(np.zeros(1, np.int8), folds, BOUNDARIES), log, impressions)

    with pytest.raises(
        LeakageError, match="requests of fold VALID overlap an earlier fold at 50 µs; the split is broken"
    ):
        check_no_overlap(Split(np.zeros(1, np.int8), np.array([0, 1, 1, 3], np.int8), BOUNDARIES), log, impressions)


def test_a_user_whose_order_is_broken_is_found_and_another_users_order_does_not_matter() -> None:
    log = _log([1, 2, 1, 2], [0, 0, 1, 1])
    check_no_overlap(Split(np.array([1, 3, 0, 2], np.int8), None, None), log, None)

    with pytest.raises(LeakageError, match="user row 1: an earlier interaction lies in a later fold"):
        check_no_overlap(Split(np.array([1, 3, 2, 0], np.int8), None, None), log, None)
