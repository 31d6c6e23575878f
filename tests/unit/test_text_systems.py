"""What stands beside the whole as text alone: which text it is, and what it may know."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import text_systems
from benchmarks.suites import Trial
from benchmarks.text_systems import Embedded, encoded_texts, one_text
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.splits import Split
from training.desk import Desk
from training.fitting import Corpus
from training.progress import Reporter
from training.timings import StageClock
from training.work import WorkFolder

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Alpha", "Beta", "Gamma"],
        "description": ["A plot.", "Another.", None],
        "categories": [["Drama"], ["Krimi"], []],
        "director": ["Ann Lee", "Bo Ek", "Cy Orr"],
        "year": ["1995", "1962", None],
    }
)


def films() -> Dataset:
    rows = {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "c"], "event": ["rating"] * 3}
    times = pl.Series([1, 2, 3]).cast(pl.Datetime("us", "UTC"))
    return Dataset(ITEMS, pl.DataFrame(rows).with_columns(times.alias("timestamp")))


CONFIG = Config().with_overrides({"data.text_fields": ["title", "director", "categories", "description"]})


def test_the_one_text_is_title_year_categories_and_description_whatever_else_a_preset_reads() -> None:
    whole, alone = encode_dataset(films(), CONFIG.data), one_text(films(), CONFIG)

    assert "Ann Lee" in whole.catalogue.texts[0]
    assert all(part in alone.catalogue.texts[0] for part in ("Alpha", "1995", "Drama", "A plot"))
    assert not any(name in text for text in alone.catalogue.texts for name in ("Lee", "Ek", "Orr"))
    assert alone.log.item_idx.tolist() == whole.log.item_idx.tolist()


@pytest.mark.parametrize("n_tokens", [None, 24])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_part_of_the_training_reads_nothing_of_the_items_it_hides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frozen: bool, n_tokens: int | None
) -> None:
    asked: list[tuple[str, list[int], str]] = []
    lengths: list[int] = []

    class Stage:
        def __init__(self, value: float) -> None:
            self.embeddings = np.full((3, 2), value, np.float32)

    def stage(data: EncodedData, split: Split, config: Config, desk: Desk, key: str, *, hidden_idx: Any) -> Stage:
        asked.append((config.encoder.tune, hidden_idx.tolist(), data.catalogue.texts[0]))
        lengths.append(config.encoder.max_length)
        return Stage(len(asked))

    monkeypatch.setattr(text_systems, "run_text_stage", stage)
    whole = encode_dataset(films(), CONFIG.data)
    split = Split(np.zeros(3, np.int8), None, None)
    nothing = np.empty(0, np.int32)
    parts = [
        Corpus(whole, split, CONFIG, np.zeros((3, 2), np.float32), None, hidden)
        for hidden in (np.array([1], np.int32), nothing)
    ]
    desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), StageClock())
    alone = one_text(films(), CONFIG)

    trial = Trial(parts[:1], parts[1], [], "key")
    found = encoded_texts(trial, alone, desk, frozen=frozen, n_tokens=n_tokens)

    text = alone.catalogue.texts[0]
    assert set(lengths) == {n_tokens or CONFIG.encoder.max_length}
    if frozen:
        assert asked == [("none", [], text)]
        assert found.part is found.test
    else:
        tune = CONFIG.encoder.tune
        assert asked == [(tune, [1], text), (tune, [], text)]
        assert (found.part[0, 0], found.test[0, 0]) == (1.0, 2.0)


def test_two_embeddings_of_a_text_stand_side_by_side() -> None:
    ones, twos = np.ones((3, 2), np.float32), np.full((3, 1), 2.0, np.float32)
    both = Embedded(ones, 2 * ones).beside(Embedded(twos, 3 * twos))

    assert both.part.tolist() == [[1.0, 1.0, 2.0]] * 3
    assert both.test.tolist() == [[2.0, 2.0, 6.0]] * 3
