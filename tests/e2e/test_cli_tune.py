"""`recsys tune` as it is typed: what it may see, what it leaves behind, and how it goes on."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from recsys.cli import app
from recsys.config import Config
from recsys.datasets.simulated import SimulationConfig, simulate, write_sample
from recsys.preset_files import preset

pytestmark = pytest.mark.slow

FAST = {
    "data.learn_event_weights": "true",
    "encoder.kind": "small",
    "encoder.epochs": 1,
    "encoder.small_epochs": 0,
    "encoder.small_vocabulary": 300,
    "encoder.small_embedding_size": 16,
    "sequence.epochs": 0,
    "collaborative.factors": 8,
    "collaborative.iterations": 3,
    "retrieval.sources": '["covisitation", "ease", "text"]',
    "ranker.n_trees": 10,
    "evaluation.n_bootstrap": 20,
}


@dataclass(frozen=True)
class Searched:
    """A store, a search of two trials, and what it printed as JSON."""

    folder: Path
    test_from: str
    first: dict[str, Any]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code not in (0, 2):
        raise AssertionError(result.output) from result.exception
    return result


def tune(data: str, test_from: str, *more: object) -> Result:
    settings = FAST | {"split.test_from": test_from}
    typed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return run("tune", "--data", data, *typed, *more)


def write_with_another_test(source: Path, target: Path, test_from: str) -> None:
    """Write a data folder in which all from a moment on is garbage: other items, other users, everything clicked."""
    target.mkdir()
    begin = pl.lit(test_from).str.to_datetime(time_unit="us", time_zone="UTC")
    is_test = pl.col("timestamp") >= begin
    for name in ("items", "users"):
        pl.read_parquet(source / f"{name}.parquet").write_parquet(target / f"{name}.parquet")
    for name in ("interactions", "impressions"):
        table = pl.read_parquet(source / f"{name}.parquet")
        turned = [
            pl.when(is_test).then(pl.col(column).reverse()).otherwise(pl.col(column)).alias(column)
            for column in ("user_id", "item_id")
        ]
        if name == "impressions":
            turned = [pl.when(is_test).then(pl.lit(value=True)).otherwise("clicked").alias("clicked")]
        early, late = table.with_columns(turned).filter(~is_test), table.with_columns(turned).filter(is_test)
        pl.concat([early, late]).write_parquet(target / f"{name}.parquet")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    folder, before = tmp_path_factory.mktemp("store"), Path.cwd()
    simulation = simulate(SimulationConfig(n_users=80, n_items=120, n_days=16), 3)
    write_sample(folder / "data", simulation)
    newest = simulation.dataset.interactions["timestamp"].max()
    assert newest is not None
    test_from = f"{newest - timedelta(days=2):%Y-%m-%dT%H:00}"  # type: ignore[operator]
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        # MLflow keeps a store per address for the life of the process: mlflow.db alone may be that of another folder.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        found = tune("data", test_from, "--trials", 2, "--json")
        assert found.exit_code == 0, found.stderr
        yield Searched(folder, test_from, json.loads(found.stdout))
    os.chdir(before)


def test_a_search_says_what_each_question_found(searched: Searched) -> None:
    studies = searched.first["studies"]

    assert [study["name"] for study in studies] == ["ease", "covisitation", "ranker"]
    for study in studies:
        assert study["metric"] == "auc"
        assert study["n_trials"] == 2
        assert 0.3 < study["base"] <= study["best"] < 1.0
        assert study["difference"]["mean"] == pytest.approx(study["best"] - study["base"])


def test_the_best_configuration_is_one_that_training_reads(searched: Searched) -> None:
    best = Config.from_yaml(searched.folder / "best.yaml")

    assert best.encoder.small_vocabulary == 300
    assert best.data == preset("tables").with_overrides({"data.learn_event_weights": True}).data  # not what was learned
    for study in searched.first["studies"]:
        for key, value in study["settings"].items():
            section, name = key.split(".")
            assert getattr(getattr(best, section), name) == pytest.approx(value)


def test_trials_are_runs_within_that_of_the_search(searched: Searched) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{searched.folder / 'mlflow.db'}")
    parent = client.get_run(searched.first["run_id"])
    experiment = parent.info.experiment_id

    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")

    assert len(children) == 6
    assert parent.info.status == "FINISHED"
    assert {child.data.tags["tune.study"] for child in children} == {"ease", "covisitation", "ranker"}
    ranker = [child for child in children if child.data.tags["tune.study"] == "ranker"]
    assert all({"auc", "n_trees", "seconds"} <= child.data.metrics.keys() for child in ranker)
    assert {child.data.params["ranker.num_leaves"] for child in ranker} >= {"31"}
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "config.yaml", "timings.json"} <= files
    last = searched.first["studies"][-1]
    assert parent.data.metrics["tune/ranker/best"] == pytest.approx(last["best"])


def test_a_search_that_is_started_again_goes_on_and_holds_all_trials(searched: Searched) -> None:
    found = json.loads(
        tune("data", searched.test_from, "--search", "sources", "--trials", 3, "--out", "more.yaml", "--json").stdout
    )

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{searched.folder / 'mlflow.db'}")
    experiment = client.get_run(found["run_id"]).info.experiment_id
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{found['run_id']}'")
    assert [study["n_trials"] for study in found["studies"]] == [3, 3]
    assert found["studies"][0]["base"] == searched.first["studies"][0]["base"]
    assert sorted(child.info.run_name for child in children if child.data.tags["tune.study"] == "ease") == [
        "ease 0",
        "ease 1",
        "ease 2",
    ]


def test_garbage_in_the_place_of_the_test_changes_nothing(searched: Searched) -> None:
    write_with_another_test(searched.folder / "data", searched.folder / "other", searched.test_from)

    found = json.loads(tune("other", searched.test_from, "--trials", 2, "--out", "other.yaml", "--json").stdout)

    assert found["studies"] == searched.first["studies"]
    assert Config.from_yaml(Path("other.yaml")) == Config.from_yaml(Path("best.yaml"))


def test_what_cannot_be_searched_is_refused_before_any_work(searched: Searched) -> None:
    for arguments, message in (
        (("--search", "moon"), "no search 'moon'; there are ranker, sources, all"),
        (("--out", "nowhere/best.yaml"), "there is no folder nowhere"),
        (("--trials", 0), "0 trials are none"),
    ):
        refused = tune("data", searched.test_from, *arguments)

        assert refused.exit_code == 2
        assert message in refused.stderr


def test_training_takes_the_best_configuration(searched: Searched) -> None:
    trained = json.loads(run("train", "--data", "data", "--config", "best.yaml", "--json").stdout)

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{searched.folder / 'mlflow.db'}")
    last = searched.first["studies"][-1]["settings"]
    params = client.get_run(trained["run_id"]).data.params
    assert float(params["ranker.num_leaves"]) == last["ranker.num_leaves"]
