"""What the suites hold back: nothing of the test is in what a trial is trained on."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import suites
from benchmarks.suites import SUITES, cold_items, later_impressions, load_with_plots, random_holdout
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData
from recsys.errors import DataError
from recsys.schema import Col
from recsys.splits import Fold, Split
from training.desk import Desk
from training.fitting import Corpus, known_to
from training.progress import Reporter
from training.timings import StageClock
from training.work import WorkFolder

N_USERS, N_ITEMS = 12, 20
NOTHING = np.empty(0, np.int32)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(WorkFolder(tmp_path), Reporter(quiet=True), StageClock())


@pytest.fixture(autouse=True)
def _no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings that say which interactions the text stage was allowed to see."""

    def corpus(
        data: EncodedData,
        split: Split,
        config: Config,
        desk: Desk,
        key: str,
        *,
        hidden_idx: np.ndarray = NOTHING,
    ) -> Corpus:
        seen = ~np.isin(data.log.item_idx, hidden_idx)
        counts = np.bincount(data.log.item_idx[seen], minlength=len(data.catalogue))
        return Corpus(data, split, config, counts[:, None].astype(np.float32), None, hidden_idx)

    monkeypatch.setattr(suites, "_corpus", corpus)


def _dataset(n_per_user: int = 12) -> Dataset:
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(N_USERS), n_per_user)
    item = np.concatenate([rng.permutation(N_ITEMS)[:n_per_user] for _ in range(N_USERS)])
    items = pl.DataFrame({Col.ITEM_ID: [f"i{n}" for n in range(N_ITEMS)], Col.TITLE: [f"t{n}" for n in range(N_ITEMS)]})
    interactions = pl.DataFrame(
        {
            Col.USER_ID: [f"u{n:02}" for n in user],
            Col.ITEM_ID: [f"i{n}" for n in item],
            Col.TIMESTAMP: pl.Series(np.arange(len(user)) * 1_000_000).cast(pl.Datetime("us", "UTC")),
            Col.EVENT: ["click"] * len(user),
            Col.VALUE: [None] * len(user),
            Col.REQUEST_ID: [None] * len(user),
            Col.TEXT: [None] * len(user),
        },
        schema_overrides={Col.VALUE: pl.Float64, Col.REQUEST_ID: pl.String, Col.TEXT: pl.String},
    )
    return Dataset(items, interactions)


def _config(name: str, **overrides: object) -> Config:
    settings = {f"{part}.{key}": value for part, keys in SUITES[name].settings.items() for key, value in keys.items()}
    return Config().with_overrides(settings | overrides)


def test_every_part_of_the_cold_suite_hides_other_items_from_models_and_encoder(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "cold_items.txt").write_text("i0\ni1\ni2\ni3\n", encoding="utf-8")
    trial = cold_items(_dataset(), tmp_path, _config("ml-1m-cold"), desk)
    assert trial.test is not None
    log, cold = trial.test.data.log, np.arange(4)

    hidden = np.concatenate([part.pseudo_cold_idx for part in trial.parts])
    assert sorted(hidden.tolist()) == list(range(4, N_ITEMS))  # each warm item once, no cold one
    for part in trial.parts:
        seen = log.item_idx[known_to(part, Fold.LABEL)]
        assert not np.isin(seen, cold).any()
        assert not np.isin(seen, part.pseudo_cold_idx).any()
        assert not part.item_embeddings[part.pseudo_cold_idx].any()
    assert set(log.item_idx[known_to(trial.test, Fold.TEST)].tolist()) == set(range(4, N_ITEMS))
    assert not len(trial.test.pseudo_cold_idx)
    assert {part.rows for part in trial.parts} == {"cold"}
    assert trial.test.rows == "retrieved"  # the requests give their candidates, and are measured as lists out of these


def test_the_cold_suite_asks_for_cold_items_with_a_warm_history(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "cold_items.txt").write_text("i0\ni1\ni2\ni3\n", encoding="utf-8")
    trial = cold_items(_dataset(), tmp_path, _config("ml-1m-cold"), desk)

    assert trial.requests
    for labelled in trial.requests:
        assert labelled.request.candidates is not None
        assert labelled.request.candidates.tolist() == [0, 1, 2, 3]
        assert set(labelled.relevant_idx.tolist()) <= {0, 1, 2, 3}
        assert not set(labelled.request.history.item_idx.tolist()) & {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "i0\nitem 17\n\n i1 \nx\n",
            r"2 of 4 ids in .*cold_items.txt are not in the catalogue, the first: \['item 17', 'x'\]",
        ),
        (" \n", r"cold_items.txt names no item; write the ids of the cold items, one per line"),
    ],
)
def test_cold_items_are_named_one_per_line_and_known(text: str, said: str, tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "cold_items.txt").write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match=said):
        cold_items(_dataset(), tmp_path, _config("ml-1m-cold"), desk)


def test_an_id_of_a_cold_item_may_hold_a_space(tmp_path: Path, desk: Desk) -> None:
    dataset = _dataset()
    spaced = pl.col(Col.ITEM_ID).str.replace("i", "item ")
    dataset = Dataset(dataset.items.with_columns(spaced), dataset.interactions.with_columns(spaced))
    (tmp_path / "cold_items.txt").write_text("item 0\r\nitem 1\r\n", encoding="utf-8", newline="")
    trial = cold_items(dataset, tmp_path, _config("ml-1m-cold"), desk)

    assert {tuple(labelled.request.candidates.tolist()) for labelled in trial.requests} == {(0, 1)}  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_holdout_tests_a_quarter_of_each_user_and_labels_each_part_of_the_rest_once(
    tmp_path: Path, desk: Desk, seed: int
) -> None:
    trial = random_holdout(_dataset(), tmp_path, _config("ml-100k-random", seed=seed), desk)
    assert trial.test is not None
    is_test = trial.test.split.interaction_fold == Fold.TEST
    user = trial.test.data.log.user_idx

    assert np.bincount(user[is_test]).tolist() == [3] * N_USERS
    labelled = np.array([part.split.interaction_fold == Fold.LABEL for part in trial.parts])
    assert labelled.sum(axis=0).tolist() == (~is_test).astype(int).tolist()
    for part in trial.parts:
        assert (part.split.interaction_fold[is_test] == Fold.TEST).all()
        assert not known_to(part, Fold.LABEL)[is_test | (part.split.interaction_fold == Fold.LABEL)].any()


def test_histories_that_come_with_the_test_feed_nothing_before_it(tmp_path: Path, desk: Desk) -> None:
    dataset = _dataset()
    day = 86_400_000_000
    shown = pl.DataFrame(
        {
            Col.REQUEST_ID: [f"r{n}" for n in range(40)],
            Col.USER_ID: [f"u{n % N_USERS:02}" for n in range(40)],
            Col.TIMESTAMP: pl.Series([(n + 1) * day for n in range(40)]).cast(pl.Datetime("us", "UTC")),
            Col.ITEM_ID: [f"i{n % N_ITEMS}" for n in range(40)],
            Col.POSITION: [1] * 40,
            Col.CLICKED: [True] * 40,
        }
    )
    # Every user's history is dated before all requests; those of every other user are told with the last one.
    told = pl.col(Col.USER_ID).str.slice(1).cast(pl.Int64) % 2 == 0
    interactions = dataset.interactions.with_columns(
        pl.when(told).then(pl.lit("r39")).otherwise(pl.lit("r0")).alias(Col.REQUEST_ID)
    )
    config = _config("mind-zh-impressions", **{"split.test_from": "1970-01-31T00:00"})
    trial = later_impressions(replace(dataset, interactions=interactions, impressions=shown), tmp_path, config, desk)

    corpus = trial.parts[0]
    known = set(corpus.data.log.user_idx[known_to(corpus, Fold.TEST)].tolist())
    assert known == set(range(1, N_USERS, 2))
    assert not corpus.split.in_time(corpus.data.log.timestamp_us)[~known_to(corpus, Fold.TEST)].any()


def test_another_seed_draws_another_test(tmp_path: Path, desk: Desk) -> None:
    trials = [random_holdout(_dataset(), tmp_path, _config("ml-100k-random", seed=seed), desk) for seed in (0, 0, 1)]
    folds = [trial.test.split.interaction_fold.tolist() for trial in trials if trial.test is not None]

    assert folds[0] == folds[1]
    assert folds[0] != folds[2]


def test_plots_come_from_the_film_with_the_same_title_and_year(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Dataset(
        pl.DataFrame(
            {
                Col.ITEM_ID: ["1", "2", "3"],
                Col.TITLE: ["Matrix, The", "Sabrina", "Nobody knows"],
                "release_year": [1999.0, 1954.0, None],
            }
        ),
        _dataset().interactions,
    )
    other = Dataset(
        pl.DataFrame(
            {
                Col.ITEM_ID: ["a", "b", "c"],
                Col.TITLE: ["The Matrix", "Sabrina", "Nobody Knows"],
                Col.DESCRIPTION: ["A hacker.", "The one of 1995.", "Nothing."],
                "year": pl.Series([1999, 1995, 2000], dtype=pl.Int32),
            }
        ),
        _dataset().interactions,
    )
    monkeypatch.setattr(suites, "load_dataset", lambda folder, **_: other if folder.name == "ml-1m-half" else own)
    items = load_with_plots(Path("data"), "ml-100k", Config()).items

    assert items[Col.ITEM_ID].to_list() == ["1", "2", "3"]
    assert items[Col.DESCRIPTION].to_list() == ["A hacker.", None, None]
