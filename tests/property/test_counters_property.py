from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.counters import BucketCounts, Counters
from recsys.retrieval.index import top_n

N_ITEMS = 4
ITEMS = np.arange(N_ITEMS, dtype=np.int32)
Event = tuple[int, int, float]

WEIGHTS = st.floats(0.0, 50.0, width=32)
EVENTS = st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(-500, 2_000), WEIGHTS), max_size=40)
BUCKETS = st.integers(1, 400)
TIMES = st.integers(-800, 3_000)
WINDOWS = st.lists(st.one_of(st.none(), st.integers(1, 2_500)), min_size=1, max_size=4)


def _build(events: list[Event], bucket_us: int) -> BucketCounts:
    return BucketCounts.build(
        np.array([event[0] for event in events], np.int32),
        np.array([event[1] for event in events], np.int64),
        np.array([event[2] for event in events], np.float32),
        bucket_us=bucket_us,
    )


def _slow_count(events: list[Event], bucket_us: int, item: int, as_of: int, window: int | None) -> float:
    """Add up, in units of 1/1024, the events in buckets that ended by `as_of` and did not end by the window's start."""
    units = 0
    for of_item, time, weight in events:
        bucket_start = time // bucket_us * bucket_us
        has_ended = bucket_start + bucket_us <= as_of
        is_recent = window is None or bucket_start + bucket_us > as_of - window
        if of_item == item and has_ended and is_recent:
            units += round(weight * 1024)
    return units / 1024


@given(EVENTS, BUCKETS, TIMES, WINDOWS)
def test_counts_equal_a_slow_count_over_whole_buckets(
    events: list[Event], bucket_us: int, as_of: int, windows: list[int | None]
) -> None:
    counts = _build(events, bucket_us).before(ITEMS, as_of, windows)

    expected = [[_slow_count(events, bucket_us, item, as_of, window) for window in windows] for item in range(N_ITEMS)]
    assert counts.tolist() == expected


@given(EVENTS, BUCKETS, TIMES)
def test_nothing_at_or_after_the_moment_is_ever_counted(events: list[Event], bucket_us: int, as_of: int) -> None:
    past = [event for event in events if event[1] < as_of]
    whole, cut = (_build(some, bucket_us) for some in (events, past))

    for read in ("last_bucket_us", "first_bucket_us"):
        assert getattr(whole, read)(ITEMS, as_of).tolist() == getattr(cut, read)(ITEMS, as_of).tolist()
    assert whole.before(ITEMS, as_of, (None,)).tolist() == cut.before(ITEMS, as_of, (None,)).tolist()


@given(st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 2_000), WEIGHTS), max_size=40), BUCKETS, TIMES)
def test_first_and_last_buckets_equal_a_slow_search(events: list[Event], bucket_us: int, as_of: int) -> None:
    starts: dict[int, list[int]] = defaultdict(list)
    for item, time, _ in events:
        start = time // bucket_us * bucket_us
        if start + bucket_us <= as_of:
            starts[item].append(start)
    counts = _build(events, bucket_us)

    assert counts.first_bucket_us(ITEMS, as_of).tolist() == [min(starts[i], default=-1) for i in range(N_ITEMS)]
    assert counts.last_bucket_us(ITEMS, as_of).tolist() == [max(starts[i], default=-1) for i in range(N_ITEMS)]


@given(EVENTS, st.randoms(use_true_random=False), BUCKETS)
def test_the_order_of_events_does_not_matter_to_a_single_bit(
    events: list[Event], random: object, bucket_us: int
) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = _build(events, bucket_us), _build(shuffled, bucket_us)

    assert one.key.tobytes() == other.key.tobytes()
    assert one.cumulative.tobytes() == other.cumulative.tobytes()


POSITIVE_TIMES = st.integers(0, 2_000)
MIXED = st.lists(st.tuples(st.tuples(st.integers(0, N_ITEMS - 1), POSITIVE_TIMES, WEIGHTS), st.booleans()), max_size=40)


@given(MIXED, BUCKETS, st.lists(st.integers(0, 3_000), min_size=1, max_size=5), WINDOWS)
def test_live_events_on_top_equal_one_build_over_all_bit_for_bit(
    events: list[tuple[Event, bool]], bucket_us: int, moments: list[int], windows: list[int | None]
) -> None:
    fitted = [event for event, is_live in events if not is_live]
    live = [event for event, is_live in events if is_live]
    nothing = _build([], bucket_us)
    whole = Counters(_build(fitted + live, bucket_us), nothing, nothing)
    overlaid = Counters(_build(fitted, bucket_us), nothing, nothing)
    # Reads between the events, so that counts are folded in several times and at moments in any order.
    for place, (item, time, weight) in enumerate(live):
        overlaid.record(item, time, kind="interactions", weight=weight)
        overlaid.count("interactions", ITEMS, moments[place % len(moments)])

    for as_of in moments:
        one, other = (counters.count("interactions", ITEMS, as_of, windows) for counters in (overlaid, whole))
        assert one.tobytes() == other.tobytes()
        assert overlaid.first_seen_us(ITEMS, as_of).tolist() == whole.first_seen_us(ITEMS, as_of).tolist()
        assert overlaid.last_seen_us(ITEMS, as_of).tolist() == whole.last_seen_us(ITEMS, as_of).tolist()


@given(EVENTS, BUCKETS, st.lists(TIMES, min_size=2, max_size=6))
def test_an_unchanged_state_means_unchanged_counts(events: list[Event], bucket_us: int, moments: list[int]) -> None:
    nothing = _build([], bucket_us)
    counters = Counters(_build(events[::2], bucket_us), nothing, nothing)
    seen: dict[tuple[int, int], bytes] = {}
    pending = list(events[1::2])
    for as_of in moments:
        state = counters.state_at(as_of)
        counts = counters.count("interactions", ITEMS, as_of).tobytes()
        assert seen.setdefault(state, counts) == counts
        if pending:
            item, time, weight = pending.pop()
            counters.record(item, time, kind="interactions", weight=weight)


SCORES = st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from([0.0, 1.0, float("-inf")]))


@given(st.lists(SCORES, max_size=50), st.integers(-1, 60))
def test_top_n_equals_a_sort_with_ties_to_the_lower_row(scores: list[float], n: int) -> None:
    rows = top_n(np.array(scores, np.float32), n)

    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[: max(n, 0)]
    assert rows.tolist() == [row for row in expected if scores[row] > float("-inf")]
    assert rows.dtype == np.int32
