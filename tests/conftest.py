"""Fixtures that several kinds of test share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from postgres import PostgresCluster

    from recsys.models.fitted import FittedModels
    from training.fitting import Corpus

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says more about the machine than about the code.
settings.register_profile("recsys", deadline=None)
settings.load_profile("recsys")


@pytest.fixture(scope="session")
def published_data() -> Path:
    """The folder of published logs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"published logs not found at {folder}; set RECSYS_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the encoder of `tiny_corpus` is written; do not change what is in it."""
    return tmp_path_factory.mktemp("tiny") / "encoder"


# The builders are imported where they are used: they load LightGBM, implicit and ONNX, which most tests do without.


@pytest.fixture(scope="session")
def tiny_corpus(tiny_encoder: Path) -> "Corpus":
    """A simulated log of 80 users and 150 items over eight days, with impressions, split by time."""
    from tiny import build_tiny_corpus

    return build_tiny_corpus(tiny_encoder)


@pytest.fixture(scope="session")
def tiny_models(tiny_corpus: "Corpus", tmp_path_factory: pytest.TempPathFactory) -> "FittedModels":
    """Everything fitted on all of `tiny_corpus`, with a ranker of at most 30 trees. Record no live events in it."""
    from tiny import train_tiny_models

    return train_tiny_models(tiny_corpus, tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny_models: "FittedModels", tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real bundle of `tiny_models` with its encoder; copy it before you change anything in it."""
    from tiny import write_tiny_bundle

    return write_tiny_bundle(tiny_models, tiny_encoder, tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="session")
def postgres() -> "Iterator[PostgresCluster]":
    """A PostgreSQL server with no database but its own; tests that need it skip where PostgreSQL is not installed."""
    from postgres import PostgresCluster, postgres_programs

    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (on Debian: apt-get install postgresql)")
    cluster = PostgresCluster(programs)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a test in a folder of its own, with no settings from outside."""
    from serving.settings import Settings

    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        *(f"RECSYS_{key.upper()}" for key in Settings.model_fields),
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
