"""`recsys doctor`: whether this machine has what the engine needs, and what it would use."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import typer

from recsys.cli_output import AsJson, TrackingUri, say, say_json, say_table
from recsys.errors import RecsysError

_LIBRARIES: Final = (
    "torch",
    "sentence-transformers",
    "implicit",
    "lightgbm",
    "mlflow",
    "polars",
    "onnxruntime",
    "fastapi",
)
_MIN_PYTHON: Final = (3, 11)
_GIB: Final = 1024.0**3
_LOW_DISK_GIB: Final = 2.0
_LOW_MEMORY_GIB: Final = 4.0

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `note` is worth knowing, `fault` stops something from working."""

    what: str
    state: State
    text: str


def doctor(*, tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """Look at versions, processor, text encoder, MLflow's store, the champion, the event store, memory and disk.

    Exit code 1 where something does not work. Nothing is downloaded, written or created.
    """
    os.environ["HF_HUB_OFFLINE"] = (
        "1"  # read when the hub's client is imported: this process looks, but fetches nothing
    )
    findings = [finding for look in checks(tracking_uri) for finding in look()]
    is_sound = all(finding.state != "fault" for finding in findings)
    if as_json:
        say_json({"is_sound": is_sound, "findings": [asdict(finding) for finding in findings]})
    else:
        say_table(["", "looked at", "found"], [[finding.state, finding.what, finding.text] for finding in findings])
        say()
        say("everything works" if is_sound else "something does not work: see the lines that begin with fault")
    if not is_sound:
        raise typer.Exit(1)


def checks(tracking_uri: str | None) -> list[Callable[[], list[Finding]]]:
    """Return what is looked at, in order."""
    return [
        _python,
        _libraries,
        _device,
        _encoder,
        lambda: _registry(tracking_uri),
        _event_store,
        _room,
    ]


def _python() -> list[Finding]:
    found = platform.python_version()
    if sys.version_info < _MIN_PYTHON:
        return [Finding("Python", "fault", f"{found}; 3.11 or later is needed")]
    return [
        Finding("Python", "ok", f"{found} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors")
    ]


def _libraries() -> list[Finding]:
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    findings = [Finding("libraries", "ok", ", ".join(found))]
    if missing:
        findings.append(Finding("libraries", "fault", f"not installed: {', '.join(missing)}; run make setup"))
    return findings


def _device() -> list[Finding]:
    try:
        from training.encoder_tuning import choose_device
    except ImportError as error:
        return [Finding("training device", "fault", f"training cannot be imported: {error}")]
    return [Finding("training device", "ok", str(choose_device("auto")))]


def _encoder() -> list[Finding]:
    from recsys.config import EncoderConfig

    model = EncoderConfig.model_fields["model"].default
    try:
        from training.encoder_source import resolve

        return [Finding("text encoder", "ok", f"{model} in {resolve(model)}")]
    except ImportError as error:
        return [Finding("text encoder", "fault", f"cannot be looked for: {error}")]
    except RecsysError as error:
        return [Finding("text encoder", "note", str(error))]


def _registry(tracking_uri: str | None) -> list[Finding]:
    from recsys.bundle import load_bundle
    from recsys.downloads import reading
    from recsys.mlflow_store import default_uri, shown_uri, sqlite_file
    from recsys.registry import Registry
    from serving.settings import Settings

    try:
        settings = Settings.from_environment()
        uri = tracking_uri or settings.tracking_uri or default_uri()
        if uri.startswith("sqlite") and not sqlite_file(uri).exists():
            return [Finding("MLflow store", "note", f"{shown_uri(uri)}: none yet; the first recsys train makes it")]
        registry = Registry(uri, settings.model_name)
        versions = registry.versions()
    except RecsysError as error:
        return [Finding("MLflow store", "fault", str(error))]
    findings = [Finding("MLflow store", "ok", f"{shown_uri(uri)}: {len(versions)} versions of {settings.model_name}")]
    try:
        ref = registry.resolve(settings.alias)
        with reading(settings.cache):
            if not registry.is_here(ref, settings.cache):
                text = (
                    f"version {ref.version}, not looked into: recsys serve downloads its files, which are not here yet"
                )
                return [*findings, Finding(settings.alias, "note", text)]
            bundle = load_bundle(registry.fetch(ref, settings.cache))
    except RecsysError as error:
        return [*findings, Finding(settings.alias, "fault", str(error))]
    models = bundle.models
    size = f"{len(models.user_ids):,} users, {len(models.catalogue):,} items"
    return [*findings, Finding(settings.alias, "ok", f"version {ref.version}, whole and unchanged: {size}")]


def _event_store() -> list[Finding]:
    from recsys.cli_serving import store_exists
    from recsys.event_tables import SCHEMA_REVISION
    from serving.database import Database
    from serving.settings import Settings

    try:
        url = Settings.from_environment().store_url
        if not store_exists(url):
            return [Finding("event store", "note", "none yet; recsys serve makes it")]
        with closing(Database(url, is_read_only=True)) as database:
            shown, revision = database.shown_url, database.upgraded_from()
    except RecsysError as error:
        return [Finding("event store", "fault", str(error))]
    if revision is None:
        return [Finding("event store", "note", f"{shown}: no tables yet; recsys serve makes them")]
    if revision != SCHEMA_REVISION:
        change = f"recsys serve upgrades it to {SCHEMA_REVISION}: stop servers of the older version first"
        return [Finding("event store", "note", f"{shown}: at revision {revision}; {change}")]
    return [Finding("event store", "ok", f"{shown}, at revision {revision}, that of this version")]


def _room() -> list[Finding]:
    import psutil

    disk = shutil.disk_usage(Path.cwd()).free / _GIB
    memory = psutil.virtual_memory().available / _GIB
    return [
        Finding("disk", "ok" if disk >= _LOW_DISK_GIB else "note", f"{disk:.1f} GiB free in {Path.cwd()}"),
        Finding("memory", "ok" if memory >= _LOW_MEMORY_GIB else "note", f"{memory:.1f} GiB available"),
    ]
