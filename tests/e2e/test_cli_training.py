"""`recsys train` to `recsys rollback` on a small simulated log: what a user types, in a store of their own."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from typer.testing import CliRunner, Result

import recsys
from recsys.cli import app
from recsys.datasets.simulated import SimulationConfig, simulate, write_sample
from recsys.registry import Registry

pytestmark = pytest.mark.slow

# The small encoder: it needs no weights that may not be on the machine, and no minute of tuning.
FAST = {
    "encoder.kind": "small",
    "encoder.epochs": 1,
    "encoder.small_epochs": 0,
    "sequence.embedding_size": 8,
    "sequence.n_layers": 1,
    "sequence.epochs": 1,
    "encoder.small_vocabulary": 500,
    "encoder.small_embedding_size": 16,
    "collaborative.factors": 8,
    "ranker.n_trees": 20,
    "evaluation.n_bootstrap": 50,
}


@dataclass(frozen=True)
class Trained:
    """A folder with a store of two versions, and what the trainings printed."""

    folder: Path
    first: dict[str, Any]
    second: str


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code not in (0, 2):
        raise AssertionError(result.output) from result.exception
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder, before = tmp_path_factory.mktemp("store"), Path.cwd()
    simulation = simulate(SimulationConfig(n_users=80, n_items=120, n_days=20), 3)
    write_sample(folder / "all", simulation)
    (folder / "early").mkdir()
    cut = simulation.dataset.interactions["timestamp"].quantile(0.8)
    for name in ("items", "interactions", "impressions", "users"):
        table = pl.read_parquet(folder / "all" / f"{name}.parquet")
        early = table.filter(pl.col("timestamp") < cut) if "timestamp" in table.columns else table
        early.write_parquet(folder / "early" / f"{name}.parquet")
    settings = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        first = run("train", "--data", "early", *settings, "--json")
        second = run("train", "--data", "early", *settings, "--set", "seed=2")
        yield Trained(folder, json.loads(first.stdout), second.stdout)
    os.chdir(before)


def test_the_first_version_becomes_champion_and_says_how_it_did(trained: Trained) -> None:
    first = trained.first

    assert (first["model"], first["version"]) == ("recsys", "1")
    assert Registry().resolve("1").alias == "champion"
    assert {"full", "random", "als", "text", "popular"} <= first["report"]["systems"].keys()
    assert first["seconds"] > 0
    assert first["peak_rss_mb"] > 100
    assert first["stages"].keys() >= {"text encoder", "ranker", "evaluation", "bundle"}


def test_a_later_version_is_told_as_challenger_with_what_to_type_next(trained: Trained) -> None:
    lines = trained.second.splitlines()

    assert lines[0] == "recsys version 2, challenger"
    assert "registered at sqlite:///mlflow.db (run " in lines[1]
    assert any(line.startswith("full ") for line in lines)
    assert any(line.startswith("full against the best single source, ") for line in lines)
    commands = [line.split() for line in lines[lines.index("next:") + 1 :]]
    assert [" ".join([Path(program).name, *words[:2]]) for program, *words in commands] == [
        "recsys recommend --user",
        "recsys compare champion",
        "recsys promote 2",
        "recsys serve --alias",
        "mlflow ui --backend-store-uri",
    ]


def test_the_commands_that_are_told_work(trained: Trained) -> None:
    lines = trained.second.splitlines()
    recommend = next(line.split()[1:] for line in lines if "recsys recommend" in line)

    result = run(*recommend)

    assert result.exit_code == 0
    assert "recsys version 2" in result.stdout


def test_a_model_card_is_written_and_describes_the_version(trained: Trained) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{trained.folder / 'mlflow.db'}")
    card = client.download_artifacts(trained.first["run_id"], "model_card.md", str(trained.folder))
    description = client.get_model_version("recsys", "1").description
    text = Path(card).read_text(encoding="utf-8")
    full = trained.first["report"]["systems"]["full"]["auc"]

    assert text.startswith("# Model card: recsys, trained on early")
    assert f"{full['mean']:.3f} [{full['lo']:.3f}, {full['hi']:.3f}]" in text
    assert "held-out loss before" in text
    assert f"auc {full['mean']:.3f}" in description
    assert f"of run {trained.first['run_id']}" in description


def test_nothing_unfinished_is_left(trained: Trained) -> None:
    assert list((trained.folder / "runs").iterdir()) == []


def test_compare_promote_and_rollback(trained: Trained) -> None:
    compared = json.loads(run("compare", "--json").stdout)
    assert (compared["a"]["version"], compared["b"]["version"]) == ("1", "2")
    assert all(row["metric"].startswith("test/full/") for row in compared["metrics"])
    row = compared["metrics"][0]
    assert row["difference"] == pytest.approx(row["b"] - row["a"])
    assert "b: recsys version 2 (challenger, trained on early" in run("compare").stdout
    assert "als/" in run("compare", "1", "2", "--every-system").stdout

    assert json.loads(run("promote", "--json").stdout)["version"] == "2"
    assert Registry().resolve("champion").version == "2"
    assert "recsys version 1 (champion" in run("rollback").stdout
    assert Registry().resolve("champion").version == "1"
    refused = run("rollback")
    assert refused.exit_code == 2
    assert "no champion before version 1" in refused.stderr


def test_evaluate_measures_only_what_came_after_the_training(trained: Trained) -> None:
    same = run("evaluate", "--data", "early")
    later = json.loads(run("evaluate", "--data", "all", "--json", "--set", "evaluation.n_bootstrap=20").stdout)

    assert same.exit_code == 2
    assert "early holds no feedback after" in same.stderr
    clicked = pl.read_parquet("early/impressions.parquet").filter("clicked")  # loading adds those to the interactions
    until = pl.concat([pl.read_parquet("early/interactions.parquet")["timestamp"], clicked["timestamp"]]).max()
    shown = pl.read_parquet("all/impressions.parquet").filter(pl.col("timestamp") > until)
    usable = shown.group_by("request_id").agg(pl.col("clicked").any() & ~pl.col("clicked").all())["clicked"].sum()
    assert later["n_requests"] == usable
    assert later["version"] == "1"
    assert later["unknown_items"] == 0
    assert {"full", "als", "text"} <= later["report"]["systems"].keys()


def test_the_python_interface_gives_the_same_list(trained: Trained) -> None:
    with recsys.load("models:/recsys@champion") as recommender:
        expected = [item.item_id for item in recommender.recommend("u0012", 5)]

    found = json.loads(run("recommend", "--user", "u0012", "-n", 5, "--json").stdout)

    assert [item["item_id"] for item in found["items"]] == expected
