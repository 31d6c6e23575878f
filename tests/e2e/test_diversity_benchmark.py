"""The curve that benchmarks/diversity.py measures, on a small system whose lists are known to change."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.diversity import CURVES, main, markdown, measure_curve, name_of, plot, put_tables, suite_config
from features.path import RankingPath
from recsys.errors import ConfigError
from recsys.evaluation import Interval
from recsys.evaluation.beyond import Table
from recsys.evaluation.report import SuiteReport
from recsys.histories import Request
from recsys.models.fitted import FittedModels
from training.requests import LabelledRequest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diversity.md"
N_REQUESTS = 40


@pytest.fixture(scope="module")
def curve(tiny_models: FittedModels) -> tuple[Table, Table]:
    """The curve over the last interactions of the first users, which the models have seen: figures are too good."""
    requests = []
    for user in range(N_REQUESTS):
        history = tiny_models.log.history_of(user)
        if len(history) < 2:
            continue
        before = history.last(1_000)
        last = int(before.item_idx[-1])
        seen = np.setdiff1d(before.item_idx, [last]).astype(np.int32)
        request = Request(before, int(before.timestamp_us[-1]) + 1, user)
        requests.append(LabelledRequest(request, np.array([last], np.int32), seen))
    return measure_curve(
        RankingPath(tiny_models),
        requests,
        diversities=(0.0, 0.5, 1.0),
        n_bootstrap=50,
        seed=np.random.SeedSequence(1),
    )


def report_of(curve: tuple[Table, Table]) -> SuiteReport:
    environment = {"n_requests": N_REQUESTS}
    return SuiteReport("diversity-toy", "last", 3, *curve, seconds=2.0, environment=environment)


def test_every_step_has_accuracy_and_what_lies_beyond(curve: tuple[Table, Table]) -> None:
    systems, differences = curve

    assert list(systems) == ["full", "diversity=0.5", "diversity=1"]
    assert list(differences) == ["diversity=0.5", "diversity=1"]
    names = {"ndcg", "hr", "ild", "novelty", "miscalibration", "cold_share", "coverage", "gini"}
    assert all(set(table) == {f"{name}@10" for name in names} for table in systems.values())
    assert systems["full"]["ild@10"].mean < systems["diversity=0.5"]["ild@10"].mean
    assert differences["diversity=0.5"]["ild@10"].hi < 0


def test_without_diversity_the_lists_are_the_rankings(curve: tuple[Table, Table], tiny_models: FittedModels) -> None:
    path = RankingPath(tiny_models)
    log = tiny_models.log
    request = Request(log.history_of(2), int(log.timestamp_us.max()) + 1, 2)
    ranking = path.rank(request)
    relevant = ranking.item_idx[3:4]

    systems, _ = measure_curve(
        path,
        [LabelledRequest(request, relevant, np.empty(0, np.int32))],
        diversities=(0.0,),
        k=5,
        n_bootstrap=5,
        seed=np.random.SeedSequence(0),
    )

    assert systems["full"]["ndcg@5"].mean == pytest.approx(1 / np.log2(5))
    assert systems["full"]["hr@5"].mean == 1.0
    assert systems["full"]["coverage@5"].mean == 5 / len(tiny_models.catalogue)


def test_a_report_of_the_curve_is_written_read_drawn_and_tabulated(curve: tuple[Table, Table], tmp_path: Path) -> None:
    report = report_of(curve)
    report.write_json(tmp_path / "diversity-toy.json")
    plot(report, tmp_path / "diversity-toy.png")

    table = markdown(SuiteReport.read_json(tmp_path / "diversity-toy.json"))

    assert table == markdown(report)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:5]] == ["0", "0.5", "1"]
    assert "40 requests, seed 3; last." in table
    assert (tmp_path / "diversity-toy.png").read_bytes().startswith(b"\x89PNG")


def test_the_change_of_accuracy_is_that_against_no_diversity() -> None:
    def row(ndcg: float) -> dict[str, Interval]:
        others = {name: Interval(0.5, 0.4, 0.6, 9) for name in ("ild", "coverage", "miscalibration", "gini")}
        return {"ndcg@10": Interval(ndcg, ndcg - 0.1, ndcg + 0.1, 9)} | {f"{k}@10": v for k, v in others.items()}

    systems = {"full": row(0.5), "diversity=0.2": row(0.3)}
    differences = {"diversity=0.2": {"ndcg@10": Interval(0.2, 0.15, 0.22, 9)}}

    lines = markdown(SuiteReport("x", "y", 1, systems, differences)).splitlines()

    assert lines[2].startswith("| 0 | 0.500 [0.400, 0.600] |  | 0.500")
    assert lines[3].startswith("| 0.2 | 0.300 [0.200, 0.400] | -0.200 [-0.220, -0.150] | 0.500")


def test_tables_take_their_places_and_others_stay() -> None:
    page = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb\n<!-- table: y -->\nkept\n<!-- end of table -->\n"

    once = put_tables(page, {"x": "| new |\n", "z": "| nowhere |\n"})

    assert once == "a\n<!-- table: x -->\n\n| new |\n\n<!-- end of table -->\nb\n" + page.split("b\n")[1]
    assert put_tables(once, {"x": "| new |\n"}) == once


def test_the_page_shows_what_the_reports_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """Every table of docs/diversity.md is that of its report in benchmarks/results."""
    text = PAGE.read_text(encoding="utf-8")
    assert main(["--markdown"]) == 0
    printed = capsys.readouterr().out
    tables = dict(re.findall(r"## (diversity-\S+)\n\n(.*?)(?=\n## |\Z)", printed, flags=re.DOTALL))

    assert "diversity-simulated" in tables
    assert put_tables(text, {name: table.rstrip("\n") + "\n" for name, table in tables.items()}) == text


def test_tables_can_be_put_into_a_page(curve: tuple[Table, Table], tmp_path: Path) -> None:
    report_of(curve).write_json(tmp_path / "diversity-toy.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- table: diversity-toy -->\n<!-- end of table -->\n", encoding="utf-8")

    assert main(["--markdown", str(page), "--results", str(tmp_path)]) == 0
    assert "| diversity | ndcg@10 |" in page.read_text(encoding="utf-8")


def test_the_protocol_is_that_of_the_last_interaction() -> None:
    for suite in CURVES.values():
        config = suite_config(suite, 5, ["ranker.n_trees=7"])

        assert (config.split.kind, config.seed, config.ranker.n_trees) == ("leave_last", 5, 7)
    with pytest.raises(ConfigError, match=r"--set 'x' is no setting"):
        suite_config(CURVES["simulated"], 5, ["x"])


def test_steps_are_named_by_their_diversity() -> None:
    assert [name_of(step) for step in (0.0, 0.1, 0.3, 1.0)] == ["full", "diversity=0.1", "diversity=0.3", "diversity=1"]


def test_without_anything_to_do_the_command_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])

    assert "say --suite NAME to measure, or --markdown for the tables" in capsys.readouterr().err
