import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recsys.config import SplitConfig
from recsys.errors import ConfigError, DataError, LeakageError
from recsys.histories import ImpressionLog, InteractionLog
from recsys.splits import Fold, Split, check_no_overlap, make_split

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=4, max_size=60)
REQUESTS = st.lists(st.integers(0, 60), min_size=4, max_size=40)
SHARES = st.tuples(st.floats(0.02, 0.5), st.floats(0.02, 0.5), st.floats(0.02, 0.5))


def _log(events: list[tuple[int, int]]) -> InteractionLog:
    user, time = (np.array(column) for column in zip(*events, strict=True))
    return InteractionLog.from_arrays(
        user.astype(np.int32),
        np.zeros(len(events), np.int32),
        time.astype(np.int64),
        np.ones(len(events)),
        n_users=5,
        n_items=1,
    )


def _impressions(times: list[int]) -> ImpressionLog:
    n = len(times)
    return ImpressionLog(
        [str(i) for i in range(n)],
        np.zeros(n, np.int32),
        np.sort(np.array(times, np.int64)),
        np.arange(n + 1),
        np.zeros(n, np.int32),
        np.zeros(n, np.bool_),
        np.zeros(n, np.int32),
    )


def _try_split(log: InteractionLog, impressions: ImpressionLog | None, config: SplitConfig) -> Split:
    """Split, or leave the example aside where the data cannot be split like that."""
    try:
        return make_split(log, impressions, config)
    except (DataError, ConfigError):
        assume(False)
        raise


def _time_config(shares: tuple[float, float, float]) -> SplitConfig:
    return SplitConfig(test_share=shares[0], valid_share=shares[1], label_share=shares[2])


@given(EVENTS, st.one_of(st.none(), REQUESTS), SHARES)
def test_folds_of_a_time_split_partition_the_log_in_order_of_time(
    events: list[tuple[int, int]], requests: list[int] | None, shares: tuple[float, float, float]
) -> None:
    log = _log(events)
    impressions = None if requests is None else _impressions(requests)
    split = _try_split(log, impressions, _time_config(shares))

    times = [(log.timestamp_us, split.interaction_fold)]
    if impressions is not None:
        assert split.request_fold is not None
        times.append((impressions.timestamp_us, split.request_fold))
    together = [(int(t), int(f)) for when, fold in times for t, f in zip(when, fold, strict=True)]
    assert {f for _, f in together} <= set(Fold)
    latest: dict[int, int] = {}
    for t, f in together:
        latest[f] = max(latest.get(f, t), t)
    # nothing of a later fold lies at or before anything of an earlier one, requests and interactions alike
    assert all(t > latest[earlier] for t, f in together for earlier in latest if earlier < f)


@given(EVENTS, st.integers(1, 2), st.integers(1, 2), st.integers(1, 4))
def test_folds_of_leave_last_are_each_users_own_end(
    events: list[tuple[int, int]], n_test: int, n_valid: int, n_label: int
) -> None:
    log = _log(events)
    config = SplitConfig(kind="leave_last", n_test=n_test, n_valid=n_valid, n_label=n_label)
    split = _try_split(log, None, config)

    for user in range(log.n_users):
        folds = split.interaction_fold[log.indptr[user] : log.indptr[user + 1]].tolist()
        n = len(folds)
        label = min(n_label, n - n_test - n_valid)
        expected = (
            [Fold.FIT] * n
            if n <= n_test + n_valid
            else [Fold.FIT] * (n - label - n_valid - n_test)
            + [Fold.LABEL] * label
            + [Fold.VALID] * n_valid
            + [Fold.TEST] * n_test
        )
        assert folds == expected


@given(EVENTS, SHARES, st.data())
def test_the_guard_finds_any_interaction_that_is_moved_to_another_fold(
    events: list[tuple[int, int]], shares: tuple[float, float, float], data: st.DataObject
) -> None:
    log = _log(events)
    split = _try_split(log, None, _time_config(shares))
    row = data.draw(st.integers(0, len(log) - 1))
    folds = split.interaction_fold.copy()
    folds[row] = data.draw(st.sampled_from([fold for fold in Fold if fold != folds[row]]))

    with pytest.raises(LeakageError, match="overlap an earlier fold"):
        check_no_overlap(Split(folds, None, split.boundaries_us), log, None)


@given(EVENTS, REQUESTS, SHARES, st.data())
def test_the_guard_finds_any_request_that_is_moved_to_another_fold(
    events: list[tuple[int, int]], requests: list[int], shares: tuple[float, float, float], data: st.DataObject
) -> None:
    log, impressions = _log(events), _impressions(requests)
    split = _try_split(log, impressions, _time_config(shares))
    assert split.request_fold is not None
    row = data.draw(st.integers(0, len(impressions) - 1))
    folds = split.request_fold.copy()
    folds[row] = data.draw(st.sampled_from([fold for fold in Fold if fold != folds[row]]))

    with pytest.raises(LeakageError, match="requests of fold"):
        check_no_overlap(Split(split.interaction_fold, folds, split.boundaries_us), log, impressions)


@given(EVENTS, st.integers(1, 2), st.data())
def test_the_guard_finds_a_user_whose_folds_go_back(
    events: list[tuple[int, int]], n_test: int, data: st.DataObject
) -> None:
    log = _log(events)
    split = _try_split(log, None, SplitConfig(kind="leave_last", n_test=n_test, n_label=2))
    tests = np.flatnonzero(split.interaction_fold == Fold.TEST)
    row = int(data.draw(st.sampled_from(tests.tolist())))
    folds = split.interaction_fold.copy()
    folds[row] = Fold.FIT

    with pytest.raises(
        LeakageError, match=f"user row {log.user_idx[row]}: an earlier interaction lies in a later fold"
    ):
        check_no_overlap(Split(folds, None, None), log, None)


@given(EVENTS, SHARES, st.sampled_from(list(Fold)))
def test_what_is_known_before_a_fold_lies_before_all_of_it(
    events: list[tuple[int, int]], shares: tuple[float, float, float], fold: Fold
) -> None:
    log = _log(events)
    split = _try_split(log, None, _time_config(shares))
    known, asked = split.known_before(fold), split.interaction_fold == fold

    assert not (known & asked).any()
    if known.any() and asked.any():
        assert log.timestamp_us[known].max() < log.timestamp_us[asked].min()
