import threading

import numpy as np
import pytest

from recsys.counters import BucketCounts, Counters

BUCKET = 100
# (item, time, weight) in no order; buckets of 100: [200, 300), [300, 400), …
EVENTS = [(2, 250, 1.0), (0, 310, 0.5), (2, 299, 2.0), (2, 300, 4.0), (0, 799, 1.0)]
ITEMS = np.array([0, 1, 2], np.int32)


def _build(events: list[tuple[int, int, float]], *, weighted: bool = True) -> BucketCounts:
    item = np.array([event[0] for event in events], np.int32)
    time = np.array([event[1] for event in events], np.int64)
    weight = np.array([event[2] for event in events], np.float32)
    return BucketCounts.build(item, time, weight if weighted else None, bucket_us=BUCKET)


def _counters(events: list[tuple[int, int, float]]) -> Counters:
    return Counters(_build(events), _build([]), _build([]))


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        (0, [0, 0, 0]),
        (299, [0, 0, 0]),  # its bucket is in progress
        (300, [0, 0, 3.0]),
        (399, [0, 0, 3.0]),
        (400, [0.5, 0, 7.0]),
        (799, [0.5, 0, 7.0]),
        (800, [1.5, 0, 7.0]),
        (10**12, [1.5, 0, 7.0]),
    ],
)
def test_only_whole_buckets_that_have_ended_count(as_of: int, expected: list[float]) -> None:
    assert _build(EVENTS).before(ITEMS, as_of, (None,))[:, 0].tolist() == expected


def test_a_window_reaches_back_as_many_buckets_as_it_is_wide() -> None:
    counts = _build(EVENTS).before(ITEMS, 450, (100, 200, 300, None))

    assert counts.tolist() == [[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0], [4.0, 7.0, 7.0, 7.0]]
    assert counts.dtype == np.float64


def test_items_are_read_in_the_order_asked_repeats_and_strangers_included() -> None:
    counts = _build(EVENTS).before(np.array([2, 9, 0, 2], np.int32), 400, (None,))

    assert counts[:, 0].tolist() == [7.0, 0, 0.5, 7.0]


def test_without_weights_every_event_counts_once() -> None:
    assert _build(EVENTS, weighted=False).before(ITEMS, 1_000, (None,))[:, 0].tolist() == [2.0, 0, 3.0]


def test_counts_go_on_with_later_events_which_take_the_place_of_later_buckets() -> None:
    later = np.array([2, 1, 0], np.int32), np.array([350, 801, 799], np.int64)
    counts = _build(EVENTS).continued(*later, since_us=345)

    assert counts.before(ITEMS, 300, (None,))[:, 0].tolist() == [0, 0, 3.0]
    assert counts.before(ITEMS, 400, (None,))[:, 0].tolist() == [0.5, 0, 8.0]
    assert counts.before(ITEMS, 899, (None,))[:, 0].tolist() == [1.5, 0, 8.0]  # the event of 799 counts once
    assert counts.before(ITEMS, 900, (None, 100))[:, 0].tolist() == [1.5, 1.0, 8.0]
    assert counts.bucket_us == BUCKET


def test_counts_of_nothing_go_on_as_those_of_the_later_events() -> None:
    item, time = np.array([1, 1], np.int32), np.array([250, 410], np.int64)

    assert _build([]).continued(item, time, since_us=200).before(ITEMS, 500, (None,))[:, 0].tolist() == [0, 2, 0]
    nothing = _build([(1, 400, 1.0)]).continued(item[:0], time[:0], since_us=399)
    assert nothing.before(ITEMS, 500, (None,))[:, 0].tolist() == [0, 0, 0]


def test_weights_are_rounded_to_a_fraction_that_adds_up_exactly() -> None:
    events = [(0, 0, 0.3)] * 1_000

    assert _build(events).before(np.array([0], np.int32), 100, (None,))[0, 0] == 1_000 * 307 / 1024


def test_a_weight_counts_the_same_from_a_float64_as_from_the_float32_that_logs_keep() -> None:
    weight = 0.48779296875 - 1e-12  # half a unit in float32, just below it in float64
    counts = [
        BucketCounts.build(np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([weight], dtype), bucket_us=BUCKET)
        for dtype in (np.float32, np.float64)
    ]

    assert counts[0].cumulative.tolist() == counts[1].cumulative.tolist()


def test_times_before_1970_have_buckets_too() -> None:
    counts = _build([(1, -250, 1.0), (1, -1, 1.0)])

    assert [counts.before(ITEMS, as_of, (None,))[1, 0] for as_of in (-201, -200, -1, 0)] == [0, 1, 1, 2]


def test_nothing_counted_reads_as_zero_and_never() -> None:
    nothing = _build([])

    assert nothing.before(ITEMS, 500, (None, 100)).tolist() == [[0, 0]] * 3
    assert nothing.last_bucket_us(ITEMS, 500).tolist() == [-1, -1, -1]
    assert nothing.first_bucket_us(ITEMS, 500).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("as_of", "first", "last"),
    [
        (299, [-1, -1, -1], [-1, -1, -1]),
        (300, [-1, -1, 200], [-1, -1, 200]),
        (400, [300, -1, 200], [300, -1, 300]),
        (800, [300, -1, 200], [700, -1, 300]),
    ],
)
def test_first_and_last_buckets_are_read_as_of_the_moment(as_of: int, first: list[int], last: list[int]) -> None:
    counts = _build(EVENTS)

    assert counts.first_bucket_us(ITEMS, as_of).tolist() == first
    assert counts.last_bucket_us(ITEMS, as_of).tolist() == last


def test_keys_of_a_million_items_over_ten_years_of_minutes_do_not_overflow() -> None:
    minute = 60_000_000
    ten_years = 10 * 365 * 86_400_000_000
    counts = BucketCounts.build(
        np.array([999_999, 0], np.int32), np.array([0, ten_years], np.int64), None, bucket_us=minute
    )

    assert counts.key.dtype == np.int64
    assert counts.before(np.array([999_999, 999_998], np.int32), minute, (None,))[:, 0].tolist() == [1, 0]


def test_a_live_event_counts_once_its_bucket_has_ended() -> None:
    counters = _counters(EVENTS)
    counters.record(1, 850, kind="interactions", weight=2.0)

    assert counters.count("interactions", ITEMS, 899)[:, 0].tolist() == [1.5, 0, 7.0]
    assert counters.count("interactions", ITEMS, 900)[:, 0].tolist() == [1.5, 2.0, 7.0]
    assert counters.count("interactions", ITEMS, 850)[:, 0].tolist() == [1.5, 0, 7.0]


def test_an_event_that_arrives_late_counts_from_then_on() -> None:
    counters = _counters(EVENTS)
    counters.record(1, 850, kind="interactions")
    assert counters.count("interactions", ITEMS, 1_000)[:, 0].tolist() == [1.5, 1.0, 7.0]

    counters.record(1, 250, kind="interactions", weight=0.5)

    assert counters.count("interactions", ITEMS, 1_000)[:, 0].tolist() == [1.5, 1.5, 7.0]
    assert counters.count("interactions", ITEMS, 300)[:, 0].tolist() == [0, 0.5, 3.0]
    assert counters.first_seen_us(ITEMS, 1_000).tolist() == [300, 200, 200]


def test_events_in_order_of_arrival_count_by_their_own_times() -> None:
    counters = _counters(EVENTS)
    for time in (850, 1_050, 950):
        counters.record(1, time, kind="interactions")

    read = [counters.count("interactions", ITEMS, as_of)[1, 0] for as_of in (850, 900, 1_000, 1_100)]
    assert read == [0, 1.0, 2.0, 3.0]


def test_live_events_move_when_an_item_was_last_and_first_seen() -> None:
    counters = _counters(EVENTS)
    counters.record(0, 910, kind="interactions")
    counters.record(1, 905, kind="interactions")

    assert counters.last_seen_us(ITEMS, 1_000).tolist() == [900, 900, 300]
    assert counters.first_seen_us(ITEMS, 1_000).tolist() == [300, 900, 200]
    assert counters.last_seen_us(ITEMS, 950).tolist() == [700, -1, 300]


def test_an_item_is_first_seen_when_it_was_shown() -> None:
    counters = Counters(_build(EVENTS), _build([(0, 150, 1.0), (1, 450, 1.0)]), _build([]))

    assert counters.first_seen_us(ITEMS, 1_000).tolist() == [100, 400, 200]
    assert counters.first_seen_us(ITEMS, 400).tolist() == [100, -1, 200]
    assert counters.last_seen_us(ITEMS, 1_000).tolist() == [700, -1, 300]


def test_kinds_do_not_mix() -> None:
    counters = Counters(_build([(0, 0, 1.0)]), _build([(0, 0, 2.0)]), _build([(0, 0, 4.0)]))
    counters.record(0, 0, kind="clicked", weight=8.0)

    read = [counters.count(kind, ITEMS, 100)[0, 0] for kind in ("interactions", "shown", "clicked")]
    assert read == [1.0, 2.0, 12.0]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no counter 'click'; the kinds are interactions, shown, clicked"):
        _counters([]).record(0, 0, kind="click")


def test_the_state_changes_when_a_count_may_have_changed_and_only_then() -> None:
    counters = _counters(EVENTS)
    states = [counters.state_at(810), counters.state_at(850)]
    counters.record(1, 860, kind="interactions")  # in a bucket that nobody reads yet
    states.append(counters.state_at(890))
    assert len(set(states)) == 1

    states.append(counters.state_at(900))
    counters.record(1, 250, kind="interactions")
    states.append(counters.state_at(900))
    assert len(set(states)) == 3


def test_no_event_is_lost_between_threads() -> None:
    counters = _counters(EVENTS)
    n_threads, n_events = 8, 300

    def record_and_read(thread: int) -> None:
        for i in range(n_events):
            counters.record(1, 100 * (thread + i), kind="interactions")
            counters.count("interactions", ITEMS, 100 * i)
            counters.last_seen_us(ITEMS, 100 * i)

    threads = [threading.Thread(target=record_and_read, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counters.count("interactions", ITEMS, 10**9)[:, 0].tolist() == [1.5, n_threads * n_events, 7.0]


HOUR = 3_600_000_000


def test_kept_counts_are_those_that_would_be_read() -> None:
    rng = np.random.default_rng(0)
    items, times = rng.integers(0, 5, 200).astype(np.int32), rng.integers(0, 40, 200) * HOUR
    fresh, keeping = (
        Counters(*(BucketCounts.build(items, times + shift, None, bucket_us=HOUR) for shift in (0, 7, 9)))
        for _ in range(2)
    )
    keeping.keep_for(6)
    rows = np.array([5, 0, 3, 3], np.int32)
    windows = (None, HOUR, 5 * HOUR // 2)
    for as_of in (3 * HOUR, 3 * HOUR + 5, 7 * HOUR // 2, 20 * HOUR, 4 * HOUR, 90 * HOUR, 91 * HOUR):
        for counters in (fresh, keeping):
            counters.record(3, as_of, kind="interactions")
            counters.record(4, as_of, kind="shown")
        for _ in range(2):
            for kind in ("interactions", "shown", "clicked"):
                expected = fresh.count(kind, rows, as_of, windows)
                assert keeping.count(kind, rows, as_of, windows).tolist() == expected.tolist()
            assert keeping.first_seen_us(rows, as_of).tolist() == fresh.first_seen_us(rows, as_of).tolist()
            assert keeping.last_seen_us(rows, as_of).tolist() == fresh.last_seen_us(rows, as_of).tolist()
