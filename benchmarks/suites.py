"""The evaluation suites: fixed splits of published logs. Each says what is trained on and what is asked at the test.

A suite gives configuration and folds; everything else is the engine's own code.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import Config
from recsys.datasets import load_dataset
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset, request_rows
from recsys.errors import DataError
from recsys.ids import IdMap
from recsys.schema import Col
from recsys.splits import Fold, Split, make_split
from training.desk import Desk, seed_for
from training.fitting import MAX_REQUEST_HISTORY, Corpus
from training.requests import LabelledRequest, cold_requests
from training.system import test_requests
from training.text import run_text_stage
from training.work import WorkFolder, stage_key

_ALL: Final = 1_000_000
_TEST_SHARE: Final = 0.25
_EVERY_GROUP: Final = (
    "without text",
    "without collaborative",
    "without sequence",
    "without session",
    "without popularity",
    "without item",
    "without user",
)
_NOTHING: Final = np.empty(0, np.int32)


@dataclass(frozen=True)
class Trial:
    """One training with its test.

    parts: ways to divide what is known before the test, whose rows teach the ranker. test: what is fitted on when the
    requests are answered, None where that is the only part. key: of data and protocol.
    """

    parts: list[Corpus]
    test: Corpus | None
    requests: list[LabelledRequest]
    key: str


@dataclass(frozen=True)
class Suite:
    """One evaluation protocol. folder: below the folder of published logs. split: in words, for the report.

    seeds: of the split; None where the split is fixed. metric: what peers search their settings by. hides_items: the
    test asks about items without behaviour. arms: ablations that are run by default. reports_candidates: candidates
    are retrieved, not given.
    """

    name: str
    folder: str
    preset: str
    split: str
    settings: dict[str, Any]
    trial: Callable[[Dataset, Path, Config, Desk], Trial]
    load: Callable[[Path, str, Config], Dataset] = field(
        default=lambda data_folder, folder, config: load_dataset(data_folder / folder, config=config.data)
    )
    seeds: tuple[int, ...] | None = None
    metric: str = "ndcg@10"
    hides_items: bool = False
    arms: tuple[str, ...] = _EVERY_GROUP
    reports_candidates: bool = False


def leave_one_out(dataset: Dataset, _: Path, config: Config, desk: Desk) -> Trial:
    """Every user's last interaction is the test, the one before validates; the whole catalogue is ranked."""
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split)
    corpus = _corpus(data, split, config, desk, dataset.fingerprint())
    return Trial([corpus], None, test_requests(corpus), dataset.fingerprint())


def cold_items(dataset: Dataset, folder: Path, config: Config, desk: Desk) -> Trial:
    """Items of `cold_items.txt` lose all behaviour; users' choices among them alone are ranked.

    For the ranker to learn how items without behaviour are to be judged, the other items are divided into parts, and
    each part in turn loses its behaviour, for the encoder too.
    """
    data = encode_dataset(dataset, config.data)
    cold_idx = _cold_idx(folder, data.catalogue.ids)
    fold = np.where(np.isin(data.log.item_idx, cold_idx), Fold.TEST, Fold.FIT).astype(np.int8)
    split = Split(fold, None, None)
    warm = np.flatnonzero(data.log.select(fold == Fold.FIT).item_counts())
    rng = np.random.default_rng(seed_for(config.seed, "pseudo-cold"))
    n_parts = max(1, round(1.0 / config.ranker.pseudo_cold_share))
    key = stage_key(dataset.fingerprint(), "cold items", n_parts)
    parts = []
    for number, hidden in enumerate(np.array_split(rng.permutation(warm), n_parts)):
        hidden_idx = np.sort(hidden).astype(np.int32)
        at = replace(desk, work=WorkFolder(desk.work.folder / f"part-{number + 1}"))
        parts.append(_corpus(data, split, config, at, stage_key(key, number), hidden_idx=hidden_idx))
    requests = cold_requests(data.log, cold_idx, np.arange(data.log.n_users), max_history=MAX_REQUEST_HISTORY)
    # At the test nothing is hidden; what is asked about is given with each request.
    asked = config.with_overrides({"ranker.rows": "retrieved"})
    test = replace(_corpus(data, split, config, desk, key), config=asked)
    return Trial(parts, test, list(requests), key)


def random_holdout(dataset: Dataset, _: Path, config: Config, desk: Desk) -> Trial:
    """A quarter of each user's interactions, drawn at random with the seed, is the test; the whole catalogue is ranked.

    The rest is divided into parts, each of which in turn is held out of the models and labels the ranker's rows.
    """
    data = encode_dataset(dataset, config.data)
    rng = np.random.default_rng(seed_for(config.seed, "random split"))
    place = _random_places(data, rng)
    is_test = place < _TEST_SHARE
    n_parts = config.split.n_label
    number = np.minimum(((place - _TEST_SHARE) / (1.0 - _TEST_SHARE) * n_parts).astype(np.int64), n_parts - 1)
    key = stage_key(dataset.fingerprint(), "random holdout", config.seed)
    splits = [Split(np.where(is_test, Fold.TEST, np.where(number == part, Fold.LABEL, Fold.FIT)).astype(np.int8), None,
                    None) for part in range(n_parts)]  # fmt: skip
    test = _corpus(data, Split(np.where(is_test, Fold.TEST, Fold.FIT).astype(np.int8), None, None), config, desk, key)
    parts = [replace(test, split=split) for split in splits]
    return Trial(parts, test, test_requests(test), key)


def later_impressions(dataset: Dataset, _: Path, config: Config, desk: Desk) -> Trial:
    """Shown items of later impressions are ordered; histories that came with those are not fitted on."""
    data = encode_dataset(dataset, config.data)
    if data.impressions is None:
        raise DataError("this suite needs impressions, and the data has none; give it a MIND folder")
    split = make_split(data.log, data.impressions, config.split, came_with=request_rows(dataset, data))
    key = stage_key(dataset.fingerprint(), "impressions")
    corpus = _corpus(data, split, config, desk, key)
    return Trial([corpus], None, test_requests(corpus), key)


def _corpus(
    data: EncodedData,
    split: Split,
    config: Config,
    desk: Desk,
    key: str,
    *,
    hidden_idx: npt.NDArray[np.int32] = _NOTHING,
) -> Corpus:
    text = run_text_stage(data, split, config, desk, key, hidden_idx=hidden_idx)
    return Corpus(data, split, config, text.embeddings, text.encoder, hidden_idx)


def _random_places(data: EncodedData, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return each interaction's place in a random order of its user's, float64 in [0, 1), rounded as a quarter is."""
    log = data.log
    order = np.lexsort((rng.random(len(log)), log.user_idx))
    lengths = np.diff(log.indptr)
    place = np.empty(len(log))
    place[order] = (np.arange(len(log)) - np.repeat(log.indptr[:-1], lengths) + 0.5) / np.repeat(lengths, lengths)
    return place


def _cold_idx(folder: Path, item_ids: IdMap) -> npt.NDArray[np.int32]:
    """Return the rows of the items in `cold_items.txt`, which has one id per line."""
    path = folder / "cold_items.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); it lists the cold items") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{path} names no item; write the ids of the cold items, one per line")
    unknown = [id_ for id_ in ids if id_ not in item_ids]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(ids)} ids in {path} are not in the catalogue, the first: {unknown[:3]}; write one "
            "id per line, as the items have them"
        )
    return item_ids.lookup(ids, unknown="error")


def load_with_plots(data_folder: Path, folder: str, config: Config) -> Dataset:
    """Read a data set of films and take the plots of the ml-1m films with the same title and year, where there are."""
    dataset = load_dataset(data_folder / folder, config=config.data)
    others = load_dataset(data_folder / "ml-1m-half", config=config.data).items
    plots = (
        others.select(_plain_title(), pl.col("year").cast(pl.Int64).alias("release_year"), Col.DESCRIPTION)
        .drop_nulls()
        .unique(["plain", "release_year"], keep="first", maintain_order=True)
    )
    year = pl.col("release_year").cast(pl.String).str.extract(r"(\d{4})").cast(pl.Int64)
    items = dataset.items.drop(Col.DESCRIPTION, strict=False).with_columns(_plain_title(), year.alias("release_year"))
    items = items.join(plots, on=["plain", "release_year"], how="left", maintain_order="left").drop("plain")
    return replace(dataset, items=items.select(sorted(items.columns, key=_column_order)))


def _plain_title() -> pl.Expr:
    """Return a film's title without year, articles, signs and case."""
    title = pl.col(Col.TITLE).str.to_lowercase().str.replace_all(r"\(.*?\)|\b(the|a|an|la|le|les)\b|[^a-z0-9 ]", " ")
    return title.str.replace_all(r"\s+", " ").str.strip_chars().alias("plain")


def _column_order(name: str) -> int:
    standard = (Col.ITEM_ID, Col.TITLE, Col.DESCRIPTION, Col.CATEGORIES, Col.CREATED_AT)
    return standard.index(name) if name in standard else len(standard)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "ml-1m-loo",
            "ml-1m-half",
            "movielens",
            "last interaction of each user tests, the one before validates, whole catalogue",
            {
                "split": {"kind": "leave_last", "n_test": 1, "n_valid": 1, "n_label": 10, "horizon": 1},
                "ranker": {"rows": "retrieved"},
                "evaluation": {"max_requests": _ALL, "k": 10},
            },
            leave_one_out,
            reports_candidates=True,
        ),
        Suite(
            "ml-1m-cold",
            "ml-1m-half",
            "movielens",
            "items of cold_items.txt have no behaviour; only they are ranked",
            {
                # Few items teach the ranker here: nothing that an item could be told by, and small trees.
                "features": {"groups": ("text", "collaborative", "user")},
                "ranker": {
                    "rows": "cold",
                    "pseudo_cold_share": 0.25,
                    "num_leaves": 8,
                    "min_data_in_leaf": 1000,
                    "feature_fraction": 0.5,
                    "lambda_l2": 50.0,
                    "truncation": 30,
                    "n_trees": 150,
                    "n_seeds": 5,
                },
                "sequence": {"epochs": 0},
                "evaluation": {"max_requests": _ALL, "k": 10},
            },
            cold_items,
            metric="ndcg@20",
            hides_items=True,
            arms=("without text", "frozen text", "without collaborative", "without user"),
        ),
        Suite(
            "ml-100k-random",
            "ml-100k",
            "recbole",
            "a quarter of each user's ratings, drawn at random, tests; whole catalogue; mean over the seeds",
            {
                "split": {"n_label": 4},
                "ranker": {
                    "rows": "held_out",
                    "num_leaves": 7,
                    "min_data_in_leaf": 500,
                    "feature_fraction": 0.3,
                    "truncation": 30,
                    "n_trees": 300,
                    "n_seeds": 3,
                },
                "evaluation": {"max_requests": _ALL, "k": 10},
                # What came when says nothing where the test lies anywhere in between.
                "sequence": {"epochs": 0},
                "retrieval": {"sources": ("als", "ease", "next_item", "covisitation", "text", "popular")},
                "collaborative": {"alpha": 1.0, "regularization": 20.0},
                "encoder": {"tune": "none"},
            },
            random_holdout,
            load=load_with_plots,
            seeds=(0, 1, 2, 3, 4),
            reports_candidates=True,
        ),
        Suite(
            "mind-zh-impressions",
            "mind-zh",
            "mind",
            "impressions from 2019-11-13 on test; shown items are ordered",
            {
                "data": {"behaviors_file": "behaviors_covered.tsv.gz"},
                "split": {
                    "kind": "time",
                    "test_from": "2019-11-13T00:00",
                    "test_share": 0.0,
                    "valid_share": 0.2,
                    "label_share": 0.79,
                },
                "evaluation": {"max_requests": _ALL},
            },
            later_impressions,
            metric="auc",
            arms=("frozen text", *_EVERY_GROUP),
        ),
    )
}
