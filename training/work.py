"""A training's work folder: finished stages are kept there, so that an interrupted training goes on where it was."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_DONE: Final = "done.json"
_PACKAGES: Final = tuple(Path(__file__).resolve().parents[1] / name for name in ("recsys", "features", "training"))


def stage_key(*parts: Any) -> str:
    """Return a hash of everything that a stage's result depends on; parts must be JSON-like."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def content_hash(*arrays: npt.NDArray[Any]) -> str:
    """Return a hash of the types, shapes and values of arrays, for a stage whose inputs have no name of their own."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).ravel().view(np.uint8).data)
    return digest.hexdigest()


@cache
def code_fingerprint(*places: Path) -> str:
    """Return a hash of the Python sources in some places, folders or files; by default of all that a training runs."""
    digest = hashlib.sha256()
    for place in places or _PACKAGES:
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(str(path.relative_to(place)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


class WorkFolder:
    """Stages as sub-folders. A stage is finished when its `done.json` holds the key it is asked for, of the same code.

    What other code computed is not taken up: where a column means something else now, a model would learn one thing and
    be asked another.
    """

    def __init__(self, folder: Path, *, code: str | None = None) -> None:
        """Make the folder if it is not there. code: hash of what computes the stages, see `code_fingerprint`."""
        self.folder = folder
        self.code = code_fingerprint() if code is None else code
        folder.mkdir(parents=True, exist_ok=True)

    def is_finished(self, stage: str, key: str) -> bool:
        """Return whether a stage finished with the same inputs, by the same code."""
        try:
            done = json.loads((self.folder / stage / _DONE).read_text(encoding="utf-8"))
            return bool(done["key"] == key and done["code"] == self.code)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def writing(self, stage: str, key: str) -> Iterator[Path]:
        """Yield an empty folder to write a stage's result to; it is marked as finished if nothing is raised."""
        place = self.folder / stage
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
        (place / _DONE).write_text(json.dumps({"key": key, "code": self.code}), encoding="utf-8")

    def remove(self) -> None:
        """Delete the folder and all that is kept in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
