"""The evaluation suites: fixed splits of published logs, each measured on the system that `training` builds.

A suite says which configuration it needs and which interactions are test; everything else is the engine's own code.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.config import Config
from recsys.datasets import load_dataset
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.errors import DataError
from recsys.schema import Col
from recsys.splits import Fold, Split, make_split
from training.evaluation import Evaluation
from training.fitting import MAX_REQUEST_HISTORY, Corpus, draw_pseudo_cold
from training.requests import cold_requests
from training.system import Desk, measure, seed_for, train_on_past
from training.text import run_text_stage
from training.work import stage_key

_ALL = 1_000_000


@dataclass(frozen=True)
class Suite:
    """One evaluation protocol. folder: below the folder of published logs. split: in words, for the report."""

    name: str
    folder: str
    preset: str
    split: str
    settings: dict[str, Any]
    run: Callable[[Dataset, Path, Config, Desk], Evaluation]


def run_leave_one_out(dataset: Dataset, _: Path, config: Config, desk: Desk) -> Evaluation:
    """Every user's last interaction is the test, the one before validates; the whole catalogue is ranked."""
    data = encode_dataset(dataset, config.data)
    split = make_split(data.log, data.impressions, config.split)
    return _run(data, split, config, desk, dataset.fingerprint())


def run_cold_items(dataset: Dataset, folder: Path, config: Config, desk: Desk) -> Evaluation:
    """Items of `cold_items.txt` lose all behaviour; users' choices among them alone are ranked."""
    data = encode_dataset(dataset, config.data)
    cold_idx = data.catalogue.ids.lookup(_cold_ids(folder), unknown="drop")
    fold = np.where(np.isin(data.log.item_idx, cold_idx), Fold.TEST, Fold.FIT).astype(np.int8)
    split = Split(fold, None, None)
    key = stage_key(dataset.fingerprint(), "cold items", config.ranker.pseudo_cold_share)
    rng = np.random.default_rng(seed_for(config.seed, "pseudo-cold"))
    pseudo_cold = draw_pseudo_cold(data, split, config, rng)
    # What stands in for cold items while the ranker learns must be as unknown to the encoder as cold items will be.
    visible = ~np.isin(data.log.item_idx, pseudo_cold)
    text = run_text_stage(data, split, config, desk, key, visible=visible)
    corpus = Corpus(data, split, config, text.embeddings, text.encoder, pseudo_cold)
    fit = train_on_past(corpus, desk, key)
    requests = cold_requests(data.log, cold_idx, np.arange(data.log.n_users), max_history=MAX_REQUEST_HISTORY)
    return measure(corpus, fit.ranker, desk, requests=list(requests))[1]


def run_impressions(dataset: Dataset, _: Path, config: Config, desk: Desk) -> Evaluation:
    """Shown items of later impressions are ordered; histories that came with those are not fitted on."""
    data = encode_dataset(dataset, config.data)
    if data.impressions is None:
        raise DataError("this suite needs impressions, and the data has none; give it a MIND folder")
    split = make_split(data.log, data.impressions, config.split)
    test_ids = {data.impressions.request_id[r] for r in np.flatnonzero(split.request_fold == Fold.TEST)}
    from_test = (
        dataset.interactions[Col.REQUEST_ID].is_in(list(test_ids)).fill_null(value=False).to_numpy()[data.log.row]
    )
    split = replace(split, interaction_fold=np.where(from_test, Fold.TEST, split.interaction_fold).astype(np.int8))
    return _run(data, split, config, desk, stage_key(dataset.fingerprint(), "impressions"))


def _run(data: EncodedData, split: Split, config: Config, desk: Desk, key: str) -> Evaluation:
    text = run_text_stage(data, split, config, desk, key)
    corpus = Corpus(data, split, config, text.embeddings, text.encoder, np.empty(0, np.int32))
    fit = train_on_past(corpus, desk, key)
    return measure(corpus, fit.ranker, desk)[1]


def _cold_ids(folder: Path) -> Iterator[str]:
    try:
        lines = (folder / "cold_items.txt").read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(
            f"{folder / 'cold_items.txt'} cannot be read ({error.strerror}); it lists the cold items"
        ) from None
    return iter(lines)


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
            run_leave_one_out,
        ),
        Suite(
            "ml-1m-cold",
            "ml-1m-half",
            "movielens",
            "items of cold_items.txt have no behaviour; only they are ranked",
            {
                "ranker": {"rows": "cold", "pseudo_cold_share": 0.2},
                "evaluation": {"max_requests": _ALL, "k": 10},
            },
            run_cold_items,
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
            run_impressions,
        ),
    )
}


def load_suite(suite: Suite, data_folder: Path, config: Config) -> Dataset:
    """Read a suite's data."""
    return load_dataset(data_folder / suite.folder, config=config.data)
