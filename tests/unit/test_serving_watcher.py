"""Following the champion: what is loaded, what is refused, and when it is tried again."""

import json
from pathlib import Path

import pytest
from serving_toys import toy_engine

from recsys.errors import BundleError, RegistryUnavailableError
from serving.engine import Engine
from serving.loading import Wanted
from serving.remembered import recall, remember
from serving.slates import ModelInfo
from serving.store import EventStore, NoStore
from serving.watcher import Watcher


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """A registry whose alias is set by hand, some of whose versions are bad."""

    def __init__(self) -> None:
        self.version = "1"
        self.bad: dict[str, Exception] = {}
        self.away: RegistryUnavailableError | None = None
        self.engine: list[str] = []

    def wanted(self) -> Wanted:
        if self.away is not None:
            raise self.away
        return Wanted(ModelInfo("recsys", self.version, "champion"), Path)

    def open(self, wanted: Wanted, store: EventStore, *, is_remembered: bool = True) -> Engine:
        self.engine.append(wanted.model.version)
        if wanted.model.version in self.bad:
            raise self.bad[wanted.model.version]
        return toy_engine()


SERVED = ModelInfo("recsys", "1", "champion")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted() -> list[str]:
    return []


@pytest.fixture
def watcher(shelf: Shelf, clock: Clock, counted: list[str]) -> Watcher:
    return Watcher(shelf, NoStore(), lambda name, **_: counted.append(name), clock=clock)


def test_the_same_version_is_not_loaded_again(watcher: Watcher, shelf: Shelf) -> None:
    assert watcher.look(SERVED).is_current
    assert shelf.engine == []


def test_another_version_is_loaded(watcher: Watcher, shelf: Shelf) -> None:
    shelf.version = "2"

    assert watcher.look(SERVED).engine is not None


@pytest.mark.parametrize("error", [BundleError("ranker.txt was changed"), ZeroDivisionError("defect")])
def test_a_bad_version_is_refused_and_tried_ever_less_often(
    watcher: Watcher, shelf: Shelf, clock: Clock, counted: list[str], error: Exception
) -> None:
    shelf.version, shelf.bad = "2", {"2": error}
    for _ in range(4 * 3_600 // 15):
        assert watcher.look(SERVED).engine is None
        clock.now += 15.0

    assert counted == ["model_refused"] * len(shelf.engine)
    assert 20 <= len(shelf.engine) <= 30  # each ten minutes in the end

    shelf.bad = {}
    clock.now += 600.0
    assert watcher.look(SERVED).engine is not None


def test_an_alias_that_moves_is_followed_at_once(watcher: Watcher, shelf: Shelf) -> None:
    shelf.bad = {"2": BundleError("bad")}
    for version in ("2", "2", "1", "2", "3"):
        shelf.version = version
        seen = watcher.look(SERVED)

    assert shelf.engine == ["2", "2", "3"], "once, again when the alias came back to it, then the next"
    assert seen.engine is not None


def test_a_registry_that_is_away_is_logged_once_and_counted(
    watcher: Watcher, shelf: Shelf, counted: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    shelf.away = RegistryUnavailableError("the MLflow server does not answer")
    for _ in range(3):
        assert not watcher.look(SERVED).is_current

    assert counted == ["registry_error"] * 3
    assert [record.message for record in caplog.records] == [
        "version 1 is served on without the registry: the MLflow server does not answer"
    ]
    shelf.away = None
    assert watcher.look(SERVED).is_current


def test_a_download_that_fails_is_no_fault_of_the_version(watcher: Watcher, shelf: Shelf, counted: list[str]) -> None:
    shelf.version, shelf.bad = "2", {"2": RegistryUnavailableError("cannot download")}
    watcher.look(SERVED)
    shelf.bad = {}

    assert watcher.look(SERVED).engine is not None
    assert counted == ["registry_error"]


def test_what_was_served_is_recalled_under_its_own_settings_alone(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert recall(cache, "http://m", "recsys", "champion") is None
    remember(cache, "http://m", ModelInfo("recsys", "7", "champion"), tmp_path / "b")

    assert recall(cache, "http://m", "recsys", "champion") == (ModelInfo("recsys", "7", "champion"), tmp_path / "b")
    assert recall(cache, "http://m", "recsys", "challenger") is None
    assert recall(cache, "http://other", "recsys", "champion") is None
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "[]", json.dumps({"model": "recsys"})])
def test_a_damaged_note_is_left_aside(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    remember(tmp_path, "http://m", ModelInfo("recsys", "7", "champion"), tmp_path / "b")
    next(tmp_path.glob("served-*.json")).write_text(text)

    assert recall(tmp_path, "http://m", "recsys", "champion") is None
    assert "is left aside" in caplog.text


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    remember(tmp_path / "file", "http://m", ModelInfo("recsys", "7", "champion"), tmp_path / "b")

    assert "cannot be noted" in caplog.text
