"""Which ablations are run, and what each leaves out."""

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.arms import ARMS, TrialFits, arms_of
from benchmarks.suites import SUITES, Trial
from recsys.config import Config
from training.fitting import Corpus


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
    ],
)
def test_an_arm_leaves_out_its_columns_and_its_candidates_and_nothing_else(
    arm: str, group: str, source: str | None
) -> None:
    whole = Config()
    without = whole.with_overrides(ARMS[arm].settings(whole))

    assert set(whole.features.groups) - set(without.features.groups) == {group}
    assert (source in without.retrieval.sources) is False
    assert "cold" in without.retrieval.sources
    assert (
        without.with_overrides(
            {"features.groups": list(whole.features.groups), "retrieval.sources": list(whole.retrieval.sources)}
        )
        == whole
    )


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
