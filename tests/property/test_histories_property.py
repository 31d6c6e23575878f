import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.histories import History, InteractionLog

# (user, item, time); few different times, so that many are equal
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(-3, 8)), max_size=40)
N_USERS, N_ITEMS = 5, 7


def _log(events: list[tuple[int, int, int]]) -> InteractionLog:
    user, item, time = (np.array(column) for column in (zip(*events, strict=True) if events else ((), (), ())))
    weight = np.arange(len(events), dtype=np.float32)
    return InteractionLog.from_arrays(
        user.astype(np.int32), item.astype(np.int32), time.astype(np.int64), weight, n_users=N_USERS, n_items=N_ITEMS
    )


def _history(rows: list[tuple[int, int]]) -> History:
    rows = sorted(rows, key=lambda row: row[0])
    return History(
        np.array([row[1] for row in rows], np.int32),
        np.array([row[0] for row in rows], np.int64),
        np.arange(len(rows), dtype=np.float32),
    )


@given(EVENTS, st.integers(0, N_USERS), st.integers(-4, 9))
def test_a_history_is_what_a_slow_search_finds(events: list[tuple[int, int, int]], user: int, before: int) -> None:
    history = _log(events).history_of(user, before)
    # sorting is stable: equal times stay in order of arrival
    expected = sorted(
        ((time, place, item) for place, (u, item, time) in enumerate(events) if u == user and time < before),
        key=lambda row: row[:1],
    )

    assert history.item_idx.tolist() == [item for _, _, item in expected]
    assert history.timestamp_us.tolist() == [time for time, _, _ in expected]
    assert history.weight.tolist() == [place for _, place, _ in expected]


@given(EVENTS)
def test_a_log_holds_every_event_once_and_knows_where_it_came_from(events: list[tuple[int, int, int]]) -> None:
    log = _log(events)

    rebuilt = sorted(
        zip(log.row.tolist(), log.user_idx.tolist(), log.item_idx.tolist(), log.timestamp_us.tolist(), strict=True)
    )
    assert [row[1:] for row in rebuilt] == events
    assert log.item_counts().sum() == len(events)


@given(EVENTS, st.integers(0, 3))
def test_selecting_and_then_asking_is_asking_and_then_selecting(events: list[tuple[int, int, int]], user: int) -> None:
    log = _log(events)
    even = log.select(log.item_idx % 2 == 0)

    whole = log.history_of(user)
    assert even.history_of(user).weight.tolist() == whole.weight[whole.item_idx % 2 == 0].tolist()


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=15)


@given(PAIRS, PAIRS)
def test_joining_sorts_by_time_and_keeps_the_order_of_the_older_then_the_newer(
    older: list[tuple[int, int]], newer: list[tuple[int, int]]
) -> None:
    one, other = _history(older), _history(newer)
    joined = History.join(one, other)
    rows = [(t, 0, i) for i, t in enumerate(one.timestamp_us)] + [(t, 1, i) for i, t in enumerate(other.timestamp_us)]
    expected = sorted(rows)  # by time, then older before newer, then as they were

    assert joined.timestamp_us.tolist() == [time for time, _, _ in expected]
    assert joined.item_idx.tolist() == [(one, other)[which].item_idx[i] for _, which, i in expected]
    assert joined.weight.tolist() == [(one, other)[which].weight[i] for _, which, i in expected]


@given(EVENTS, st.integers(-4, 9))
def test_a_log_cut_in_two_in_time_and_joined_again_is_the_whole(events: list[tuple[int, int, int]], cut: int) -> None:
    log = _log(events)
    early, late = log.select(log.timestamp_us < cut), log.select(log.timestamp_us >= cut)

    for user in range(N_USERS):
        joined = History.join(early.history_of(user), late.history_of(user))
        assert joined.weight.tolist() == log.history_of(user).weight.tolist()


@given(PAIRS, st.integers(0, 20))
def test_the_last_are_the_end(pairs: list[tuple[int, int]], n: int) -> None:
    history = _history(pairs)

    assert history.last(n).item_idx.tolist() == history.item_idx.tolist()[max(len(pairs) - n, 0) :]
