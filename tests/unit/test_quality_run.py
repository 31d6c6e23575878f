"""A run of a suite over several drawn splits: which systems are measured on which of them."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.quality import Extras, SuiteRun
from benchmarks.suites import SUITES
from recsys.config import Config
from recsys.evaluation.beyond import ItemFacts
from recsys.evaluation.metrics import PerRequestMetrics
from training.desk import Desk
from training.evaluation import FULL, Measured
from training.progress import Reporter
from training.timings import StageClock
from training.work import WorkFolder

N = 8


def measured(figures: dict[str, float]) -> Measured:
    results, lists = {}, {}
    for name, figure in figures.items():
        results[name] = PerRequestMetrics()
        for user in range(N):
            results[name].add(f"u{user}", {"ndcg@2": figure + user / 100})
        lists[name] = np.tile(np.array([0, 1], np.int32), (N, 1))
    facts = ItemFacts(np.array([3, 1]), np.eye(2, dtype=np.float32), sp.csr_matrix(np.eye(2)))
    histories = [np.array([0], np.int32)] * N
    return Measured(results, lists, histories, [(N, facts)], {"all": np.ones(N, np.bool_)}, orders_given=False)


def test_ablations_are_of_the_first_split_and_compared_with_the_whole_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []

    def one(run: SuiteRun, config: Config, arms: Sequence[str], desk: Desk) -> Measured:
        asked.append((config.seed, tuple(arms)))
        whole = 0.5 if config.seed == 3 else 0.3
        return measured({FULL: whole, "als": whole - 0.1} | dict.fromkeys(arms, 0.2))

    monkeypatch.setattr(SuiteRun, "_measure_seed", one)
    suite = replace(SUITES["ml-100k-random"], seeds=(3, 4))
    desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), StageClock())
    run = SuiteRun(suite, tmp_path, desk, Extras(arms=("without item",)))

    found = run.measure(Config().with_overrides({"evaluation.n_bootstrap": 50}))

    assert asked == [(3, ("without item",)), (4, ())]
    assert run.of_first_seed == ["without item"]
    mean_user = (N - 1) / 200
    assert found.systems[FULL]["ndcg@2"].mean == pytest.approx(0.4 + mean_user)
    assert found.systems["without item"]["ndcg@2"].mean == pytest.approx(0.2 + mean_user)
    assert found.differences["without item"]["ndcg@2"].mean == pytest.approx(0.3)  # of the first split alone
    assert found.differences["als"]["ndcg@2"].mean == pytest.approx(0.1)
    assert set(found.slices) == {FULL, "als", "without item"}
