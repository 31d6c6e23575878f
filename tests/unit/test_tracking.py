import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from recsys.config import Config
from recsys.errors import BundleError, RegistryError
from recsys.mlflow_store import MlflowException, mlflow
from training.logged_model import INFERENCE_PACKAGES, signature
from training.timings import StageClock
from training.tracking import TrainingRun, curve_points

ROOT = Path(__file__).resolve().parents[2]
REPORT = {
    "suite": "toy",
    "systems": {
        "full": {"ndcg@10": {"mean": 0.5, "lo": 0.4, "hi": 0.6}},
        "popularity": {"ndcg@10": {"mean": 0.25, "lo": None, "hi": None}},
    },
    "differences": {"popularity": {"ndcg@10": {"mean": 0.25, "lo": 0.125, "hi": 0.375}}},
    "slices": {
        "full": {
            "user=warm": {"ndcg@10": {"mean": 0.75, "lo": 0.7, "hi": 0.8, "n": 40}},
            "user=cold": {"ndcg@10": {"n": 3}},
        }
    },
}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of these tests may land in the repository, nor may MLflow's global settings change."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    before = mlflow.get_tracking_uri()
    yield
    assert mlflow.get_tracking_uri() == before
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def config(database: Path, tmp_path: Path) -> Config:
    store = tmp_path / "a store"
    store.mkdir()
    shutil.copy(database, store / "mlflow.db")
    return Config.from_values({"seed": 7, "tracking": {"uri": f"sqlite:///{store / 'mlflow.db'}", "experiment": "toy"}})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "run 1" / "my bundle"
    (folder / "encoder").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    (folder / "encoder" / "weights.bin").write_bytes(bytes(range(256)) * 512)
    return folder


def _client(config: Config) -> Any:
    return mlflow.MlflowClient(tracking_uri=config.tracking.uri)


def _data(config: Config, run: TrainingRun) -> Any:
    return _client(config).get_run(run.run_id).data


def _artifact(config: Config, run: TrainingRun, name: str) -> Path:
    return (
        Path(str(config.tracking.uri).removeprefix("sqlite:///")).parent
        / "mlartifacts"
        / run.run_id
        / "artifacts"
        / name
    )


def test_a_training_leaves_one_finished_run_with_its_configuration(config: Config) -> None:
    with TrainingRun(config, run_name="first", tags={"note": "x" * 9_000}) as run:
        run.log_dataset("films", "f00d", {"items": 31, "users": 7})
    runs = _client(config).search_runs([_client(config).get_experiment_by_name("toy").experiment_id])
    assert [(found.info.run_id, found.info.run_name, found.info.status) for found in runs] == [
        (run.run_id, "first", "FINISHED")
    ]
    params, tags = runs[0].data.params, runs[0].data.tags
    assert (params["seed"], params["encoder.tune"], params["ranker.n_trees"]) == ("7", "top_layers", "600")
    assert json.loads(params["features.windows_hours"]) == [6.0, 24.0, 168.0, 720.0]
    assert (params["data.n_items"], params["data.n_users"]) == ("31", "7")
    assert (tags["data.name"], tags["data.fingerprint"]) == ("films", "f00d")
    assert tags["encoder.model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert tags["version.lightgbm"] == importlib.metadata.version("lightgbm")
    assert len(tags["note"]) == 4_000
    assert Config.from_yaml(_artifact(config, run, "config.yaml")) == config


def test_the_password_of_the_store_is_not_recorded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    named = config.with_overrides({"tracking.uri": "postgresql://me:secret@db/mlflow"})
    run = TrainingRun(named)
    run.uri = str(config.tracking.uri)
    with run:
        pass
    assert _data(config, run).params["tracking.uri"] == "postgresql://me:***@db/mlflow"
    assert "secret" not in _artifact(config, run, "config.yaml").read_text(encoding="utf-8")


def test_stages_are_timed_within_stages(config: Config) -> None:
    with TrainingRun(config) as run:
        with run.stage("encoder"):
            with run.stage("pairs"):
                pass
            with run.stage("fit") as fit:
                fit.resumed = True
        with run.stage("ranker"), run.stage("fit"):
            pass
    metrics = _data(config, run).metrics
    stages = ("encoder", "encoder/pairs", "encoder/fit", "ranker", "ranker/fit", "total")
    assert {name for name in metrics if name.startswith("seconds/")} == {f"seconds/{stage}" for stage in stages}
    assert {name for name in metrics if name.startswith("peak")} == {f"peak_rss_mb/{stage}" for stage in stages}
    assert metrics["seconds/total"] >= metrics["seconds/encoder"] + metrics["seconds/ranker"]
    assert metrics["peak_rss_mb/total"] >= max(metrics[f"peak_rss_mb/{stage}"] for stage in stages) > 10
    timings = json.loads(_artifact(config, run, "timings.json").read_text(encoding="utf-8"))
    encoder, ranker = timings["stages"]
    assert [stage["stage"] for stage in encoder["stages"]] == ["pairs", "fit"]
    assert [stage["resumed"] for stage in encoder["stages"]] == [False, True]
    assert ranker["stages"][0]["stage"] == "fit"


def test_a_stage_that_runs_twice_adds_up() -> None:
    with StageClock() as clock:
        for _ in range(2):
            with clock.stage("batch"):
                sum(range(100_000))
    first, second = clock.root.stages
    assert clock.by_path()["batch"].seconds == pytest.approx(first.seconds + second.seconds)
    assert min(first.seconds, second.seconds) > 0


def test_the_peak_is_that_of_the_stage_that_held_the_memory() -> None:
    with StageClock() as clock, clock.stage("outer"):
        with clock.stage("light"):
            pass
        with clock.stage("heavy"):
            held = np.ones(40_000_000)  # 305 MiB
        del held
        with clock.stage("after"):
            pass
    stages = clock.by_path()
    assert stages["outer/heavy"].peak_rss_mb - stages["outer/light"].peak_rss_mb > 250
    assert stages["outer/heavy"].peak_rss_mb - stages["outer/after"].peak_rss_mb > 250
    assert stages["outer"].peak_rss_mb >= stages["outer/heavy"].peak_rss_mb


def test_a_failing_training_marks_its_run_and_says_where(config: Config) -> None:
    run = TrainingRun(config)

    def _train() -> None:
        with run:
            with run.stage("data"):
                pass
            with run.stage("encoder"), run.stage("fit"):
                raise RegistryError("no such thing")

    with pytest.raises(RegistryError, match="no such thing") as caught:
        _train()
    assert not hasattr(caught.value, "__notes__")
    assert _client(config).get_run(run.run_id).info.status == "FAILED"
    tags = _data(config, run).tags
    assert (tags["error"], tags["error.stage"]) == ("RegistryError: no such thing", "encoder/fit")
    timings = json.loads(_artifact(config, run, "timings.json").read_text(encoding="utf-8"))
    assert [stage["failed"] for stage in timings["stages"]] == [False, True]


def test_a_stage_whose_error_was_dealt_with_is_not_blamed(config: Config) -> None:
    run = TrainingRun(config)

    def _train() -> None:
        with run:
            with pytest.raises(KeyError), run.stage("optional"):
                raise KeyError("missing")
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        _train()
    assert _data(config, run).tags["error.stage"] == "between stages"


def test_an_interrupted_training_is_marked_as_killed(config: Config) -> None:
    with pytest.raises(KeyboardInterrupt), TrainingRun(config) as run, run.stage("ranker"):
        raise KeyboardInterrupt
    assert _client(config).get_run(run.run_id).info.status == "KILLED"
    assert _data(config, run).tags["error.stage"] == "ranker"


def test_a_store_that_fails_too_does_not_hide_the_first_error(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def _away(*_: object, **__: object) -> None:
        raise MlflowException("the disk is full")

    run = TrainingRun(config)

    def _train() -> None:
        with run:
            monkeypatch.setattr(mlflow.MlflowClient, "log_batch", _away)
            raise ValueError("the first error")

    with pytest.raises(ValueError, match="the first error") as caught:
        _train()
    (note,) = caught.value.__notes__
    assert note.startswith(f"and the run {run.run_id} could not be marked as failed: cannot log metrics at sqlite:")
    assert "the disk is full" in note


def test_a_deleted_experiment_says_how_to_bring_it_back(config: Config) -> None:
    client = _client(config)
    client.delete_experiment(client.create_experiment("toy"))
    with pytest.raises(RegistryError, match=r"'toy' .* was deleted; bring it back \(mlflow experiments restore -x \d+"):
        TrainingRun(config).__enter__()


def test_a_report_becomes_metrics_by_system_and_slice(config: Config) -> None:
    with TrainingRun(config) as run:
        run.log_report(REPORT)
    metrics = {name: value for name, value in _data(config, run).metrics.items() if "ndcg" in name}
    assert metrics == {
        "test/full/ndcg_at_10": 0.5,
        "test/full/ndcg_at_10_lo": 0.4,
        "test/full/ndcg_at_10_hi": 0.6,
        "test/popularity/ndcg_at_10": 0.25,
        "difference/popularity/ndcg_at_10": 0.25,
        "difference/popularity/ndcg_at_10_lo": 0.125,
        "difference/popularity/ndcg_at_10_hi": 0.375,
        "slices/full/user_is_warm/ndcg_at_10": 0.75,
        "slices/full/user_is_warm/ndcg_at_10_lo": 0.7,
        "slices/full/user_is_warm/ndcg_at_10_hi": 0.8,
    }
    assert json.loads(_artifact(config, run, "test_report.json").read_text(encoding="utf-8")) == REPORT


def test_thousands_of_metrics_are_logged(config: Config) -> None:
    with TrainingRun(config) as run:
        run.log_metrics({f"m{i}": float(i) for i in range(2_345)})
    metrics = _data(config, run).metrics
    assert (metrics["m0"], metrics["m1000"], metrics["m2344"]) == (0.0, 1000.0, 2344.0)


def test_curves_are_logged_by_step(config: Config) -> None:
    with TrainingRun(config) as run:
        points: list[dict[str, float | None]] = [
            {"step": 40, "train_loss": 2.5, "valid_loss": None},
            {"step": 90, "train_loss": 1.5, "valid_loss": 2.0},
        ]
        run.log_curve("encoder", points)
        run.log_curve("ranker", curve_points({"ndcg@10": [0.1, 0.2, 0.3], "auc": [0.5]}))
        with pytest.raises(ValueError, match=r"2 points of the curve 'encoder' have no step, numbers \[0, 2\]"):
            run.log_curve("encoder", [{"loss": 1.0}, {"step": 1, "loss": 1.0}, {"step": None, "loss": 1.0}])

    def _history(name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in _client(config).get_metric_history(run.run_id, name)]

    assert _history("encoder/train_loss") == [(40, 2.5), (90, 1.5)]
    assert _history("encoder/valid_loss") == [(90, 2.0)]
    assert _history("ranker/ndcg_at_10") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert _history("ranker/auc") == [(1, 0.5)]


def test_figures_become_pictures_of_the_run(config: Config) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 5])
    with TrainingRun(config) as run:
        run.log_figures({"learning": figure, "metrics": figure})
    for name in ("learning", "metrics"):
        assert _artifact(config, run, f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_bundle_is_copied_once_and_registered(config: Config, bundle: Path, tmp_path: Path) -> None:
    with TrainingRun(config) as run:
        run.log_report(REPORT)
        first = run.log_bundle(bundle, tags={"data": "toy"})
    with TrainingRun(config) as second:
        assert second.log_bundle(bundle) == "2"
    assert (first, _data(config, run).tags["model.version"]) == ("1", "1")
    champion, challenger = run.registry.resolve(), run.registry.resolve("challenger")
    assert (champion.run_id, champion.version, champion.tags) == (run.run_id, "1", {"data": "toy"})
    assert (challenger.run_id, challenger.version) == (second.run_id, "2")
    stored = run.registry.fetch(champion, tmp_path / "cache")
    names = sorted(path.relative_to(bundle) for path in bundle.rglob("*"))
    assert sorted(path.relative_to(stored) for path in stored.rglob("*")) == names
    weights = Path("encoder") / "weights.bin"
    assert (stored / weights).read_bytes() == (bundle / weights).read_bytes()
    assert len(list((tmp_path / "a store").rglob("weights.bin"))) == 2  # one of each version


def test_the_logged_model_says_what_it_takes_and_needs(config: Config, bundle: Path, tmp_path: Path) -> None:
    with TrainingRun(config) as run:
        run.log_report(REPORT)
        run.log_bundle(bundle, example={"user_id": "u7", "n": 3, "history": ["i2", "i1"]})
    folder = run.registry.fetch(run.registry.resolve(), tmp_path).parents[1]
    model = mlflow.models.Model.load(str(folder))
    assert model.signature == signature()
    assert model.load_input_example(str(folder)).to_dict("records") == [
        {"user_id": "u7", "n": 3, "history": '["i2", "i1"]'}
    ]
    assert model.model_size_bytes > 131_072
    requirements = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert requirements == [f"{name}=={importlib.metadata.version(name)}" for name in INFERENCE_PACKAGES]
    assert (folder / "code" / "recsys" / "pyfunc_model.py").is_file()
    assert not list(folder.rglob("__pycache__"))
    logged = _client(config).get_logged_model(model.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", run.run_id)
    assert {metric.key for metric in logged.metrics} == {f"test/full/ndcg_at_10{end}" for end in ("", "_lo", "_hi")}


def test_what_is_no_bundle_is_not_logged(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with TrainingRun(config) as run:
        for folder in (tmp_path / "empty", tmp_path / "absent"):
            with pytest.raises(BundleError, match=rf"no bundle at .*{folder.name}: the folder is missing or empty"):
                run.log_bundle(folder)
    with pytest.raises(RegistryError, match="no model 'recsys' is registered"):
        run.registry.versions()


def test_a_bundle_that_cannot_be_stored_is_not_registered(
    config: Config, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = mlflow.MlflowClient.log_model_artifacts

    def _full_disk(self: Any, model_id: str, local_dir: str, artifact_path: str | None = None) -> None:
        if artifact_path is not None:
            raise OSError(28, "No space left on device")
        upload(self, model_id, local_dir, artifact_path)

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", _full_disk)
    with pytest.raises(RegistryError, match=r"cannot log the bundle .*No space left"), TrainingRun(config) as run:
        run.log_bundle(bundle)
    assert _client(config).get_run(run.run_id).info.status == "FAILED"
    experiment = _client(config).get_experiment_by_name("toy").experiment_id
    assert [model.status for model in _client(config).search_logged_models([experiment])] == ["FAILED"]
    with pytest.raises(RegistryError, match="no model 'recsys' is registered"):
        run.registry.versions()


def _run_python(code: str) -> str:
    """Run code in a fresh interpreter that knows nothing of pytest or of a build server."""
    hidden = ("PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_mlflow_sends_no_telemetry() -> None:
    asked = "import mlflow.telemetry; print(mlflow.telemetry.get_telemetry_client())"
    assert _run_python(f"import recsys.registry; {asked}") == "None"


def test_a_model_card_becomes_the_note_of_its_run_and_version(config: Config, bundle: Path) -> None:
    with TrainingRun(config) as run:
        run.log_card("# Card\n\nof all of it\n", "In short. " + "x" * 9_000)
        version = run.log_bundle(bundle)

    described = _client(config).get_model_version("recsys", version).description
    assert _artifact(config, run, "model_card.md").read_text(encoding="utf-8") == "# Card\n\nof all of it\n"
    assert described.startswith("In short. xxx")
    assert described.endswith(f"/artifacts/model_card.md) of run {run.run_id}.")
    assert len(described) <= 4_000
    assert _data(config, run).tags["mlflow.note.content"] == described
