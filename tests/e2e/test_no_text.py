"""A log of ids and times alone, on a machine without a pretrained encoder: trained, loaded and served."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import recsys
from recsys.cli import app
from recsys.errors import EncoderError

pytestmark = pytest.mark.slow

FAST = {
    "data.unknown_items": "keep",
    "sequence.embedding_size": 8,
    "sequence.n_layers": 1,
    "sequence.epochs": 1,
    "collaborative.factors": 8,
    "ranker.n_trees": 10,
    "evaluation.n_bootstrap": 20,
}
N_USERS, N_ITEMS = 60, 40


def write_log(folder: Path) -> None:
    """Write who took what when, half of the users from the one half of the items, the others from the other."""
    rng = np.random.default_rng(1)
    begin = datetime(2024, 1, 1, tzinfo=UTC).timestamp()
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(N_USERS):
        items = rng.permutation(N_ITEMS // 2)[:15] * 2 + user % 2
        times = begin + np.sort(rng.uniform(0, 30 * 86_400, len(items)))
        rows += [f"u{user}\ti{item}\t{time:.0f}" for item, time in zip(items, times, strict=True)]
    folder.mkdir()
    (folder / "bare.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_a_log_without_any_text_is_trained_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(model: str) -> Path:
        raise EncoderError(f"{model} is not on this machine")

    monkeypatch.setattr("training.encoder.resolve", resolve)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "bare")
    settings = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]

    trained = CliRunner().invoke(app, ["train", "--data", "bare", *settings])

    assert trained.exit_code == 0, trained.output
    with recsys.load("models:/recsys@champion") as recommender:
        even = [found.item_id for found in recommender.recommend("u0", n=5)]
        session = recommender.recommend(history=["i1", "i3"], n=5)
        similar = recommender.similar("i2", n=5)
    assert len(even) == len(set(even)) == 5
    assert all(int(item[1:]) % 2 == 0 for item in even)
    assert len(session) == 5
    assert {int(found.item_id[1:]) % 2 for found in similar} == {0}
