"""A store that is away: nobody waits for it twice, and it is taken up again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from serving.breaker import GuardedStore
from serving.errors import EventConflictError, StoreError
from serving.store import Added, Event, SqlEventStore


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class MoodyStore:
    """Answers, or fails after a while, as it is told; counts how often it is asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.takes_s = 0.0
        self.n_asked = 0

    def _work(self) -> None:
        self.n_asked += 1
        self.clock.now += self.takes_s
        if self.error is not None:
            raise self.error

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        self._work()
        return Added((), 0)

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        self._work()
        return []

    def since(self, timestamp_us: int) -> Iterator[Event]:
        self._work()
        yield from ()

    def ping(self) -> str:
        self._work()
        return "pong"

    def close(self) -> None: ...


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def moody(clock: Clock) -> MoodyStore:
    return MoodyStore(clock)


@pytest.fixture
def store(moody: MoodyStore, clock: Clock) -> GuardedStore:
    store = GuardedStore(lambda: moody, rest_s=3.0, clock=clock)
    assert store.try_open()
    return store


def read(store: GuardedStore) -> None:
    store.newest_of("u", 1)


def test_after_one_slow_failure_nobody_waits_again(store: GuardedStore, moody: MoodyStore) -> None:
    moody.error, moody.takes_s = StoreError("connection timed out"), 5.0
    for _ in range(10):
        with pytest.raises(StoreError, match="connection timed out"):
            read(store)

    assert moody.n_asked == 1


def test_one_fast_failure_stops_nobody_three_do(store: GuardedStore, moody: MoodyStore) -> None:
    moody.error = StoreError("refused")
    for _ in range(10):
        with pytest.raises(StoreError, match="refused"):
            read(store)

    assert moody.n_asked == 3


def test_after_its_rest_one_call_tries_and_lets_all_through(
    store: GuardedStore, moody: MoodyStore, clock: Clock
) -> None:
    moody.error, moody.takes_s = StoreError("away"), 1.0
    for wait_s in (0.0, 3.1, 0.0):
        clock.now += wait_s
        with pytest.raises(StoreError, match="away"):
            read(store)
    assert moody.n_asked == 2

    moody.error = None
    clock.now += 3.1
    read(store)
    read(store)
    assert moody.n_asked == 4


def test_writes_that_fail_leave_reads_alone(store: GuardedStore, moody: MoodyStore) -> None:
    moody.error, moody.takes_s = StoreError("database or disk is full"), 1.0
    with pytest.raises(StoreError, match="full"):
        store.add([], received_us=0)
    moody.error = None

    read(store)
    with pytest.raises(StoreError, match=r"full \(not asked again for \d\.\d s\)"):
        store.add([], received_us=0)


def test_a_conflict_is_an_answer(store: GuardedStore, moody: MoodyStore) -> None:
    moody.error, moody.takes_s = EventConflictError("taken", field="events.0.event_id"), 1.0
    for _ in range(5):
        with pytest.raises(EventConflictError):
            store.add([], received_us=0)

    assert moody.n_asked == 5


def test_lists_read_page_by_page_are_guarded_too(store: GuardedStore, moody: MoodyStore) -> None:
    moody.error, moody.takes_s = StoreError("gone"), 1.0
    for _ in range(3):
        with pytest.raises(StoreError, match="gone"):
            list(store.since(0))

    assert moody.n_asked == 1


def test_further_methods_of_a_store_are_guarded_alike(store: GuardedStore, moody: MoodyStore) -> None:
    assert store.ping() == "pong"
    moody.error, moody.takes_s = StoreError("gone"), 1.0
    for _ in range(3):
        with pytest.raises(StoreError, match="gone"):
            store.ping()

    assert moody.n_asked == 2


def test_a_store_that_is_away_at_the_start_is_opened_later(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    counted: list[str] = []
    store = GuardedStore(lambda: SqlEventStore(f"sqlite:///{folder / 'e.db'}"), lambda name, **_: counted.append(name))

    assert not store.try_open()
    for call in _calls(store):
        with pytest.raises(StoreError, match=r"e\.db cannot be opened"):
            call()
    folder.mkdir()

    assert store.try_open()
    assert store.newest_of("u", 1) == []
    assert counted == ["store_error"]
    store.close()


@pytest.mark.parametrize(("takes_s", "n_before_the_rest"), [(2.0, 1), (0.0, 3)])
def test_a_store_that_was_never_open_is_not_tried_with_every_call(
    clock: Clock, moody: MoodyStore, takes_s: float, n_before_the_rest: int
) -> None:
    counted: list[str] = []
    moody.error, moody.takes_s = StoreError("away"), takes_s

    def open_store() -> MoodyStore:
        moody.ping()
        return moody

    store = GuardedStore(open_store, lambda name, **_: counted.append(name), rest_s=3.0, clock=clock)
    for _ in range(10):
        assert not store.try_open()
    assert moody.n_asked == n_before_the_rest

    clock.now += 3.1
    for _ in range(10):
        assert not store.try_open()
    assert counted == ["store_error"] * (n_before_the_rest + 1)

    moody.error = None
    clock.now += 3.1
    assert store.try_open()


def _calls(store: GuardedStore) -> list[Callable[[], object]]:
    return [lambda: store.newest_of("u", 1), lambda: store.add([], received_us=0), lambda: list(store.since(0))]
