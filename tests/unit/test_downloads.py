"""Downloaded bundles: old versions go, and nothing that anybody is loading."""

import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recsys.downloads import download_folder, download_once, reading, remove_old
from serving.loading import Models, Wanted
from serving.settings import Settings
from serving.slates import ModelInfo
from serving.store import NoStore


def put(cache: Path, version: int, model: str = "recsys", origin: str = "http://mlflow") -> Path:
    """Download a version that was used at a time of its own, the later the higher, and return its bundle."""
    folder = download_folder(cache, model, str(version), origin)

    def download(beside: Path) -> Path:
        (beside / "model" / "bundle").mkdir(parents=True)
        (beside / "model" / "bundle" / "manifest.json").write_text(str(version), encoding="utf-8")
        return beside / "model"

    download_once(folder, download)
    os.utime(folder, (version, version))
    return folder / "bundle"


def versions(cache: Path, model: str = "recsys") -> list[int]:
    names = [path.name.rsplit("-", 2) for path in cache.iterdir() if path.is_dir()]
    return sorted(int(name[1]) for name in names if name[0] == model)


def test_the_served_and_the_previous_version_of_a_model_stay(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3, 4)]
    for other in ("recsys-2", "recsys-2-1-0123456789ab", "other"):
        for version in (1, 2, 3):
            put(tmp_path, version, other)

    remove_old(tmp_path, used[3])

    assert versions(tmp_path) == [3, 4]
    assert all(versions(tmp_path, other) == [1, 2, 3] for other in ("recsys-2", "recsys-2-1-0123456789ab", "other"))
    assert (used[2] / "manifest.json").read_text(encoding="utf-8") == "3"


def test_after_a_rollback_the_version_that_was_used_before_stays(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3, 4)]

    remove_old(tmp_path, used[0])

    assert versions(tmp_path) == [1, 4]


def test_a_version_that_is_fetched_again_counts_as_used(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3)]
    download_once(used[0].parent, lambda beside: pytest.fail("it is there"))

    remove_old(tmp_path, used[2])

    assert versions(tmp_path) == [1, 3]


def test_versions_that_are_noted_stay(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3, 4)]

    remove_old(tmp_path, used[3], [used[0], tmp_path / "gone" / "bundle", Path("/elsewhere")])

    assert versions(tmp_path) == [1, 3, 4]


def test_nothing_is_removed_while_anybody_reads(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3)]
    with reading(tmp_path), reading(tmp_path):
        remove_old(tmp_path, used[2])
        assert versions(tmp_path) == [1, 2, 3]

    remove_old(tmp_path, used[2])
    assert versions(tmp_path) == [2, 3]


def test_nothing_is_removed_while_anybody_downloads(tmp_path: Path) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3)]
    begun, may_end = threading.Event(), threading.Event()

    def slowly(beside: Path) -> Path:
        begun.set()
        may_end.wait()
        (beside / "model").mkdir()
        return beside / "model"

    folder = download_folder(tmp_path, "recsys", "4", "http://mlflow")
    thread = threading.Thread(target=download_once, args=(folder, slowly))
    thread.start()
    begun.wait()
    remove_old(tmp_path, used[2])
    may_end.set()
    thread.join()

    assert versions(tmp_path) == [1, 2, 3, 4]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    used = put(tmp_path, 1)
    (tmp_path / ".download-half" / "model").mkdir(parents=True)
    (tmp_path / ".download-half" / "model" / "half").write_text("a part", encoding="utf-8")

    remove_old(tmp_path, used)

    assert not (tmp_path / ".download-half").exists()
    assert versions(tmp_path) == [1]


def test_a_bundle_that_was_not_downloaded_removes_nothing(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        put(tmp_path / "cache", version)
    for used in (tmp_path / "models" / "bundle", tmp_path / "cache" / "mine" / "bundle", tmp_path / "cache"):
        used.mkdir(parents=True, exist_ok=True)
        remove_old(tmp_path / "cache", used)

    assert versions(tmp_path / "cache") == [1, 2, 3]


def test_what_cannot_be_removed_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    used = [put(tmp_path, version) for version in (1, 2, 3)]

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with caplog.at_level(logging.WARNING):
        remove_old(tmp_path, used[2])

    assert "old downloads cannot be removed" in caplog.text
    assert versions(tmp_path) == [1, 2, 3]


def test_a_service_that_takes_up_version_after_version_keeps_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, while_loading = tmp_path / "cache", []

    def load(folder: Path) -> Any:
        remove_old(cache, folder)  # as another process might
        while_loading.append(versions(cache))
        return SimpleNamespace()

    monkeypatch.setattr("serving.loading.load_bundle", load)
    monkeypatch.setattr("serving.loading.make_engine", lambda settings, bundle, model, store: bundle)
    models = Models(Settings(cache=cache, tracking_uri="http://mlflow"))
    other = put(cache, 1, origin="http://another")
    models_of_another = Models(Settings(cache=cache, tracking_uri="http://another", alias="challenger"))
    models_of_another.open(Wanted(ModelInfo("recsys", "1", "challenger"), lambda: other), NoStore())
    for version in (2, 3, 4, 5):
        info = ModelInfo("recsys", str(version), "champion")
        models.open(Wanted(info, lambda version=version: put(cache, version)), NoStore())  # type: ignore[misc]

    assert while_loading == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 3, 4, 5]]
    assert versions(cache) == [1, 4, 5]  # and what the other one would start with
    last = models_of_another.last_served()
    assert last is not None
    assert (last.fetch() / "manifest.json").is_file()
