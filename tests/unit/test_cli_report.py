"""The figures that a training and a measurement print."""

import pytest

from recsys.cli_training import say_report
from recsys.evaluation.intervals import Interval
from recsys.evaluation.report import SuiteReport


def report(*metrics: str) -> SuiteReport:
    table = {name: Interval(0.25, 0.125, 0.5, 9) for name in metrics}
    return SuiteReport("toy", "time", 1, {"full": table, "als": table})


def test_what_lists_are_like_stands_in_a_table_below_how_right_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    say_report(report("novelty@10", "ndcg@10", "ild@10", "hr@10", "miscalibration@10", "gini@10", "cold_share@10"))

    heads = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["system"]]
    assert heads == [
        ["system", "ndcg@10", "hr@10"],
        ["system", "novelty@10", "ild@10", "miscalibration@10", "gini@10", "cold_share@10"],
    ]


def test_without_them_there_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    say_report(report("auc", "mrr"))

    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if "system" in line] == [["system", "auc", "mrr"]]
    assert out.count("full") == out.count("als") == 1
