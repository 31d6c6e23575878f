"""docs/metrics.md: its examples run, and it explains every metric and every function."""

import doctest
import json
import re
from pathlib import Path

import pytest

import recsys.evaluation
from recsys.evaluation import list_metrics, ranking_metrics
from recsys.evaluation.report import SuiteReport
from recsys.evaluation.slices import slice_masks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_give_what_the_page_says() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False)

    assert tried > 15
    assert failed == 0


def test_every_metric_is_explained() -> None:
    names = {re.sub(r"@7", "@k", name) for name in ranking_metrics([1], 1, [7])} | set(list_metrics([1.0], [True]))

    assert [name for name in sorted(names) if f"`{name}`" not in TEXT] == []


@pytest.mark.parametrize("name", [name for name in recsys.evaluation.__all__ if name.islower()])
def test_every_function_has_its_place_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


def test_every_slice_is_explained() -> None:
    masks = slice_masks(user_warmth=["warm"], item_warmth=["cold"], history_length=[3])  # type: ignore[arg-type]

    assert [name for name in masks if f"`{name}`" not in TEXT] == []


def test_the_json_of_the_page_is_a_report(tmp_path: Path) -> None:
    found = re.search(r"```json\n(.*?)```", TEXT, flags=re.DOTALL)
    assert found
    path = tmp_path / "report.json"
    path.write_text(found[1], encoding="utf-8")

    assert SuiteReport.read_json(path).to_dict() == json.loads(found[1])
