"""What is said when the ranker is left without rows: which rows, why there are none, and a setting that helps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.histories import InteractionLog
from recsys.splits import Fold, make_split
from training.desk import Desk
from training.fits import Fits
from training.fitting import Corpus
from training.no_rows import why_no_rows
from training.progress import Reporter
from training.system import train_on_past
from training.timings import StageClock
from training.work import WorkFolder


def _with(corpus: Corpus, overrides: dict[str, Any]) -> Corpus:
    return replace(corpus, config=corpus.config.with_overrides(overrides))


def _train(corpus: Corpus, folder: Path) -> None:
    with StageClock() as clock:
        desk = Desk(WorkFolder(folder), Reporter(quiet=True), clock)
        train_on_past([Fits(corpus, desk)], desk, "key")


@pytest.fixture(scope="module")
def retrieving(tiny_corpus: Corpus) -> Corpus:
    """The tiny log without impressions, whose one validation row repeats what its user had done before."""
    log = tiny_corpus.data.log
    order = np.argsort(log.timestamp_us, kind="stable")[:400]
    user, item, time = log.user_idx[order], log.item_idx[order], np.arange(400) * 1_000_000
    user[388], item[388] = user[0], item[0]
    weight = np.ones(400, np.float32)
    small = InteractionLog.from_arrays(user, item, time, weight, n_users=log.n_users, n_items=log.n_items)
    data = replace(tiny_corpus.data, log=small, impressions=None)
    corpus = _with(tiny_corpus, {"split.test_share": 11 / 400, "split.valid_share": 1 / 400})
    return replace(corpus, data=data, split=make_split(data.log, None, corpus.config.split))


def test_lists_without_a_click_in_the_validation_fold_are_named_and_counted(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    impressions, request_fold = tiny_corpus.data.impressions, tiny_corpus.split.request_fold
    assert impressions is not None
    assert request_fold is not None
    n = int((request_fold == Fold.VALID).sum())
    clicked = impressions.clicked & (request_fold != Fold.VALID)[impressions.row_request]
    corpus = replace(tiny_corpus, data=replace(tiny_corpus.data, impressions=replace(impressions, clicked=clicked)))

    with pytest.raises(
        DataError,
        match=rf"no rows to stop its training by.*ranker\.rows: impressions.*of its {n} lists {n} have no click and 0 "
        r"nothing but clicks.*raise split\.valid_share \(now [\d.]+\), set ranker\.rows to retrieved",
    ):
        _train(corpus, tmp_path)


def test_rows_to_train_on_are_told_from_those_to_stop_by(tiny_corpus: Corpus) -> None:
    message = why_no_rows(tiny_corpus, Fold.LABEL, 0)

    assert "no rows to train on" in message
    assert "raise split.label_share" in message


def test_a_validation_fold_of_repeats_asks_for_a_larger_fold(retrieving: Corpus, tmp_path: Path) -> None:
    assert (retrieving.split.interaction_fold == Fold.VALID).sum() == 1
    with pytest.raises(
        DataError,
        match=r"no rows to stop its training by.*of its 1 interactions none leads to an item that is new to its user; "
        r"raise split\.valid_share \(now 0\.0025\)",
    ) as refused:
        _train(retrieving, tmp_path)

    assert "n_candidates" not in str(refused.value)


def test_only_requests_whose_candidates_miss_ask_for_more_candidates(retrieving: Corpus) -> None:
    message = why_no_rows(retrieving, Fold.LABEL, 1_234)

    assert "none of its 1,234 requests" in message
    assert "raise retrieval.n_candidates (now" in message


def test_users_divided_at_random_are_pointed_to_what_draws_their_rows(retrieving: Corpus) -> None:
    held_out = why_no_rows(_with(retrieving, {"ranker.rows": "held_out"}), Fold.VALID, 0)
    cold = replace(_with(retrieving, {"ranker.rows": "cold"}), pseudo_cold_idx=np.arange(3, dtype=np.int32))

    assert "split.label_share" in held_out
    assert "raise ranker.pseudo_cold_share (now 0)" in why_no_rows(cold, Fold.LABEL, 0)


def test_a_split_by_last_interactions_names_its_own_settings(retrieving: Corpus) -> None:
    corpus = _with(retrieving, {"split.kind": "leave_last"})

    assert "raise split.n_valid (now 1)" in why_no_rows(corpus, Fold.VALID, 0)
