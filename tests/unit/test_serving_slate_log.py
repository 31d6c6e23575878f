"""The thread that writes slates beside the requests."""

import threading
from collections.abc import Sequence

from serving.errors import StoreError
from serving.slate_log import SlateLog
from serving.store import NoStore, ShownItem, SqlEventStore, StoredSlate


def slate(number: int) -> StoredSlate:
    return StoredSlate(f"r{number}", "ann", 10 + number, "12", (ShownItem("i0", 1),))


class StubbornStore(NoStore):
    """Refuses a number of batches, then takes them; holds each up until it is let go."""

    def __init__(self, refusals: int = 0, *, is_open: bool = True) -> None:
        self.refusals = refusals
        self.batches: list[list[str]] = []
        self.asked = threading.Event()
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def add_slates(self, batch: Sequence[StoredSlate]) -> None:
        self.asked.set()
        self.gate.wait()
        if self.refusals:
            self.refusals -= 1
            raise StoreError("the database is away")
        self.batches.append([each.recommendation_id for each in batch])


def test_slates_reach_the_store_in_order_and_closing_flushes() -> None:
    store = SqlEventStore("sqlite://")
    log = SlateLog(store, batch=3)

    for number in range(10):
        log.add(slate(number))
    log.close()

    assert [each for _, each in store.slates_after(0, 100)] == [slate(number) for number in range(10)]
    assert (log.written, log.dropped, log.failed, log.waiting) == (10, 0, 0, 0)


def test_batches_are_no_larger_than_asked() -> None:
    store = StubbornStore(is_open=False)
    log = SlateLog(store, batch=3)
    for number in range(8):
        log.add(slate(number))
    store.gate.set()
    log.close()

    assert max(len(batch) for batch in store.batches) <= 3
    assert [id_ for batch in store.batches for id_ in batch] == [f"r{number}" for number in range(8)]


def test_a_full_queue_drops_new_slates_at_once_and_counts_them() -> None:
    store = StubbornStore(is_open=False)
    log = SlateLog(store, max_waiting=4, batch=2)
    log.add(slate(0))
    store.asked.wait()  # the first is being written, and still counts as waiting
    for number in range(1, 10):
        log.add(slate(number))

    assert (log.waiting, log.dropped) == (4, 6)
    store.gate.set()
    log.close()
    assert [id_ for batch in store.batches for id_ in batch] == ["r0", "r1", "r2", "r3"]


def test_what_the_store_refused_is_written_once_it_is_back() -> None:
    store = StubbornStore(refusals=3)
    log = SlateLog(store, first_retry_s=0.001)
    log.add(slate(0))
    log.close()

    assert store.batches == [["r0"]]
    assert (log.written, log.failed) == (1, 3)


def test_closing_gives_up_on_a_store_that_stays_away() -> None:
    store = StubbornStore(refusals=1_000_000)
    log = SlateLog(store, first_retry_s=0.001)
    log.add(slate(0))
    log.add(slate(1))

    log.close(timeout_s=0.05)

    assert (log.written, log.dropped, log.waiting) == (0, 2, 0)
    assert log.failed > 0


def test_a_slate_that_comes_after_the_end_is_dropped() -> None:
    log = SlateLog(StubbornStore())
    log.close()

    log.add(slate(0))

    assert (log.written, log.dropped) == (0, 1)
