"""What a suite's report holds where peers fail: everything else, and their errors."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import quality
from benchmarks.peers.runner import PeerError, PeerResult
from benchmarks.quality import Extras, SuiteRun
from benchmarks.suites import SUITES
from recsys.config import Config
from recsys.evaluation.intervals import Interval
from recsys.evaluation.metrics import PerRequestMetrics
from recsys.evaluation.report import SuiteReport
from training.desk import Desk
from training.evaluation import ItemFacts, Measured
from training.progress import Reporter
from training.timings import StageClock
from training.work import WorkFolder

SUITE = "ml-1m-cold"


def report(failed: dict[str, str]) -> SuiteReport:
    systems = {"full": {"ndcg@10": Interval(0.5, 0.4, 0.6, 10)}}
    return SuiteReport(SUITE, "toy", 42, systems, environment={"failed_peers": failed})


@pytest.mark.parametrize(("failed", "code"), [({}, 0), ({"sklearn-tfidf": "no terms remain"}, 2)])
def test_a_report_that_lacks_a_peer_is_written_and_the_command_fails(
    failed: dict[str, str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "report.json"
    monkeypatch.setattr(quality, "run_suite", lambda *_: report(failed))
    monkeypatch.setattr(sys, "argv", ["quality.py", "--suite", SUITE, "--out", str(out)])

    assert quality.main() == code

    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept["systems"]["full"]["ndcg@10"]["mean"] == 0.5
    assert kept["environment"]["failed_peers"] == failed
    said = capsys.readouterr().err
    assert said == ("error: no terms remain\nerror: the report lacks 1 peers: sklearn-tfidf\n" if failed else "")


def test_a_peer_that_failed_on_one_split_is_not_asked_about_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = cast("Any", None)
    asked: list[list[str]] = []

    def run_peers(*arguments: Any, **_: Any) -> tuple[dict[str, PeerResult], dict[str, PeerError]]:
        names = list(arguments[3])
        asked.append(names)
        result = PeerResult(PerRequestMetrics(), np.empty((0, 3), np.int32), {"settings": {"k": 1}})
        failed = {name: PeerError("it broke") for name in names if name == "broken"}
        return {name: result for name in names if name not in failed}, failed

    monkeypatch.setattr(quality, "run_peers", run_peers)
    monkeypatch.setattr(quality, "peer_task", lambda *_, **__: nothing)
    monkeypatch.setattr(quality, "values_of", lambda *_: None)
    desk = Desk(WorkFolder(tmp_path), Reporter(quiet=True), StageClock())
    run = SuiteRun(SUITES[SUITE], tmp_path, desk, Extras(peers=("broken", "one")))
    data = SimpleNamespace(log=nothing, user_ids=nothing)
    corpus = SimpleNamespace(config=Config(), data=data, split=nothing)
    fits = cast("Any", SimpleNamespace(test=SimpleNamespace(corpus=corpus)))
    trial = cast("Any", SimpleNamespace(requests=[]))
    own = Measured({}, {}, [], cast("ItemFacts", None), {}, False)

    found = [run._with_peers(own, trial, fits, nothing, desk) for _ in range(2)]

    assert [list(measured.results) for measured in found] == [["peer:one"]] * 2
    assert asked == [["broken", "one"], ["one"]]
    assert run.failed_peers == {"broken": "it broke"}
    assert list(run.peer_reports) == ["one"]
