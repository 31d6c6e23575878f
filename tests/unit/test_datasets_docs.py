"""docs/data-formats.md says what the code does: its example loads, and every column, format and setting is in it."""

import re
from pathlib import Path

import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.detect import READERS
from recsys.errors import DataError
from recsys.schema import TABLES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data-formats.md"


@pytest.fixture(scope="module")
def page() -> str:
    return DOCS.read_text(encoding="utf-8")


def test_the_example_loads_as_described(page: str, tmp_path: Path) -> None:
    for name, content in re.findall(r"`(\w+\.csv)`:\n\n```csv\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).write_text(content)
    dataset = load_dataset(tmp_path)
    assert dataset.notes == {}
    assert dataset.items["description"].to_list() == ["Warm and grey", "Wide brim", "600 species"]
    assert dataset.items["categories"].to_list() == [["Clothing", "Socks"], ["Clothing", "Hats"], ["Books"]]
    assert dataset.interactions["event"].to_list() == ["click", "purchase", "view"]
    assert dataset.impressions is not None
    assert dataset.impressions["clicked"].to_list() == [True, False]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described_under_its_table(page: str, table: str) -> None:
    section = page.split(f"### {table}\n")[1].split("\n### ")[0]
    missing = [column.name for column in TABLES[table].columns if f"`{column.name}`" not in section]
    assert missing == []


def test_every_format_and_setting_is_named(page: str) -> None:
    assert [reader.name for reader in READERS if f"| `{reader.name}` |" not in page] == []
    elsewhere = {"text_fields"}  # about the text that the encoder reads, not about what is loaded
    assert [name for name in DataConfig.model_fields if f"data.{name}" not in page and name not in elsewhere] == []


def test_the_shown_faults_are_what_is_said(page: str, tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\ni1\ni1\n")
    rows = "".join(f"u,i1,{time},click\n" for time in ("2024-01-01", "2024-01-02", "2024-01-03", "0"))
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,event\n" + rows)
    with pytest.raises(DataError, match=r"2 fault\(s\)") as caught:
        load_dataset(tmp_path)
    assert set(str(caught.value).splitlines()) <= set(page.splitlines())
