"""The versions of the bundle in MLflow's registry: which one is champion, where its files are, how they compare."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import polars as pl
import yaml

from recsys.downloads import download_folder, download_once
from recsys.errors import RegistryError
from recsys.mlflow_store import (
    MlflowException,
    connect,
    default_uri,
    from_mlflow_name,
    mlflow,
    mlflow_errors,
    shown_uri,
)

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
BUNDLE_ARTIFACT: Final = "bundle"

_CHAMPIONS_TAG: Final = "recsys.champions"  # on the registered model: versions that were champion, the latest last
_MAX_CHAMPIONS: Final = 200  # far below the 5,000 characters that a tag may have


@dataclass(frozen=True)
class ModelRef:
    """One version of a registered model.

    alias: the alias it was asked for by, else `champion` or `challenger` where it is one of them, else None.
    run_id: the training run, None where the version was registered without one. source: URI of the model's files.
    """

    name: str
    version: str
    alias: str | None
    run_id: str | None
    source: str
    aliases: tuple[str, ...] = ()
    created_at: datetime | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry:
    """The versions of one registered model.

    Every method raises RegistryError where the store cannot be reached, or the model does not exist.

    uri: tracking URI, None for `default_uri()`. A registry apart from the tracking store is MLFLOW_REGISTRY_URI's.
    """

    def __init__(self, uri: str | None = None, model_name: str = "recsys") -> None:
        self.uri = uri or default_uri()
        self.model_name = model_name

    def __repr__(self) -> str:
        return f"Registry({self.model_name!r} at {shown_uri(self.uri)})"

    def versions(self) -> list[ModelRef]:
        """Return all versions, the newest first."""
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"list the versions of {self.model_name!r}"):
            aliases = self._aliases(client)
            page = client.search_model_versions(f"name='{self.model_name}'")
            found = list(page)
            while page.token:
                page = client.search_model_versions(f"name='{self.model_name}'", page_token=page.token)
                found.extend(page)
        return sorted((_model_ref(version, aliases) for version in found), key=lambda ref: -int(ref.version))

    def resolve(self, alias_or_version: str | int = CHAMPION) -> ModelRef:
        """Return the version that an alias such as `champion`, or a version number, stands for.

        Raises:
            RegistryError: there is no such alias or version; the message names those there are.
        """
        wanted = str(alias_or_version).strip().removeprefix("@")
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"look up {wanted!r} of {self.model_name!r}"):
            aliases = self._aliases(client)
            number = int(wanted) if wanted.isdecimal() else aliases.get(wanted)
            try:
                if number is None or wanted == "latest":
                    raise RegistryError(self._unknown(client, wanted, aliases))
                version = client.get_model_version(self.model_name, str(number))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise RegistryError(self._unknown(client, wanted, aliases)) from error
        return _model_ref(version, aliases, None if wanted.isdecimal() else wanted)

    def fetch(self, ref: ModelRef, cache: Path) -> Path:
        """Return the folder of a version's bundle.

        Files on this machine are used where they lie. Others are downloaded into `cache` once, whole or not at all. A
        service that shares the cache removes old versions from it; `recsys.downloads.reading` keeps it from that.

        Raises:
            RegistryError: the files are gone or cannot be downloaded, or the version holds no bundle.
        """
        label = f"version {ref.version} of {ref.name!r}"
        location, folder = self._place(ref, cache)
        if _local_folder(location) is None:
            with mlflow_errors(self.uri, f"download {label}"):
                download_once(folder, lambda beside: _download(location, beside, self.uri))
        elif not folder.is_dir():
            raise RegistryError(
                f"the files of {label} are not at {folder}; if they were moved, move them back; if they lie on the "
                "server's disk, start it with --artifacts-destination so that it hands them out"
            )
        return _bundle_folder(folder, label)

    def is_here(self, ref: ModelRef, cache: Path) -> bool:
        """Return whether `fetch` needs no download."""
        location, folder = self._place(ref, cache)
        return _local_folder(location) is not None or folder.is_dir()

    def register(self, run_id: str, model_uri: str, tags: Mapping[str, str] | None = None) -> str:
        """Make a logged model a new version and return its number.

        It becomes `champion` where the model has none, as the first version does, else `challenger`.

        Args:
            run_id: the training run. model_uri: `models:/m-…` of a logged model, or where its files are.
            tags: tags of the version.
        """
        client = connect(self.uri, create=True)
        with mlflow_errors(self.uri, f"register {model_uri} as {self.model_name!r}"):
            try:
                client.create_registered_model(self.model_name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
            source = model_uri
            if model_id and not self.uri.startswith("http"):
                # In a database, MLflow would look such a URI up in the process-wide store, which may be another one.
                source = client.get_logged_model(model_id).artifact_location
            created = client.create_model_version(
                self.model_name, source, run_id=run_id, tags=dict(tags or {}), model_id=model_id
            )
            version = str(created.version)
            if source != model_uri:  # the link that MLflow's pages show; a server sets it by itself
                link = json.dumps([{"name": self.model_name, "version": created.version}])
                client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
            if CHAMPION in self._aliases(client):
                client.set_registered_model_alias(self.model_name, CHALLENGER, version)
            else:
                client.set_registered_model_alias(self.model_name, CHAMPION, version)
                self._write_champions(client, [*self._champions(client), version])
        return version

    def promote(self, alias_or_version: str | int = CHALLENGER) -> ModelRef:
        """Make a version the champion and return it; `rollback` undoes it.

        The version is no longer `challenger`. Promoting the champion changes nothing.
        """
        chosen = self.resolve(alias_or_version)
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"promote version {chosen.version} of {self.model_name!r}"):
            aliases, history = self._aliases(client), self._champions(client)
            current = aliases.get(CHAMPION)
            if current == chosen.version:
                return self.resolve(CHAMPION)
            if current and history[-1:] != [current]:  # set by hand since
                history.append(current)
            # Alias before history: broken off in between, the next rollback still ends at `current`.
            client.set_registered_model_alias(self.model_name, CHAMPION, chosen.version)
            self._write_champions(client, [*history, chosen.version])
            if aliases.get(CHALLENGER) == chosen.version:
                client.delete_registered_model_alias(self.model_name, CHALLENGER)
        return self.resolve(CHAMPION)

    def rollback(self) -> ModelRef:
        """Make the previous champion champion again and return it; repeated, it goes back further.

        Versions deleted since are passed over.

        Raises:
            RegistryError: there is no earlier champion.
        """
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"roll {self.model_name!r} back"):
            current = self._aliases(client).get(CHAMPION)
            existing = {ref.version for ref in self.versions()}
            history = [version for version in self._champions(client) if version in existing]
            while history and history[-1] == current:
                history.pop()
            if not history:
                present = f"version {current}" if current else "the present state"
                raise RegistryError(
                    f"{self.model_name!r} has no champion before {present}; choose one with recsys promote VERSION"
                )
            # History before alias: broken off in between, the next rollback still ends at the same version.
            self._write_champions(client, history)
            client.set_registered_model_alias(self.model_name, CHAMPION, history[-1])
        return self.resolve(CHAMPION)

    def compare(self, a: str | int = CHAMPION, b: str | int = CHALLENGER, prefix: str = "test/") -> pl.DataFrame:
        """Return the metrics of two versions' runs side by side, one row per metric, by name.

        Columns: metric, a, a_lo, a_hi, b, b_lo, b_hi, difference (b - a); null where a run lacks the value. Intervals
        are of each version alone: overlapping ones do not show that two versions are equal.

        Args:
            a, b: alias or version number.
            prefix: what the metrics' names begin with.

        Raises:
            RegistryError: a version has no run, or neither run has such a metric.
        """
        first, second = (self._metrics(self.resolve(which), prefix) for which in (a, b))
        bounds = ("", "_lo", "_hi")
        names = {name for metrics in (first, second) for name in metrics}
        names = {n for n in names if not (n.endswith(("_lo", "_hi")) and n[:-3] in names)}
        if not names:
            raise RegistryError(
                f"neither version {a} nor {b} of {self.model_name!r} has a metric that begins with {prefix!r}; "
                "their trainings ended before they were measured"
            )
        rows = [
            {"metric": name}
            | {f"a{bound}": first.get(name + bound) for bound in bounds}
            | {f"b{bound}": second.get(name + bound) for bound in bounds}
            for name in sorted(names)
        ]
        columns = [f"{side}{bound}" for side in "ab" for bound in bounds]
        table = pl.DataFrame(rows, schema={"metric": pl.String} | dict.fromkeys(columns, pl.Float64))
        return table.with_columns(difference=pl.col("b") - pl.col("a"))

    def _place(self, ref: ModelRef, cache: Path) -> tuple[str, Path]:
        """Return where a version's files are, and the folder on this machine where they are or would be."""
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"find the files of version {ref.version} of {ref.name!r}"):
            location = str(client.get_model_version_download_uri(ref.name, ref.version))
        return location, _local_folder(location) or download_folder(
            cache, ref.name, ref.version, f"{self.uri} {location}"
        )

    def _metrics(self, ref: ModelRef, prefix: str) -> dict[str, float]:
        if not ref.run_id:
            raise RegistryError(f"version {ref.version} of {ref.name!r} has no run to take metrics from; train it anew")
        client = connect(self.uri)
        with mlflow_errors(self.uri, f"read the metrics of version {ref.version} of {ref.name!r}"):
            metrics = client.get_run(ref.run_id).data.metrics
        named = {from_mlflow_name(name): float(value) for name, value in metrics.items()}
        return {name: value for name, value in named.items() if name.startswith(prefix)}

    def _aliases(self, client: mlflow.MlflowClient) -> dict[str, str]:
        """Return alias → version."""
        try:
            model = client.get_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            names = sorted(model.name for model in client.search_registered_models(max_results=100))
            raise RegistryError(
                f"no model {self.model_name!r} is registered at {shown_uri(self.uri)}, which has "
                f"{_first_three(names)}; train one (recsys train --data FOLDER), or name another store with "
                "MLFLOW_TRACKING_URI"
            ) from None
        return {alias: str(version) for alias, version in model.aliases.items()}

    def _unknown(self, client: mlflow.MlflowClient, wanted: str, aliases: Mapping[str, str]) -> str:
        numbers = [ref.version for ref in self.versions()]
        held = [f"{alias} (version {version})" for alias, version in sorted(aliases.items())]
        kind = "version" if wanted.isdecimal() else "alias"
        return (
            f"{self.model_name!r} has no {kind} {wanted!r}; it has the aliases {_first_three(held)} and the versions "
            f"{_first_three(numbers)}: name one of these, or give a version an alias with recsys promote"
        )

    def _champions(self, client: mlflow.MlflowClient) -> list[str]:
        tag = client.get_registered_model(self.model_name).tags.get(_CHAMPIONS_TAG, "")
        return [version for version in tag.split(",") if version]

    def _write_champions(self, client: mlflow.MlflowClient, versions: list[str]) -> None:
        client.set_registered_model_tag(self.model_name, _CHAMPIONS_TAG, ",".join(versions[-_MAX_CHAMPIONS:]))


def _model_ref(
    version: mlflow.entities.model_registry.ModelVersion, aliases: Mapping[str, str], alias: str | None = None
) -> ModelRef:
    number = str(version.version)
    held = tuple(sorted(name for name, of in aliases.items() if of == number))
    return ModelRef(
        name=version.name,
        version=number,
        alias=alias or next((name for name in (CHAMPION, CHALLENGER) if name in held), None),
        run_id=version.run_id or None,
        source=version.source,
        aliases=held,
        created_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        tags=dict(version.tags),
    )


def _first_three(names: list[str]) -> str:
    if not names:
        return "none"
    more = f", … ({len(names)} in all)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _local_folder(location: str) -> Path | None:
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else location)


def _download(location: str, folder: Path, uri: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=str(folder), tracking_uri=uri))


def _bundle_folder(model_folder: Path, label: str) -> Path:
    try:
        description: Any = yaml.safe_load((model_folder / "MLmodel").read_text(encoding="utf-8"))
        folder = model_folder / description["flavors"]["python_function"]["artifacts"][BUNDLE_ARTIFACT]["path"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise RegistryError(
            f"{label} holds no bundle ({model_folder} was not written by a training: {error!r}); choose another version"
        ) from error
    if not folder.is_dir():
        raise RegistryError(f"{label} lacks its bundle: no folder {folder}; choose another version, or train it anew")
    return folder
