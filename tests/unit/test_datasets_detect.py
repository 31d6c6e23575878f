"""Which format a folder is taken for, and what the message says where that is not clear."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.datasets import load_dataset, validate_folder
from recsys.datasets.detect import detect_format, reader_for
from recsys.errors import DataError


def test_items_alone_are_no_format_and_the_message_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\ni1\n")
    with pytest.raises(DataError) as caught:
        detect_format(tmp_path)
    message = str(caught.value)
    assert "no known format is there" in message
    assert "tables: items with interactions or impressions" in message
    assert "The folder has items.csv" in message
    assert "--format" in message


def test_two_formats_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp,event\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,978300760\n")
    with pytest.raises(DataError, match=r"fit 2 formats: tables and movielens; there are interactions\.csv, ratings"):
        load_dataset(tmp_path)
    assert reader_for(tmp_path, "movielens").name == "movielens"


def test_a_long_folder_is_listed_in_part(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"part{i:02}.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"part00\.bin, .*part11\.bin, … \(40 files\)"):
        detect_format(tmp_path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "there is no such folder. Check the path"),
        (lambda path: path.write_text("x"), "this is a file, not a folder. Name the folder"),
        (lambda path: path.mkdir(), "The folder has no files"),
    ],
    ids=["missing", "file", "empty"],
)
def test_what_is_no_folder_of_data_is_refused(tmp_path: Path, make: Callable[[Path], object], problem: str) -> None:
    path = tmp_path / "data"
    make(path)
    with pytest.raises(DataError, match=problem):
        load_dataset(str(path))
    report = validate_folder(path)
    assert not report.is_sound
    assert problem.split(". ")[0] in report.lines()[-1]


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no format 'excel'. Choose one of auto, tables, movielens, mind"):
        load_dataset(tmp_path, "excel")
