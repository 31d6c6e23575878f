"""The command line: what each command prints, refuses and leaves behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

import recsys.api
from recsys import cli_demo, cli_training
from recsys.cli import app
from recsys.config import Config
from recsys.errors import ConfigError
from recsys.evaluation.intervals import Interval
from recsys.evaluation.report import SuiteReport
from recsys.models.fitted import FittedModels
from serving.settings import Settings
from serving.store import Event, SqlEventStore

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("own_folder")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_tables(folder: Path, n_events: int = 20, n_unknown: int = 0) -> Path:
    """Write ten items and events on them, the last `n_unknown` on an item that is not there."""
    folder.mkdir()
    items = "".join(f"i{i},Title {i}\n" for i in range(10))
    (folder / "items.csv").write_text(f"item_id,title\n{items}", encoding="utf-8")
    known = n_events - n_unknown
    lines = [
        f"u{i % 3},{f'i{i % 10}' if i < known else 'gone'},2026-01-{i % 28 + 1:02d}T10:{i % 60:02d}:00Z,click"
        for i in range(n_events)
    ]
    text = "\n".join(["user_id,item_id,timestamp,event", *lines, ""])
    (folder / "interactions.csv").write_text(text, encoding="utf-8")
    return folder


# validate


def test_validate_prints_what_a_sound_folder_holds() -> None:
    folder = write_tables(Path("mine"))

    plain, as_json = run("validate", folder), run("validate", folder, "--json")

    assert (plain.exit_code, as_json.exit_code) == (0, 0)
    assert "mine (format tables)" in plain.stdout
    assert "20: click 20" in plain.stdout
    assert json.loads(as_json.stdout)["summary"]["items"] == 10


def test_validate_names_every_fault_and_exits_with_2() -> None:
    folder = write_tables(Path("mine"))
    text = (folder / "interactions.csv").read_text().replace("2026-01-03T10:02:00Z", "yesterday")
    (folder / "interactions.csv").write_text(text)

    plain, as_json = run("validate", folder), run("validate", folder, "--json")

    assert (plain.exit_code, as_json.exit_code) == (2, 2)
    assert "interactions.csv, row 3, column timestamp" in plain.stdout
    assert "'yesterday'" in plain.stdout
    assert json.loads(as_json.stdout)["is_sound"] is False


def test_validate_of_no_folder_says_so() -> None:
    result = run("validate", "nix")

    assert result.exit_code == 2
    assert "there is no such folder" in result.stdout


def test_validate_tolerates_what_training_with_the_preset_of_the_format_would() -> None:
    folder = write_tables(Path("mine"), n_events=100, n_unknown=12)  # the default stops at 10 %, tables at 15 %

    assert run("validate", folder).exit_code == 0
    assert run("validate", folder, "--set", "data.max_unknown_item_share=0.1").exit_code == 2
    assert run("validate", folder, "--config", ROOT / "configs" / "default.yaml").exit_code == 2


# recommend


def test_recommend_prints_titles_in_the_order_of_the_recommender(tiny_bundle: Path) -> None:
    with recsys.api.load(tiny_bundle) as recommender:
        user = recommender.engine.bundle.models.user_ids.id_of(5)
        expected = recommender.recommend(user, 4)

    plain = run("recommend", "--bundle", tiny_bundle, "--user", user, "-n", 4)
    as_json = run("recommend", "--bundle", tiny_bundle, "--user", user, "-n", 4, "--json")

    assert plain.exit_code == 0
    places = [plain.stdout.index(item.title) for item in expected]
    assert places == sorted(places)
    found = json.loads(as_json.stdout)
    assert [item["item_id"] for item in found["items"]] == [item.item_id for item in expected]
    assert [item["rank"] for item in found["items"]] == [1, 2, 3, 4]
    assert found["user_id"] == user
    assert found["model"]["name"] == "bundle"


def test_recommend_takes_a_session_and_candidates_as_commas_or_repeated(tiny_bundle: Path) -> None:
    def items(*options: object) -> list[str]:
        result = run("recommend", "--bundle", tiny_bundle, "--json", *options)
        return [item["item_id"] for item in json.loads(result.stdout)["items"]]

    assert sorted(items("--candidates", "i0003,i0001", "--candidates", "i0007")) == ["i0001", "i0003", "i0007"]
    session = items("--history", "i0003, i0001")
    assert session == items("--history", "i0003", "--history", "i0001")
    assert not {"i0003", "i0001"} & set(session)
    assert not set(session[:2]) & set(items("--history", "i0003,i0001", "--exclude", ",".join(session[:2])))


def test_recommend_says_what_it_does_not_know(tiny_bundle: Path) -> None:
    result = run("recommend", "--bundle", tiny_bundle, "--user", "nobody", "--history", "i0003,gone,lost", "-n", 1)

    assert result.exit_code == 0
    assert "the model was not trained on user 'nobody'" in result.stderr
    assert "history: 2 of 3 items are not in the catalogue, the first: ['gone', 'lost']" in result.stderr


def test_recommend_counts_what_the_server_has_stored_and_makes_no_store_itself(tiny_bundle: Path) -> None:
    def best() -> str:
        result = run("recommend", "--bundle", tiny_bundle, "--user", "u0005", "-n", 1, "--json")
        return str(json.loads(result.stdout)["items"][0]["item_id"])

    before = best()
    assert not Path("recsys.db").exists()
    store = SqlEventStore("sqlite:///recsys.db")
    now_us = 1_790_000_000_000_000
    store.add([Event("e1", "u0005", before, "click", now_us)], received_us=now_us)
    store.close()

    assert best() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n", "0"], "error: n must be at least 1 (got 0)"),
        (["--user", ""], "error: user_id"),
        (["--candidates", "gone"], "none of the 1 items is in the catalogue"),
        (["--store", "mysql://host/db"], "neither SQLite nor PostgreSQL"),
    ],
)
def test_recommend_refuses_with_the_plain_message(tiny_bundle: Path, options: list[str], message: str) -> None:
    result = run("recommend", "--bundle", tiny_bundle, *options)

    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_missing_bundle_or_registry_is_refused_and_nothing_is_made() -> None:
    missing, empty = run("recommend", "--bundle", "nix"), run("recommend")

    assert (missing.exit_code, empty.exit_code) == (2, 2)
    assert "nix is no bundle" in missing.stderr
    assert "no MLflow database at" in empty.stderr
    assert "recsys train --data FOLDER" in empty.stderr
    assert list(Path.cwd().iterdir()) == []


# export


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_export_writes_everyones_list(tiny_bundle: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.cli_export._USERS_PER_PART", 33)  # so that there are several parts
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv, "jsonl": pl.read_ndjson}[suffix]

    result = run("export", "--bundle", tiny_bundle, "--out", f"lists.{suffix}", "-n", 3, "--json")

    table = read(f"lists.{suffix}")
    assert table.columns == ["user_id", "rank", "item_id", "score", "title"]
    assert table["user_id"].to_list() == [f"u{user:04d}" for user in range(80) for _ in range(3)]
    assert table["rank"].to_list() == [1, 2, 3] * 80
    assert json.loads(result.stdout) | {"version": ""} == {
        "file": f"lists.{suffix}",
        "users": 80,
        "rows": 240,
        "model": "bundle",
        "version": "",
    }
    with recsys.api.load(tiny_bundle) as recommender:
        expected = recommender.recommend("u0061", 3)
    assert table.filter(pl.col("user_id") == "u0061")["title"].to_list() == [item.title for item in expected]


def test_export_takes_chosen_users_once_each(tiny_bundle: Path) -> None:
    Path("users.txt").write_bytes(b"\xef\xbb\xbfu0009\n\nstranger\nu0002\n")

    result = run(
        "export",
        "--bundle",
        tiny_bundle,
        "--out",
        "some.csv",
        "-n",
        1,
        "--user",
        "u0002,u0007",
        "--users-file",
        "users.txt",
    )

    assert pl.read_csv("some.csv")["user_id"].to_list() == ["u0002", "u0007", "u0009", "stranger"]
    assert "1 of 4 users are not known to the model" in result.stderr
    assert "4 rows for 4 users" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "lists.xlsx"], "must end in .parquet, .csv, .jsonl"),
        (["--out", "nix/lists.csv"], "--out nix/lists.csv cannot be written"),
        (["--out", "lists.csv", "--users-file", "nix.txt"], "--users-file nix.txt cannot be read"),
        (["--out", "lists.csv", "--user", ","], "no user is named"),
    ],
)
def test_export_refuses_with_the_plain_message(tiny_bundle: Path, options: list[str], message: str) -> None:
    result = run("export", "--bundle", tiny_bundle, *options)

    assert result.exit_code == 2
    assert message in result.stderr


def test_an_interrupted_export_leaves_nothing_and_exits_with_130(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    Path("lists.csv").write_text("the old one")
    monkeypatch.setattr("recsys.cli_export._lists", interrupt)

    result = run("export", "--bundle", tiny_bundle, "--out", "lists.csv")

    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
    assert [path.name for path in Path.cwd().iterdir()] == ["lists.csv"]
    assert Path("lists.csv").read_text() == "the old one"


# serve


def test_serve_takes_options_over_the_environment_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []
    monkeypatch.setattr("serving.app.serve", served.append)
    monkeypatch.setenv("RECSYS_PORT", "1234")
    monkeypatch.setenv("RECSYS_HOST", "0.0.0.0")

    result = run("serve", "--port", 4321, "--alias", "challenger", "--store", "sqlite:///other.db")

    assert result.exit_code == 0
    assert served == [Settings(port=4321, host="0.0.0.0", alias="challenger", store_url="sqlite:///other.db")]


def test_serve_refuses_a_setting_that_is_out_of_bounds() -> None:
    result = run("serve", "--port", 99_999)

    assert result.exit_code == 2
    assert "error: port: Input should be less than or equal to 65535 (got 99999)" in result.stderr


# errors in general


def test_a_defect_is_no_bad_input(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(recsys.api.Recommender, "recommend", fail)

    result = run("recommend", "--bundle", tiny_bundle)

    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["recommend", "-n", "x"], ["train"], ["validate"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_the_version_is_printed() -> None:
    result = run("--version")

    assert result.exit_code == 0
    assert result.stdout.strip() == recsys.__version__


# doctor, in a process of its own: it switches the hub off


def doctor(folder: Path, home: Path, *options: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", "from recsys.cli import main; main()", "doctor", "--json", *options],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    return done.returncode, {found["what"]: found for found in json.loads(done.stdout)["findings"]}


def test_doctor_finds_nothing_wrong_with_an_empty_folder_and_leaves_it_empty(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    code, found = doctor(tmp_path, tmp_path_factory.mktemp("home"))

    assert code == 0
    assert found["MLflow store"]["state"] == found["event store"]["state"] == "note"
    assert found["training device"]["text"] in ("cpu", "cuda")
    assert found["text encoder"]["state"] in ("ok", "note")
    assert list(tmp_path.iterdir()) == []


def test_doctor_exits_with_1_where_the_store_is_broken(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")

    code, found = doctor(tmp_path, tmp_path_factory.mktemp("home"))

    assert code == 1
    assert found["MLflow store"]["state"] == "fault"
    assert "is not an SQLite database" in found["MLflow store"]["text"]


# what train says of a result


def report(**means: float) -> SuiteReport:
    """Return a report on ndcg@10 in which `full` leads each system by the difference of the means, ± 0.01."""
    table = {name: {"ndcg@10": Interval(mean, mean - 0.01, mean + 0.01, 100)} for name, mean in means.items()}
    gaps = {name: means["full"] - mean for name, mean in means.items() if name != "full"}
    differences = {name: {"ndcg@10": Interval(gap, gap - 0.01, gap + 0.01, 100)} for name, gap in gaps.items()}
    return SuiteReport("toy", "time", 1, table, differences)


def test_the_lead_is_over_the_best_source_and_never_over_random() -> None:
    lead = cli_training.lead_over_best_source(report(full=0.30, random=0.28, als=0.20, text=0.25))

    assert lead is not None
    assert "the best single source, text: ndcg@10 +0.050 [+0.040, +0.060]" in lead
    assert "the interval excludes zero" in lead


def test_a_lead_that_may_be_none_is_not_called_one() -> None:
    lead = cli_training.lead_over_best_source(report(full=0.300, als=0.295))

    assert lead is not None
    assert "no difference shown: the interval holds zero" in lead


def test_without_a_source_there_is_no_lead() -> None:
    assert cli_training.lead_over_best_source(report(full=0.3, random=0.1)) is None


# demo


def test_the_sample_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    cli_demo.write_sample_once(Path("data/sample"))
    first = Path("data/sample/items.parquet").stat().st_mtime_ns
    cli_demo.write_sample_once(Path("data/sample"))

    assert Path("data/sample/items.parquet").stat().st_mtime_ns == first
    assert "there already" in capsys.readouterr().out


def test_the_demo_shows_a_reader_with_a_history_and_a_session_of_one_topic(tiny_models: FittedModels) -> None:
    user_idx = tiny_models.user_ids.get(cli_demo.warm_reader(tiny_models))
    session = cli_demo.topical_session(tiny_models)

    assert len(tiny_models.log.history_of(user_idx)) >= 8
    categories = tiny_models.catalogue.table["categories"].to_list()
    assert len(set(session)) == 3
    assert set.intersection(*(set(categories[item] or []) for item in session))


# the script for schedulers


def test_the_script_refuses_bad_input_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    from training.train import main

    assert main(["--data", "nix"]) == 2
    assert main(["--data", str(write_tables(Path("mine"))), "--set", "encoder.epoch=1"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: nix: there is no such folder" in printed.err
    assert "encoder.epoch: Extra inputs are not permitted" in printed.err


def test_the_script_takes_the_preset_of_the_format_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import train

    class Started(Exception):
        pass

    def start(folder: Path, config: Config, **_: object) -> None:
        raise Started(config.data.max_unknown_item_share, config.tracking.uri)

    monkeypatch.setattr(train, "train_folder", start)

    with pytest.raises(Started, match=r"\(0.15, 'sqlite:///x.db'\)"):
        train.main(["--data", str(write_tables(Path("mine"))), "--tracking-uri", "sqlite:///x.db"])


def test_an_interrupted_script_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import train

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_folder", interrupt)

    assert train.main(["--data", str(write_tables(Path("mine")))]) == 130
    assert "the same command goes on from the last finished stage" in capsys.readouterr().err


def test_a_loaded_data_set_is_trained_on_with_the_preset_of_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    import training.train
    from recsys.preset_files import preset

    chosen: list[Config] = []
    monkeypatch.setattr(training.train, "train_dataset", lambda _, config, **__: chosen.append(config))

    recsys.train(recsys.load_dataset(write_tables(Path("mine"))), overrides={"seed": 5})

    assert chosen == [preset("tables").with_overrides({"seed": 5})]


def test_settings_with_a_fault_are_refused_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.cli_serving import settings_from

    monkeypatch.setenv("RECSYS_PORT", "many")

    with pytest.raises(ConfigError, match="RECSYS_PORT"):
        settings_from(host="localhost")


def test_an_interrupted_training_says_how_to_go_on_and_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    from training import train

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_folder", interrupt)

    result = run("train", "--data", write_tables(Path("mine")))

    assert result.exit_code == 130
    assert result.stderr == "interrupted; the same command goes on from the last finished stage\n"
    assert result.stdout == ""
