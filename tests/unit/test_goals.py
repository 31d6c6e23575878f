import json
import shutil
from pathlib import Path

from benchmarks.goals import COLUMNS, goals_table, tables

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PAGE = RESULTS.parents[1] / "docs" / "results.md"


def test_the_page_holds_the_tables_of_the_reports_that_there_are() -> None:
    made, page = tables(RESULTS), PAGE.read_text(encoding="utf-8")

    assert set(COLUMNS) <= set(made)
    assert [name for name, table in made.items() if f"<!-- {name} -->\n\n{table}\n<!-- end -->" not in page] == []


def test_reports_of_other_measurements_are_no_suites(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "mind-zh-impressions.json", tmp_path)
    (tmp_path / "serving.json").write_text("{}", encoding="utf-8")
    lines = goals_table(tmp_path).splitlines()

    assert next(line for line in lines if "AUC at least" in line).endswith("| yes |")
    assert next(line for line in lines if "NDCG@10 at least .205" in line) == (
        "| ml-1m-loo | NDCG@10 at least .205 | – | no |"
    )


def test_no_best_peer_is_named_while_one_failed(tmp_path: Path) -> None:
    report = json.loads((RESULTS / "ml-1m-loo.json").read_text(encoding="utf-8"))
    report["environment"]["failed_peers"] = {"rectools-bert4rec": "out of memory"}
    (tmp_path / "ml-1m-loo.json").write_text(json.dumps(report), encoding="utf-8")

    line = next(line for line in goals_table(tmp_path).splitlines() if "best single peer" in line)
    assert line.endswith("; rectools-bert4rec failed | no |")
