"""One process's state: what it loads, what it serves in place of it, and what goes on meanwhile."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lightgbm as lgb
import pytest
from serving_toys import toy_engine

from recsys.errors import RegistryError, RegistryUnavailableError
from serving.engine import Engine
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
