"""A training's work folder: finished stages are kept there, so that an interrupted training goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_DONE: Final = "done.json"


def stage_key(*parts: Any) -> str:
    """Return a hash of everything that a stage's result depends on; parts must be JSON-like."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class WorkFolder:
    """Stages as sub-folders. A stage counts as finished when its `done.json` holds the key it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def is_finished(self, stage: str, key: str) -> bool:
        """Return whether a stage finished with the same inputs."""
        try:
            return bool(json.loads((self.folder / stage / _DONE).read_text(encoding="utf-8"))["key"] == key)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def writing(self, stage: str, key: str) -> Iterator[Path]:
        """Yield an empty folder to write a stage's result to; it is marked as finished if nothing is raised."""
        place = self.folder / stage
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
        (place / _DONE).write_text(json.dumps({"key": key}), encoding="utf-8")

    def remove(self) -> None:
        """Delete the folder and all that is kept in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
