"""One trained system as one folder: whole, unchanged and of one piece, or refused.

Files: manifest.json, items.parquet, users.parquet, arrays.safetensors (embeddings and factors), covisitation.npz,
ease.npz, next_item.npz, log.npz, counters.npz, ranker.txt, and where there are such parts content_map.npz,
sentiment.npz, seen.npz, sequence/ and encoder/. Nothing in it can run code when read.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import uuid
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.counters import COUNTER_KINDS, BucketCounts, Counters
from recsys.errors import BundleError
from recsys.histories import InteractionLog
from recsys.ids import IdMap
from recsys.models.content_map import ContentMap
from recsys.models.covisitation import Covisitation
from recsys.models.encoder import TextEncoder
from recsys.models.factors import ItemFactors
from recsys.models.fitted import FittedModels
from recsys.models.linear_items import Ease, NextItem
from recsys.models.ranker import Ranker
from recsys.models.sentiment import SentimentHead
from recsys.models.sequence import SequenceModel
from recsys.schema import Col

SCHEMA_VERSION: Final = 2
# From this size on, arrays are mapped instead of read.
_MAPPED_FROM: Final = 1 << 26
_DTYPES: Final = {"F32": np.float32, "BOOL": np.bool_}
MANIFEST: Final = "manifest.json"


class Manifest(BaseModel):
    """What a bundle is and what belongs to it; the first file that is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(description="Layout of the bundle's files.")
    bundle_id: str = Field(description="SHA-256 over the rest of the manifest, and so over all files.")
    created_at: str = Field(description="When it was written, ISO 8601 UTC.")
    config: Config = Field(description="The configuration of the training.")
    data: dict[str, Any] = Field(description="Name, format, fingerprint and sizes of the data.")
    data_until_us: int = Field(description="Time of the newest interaction that is in it, microseconds UTC.")
    git_commit: str | None = Field(description="Commit of the code, where it ran from a checkout.")
    versions: dict[str, str] = Field(description="Versions of the libraries that the files depend on.")
    metrics: dict[str, float] = Field(description="Headline metrics on the test window.")
    encoder_fingerprint: str | None = Field(description="The encoder that made the item embeddings.")
    feature_names: tuple[str, ...] = Field(description="Columns that the ranker reads, in order.")
    files: dict[str, str] = Field(description="SHA-256 of every other file.")


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory."""

    manifest: Manifest
    models: FittedModels


def write_bundle(
    models: FittedModels,
    encoder_folder: Path | None,
    folder: Path,
    *,
    data: dict[str, Any],
    metrics: dict[str, float],
) -> Manifest:
    """Write fitted models to a new folder, which appears whole or not at all.

    Everything is written to a folder beside it, flushed to disk, then renamed. Metrics that are not finite are left
    out.

    Raises:
        BundleError: there is something at `folder` already, the models have no ranker, or a sentiment head of another
            encoder than their own.
    """
    if models.ranker is None:
        raise BundleError("these models have no ranker; train one before writing a bundle")
    fingerprint = models.encoder.fingerprint if models.encoder is not None else None
    if models.sentiment is not None and models.sentiment.encoder_fingerprint != fingerprint:
        raise BundleError(
            f"the sentiment head reads embeddings of encoder {models.sentiment.encoder_fingerprint[:12]}, these models "
            f"hold encoder {str(fingerprint)[:12]}; fit the head on the embeddings of their own encoder"
        )
    if folder.exists():
        raise BundleError(f"{folder} exists; a bundle is never overwritten, name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.part"
    beside.mkdir()
    try:
        _write_files(models, encoder_folder, beside)
        files = {str(path.relative_to(beside).as_posix()): _sha256(path) for path in _files_of(beside)}
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            bundle_id="",
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            config=models.config,
            data=data,
            data_until_us=max((int(log.timestamp_us.max()) for log in (models.log, models.seen) if log), default=0),
            git_commit=git_commit(),
            versions={"python": platform.python_version(), "lightgbm": lightgbm.__version__, "numpy": np.__version__},
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            encoder_fingerprint=fingerprint,
            feature_names=models.ranker.feature_names,
            files=files,
        )
        manifest = manifest.model_copy(update={"bundle_id": _identity(json.loads(manifest.model_dump_json()))})
        (beside / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        for path in [*beside.rglob("*"), beside]:
            _fsync(path)
        beside.rename(folder)
        _fsync(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle after checking that it is whole and of one piece.

    Raises:
        BundleError: the manifest is missing or of another layout, a file is missing, was changed or does not belong,
            or the encoder is not the one that made the item embeddings; the message names the file.
    """
    manifest = read_manifest(folder)
    _check_files(folder, manifest)
    return Bundle(manifest, _read_models(folder, manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest alone; see `load_bundle`."""
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{folder} is no bundle: {MANIFEST} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise _damaged(folder, error) from None
    try:
        values = json.loads(text)
        version = values["schema_version"]
        manifest = Manifest.model_validate(values) if version == SCHEMA_VERSION else None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    if manifest is None:
        raise BundleError(
            f"{folder} has layout {version}, this version reads {SCHEMA_VERSION}; train again or use a matching version"
        )
    if manifest.bundle_id != _identity(values):
        raise BundleError(f"{folder}: {MANIFEST} was changed after the bundle was written; fetch the bundle again")
    return manifest


def git_commit() -> str | None:
    """Return the commit that the running code is checked out at, None where it is installed without one."""
    here = Path(__file__)
    try:
        # Installed inside somebody else's checkout, this file is not one that their commits know.
        for command in (["git", "ls-files", "--error-unmatch", here.name], ["git", "rev-parse", "HEAD"]):
            done = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, timeout=10)
            if done.returncode != 0:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def _write_files(models: FittedModels, encoder_folder: Path | None, folder: Path) -> None:
    models.catalogue.table.write_parquet(folder / "items.parquet")
    users = {Col.USER_ID: list(models.user_ids.ids)} | {
        name: models.user_attributes[:, column] for column, name in enumerate(models.user_attribute_names)
    }
    pl.DataFrame(users, schema_overrides={Col.USER_ID: pl.String}).write_parquet(folder / "users.parquet")
    factors = models.factors
    save_file(
        {
            "item_embeddings": np.ascontiguousarray(models.item_embeddings),
            "factors_own": np.ascontiguousarray(factors.own),
            "factors_content": np.ascontiguousarray(factors.content),
            "is_warm": factors.is_warm,
        },
        folder / "arrays.safetensors",
        metadata={
            "encoder_fingerprint": models.encoder.fingerprint if models.encoder is not None else "",
            "regularization": repr(factors.regularization),
            "alpha": repr(factors.alpha),
        },
    )
    if factors.content_map is not None:
        _save_npz(folder / "content_map.npz", **factors.content_map.arrays())
    sp.save_npz(folder / "covisitation.npz", models.covisitation.transitions)
    sp.save_npz(folder / "ease.npz", models.ease.weights)
    sp.save_npz(folder / "next_item.npz", models.next_item.weights)
    if models.sequence is not None:
        models.sequence.save(folder / "sequence")
    _save_npz(folder / "log.npz", **_log_arrays(models.log))
    if models.seen is not None:
        _save_npz(folder / "seen.npz", **_log_arrays(models.seen))
    if models.sentiment is not None:
        models.sentiment.save(folder / "sentiment.npz")
    counts: dict[str, npt.NDArray[Any]] = {}
    for kind in COUNTER_KINDS:
        counter: BucketCounts = getattr(models.counters, kind)
        counts[f"{kind}_key"], counts[f"{kind}_cumulative"] = counter.key, counter.cumulative
        counts[f"{kind}_clock"] = np.array([counter.first_us, counter.bucket_us, counter.n_buckets], np.int64)
    _save_npz(folder / "counters.npz", **counts)
    if models.ranker is not None:
        models.ranker.save(folder / "ranker.txt")
    if encoder_folder is not None:
        shutil.copytree(encoder_folder, folder / "encoder")


def _read_models(folder: Path, manifest: Manifest) -> FittedModels:
    config = manifest.config
    try:
        items = pl.read_parquet(folder / "items.parquet")
        users = pl.read_parquet(folder / "users.parquet")
        with safe_open(folder / "arrays.safetensors", framework="np") as arrays:
            made_by = (arrays.metadata() or {}).get("encoder_fingerprint") or None
            metadata = arrays.metadata()
            is_large = (folder / "arrays.safetensors").stat().st_size >= _MAPPED_FROM
            tensors = {} if is_large else {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118
        if is_large:
            tensors = _mapped_tensors(folder / "arrays.safetensors")
        log = _load_npz(folder / "log.npz")
        seen = _load_npz(folder / "seen.npz") if (folder / "seen.npz").is_file() else None
        counts = _load_npz(folder / "counters.npz")
        content_map = _load_npz(folder / "content_map.npz") if (folder / "content_map.npz").is_file() else None
        transitions = sp.load_npz(folder / "covisitation.npz").tocsr()
        ease = sp.load_npz(folder / "ease.npz").tocsr()
        next_item = sp.load_npz(folder / "next_item.npz").tocsr()
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, SafetensorError, pl.exceptions.PolarsError) as error:
        raise BundleError(f"{folder}: a file of the bundle cannot be read: {error}") from error
    encoder = TextEncoder.load(folder / "encoder") if (folder / "encoder").is_dir() else None
    _check_encoder(folder, manifest, made_by, encoder)
    head = folder / "sentiment.npz"
    if head.is_file() and encoder is None:
        raise BundleError(f"{folder}: {head.name} has no encoder beside it whose embeddings it could read; train again")
    names = tuple(name for name in users.columns if name != Col.USER_ID)
    user_attributes = users.select(names).to_numpy() if names else np.empty((users.height, 0))
    return FittedModels(
        config=config,
        catalogue=Catalogue.from_items(items, config.data.text_fields),
        user_ids=IdMap(users[Col.USER_ID].to_list()),
        user_attributes=user_attributes.astype(np.float32),
        user_attribute_names=names,
        log=InteractionLog(**log, n_users=users.height, n_items=items.height),
        item_embeddings=tensors["item_embeddings"],
        factors=ItemFactors(
            own=tensors["factors_own"],
            content=tensors["factors_content"],
            is_warm=tensors["is_warm"],
            regularization=float(metadata["regularization"]),
            alpha=float(metadata["alpha"]),
            content_map=None if content_map is None else ContentMap.of_arrays(content_map),
        ),
        covisitation=Covisitation(transitions, config.covisitation.history_length, config.covisitation.history_decay),
        ease=Ease(ease),
        next_item=NextItem(next_item, config.next_item.window, config.next_item.fading),
        counters=Counters(*(_bucket_counts(counts, kind) for kind in COUNTER_KINDS)),
        sequence=SequenceModel.load(folder / "sequence") if (folder / "sequence").is_dir() else None,
        encoder=encoder,
        ranker=Ranker.load(folder / "ranker.txt", manifest.feature_names),
        sentiment=SentimentHead.load(head, encoder.fingerprint) if encoder is not None and head.is_file() else None,
        seen=None if seen is None else InteractionLog(**seen, n_users=users.height, n_items=items.height),
    )


def _mapped_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a file of safetensors, mapped: what is written to them stays in this process."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, dtype, shape = 8 + length + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"])
        mapped = np.memmap(path, dtype, "c", start, shape) if np.prod(shape) else np.empty(shape, dtype)
        tensors[name] = mapped.view(np.ndarray)
    return tensors


def _log_arrays(log: InteractionLog) -> dict[str, npt.NDArray[Any]]:
    return {name: getattr(log, name) for name in ("user_idx", "item_idx", "timestamp_us", "weight", "row")}


def _bucket_counts(arrays: dict[str, npt.NDArray[Any]], kind: str) -> BucketCounts:
    return BucketCounts(
        arrays[f"{kind}_key"], arrays[f"{kind}_cumulative"], *(int(value) for value in arrays[f"{kind}_clock"])
    )


def _check_files(folder: Path, manifest: Manifest) -> None:
    present = {str(path.relative_to(folder).as_posix()) for path in _files_of(folder)}
    if missing := sorted(set(manifest.files) - present):
        raise BundleError(f"{folder}: {missing[0]} is missing ({len(missing)} file(s)); fetch the bundle again")
    if foreign := sorted(present - set(manifest.files)):
        raise BundleError(f"{folder}: {foreign[0]} does not belong to the bundle; fetch it again into an empty folder")
    for name, expected in manifest.files.items():
        if _sha256(folder / name) != expected:
            raise BundleError(f"{folder}: {name} was changed after the bundle was written; fetch the bundle again")


def _check_encoder(folder: Path, manifest: Manifest, made_by: str | None, encoder: TextEncoder | None) -> None:
    present = encoder.fingerprint if encoder is not None else None
    if made_by != present or manifest.encoder_fingerprint != present:
        raise BundleError(
            f"{folder}: the item embeddings were made by encoder {str(made_by)[:12]}, but the bundle holds encoder "
            f"{str(present)[:12]}; embeddings of two encoders cannot be compared, so train again"
        )


def _damaged(folder: Path, error: Exception) -> BundleError:
    return BundleError(f"{folder}: {MANIFEST} is damaged ({type(error).__name__}); fetch the bundle again")


def _identity(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "bundle_id"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _save_npz(path: Path, **arrays: npt.NDArray[Any]) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
