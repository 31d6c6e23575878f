"""Which ablations are run, and what each leaves out."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.arms import ARMS, TrialFits, arms_of, measure_arm, measure_trial
from benchmarks.suites import SUITES, Trial
from features.path import RankingPath
from recsys.config import Config
from recsys.splits import Fold
from training.desk import Desk
from training.fitting import Corpus
from training.progress import Reporter
from training.system import test_requests as requests_of_the_test
from training.timings import StageClock
from training.work import WorkFolder


def _fits(corpus: Corpus, desk: Desk) -> tuple[Config, TrialFits, Trial]:
    settings = {"sequence.epochs": 0, "ranker.n_trees": 10, "ranker.max_requests": 60, "evaluation.max_requests": 30}
    corpus = replace(corpus, config=corpus.config.with_overrides(settings))
    trial = Trial([corpus], None, requests_of_the_test(corpus), "key")
    return corpus.config, TrialFits.of(trial, desk), trial


def test_a_group_that_is_not_in_use_is_not_left_out_again() -> None:
    whole = Config()
    assert arms_of(list(ARMS), whole) == list(ARMS)
    assert "without sequence" not in arms_of(list(ARMS), whole.with_overrides({"sequence.epochs": 0}))
    assert "frozen text" not in arms_of(list(ARMS), whole.with_overrides({"encoder.tune": "none"}))


@pytest.mark.parametrize(
    ("arm", "group", "source"),
    [
        ("without text", "text", "text"),
        ("without collaborative", "collaborative", "next_item"),
        ("without sequence", "sequence", "sequence"),
        ("without session", "session", None),
        ("without popularity", "popularity", "popular"),
        ("without item", "item", None),
        ("without user", "user", None),
    ],
)
def test_an_arm_leaves_out_its_columns_and_its_candidates_and_nothing_else(
    arm: str, group: str, source: str | None
) -> None:
    whole = Config()
    without = whole.with_overrides(ARMS[arm].settings(whole))

    assert set(whole.features.groups) - set(without.features.groups) == {group}
    assert (source in without.retrieval.sources) is False
    assert "text" in without.retrieval.sources or arm == "without text"
    assert (
        without.with_overrides(
            {
                "features.groups": list(whole.features.groups),
                "features.without_columns": [],
                "retrieval.sources": list(whole.retrieval.sources),
            }
        )
        == whole
    )


@pytest.mark.parametrize(
    ("arm", "columns", "source"),
    [
        ("without collaborative", {"text_content_factor", "text_content_share_below"}, "cold"),
        ("without popularity", {"user_mean_popularity", "popularity_against_user"}, "popular"),
    ],
)
def test_what_other_groups_know_of_a_group_goes_with_it(
    tiny_corpus: Corpus, tmp_path: Path, arm: str, columns: set[str], source: str
) -> None:
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), clock)
        whole, fits, _ = _fits(tiny_corpus, desk)
        path = RankingPath(fits.like(ARMS[arm].settings(whole), desk).test.models(Fold.TEST))
        everything = RankingPath(fits.test.models(Fold.TEST))

    assert columns <= set(everything.feature_names)
    assert not columns & set(path.feature_names)
    assert source not in path.models.config.retrieval.sources


def test_an_arm_that_only_leaves_columns_out_learns_what_its_own_rows_would_have_taught(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    with StageClock() as clock:
        desk = Desk(WorkFolder(tmp_path / "whole"), Reporter(quiet=True), clock)
        whole, fits, trial = _fits(tiny_corpus, desk)
        short = measure_arm("without session", trial, fits, desk, lambda config, at: trial)
        apart = replace(desk, work=WorkFolder(tmp_path / "apart"))
        settings = ARMS["without session"].settings(whole)
        long = measure_trial(trial, fits.like(settings, apart), apart, name="without session", only_full=True)

    assert list(short.results) == ["full"]
    for metric, values in long.results["full"].arrays().items():
        assert np.array_equal(short.results["full"].arrays()[metric], values, equal_nan=True)


def test_every_suite_names_arms_that_exist() -> None:
    assert all(set(suite.arms) <= set(ARMS) for suite in SUITES.values())


def test_an_arm_leaves_each_corpus_the_rows_that_it_teaches() -> None:
    nothing = cast("Any", None)
    texts, hidden = np.zeros((2, 3), np.float32), np.zeros(1, np.int32)
    part, test = (
        Corpus(nothing, nothing, Config().with_overrides({"ranker.rows": rows}), texts, None, hidden)
        for rows in ("cold", "retrieved")
    )
    fits = TrialFits.of(Trial([part], test, [], "key"), nothing)

    arm = fits.like({"features.groups": ["text"]}, nothing)

    assert [arm.parts[0].corpus.rows, arm.test.corpus.rows] == ["cold", "retrieved"]
    assert arm.parts[0].corpus.config.features.groups == arm.test.corpus.config.features.groups == ("text",)
