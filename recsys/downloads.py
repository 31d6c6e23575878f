"""Bundles that were downloaded, in a folder that the processes of a machine share and that old versions leave again."""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_LOCK: Final = ".lock"
_BESIDE: Final = ".download-"
# Of one model: the version that was taken up, and the one that it takes over from or goes back to.
_KEPT_FOLDERS: Final = 2
_FOLDER: Final = re.compile(r"(?P<model>.+)-\d+-[0-9a-f]{12}", re.DOTALL)


def download_folder(cache: Path, model: str, version: str, origin: str) -> Path:
    """Return where a version is kept. origin: whatever tells it from the same version of another registry."""
    return cache / f"{model}-{version}-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"


def download_once(folder: Path, download: Callable[[Path], Path]) -> None:
    """Put a download at `folder` unless it is there, whole or not at all.

    download: gets an empty folder and returns where below it the files lie.

    Raises:
        OSError: the folder cannot be written. What `download` raises is passed on.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with reading(folder.parent):
        if folder.is_dir():
            with suppress(OSError):  # a cache that can only be read has nothing removed from it
                os.utime(folder)
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_BESIDE) as beside:
            found = download(Path(beside))
            try:
                found.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process has just put the same files there
                    raise
        os.utime(folder)


@contextmanager
def reading(cache: Path) -> Iterator[None]:
    """Keep every process from removing what was downloaded, until it is loaded. What is mapped then stays readable.

    Nothing is held where the folder is not there yet or cannot be written.
    """
    with ExitStack() as held:
        with suppress(OSError):
            fcntl.flock(held.enter_context((cache / _LOCK).open("a")), fcntl.LOCK_SH)
        yield


def remove_old(cache: Path, used: Path, noted: Iterable[Path] = ()) -> None:
    """Remove downloads of a model, except for the version in use, the one used before it, and those that are noted.

    While anybody reads or downloads, nothing is removed: the next call does it. What cannot be removed is logged.

    used: a folder in the download that was taken up; where it lies elsewhere, nothing is done. noted: folders in
    downloads that stay.
    """
    cache = cache.resolve()
    own = _download_of(used, cache)
    match = _FOLDER.fullmatch(own or "")
    if match is None:
        return
    kept = {own, *(_download_of(path, cache) for path in noted)}
    try:
        with (cache / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in cache.glob(f"{_BESIDE}*"):  # by a process that was killed
                shutil.rmtree(left)
            others = [path for path in _downloads_of(cache, match["model"]) if path.name != own]
            for path in others[_KEPT_FOLDERS - 1 :]:
                if path.name not in kept:
                    _remove(path)
    except BlockingIOError:
        return
    except OSError as error:
        logger.warning("old downloads cannot be removed from %s, which may fill the disk: %s", cache, error)


def _download_of(path: Path, cache: Path) -> str | None:
    """Return the name of the download that a path lies in, None where it lies elsewhere."""
    path = path.resolve()
    return path.relative_to(cache).parts[0] if cache in path.parents else None


def _downloads_of(cache: Path, model: str) -> list[Path]:
    """Return a model's downloads, those that were used last first."""
    matches = [(path, _FOLDER.fullmatch(path.name)) for path in cache.iterdir() if path.is_dir()]
    found = [path for path, match in matches if match is not None and match["model"] == model]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _remove(folder: Path) -> None:
    # Renamed first: whoever is killed in between must not leave a part under the name of the whole.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_BESIDE) as beside:
        folder.rename(Path(beside) / folder.name)
