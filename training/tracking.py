"""One MLflow run per training: parameters, stages, metrics, pictures, and the bundle as a registered model."""

import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import yaml
from matplotlib.figure import Figure

from recsys.bundle import git_commit
from recsys.config import Config
from recsys.errors import BundleError, RegistryError
from recsys.mlflow_store import connect, default_uri, mlflow, mlflow_errors, shown_uri, sqlite_file, to_mlflow_name
from recsys.registry import Registry
from training.logged_model import INFERENCE_PACKAGES, installed_versions, save_model
from training.timings import Stage, StageClock

TRAINING_PACKAGES: Final = ("implicit", "sentence-transformers", "torch", "transformers")
CARD_FILE: Final = "model_card.md"

_PACKAGES: Final = ("recsys-engine", *INFERENCE_PACKAGES, *TRAINING_PACKAGES)
_MAX_BATCH: Final = 1_000  # metrics in one call to MLflow
_MAX_PARAM_BATCH: Final = 100
_MAX_PARAM_LENGTH: Final = 6_000
_MAX_TAG_LENGTH: Final = 4_000


class TrainingRun:
    """The MLflow run of one training, open within `with`.

    It ends as FINISHED, as KILLED after Ctrl-C, and as FAILED after any other error, with the tags `error` and
    `error.stage`. Times and memory of the stages are recorded in each case.

    Args:
        config: the whole training; logged as parameters and as config.yaml. `config.tracking` says where to.
        run_name: None lets MLflow choose.
        tags: further tags of the run.

    Attributes:
        run_id: MLflow's id, once the run is open. uri: the tracking URI.

    Raises:
        RegistryError: (every method) the store cannot be reached or refuses what is logged.
    """

    run_id: str

    def __init__(self, config: Config, *, run_name: str | None = None, tags: Mapping[str, str] | None = None) -> None:
        self.uri = default_uri(config.tracking)
        self.registry = Registry(self.uri, config.tracking.model_name)
        self._config = config
        self._run_name = run_name
        self._tags = dict(tags or {})
        self._clock = StageClock()
        self._description = ""  # of the version to come
        self._headline: dict[str, float] = {}  # metrics of the full system, which the model's page shows too

    def __enter__(self) -> "TrainingRun":
        self._client = connect(self.uri, create=True)
        tracking = self._config.tracking
        with mlflow_errors(self.uri, f"start a run in experiment {tracking.experiment!r}"):
            self._experiment_id = _experiment_id(self._client, self.uri, tracking.experiment)
            tags = _environment_tags(self._config) | self._tags
            run = self._client.create_run(self._experiment_id, tags=_cut_tags(tags), run_name=self._run_name)
            self.run_id = run.info.run_id
        self._clock.__enter__()
        try:
            self._log_config()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.__exit__(kind, error, trace)
        try:
            self._log_timings()
            status = "FINISHED"
            if error is not None:
                status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
                text = f"{type(error).__name__}: {error}"
                self.set_tags({"error": text, "error.stage": self._clock.failed_in or "between stages"})
            with mlflow_errors(self.uri, "end the run"):
                self._client.set_terminated(self.run_id, status)
        except RegistryError as untold:
            if error is None:
                raise
            error.add_note(f"and the run {self.run_id} could not be marked as failed: {untold}")

    @property
    def total(self) -> Stage:
        """The whole training so far, stages within; its own seconds are known once the run has ended."""
        return self._clock.root

    def stage(self, name: str) -> AbstractContextManager[Stage]:
        """Time what is done within: metrics `seconds/NAME` and `peak_rss_mb/NAME`, and a place in timings.json.

        Stages nest (`seconds/encoder/pairs`). Set `resumed` of the stage that `with` gives where its result was
        taken from an earlier training.
        """
        return self._clock.stage(name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; long values are cut off."""
        with mlflow_errors(self.uri, "set tags"):
            for name, value in _cut_tags(tags).items():
                self._client.set_tag(self.run_id, name, value)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested parameters under dotted names; lists are written as JSON, long values cut off."""
        flat = [
            mlflow.entities.Param(to_mlflow_name(name), _cut(value, _MAX_PARAM_LENGTH))
            for name, value in _flatten(params).items()
        ]
        with mlflow_errors(self.uri, "log parameters"):
            for begin in range(0, len(flat), _MAX_PARAM_BATCH):
                self._client.log_batch(self.run_id, params=flat[begin : begin + _MAX_PARAM_BATCH])

    def log_dataset(self, name: str, fingerprint: str, counts: Mapping[str, int]) -> None:
        """Record what was trained on: tags `data.name` and `data.fingerprint`, parameters `data.n_items` and so on.

        counts: rows by table, such as {"items": 3883, "interactions": 575281}.
        """
        self.set_tags({"data.name": name, "data.fingerprint": fingerprint})
        self.log_params({"data": {f"n_{table}": count for table, count in counts.items()}})

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics under their names as MLflow allows them, `ndcg@10` as `ndcg_at_10`."""
        self._log_metrics((name, value, step) for name, value in metrics.items())

    def log_report(self, report: Mapping[str, Any], prefix: str = "test") -> None:
        """Log what was measured, as metrics and as PREFIX_report.json.

        Metrics are `test/SYSTEM/METRIC` with `_lo` and `_hi` where there is an interval, `difference/SYSTEM/METRIC`,
        and `slices/SYSTEM/SLICE/METRIC`. Values that are null or absent, as in slices with few requests, are left out.

        Args:
            report: `SuiteReport.to_dict()`: `systems` and `differences`, system → metric → {mean, lo, hi}, and
                `slices`, system → slice → metric → {mean, lo, hi, n}; the last two may be absent.
            prefix: what the metrics of the systems begin with.
        """
        metrics = _interval_metrics(prefix, report["systems"])
        self._headline |= {name: value for name, value in metrics.items() if name.startswith(f"{prefix}/full/")}
        metrics |= _interval_metrics("difference", report.get("differences", {}))
        for system, slices in report.get("slices", {}).items():
            metrics |= _interval_metrics(f"slices/{system}", slices)
        self.log_metrics(metrics)
        self.log_text(json.dumps(report, indent=2, ensure_ascii=False), f"{prefix}_report.json")

    def log_curve(self, name: str, points: Sequence[Mapping[str, float | None]]) -> None:
        """Log a curve as metrics `NAME/VALUE` by step.

        points: one dict per evaluation with its `step` and the values taken there, such as
            {"step": 40, "train_loss": 2.1, "valid_loss": 2.3}; null values are left out.

        Raises:
            ValueError: a point has no step.
        """
        if stepless := [i for i, point in enumerate(points) if point.get("step") is None]:
            raise ValueError(
                f"{len(stepless)} points of the curve {name!r} have no step, numbers {stepless[:3]}; give each one"
            )
        self._log_metrics(
            (f"{name}/{key}", value, int(point["step"] or 0))
            for point in points
            for key, value in point.items()
            if key != "step" and value is not None
        )

    def log_text(self, text: str, name: str) -> None:
        """Log a text as a file of the run."""
        with mlflow_errors(self.uri, f"log {name}"):
            self._client.log_text(self.run_id, text, name)

    def log_card(self, card: str, summary: str) -> None:
        """Log a model card as model_card.md; its summary becomes the note of the run and of the version to come.

        summary: Markdown; what is too long for MLflow is cut off.
        """
        self.log_text(card, CARD_FILE)
        place = f"#/experiments/{self._experiment_id}/runs/{self.run_id}/artifacts/{CARD_FILE}"
        pointer = f"\n\nThe whole card: [{CARD_FILE}]({place}) of run {self.run_id}."
        self._description = _cut(summary, _MAX_TAG_LENGTH - len(pointer)) + pointer
        self.set_tags({"mlflow.note.content": self._description})

    def log_figures(self, figures: Mapping[str, Figure]) -> None:
        """Log pictures as figures/NAME.png."""
        with mlflow_errors(self.uri, "log figures"):
            for name, figure in figures.items():
                self._client.log_figure(self.run_id, figure, f"figures/{name}.png")

    def log_bundle(
        self, folder: Path, *, example: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Log a bundle as a pyfunc model, register it, and return the new version.

        The bundle's files are copied once, from `folder` to the artifact store. The model brings a copy of the
        engine's code and the pinned requirements of inference.

        Args:
            folder: a whole bundle.
            example: one request that the model's page shows, with `user_id`, `n` and `history` or some of them.
            tags: tags of the version.

        Raises:
            BundleError: the folder is missing or empty.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            raise BundleError(f"no bundle at {folder}: the folder is missing or empty; write it with write_bundle")
        client = self._client
        with mlflow_errors(self.uri, f"log the bundle {folder}"):
            params = {to_mlflow_name(name): _cut(value, _MAX_PARAM_LENGTH) for name, value in self._flat_config()}
            logged = client.create_logged_model(
                self._experiment_id, self.registry.model_name, source_run_id=self.run_id, params=params
            )
            status = "FAILED"
            try:
                with tempfile.TemporaryDirectory() as scratch:
                    place = save_model(Path(scratch), logged, folder, example)
                    client.log_model_artifacts(logged.model_id, str(Path(scratch) / "model"))
                client.log_model_artifacts(logged.model_id, str(folder), artifact_path=place)
                status = "READY"
            finally:
                client.finalize_logged_model(logged.model_id, status)
            client.log_outputs(self.run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
        self._log_metrics(((name, value, 0) for name, value in self._headline.items()), logged.model_id)
        version = self.registry.register(self.run_id, f"models:/{logged.model_id}", tags)
        if self._description:
            with mlflow_errors(self.uri, f"describe version {version}"):
                client.update_model_version(self.registry.model_name, version, self._description)
        self.set_tags({"model.name": self.registry.model_name, "model.version": version})
        return version

    def _log_config(self) -> None:
        self.log_params(dict(self._flat_config()))
        self.log_text(yaml.safe_dump(self._config_values(), sort_keys=False, allow_unicode=True), "config.yaml")

    def _config_values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self._config.model_dump_json())
        if values["tracking"]["uri"]:
            values["tracking"]["uri"] = shown_uri(values["tracking"]["uri"])
        return values

    def _flat_config(self) -> Iterable[tuple[str, str]]:
        return _flatten(self._config_values()).items()

    def _log_timings(self) -> None:
        stages = self._clock.by_path() | {"total": self._clock.root}
        self.log_metrics({f"seconds/{path}": stage.seconds for path, stage in stages.items()})
        self.log_metrics({f"peak_rss_mb/{path}": stage.peak_rss_mb for path, stage in stages.items()})
        self.log_text(json.dumps(self._clock.root.to_dict(), indent=2, ensure_ascii=False), "timings.json")

    def _log_metrics(self, metrics: Iterable[tuple[str, float, int]], model_id: str | None = None) -> None:
        now_ms = int(time.time() * 1000)
        entities = [
            mlflow.entities.Metric(to_mlflow_name(name), float(value), now_ms, step, model_id=model_id)
            for name, value, step in metrics
        ]
        with mlflow_errors(self.uri, "log metrics"):
            for begin in range(0, len(entities), _MAX_BATCH):
                self._client.log_batch(self.run_id, metrics=entities[begin : begin + _MAX_BATCH])


def curve_points(values: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Return values that were taken at every step from 1 on as the points that curves are logged and drawn from.

    values: by name, such as a ranker's metrics after each tree; where one ends early, its later points lack it.
    """
    length = max((len(taken) for taken in values.values()), default=0)
    return [
        {"step": i + 1} | {name: float(taken[i]) for name, taken in values.items() if i < len(taken)}
        for i in range(length)
    ]


def _experiment_id(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    known = client.get_experiment_by_name(name)
    if known is None:
        # A server keeps artifacts where it was told to; those of a database go beside it, or into this folder.
        location = None
        if uri.startswith(("sqlite", "postgresql", "mysql", "mssql")):
            folder = sqlite_file(uri).parent if uri.startswith("sqlite") else Path.cwd()
            location = (folder / "mlartifacts").as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if known.lifecycle_stage != "active":
        raise RegistryError(
            f"the experiment {name!r} at {shown_uri(uri)} was deleted; bring it back (mlflow experiments restore -x "
            f"{known.experiment_id}), or name another (tracking.experiment in the configuration)"
        )
    return str(known.experiment_id)


def _interval_metrics(prefix: str, table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    suffixes = {"mean": "", "lo": "_lo", "hi": "_hi"}
    return {
        f"{prefix}/{row}/{metric}{suffix}": float(interval[key])
        for row, metrics in table.items()
        for metric, interval in metrics.items()
        for key, suffix in suffixes.items()
        if interval.get(key) is not None
    }


def environment() -> dict[str, str]:
    """Return the versions of the packages that a training depends on, and the commit where it is known."""
    return installed_versions(_PACKAGES) | ({"git commit": commit} if (commit := git_commit()) is not None else {})


def _environment_tags(config: Config) -> dict[str, str]:
    tags = {f"version.{name}": version for name, version in installed_versions(_PACKAGES).items()}
    tags |= {"encoder.kind": config.encoder.kind, "encoder.model": config.encoder.model}
    if (commit := git_commit()) is not None:
        tags |= {"git.commit": commit, "mlflow.source.git.commit": commit}
    return tags | {"mlflow.source.name": "recsys train", "mlflow.source.type": "LOCAL"}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {to_mlflow_name(name): _cut(value, _MAX_TAG_LENGTH) for name, value in tags.items()}
