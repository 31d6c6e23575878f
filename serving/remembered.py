"""The version that this machine served last, for a start while the registry is away."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from serving.slates import ModelInfo

logger = logging.getLogger(__name__)


def remember(cache: Path, tracking_uri: str, model: ModelInfo, folder: Path) -> None:
    """Write down that a version is served from a folder. What cannot be written is logged: serving goes on."""
    path = _path(cache, tracking_uri, model.name, model.alias or model.version)
    values = {"model": model.name, "alias": model.alias, "version": model.version, "folder": str(folder.absolute())}
    try:
        cache.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=cache, prefix=".served-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(values, file)
                file.flush()
                os.fsync(file.fileno())
            Path(beside).replace(path)
        finally:
            Path(beside).unlink(missing_ok=True)
    except OSError as error:
        logger.warning(
            "the served version cannot be noted in %s, so that a start without registry fails: %s", path, error
        )


def recall(cache: Path, tracking_uri: str, name: str, alias: str) -> tuple[ModelInfo, Path] | None:
    """Return what was last served under an alias (or version number) and where its bundle lies; None for nothing."""
    return _read(_path(cache, tracking_uri, name, alias))


def noted(cache: Path) -> list[Path]:
    """Return the folders of what services on this machine served last, each under its alias."""
    found = [_read(path) for path in cache.glob("served-*.json")]
    # A version that was asked for by number is not: there would be one more with each.
    return [folder for model, folder in filter(None, found) if model.alias is not None]


def _read(path: Path) -> tuple[ModelInfo, Path] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return ModelInfo(values["model"], values["version"], values["alias"]), Path(values["folder"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the note of the served version, %s, cannot be read and is left aside: %r", path, error)
        return None


def _path(cache: Path, tracking_uri: str, name: str, alias: str) -> Path:
    # Names may hold anything; a digest is a file name everywhere.
    digest = hashlib.sha256(json.dumps([tracking_uri, name, alias]).encode()).hexdigest()[:16]
    return cache / f"served-{digest}.json"
