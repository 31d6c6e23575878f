import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import TrackingConfig
from recsys.errors import RegistryError
from recsys.mlflow_store import (
    MlflowException,
    connect,
    default_uri,
    from_mlflow_name,
    mlflow,
    mlflow_errors,
    shown_uri,
    to_mlflow_name,
)
from recsys.registry import ModelRef, Registry

MLMODEL = "flavors:\n  python_function:\n    artifacts:\n      bundle:\n        path: artifacts/bundle\n"


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these tests may land in the repository, nor come from the user's own settings."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes a second, copying them does not."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}")
    client.create_experiment("toy", artifact_location=(path.parent / "mlartifacts").as_uri())
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Callable[..., str]:
    """Register a new version whose run has the given metrics, and return its number."""

    def _add(**metrics: float) -> str:
        client = mlflow.MlflowClient(tracking_uri=registry.uri)
        run = client.create_run(client.get_experiment_by_name("toy").experiment_id)
        for name, value in metrics.items():
            client.log_metric(run.info.run_id, to_mlflow_name(name), value)
        model = tmp_path / "models" / run.info.run_id
        (model / "artifacts" / "bundle").mkdir(parents=True)
        (model / "MLmodel").write_text(MLMODEL, encoding="utf-8")
        (model / "artifacts" / "bundle" / "manifest.json").write_text(run.info.run_id, encoding="utf-8")
        return registry.register(run.info.run_id, model.as_uri(), tags={"data": "toy"})

    return _add


def _aliases(registry: Registry) -> dict[str, str]:
    return {alias: ref.version for ref in registry.versions() for alias in ref.aliases}


@pytest.mark.parametrize(
    ("name", "mapped"),
    [
        ("test/full/ndcg@10", "test/full/ndcg_at_10"),
        ("slices/full/user=warm/hr@10_lo", "slices/full/user_is_warm/hr_at_10_lo"),
        ("seconds/encoder", "seconds/encoder"),
        ("clicks + likes", "clicks _u002b_ likes"),
        ("look_at_this", "look_u005f_at_this"),
        ("类别/auc", "类别/auc"),
    ],
)
def test_metric_names_become_names_that_mlflow_allows(name: str, mapped: str) -> None:
    assert to_mlflow_name(name) == mapped
    assert from_mlflow_name(mapped) == name


@given(st.lists(st.one_of(st.text(max_size=4), st.sampled_from(["_", "at_", "_is_", "_u0040_", "@", "="]))))
def test_every_name_comes_back_from_mlflow_as_it_was(parts: list[str]) -> None:
    name = "".join(parts)
    assert from_mlflow_name(to_mlflow_name(name)) == name
    assert not set("@=%:+\n") & set(to_mlflow_name(name))


def test_the_tracking_uri_is_the_configs_then_the_environments_then_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_uri() == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert default_uri(TrackingConfig()) == "http://tracking:5000"
    assert default_uri(TrackingConfig(uri="sqlite:///mine.db")) == "sqlite:///mine.db"
    assert Registry().uri == "http://tracking:5000"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@db:5432/mlflow", "postgresql://me:***@db:5432/mlflow"),
        ("http://me:se:c@host/x", "http://me:***@host/x"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_messages_show_no_password(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
    with (
        pytest.raises(RegistryError, match=r"cannot read at .* it is shut; check the tracking URI") as caught,
        mlflow_errors(uri, "read"),
    ):
        raise MlflowException("it is shut\nand more")
    assert "secret" not in str(caught.value)


def test_the_first_version_becomes_champion_and_later_ones_challenger(
    registry: Registry, add: Callable[..., str]
) -> None:
    assert add() == "1"
    assert _aliases(registry) == {"champion": "1"}
    assert [add(), add()] == ["2", "3"]
    assert _aliases(registry) == {"champion": "1", "challenger": "3"}
    assert [ref.version for ref in registry.versions()] == ["3", "2", "1"]


def test_a_version_is_found_by_alias_and_by_number(registry: Registry, add: Callable[..., str]) -> None:
    before = datetime.now(UTC)
    for _ in range(2):
        add()
    champion = registry.resolve()
    assert (champion.name, champion.version, champion.alias) == ("recsys", "1", "champion")
    assert champion.tags == {"data": "toy"}
    assert champion.created_at is not None
    assert abs((champion.created_at - before).total_seconds()) < 60
    assert (
        registry.resolve("@challenger").version == registry.resolve(2).version == registry.resolve("2").version == "2"
    )
    assert registry.resolve("1").run_id == champion.run_id != registry.resolve("2").run_id


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("chalenger", r"no alias 'chalenger'; it has the aliases champion \(version 1\) and the versions 4, 3, 2, …"),
        ("99", r"no version '99'; .* the versions 4, 3, 2, … \(4 in all\): name one of these"),
        ("latest", r"no alias 'latest'"),
        ("", r"no alias ''"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    registry: Registry, add: Callable[..., str], wanted: str, message: str
) -> None:
    for _ in range(4):
        add()
    registry.promote("4")
    registry.rollback()
    with pytest.raises(RegistryError, match=message):
        registry.resolve(wanted)


def test_a_model_that_is_not_registered_is_named_with_those_that_are(
    registry: Registry, add: Callable[..., str]
) -> None:
    with pytest.raises(RegistryError, match=r"no model 'recsys' is registered at sqlite:.* which has none; train one"):
        registry.versions()
    add()
    other = Registry(registry.uri, "films")
    for ask in (other.versions, other.resolve, other.promote, other.rollback, other.compare):
        with pytest.raises(RegistryError, match=r"no model 'films' is registered .*, which has recsys; train one"):
            ask()


def test_looking_into_a_missing_database_leaves_none_behind(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "mlflow.db"
    with pytest.raises(RegistryError, match=r"no MLflow database at .*absent/mlflow\.db; train a model first"):
        Registry(f"sqlite:///{path}").resolve()
    with pytest.raises(RegistryError, match=r"no MLflow database at .*cwd/mlflow\.db"):
        Registry().versions()
    assert not path.parent.exists()
    assert list(Path.cwd().iterdir()) == []


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("shopping list", encoding="utf-8")
    with pytest.raises(RegistryError, match=r"notes\.db is not an SQLite database \(it begins with b'shopping'\)"):
        connect(f"sqlite:///{path}", create=True)
    with pytest.raises(RegistryError, match=r"cannot be opened for reading: Is a directory; check what it is"):
        connect(f"sqlite:///{tmp_path}")
    with pytest.raises(RegistryError, match=r"names no database file; write sqlite:///FILE"):
        connect("sqlite://")


def test_a_database_of_another_mlflow_says_how_to_upgrade(registry: Registry, uri: str) -> None:
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = 'older'")
    with pytest.raises(RegistryError, match=r"cannot .*out-of-date database schema .*mlflow db upgrade"):
        registry.versions()


def test_a_server_that_is_away_is_named_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RegistryError, match=rf"server at http://me:\*\*\*@127.0.0.1:{port} does not answer .*start it"):
        Registry(f"http://me:secret@127.0.0.1:{port}").resolve()


def test_an_unknown_kind_of_store_and_a_missing_driver_are_named() -> None:
    with pytest.raises(RegistryError, match=r"at ftp://host/x: .*unsupported URI"):
        Registry("ftp://host/x").versions()
    with pytest.raises(RegistryError, match=r"install the driver of this kind of database \(MySQLdb"):
        Registry("mysql://me:secret@127.0.0.1:9/x").versions()


def test_promotion_takes_the_challenger_and_frees_its_alias(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(2):
        add()
    promoted = registry.promote()
    assert (promoted.version, promoted.alias) == ("2", "champion")
    assert _aliases(registry) == {"champion": "2"}
    add()
    registry.promote("1")
    assert _aliases(registry) == {"champion": "1", "challenger": "3"}


def test_rollback_goes_back_one_champion_at_a_time(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(4):
        add()
    for version in ("3", "2", "2", "4"):  # the second 2 changes nothing, and is no step to go back
        registry.promote(version)
    assert [registry.rollback().version for _ in range(3)] == ["2", "3", "1"]
    with pytest.raises(RegistryError, match=r"has no champion before version 1; choose one with recsys promote"):
        registry.rollback()
    assert registry.resolve().version == "1"


def test_rollback_retraces_a_champion_that_came_back(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(2):
        add()
    registry.promote("2")
    registry.promote("1")
    assert [registry.rollback().version for _ in range(2)] == ["2", "1"]
    with pytest.raises(RegistryError, match="no champion before"):
        registry.rollback()


def test_rollback_knows_champions_that_were_set_by_hand(registry: Registry, add: Callable[..., str]) -> None:
    client = mlflow.MlflowClient(tracking_uri=registry.uri)
    for _ in range(4):
        add()
    registry.promote("2")
    client.set_registered_model_alias("recsys", "champion", "3")
    assert registry.rollback().version == "2"
    client.set_registered_model_alias("recsys", "champion", "3")
    registry.promote("4")
    assert [registry.rollback().version for _ in range(3)] == ["3", "2", "1"]


def test_rollback_passes_over_deleted_versions(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(3):
        add()
    registry.promote("2")
    registry.promote("3")
    mlflow.MlflowClient(tracking_uri=registry.uri).delete_model_version("recsys", "2")
    assert registry.rollback().version == "1"


def test_a_new_version_is_champion_where_the_champion_was_deleted(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(2):
        add()
    mlflow.MlflowClient(tracking_uri=registry.uri).delete_model_version("recsys", "1")
    with pytest.raises(RegistryError, match=r"no alias 'champion'; it has the aliases challenger \(version 2\)"):
        registry.resolve()
    assert add() == "3"
    assert registry.resolve().version == "3"


def test_files_on_this_machine_are_used_where_they_lie(
    registry: Registry, add: Callable[..., str], tmp_path: Path
) -> None:
    for _ in range(2):
        add()
    ref = registry.resolve("2")
    folder = registry.fetch(ref, tmp_path / "cache")
    assert (folder / "manifest.json").read_text(encoding="utf-8") == ref.run_id
    assert folder == tmp_path / "models" / str(ref.run_id) / "artifacts" / "bundle"
    assert not (tmp_path / "cache").exists()


def test_files_that_are_gone_or_no_bundle_are_refused(
    registry: Registry, add: Callable[..., str], tmp_path: Path
) -> None:
    add()
    ref = registry.resolve()
    model = tmp_path / "models" / str(ref.run_id)
    shutil.rmtree(model / "artifacts" / "bundle")
    with pytest.raises(RegistryError, match=r"version 1 of 'recsys' lacks its bundle: no folder .*artifacts/bundle"):
        registry.fetch(ref, tmp_path)
    (model / "MLmodel").write_text("flavors: {sklearn: {}}", encoding="utf-8")
    with pytest.raises(RegistryError, match=r"version 1 of 'recsys' holds no bundle .*choose another version"):
        registry.fetch(ref, tmp_path)
    shutil.rmtree(model)
    with pytest.raises(RegistryError, match=r"the files of version 1 of 'recsys' are not at .*move them back"):
        registry.fetch(ref, tmp_path)


@pytest.fixture
def remote(registry: Registry, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModelRef:
    """A version whose files lie in a bucket, which here is a folder; `downloads` counts."""
    add()
    ref = registry.resolve()
    stored = tmp_path / "models" / str(ref.run_id)
    monkeypatch.setattr(
        mlflow.MlflowClient, "get_model_version_download_uri", lambda self, name, version: "s3://bucket/model"
    )

    def _download(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        assert (artifact_uri, tracking_uri) == ("s3://bucket/model", registry.uri)
        with (tmp_path / "downloads").open("a") as log:
            log.write("x")
        return str(shutil.copytree(stored, Path(dst_path) / "model"))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", _download)
    return ref


def test_files_elsewhere_are_downloaded_once(registry: Registry, remote: ModelRef, tmp_path: Path) -> None:
    folders = {registry.fetch(remote, tmp_path / "new" / "cache") for _ in range(3)}
    assert len(folders) == 1
    assert (folders.pop() / "manifest.json").read_text(encoding="utf-8") == remote.run_id
    assert (tmp_path / "downloads").read_text() == "x"
    assert sorted(path.name[:9] for path in (tmp_path / "new" / "cache").iterdir()) == [".lock", "recsys-1-"]


def test_a_download_that_breaks_off_leaves_nothing(
    registry: Registry, remote: ModelRef, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def _break_off(artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        (Path(dst_path) / "half").write_text("a part", encoding="utf-8")
        raise OSError("connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", _break_off)
        with pytest.raises(RegistryError, match=r"cannot download version 1 of 'recsys' .*connection reset"):
            registry.fetch(remote, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]
    assert registry.fetch(remote, tmp_path / "cache").is_dir()


def test_two_versions_are_compared_metric_by_metric(registry: Registry, add: Callable[..., str]) -> None:
    add(**{"test/full/ndcg@10": 0.2, "test/full/ndcg@10_lo": 0.18, "test/full/ndcg@10_hi": 0.22, "seconds/total": 9.0})
    add(**{"test/full/ndcg@10": 0.25, "test/full/hr@10": 0.5, "test/random/x_lo": 0.125})
    table = registry.compare()
    columns = ["metric", "a", "a_lo", "a_hi", "b", "b_lo", "b_hi", "difference"]
    expected = pl.DataFrame(
        [
            ("test/full/hr@10", None, None, None, 0.5, None, None, None),
            ("test/full/ndcg@10", 0.2, 0.18, 0.22, 0.25, None, None, 0.25 - 0.2),
            ("test/random/x_lo", None, None, None, 0.125, None, None, None),  # a name of its own, no bound of another
        ],
        schema={name: pl.String if name == "metric" else pl.Float64 for name in columns},
        orient="row",
    )
    assert table.equals(expected)
    assert registry.compare(2, 1)["difference"].drop_nulls().to_list() == [0.2 - 0.25]
    assert registry.compare("1", "2", prefix="seconds/")["a"].to_list() == [9.0]


def test_versions_without_such_metrics_cannot_be_compared(registry: Registry, add: Callable[..., str]) -> None:
    for _ in range(2):
        add()
    with pytest.raises(
        RegistryError, match=r"neither version champion nor challenger of 'recsys' has a metric that beg"
    ):
        registry.compare()
    client = mlflow.MlflowClient(tracking_uri=registry.uri)
    client.create_model_version("recsys", "/somewhere")
    with pytest.raises(RegistryError, match=r"version 3 of 'recsys' has no run to take metrics from"):
        registry.compare("champion", "3")


ROOT = Path(__file__).resolve().parents[2]


def test_a_new_database_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    script = (
        "import sys; from recsys.mlflow_store import connect; "
        "print(len(connect(sys.argv[1], create=True).search_experiments()))"
    )
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    makers = [
        subprocess.Popen([sys.executable, "-c", script, uri], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    assert [maker.communicate()[0].strip() for maker in makers] == ["1", "1"]
