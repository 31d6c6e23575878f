"""One process's state: what it loads, what it serves in place of it, and what goes on meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lightgbm as lgb
import pytest
from serving_toys import toy_engine

from recsys.errors import RegistryError, RegistryUnavailableError
from serving.engine import Engine
from serving.errors import StoreError
from serving.loading import Wanted
from serving.service import Service
from serving.settings import Settings
from serving.slates import ModelInfo, Query
from serving.store import EventStore


class Shelf:
    """In place of the registry and the bundles: whatever is wanted is opened as `engine_of` says."""

    can_change = True

    def __init__(self) -> None:
        self.version = "1"
        self.away: Exception | None = None
        self.remembered: str | None = None
        self.engine_of: Callable[[str, EventStore], Engine] = lambda _, store: toy_engine(store)

    def wanted(self) -> Wanted:
        if self.away is not None:
            raise self.away
        return Wanted(ModelInfo("recsys", self.version, "champion"), Path)

    def last_served(self) -> Wanted | None:
        if self.remembered is None:
            return None
        return Wanted(ModelInfo("recsys", self.remembered, "champion"), Path)

    def open(self, wanted: Wanted, store: EventStore, *, is_remembered: bool = True) -> Engine:
        engine = self.engine_of(wanted.model.version, store)
        engine.model = wanted.model
        return engine


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def counted() -> list[tuple[str, dict[str, str]]]:
    return []


@pytest.fixture
def service(
    shelf: Shelf, counted: list[tuple[str, dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """A service over the shelf and a store of its own, yet to be started."""
    monkeypatch.setattr("serving.service._set_libraries_aside", lambda: None)
    service = Service(
        Settings(store_url=f"sqlite:///{tmp_path / 'events.db'}", cache=tmp_path / "cache", poll_s=0.01),
        first_retry_s=0.001,
        on_event=lambda name, **labels: counted.append((name, labels)),
    )
    service._models = service._watcher._versions = shelf  # type: ignore[assignment]
    yield service
    service.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.002)


def refusing(version: str, error: Exception) -> Callable[[str, EventStore], Engine]:
    def engine_of(asked: str, store: EventStore) -> Engine:
        if asked == version:
            raise error
        return toy_engine(store)

    return engine_of


DEFECTS = [lgb.basic.LightGBMError("trees"), ValueError("a secret"), RuntimeError("onnx")]


@pytest.mark.parametrize("error", DEFECTS)
def test_a_champion_that_cannot_be_warmed_at_the_start_gives_way_to_the_version_served_last(
    service: Service,
    shelf: Shelf,
    counted: list[tuple[str, dict[str, str]]],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    shelf.version, shelf.remembered, shelf.engine_of = "2", "1", refusing("2", error)
    service.start()
    service._thread.join()

    slate = service.recommend(Query())
    assert (slate.model.version, slate.degraded_reason) == ("1", "model_refused")
    assert ("model_refused", {"version": "2"}) in counted
    (told,) = [record for record in caplog.records if "is served instead" in record.message]
    assert type(error).__name__ in told.message
    assert "secret" not in told.message
    assert told.exc_info is not None


def test_a_first_champion_that_fails_for_a_moment_is_tried_again(service: Service, shelf: Shelf) -> None:
    errors = list(DEFECTS)

    def engine_of(_: str, store: EventStore) -> Engine:
        if errors:
            raise errors.pop()
        return toy_engine(store)

    shelf.engine_of = engine_of
    service.start()
    service._thread.join()

    assert service.recommend(Query()).degraded_reason is None


@pytest.mark.parametrize(
    "error", [RegistryUnavailableError("no answer"), KeyError("a defect of the registry's client")]
)
def test_a_registry_that_fails_at_the_start_leaves_the_version_served_last(
    service: Service, shelf: Shelf, error: Exception
) -> None:
    shelf.away, shelf.remembered = error, "1"
    service.start()
    service._thread.join()

    slate = service.recommend(Query())
    assert (slate.model.version, slate.degraded_reason) == ("1", "registry_unavailable")


def test_an_alias_that_is_gone_is_told_not_replaced(service: Service, shelf: Shelf) -> None:
    shelf.away, shelf.remembered = RegistryError("no alias 'champion'"), "1"
    service.start()
    wait_for(lambda: service.has_tried)

    assert not service._engine
    assert service._problem == "no alias 'champion'"


def started(service: Service) -> Engine:
    service.start()
    service._thread.join()
    return service.engine


def test_the_store_is_followed_while_a_new_champion_is_loaded(service: Service, shelf: Shelf) -> None:
    old = started(service)
    is_loading, may_go_on = threading.Event(), threading.Event()

    def engine_of(_: str, store: EventStore) -> Engine:
        is_loading.set()
        may_go_on.wait()
        return toy_engine(store)

    shelf.version, shelf.engine_of = "2", engine_of
    is_loading.wait()
    service.store.delete_item("i3", updated_us=1)  # another process
    wait_for(lambda: not old._path.is_listed[3])
    assert service.engine is old

    may_go_on.set()
    wait_for(lambda: service.engine is not old)
    assert not service.engine._path.is_listed[3]


@pytest.mark.parametrize("error", [None, StoreError("away"), ZeroDivisionError("defect")])
def test_a_new_champion_takes_in_what_came_while_it_was_warmed_before_it_takes_over(
    service: Service, shelf: Shelf, error: Exception | None
) -> None:
    old = started(service)
    serving: list[Engine] = []

    def engine_of(_: str, store: EventStore) -> Engine:
        engine = toy_engine(store)

        def catch_up() -> None:
            serving.append(service.engine)
            if error is not None:
                raise error

        engine.follower.catch_up = catch_up  # type: ignore[method-assign]
        return engine

    shelf.version, shelf.engine_of = "2", engine_of
    wait_for(lambda: service.engine is not old)

    assert serving[0] is old


def test_a_store_that_cannot_be_followed_neither_keeps_a_new_champion_away_nor_fills_the_log(
    service: Service, shelf: Shelf, counted: list[tuple[str, dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    old = started(service)

    def catch_up() -> None:
        raise ZeroDivisionError

    old.follower.catch_up = catch_up  # type: ignore[method-assign]
    wait_for(lambda: counted.count(("defect", {"kind": "follow"})) >= 2)
    shelf.version = "2"
    wait_for(lambda: service.engine is not old)

    assert [record.message for record in caplog.records if record.exc_info] == [
        "following the store failed and is tried again"
    ]


def test_a_watch_that_fails_goes_on_and_does_not_fill_the_log(
    service: Service, shelf: Shelf, counted: list[tuple[str, dict[str, str]]], caplog: pytest.LogCaptureFixture
) -> None:
    old = started(service)
    shelf.away = KeyError("a defect of the registry's client")
    wait_for(lambda: counted.count(("defect", {"kind": "watch"})) >= 2)
    shelf.away, shelf.version = None, "2"
    wait_for(lambda: service.engine is not old)

    assert [record.message for record in caplog.records if record.exc_info] == [
        "the watch over the model failed and goes on"
    ]
