import numpy as np
import pytest

from recsys.histories import History, ImpressionLog, InteractionLog, Request

# (user, item, time, weight) in order of arrival; user 1 never did anything, item 3 was never touched.
ROWS = [
    (2, 4, 50, 1.0),
    (0, 1, 30, 1.0),
    (2, 0, 20, 2.0),
    (0, 2, 10, 0.5),
    (2, 4, 20, 1.5),
    (0, 1, 30, 4.0),
]


def _log() -> InteractionLog:
    user, item, time, weight = (np.array(column) for column in zip(*ROWS, strict=True))
    return InteractionLog.from_arrays(user, item, time, weight, n_users=4, n_items=5)


def _history(items: list[int], times: list[int]) -> History:
    return History(np.array(items, np.int32), np.array(times, np.int64), np.ones(len(items), np.float32))


def test_a_log_is_sorted_by_user_time_and_arrival() -> None:
    log = _log()

    assert log.user_idx.tolist() == [0, 0, 0, 2, 2, 2]
    assert log.item_idx.tolist() == [2, 1, 1, 0, 4, 4]
    assert log.timestamp_us.tolist() == [10, 30, 30, 20, 20, 50]
    assert log.weight.tolist() == [0.5, 1.0, 4.0, 2.0, 1.5, 1.0]
    assert log.row.tolist() == [3, 1, 5, 2, 4, 0]
    assert (log.user_idx.dtype, log.item_idx.dtype, log.weight.dtype) == (np.int32, np.int32, np.float32)
    assert (log.timestamp_us.dtype, log.row.dtype) == (np.int64, np.int64)


def test_every_user_has_a_place_in_the_log_even_without_rows() -> None:
    assert _log().indptr.tolist() == [0, 3, 3, 6, 6]


def test_a_history_holds_what_came_strictly_before() -> None:
    log = _log()

    assert log.history_of(2, before_us=50).item_idx.tolist() == [0, 4]
    assert log.history_of(2, before_us=51).item_idx.tolist() == [0, 4, 4]
    assert log.history_of(2, before_us=20).item_idx.tolist() == []
    assert log.history_of(0, before_us=30).timestamp_us.tolist() == [10]


def test_without_a_moment_a_history_is_all_of_it() -> None:
    assert _log().history_of(0).weight.tolist() == [0.5, 1.0, 4.0]


@pytest.mark.parametrize("user_idx", [-1, 1, 3, 4, 99])
def test_users_who_did_nothing_or_are_unknown_have_an_empty_history(user_idx: int) -> None:
    history = _log().history_of(user_idx, before_us=100)

    assert len(history) == 0
    assert (history.item_idx.dtype, history.timestamp_us.dtype, history.weight.dtype) == (
        np.int32,
        np.int64,
        np.float32,
    )


def test_selected_rows_keep_users_items_and_where_they_came_from() -> None:
    log = _log()
    few = log.select(log.timestamp_us > 20)

    assert few.row.tolist() == [1, 5, 0]
    assert few.indptr.tolist() == [0, 2, 2, 3, 3]
    assert (few.n_users, few.n_items, len(few)) == (4, 5, 3)


def test_the_matrix_adds_up_repeated_interactions() -> None:
    matrix = _log().matrix()

    assert matrix.shape == (4, 5)
    assert matrix.dtype == np.float32
    assert matrix.toarray().tolist() == [
        [0, 5.0, 0.5, 0, 0],
        [0, 0, 0, 0, 0],
        [2.0, 0, 0, 0, 2.5],
        [0, 0, 0, 0, 0],
    ]


def test_item_counts_count_rows_and_not_weights() -> None:
    assert _log().item_counts().tolist() == [1, 2, 1, 0, 2]


def test_an_empty_log_has_counts_and_places() -> None:
    nothing = np.empty(0, np.int32)
    log = InteractionLog.from_arrays(nothing, nothing, nothing, nothing, n_users=2, n_items=3)

    assert log.indptr.tolist() == [0, 0, 0]
    assert log.item_counts().tolist() == [0, 0, 0]
    assert log.matrix().shape == (2, 3)


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, [7]), (2, [6, 7]), (3, [5, 6, 7]), (9, [5, 6, 7])])
def test_the_last_of_a_history_are_its_newest_oldest_first(n: int, expected: list[int]) -> None:
    history = _history([5, 6, 7], [1, 2, 3]).last(n)

    assert history.item_idx.tolist() == expected
    assert len(history.timestamp_us) == len(history.weight) == len(expected)


def test_joined_histories_are_in_order_of_time_and_the_older_comes_first_where_times_are_equal() -> None:
    joined = History.join(_history([1, 2, 3], [10, 20, 30]), _history([7, 8, 9], [5, 20, 40]))

    assert joined.item_idx.tolist() == [7, 1, 2, 8, 3, 9]
    assert joined.timestamp_us.tolist() == [5, 10, 20, 20, 30, 40]
    assert (joined.item_idx.dtype, joined.weight.dtype) == (np.int32, np.float32)


def test_joining_with_nothing_changes_nothing() -> None:
    history = _history([1, 2], [10, 20])

    assert History.join(history, History.empty()).item_idx.tolist() == [1, 2]
    assert History.join(History.empty(), history).item_idx.tolist() == [1, 2]


def test_a_request_without_candidates_leaves_the_choice_open() -> None:
    request = Request(History.empty(), 7)

    assert (request.user_idx, request.candidates) == (-1, None)


def _impressions(position: list[int]) -> ImpressionLog:
    return ImpressionLog(
        ["r0", "r1", "r2"],
        np.array([1, 0, 1], np.int32),
        np.array([10, 20, 20], np.int64),
        np.array([0, 2, 3, 6], np.int64),
        np.array([4, 1, 1, 0, 2, 4], np.int32),
        np.array([True, False, False, False, True, False]),
        np.array(position, np.int32),
    )


def test_rows_of_a_request_are_found_and_know_their_request() -> None:
    log = _impressions([1, 2, 1, 1, 2, 3])

    assert len(log) == 3
    assert log.row_request.tolist() == [0, 0, 1, 2, 2, 2]
    assert log.item_idx[log.rows(2)].tolist() == [0, 2, 4]
    assert log.item_idx[log.rows(1)].tolist() == [1]


@pytest.mark.parametrize(("position", "expected"), [([0] * 6, False), ([0, 0, 0, 0, 0, 3], True)])
def test_impressions_have_positions_when_any_row_has_one(position: list[int], expected: bool) -> None:
    assert _impressions(position).has_positions is expected


def test_shown_lists_lose_items_and_stay_in_their_places() -> None:
    log = _impressions([1, 2, 1, 1, 2, 3])

    left = log.without_items(np.array([1, 2, 3], np.int32))

    assert left.request_id == log.request_id
    assert [left.item_idx[left.rows(request)].tolist() for request in range(3)] == [[4], [], [0, 4]]
    assert left.clicked.tolist() == [True, False, False]
    assert left.position.tolist() == [1, 1, 3]
    assert left.row_request.tolist() == [0, 2, 2]
