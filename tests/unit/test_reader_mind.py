"""The MIND reader, on hand-written news and behaviours and on the published ones."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.faults import FaultLog
from recsys.datasets.mind import MindReader
from recsys.datasets.raw import FILE, ROW, RawTables

NEWS = (
    "N1\tsports\tgolf\tBirdie\tA short hole.\thttp://x\t[]\t[]\n"
    "N2\tnews\t\tVote\t\thttp://x\t[]\t[]\n"
    'N3\tfood\tcake\tThe "best" cake\tBake it.\thttp://x\t[]\t[]\n'
)
BEHAVIORS = (
    "5\tU1\t11/12/2019 2:14:46 PM\tN1 N2 N1\tN3-1 N2-0\n"
    "6\tU2\t11/09/2019 12:00:10 AM\t\tN1-0 N3-0\n"
    "7\tU1\t11/10/2019 11:59:59 AM\tN1 N2 N1\tN2-1\n"
)


def read(folder: Path, behaviors_file: str | None = None) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return MindReader().read(folder, DataConfig(behaviors_file=behaviors_file), faults), faults


def at(day: int, hour: int, minute: int, second: int) -> datetime:
    return datetime(2019, 11, day, hour, minute, second, tzinfo=UTC)


@pytest.fixture
def mind(tmp_path: Path) -> Path:
    (tmp_path / "news.tsv").write_text(NEWS, encoding="utf-8")
    (tmp_path / "behaviors.tsv").write_text(BEHAVIORS, encoding="utf-8")
    return tmp_path


def test_news_become_items_with_both_categories(mind: Path) -> None:
    items = read(mind)[0].items

    assert items is not None
    assert items.drop(FILE).rows() == [
        ("N1", "Birdie", "A short hole.", ["sports", "golf"], 1),
        ("N2", "Vote", None, ["news"], 2),
        ("N3", 'The "best" cake', "Bake it.", ["food", "cake"], 3),
    ]


def test_shown_news_become_impressions_without_positions(mind: Path) -> None:
    raw, faults = read(mind)

    assert raw.impressions is not None
    assert raw.impressions.rows() == [
        ("5", "U1", at(12, 14, 14, 46), "N3", None, True, 1, "behaviors.tsv"),
        ("5", "U1", at(12, 14, 14, 46), "N2", None, False, 1, "behaviors.tsv"),
        ("6", "U2", at(9, 0, 0, 10), "N1", None, False, 2, "behaviors.tsv"),
        ("6", "U2", at(9, 0, 0, 10), "N3", None, False, 2, "behaviors.tsv"),
        ("7", "U1", at(10, 11, 59, 59), "N2", None, True, 3, "behaviors.tsv"),
    ]
    assert raw.impressions.columns[3:6] == ["item_id", "position", "clicked"]
    assert not faults.faults


def test_history_ends_one_second_before_the_log_and_counts_back(mind: Path) -> None:
    interactions = read(mind)[0].interactions

    assert interactions is not None
    # The log begins with U2's impression at 00:00:10 on the 9th; U1's earliest impression with the history is 7.
    assert interactions.drop(ROW, FILE).rows() == [
        ("U1", "N1", at(9, 0, 0, 7), "click", "7"),
        ("U1", "N2", at(9, 0, 0, 8), "click", "7"),
        ("U1", "N1", at(9, 0, 0, 9), "click", "7"),
    ]


def histories(folder: Path, behaviors: str) -> list[tuple[str, str, str, datetime]]:
    (folder / "behaviors.tsv").write_text(behaviors, encoding="utf-8")
    interactions = read(folder)[0].interactions
    assert interactions is not None
    return interactions.select("user_id", "item_id", "request_id", "timestamp").rows()


def test_what_a_later_history_adds_is_dated_before_its_own_impression(mind: Path) -> None:
    found = histories(
        mind,
        "1\tU1\t11/09/2019 1:00:00 AM\tN1\tN3-0\n"
        "2\tU1\t11/11/2019 1:00:00 AM\tN2 N1 N2\tN3-0\n"  # N1 of the beginning, and what was added in between
        "3\tU1\t11/10/2019 1:00:00 AM\tN1 N2\tN3-0\n"
        "4\tU2\t11/10/2019 1:00:00 AM\tN3\tN2-1\n"
        "5\tU3\t11/10/2019 1:00:00 AM\t\tN2-1\n"
        "6\tU3\t11/10/2019 2:00:00 AM\tN1\tN2-1\n",
    )

    assert found == [
        ("U1", "N1", "1", at(9, 0, 59, 59)),
        ("U1", "N2", "2", at(11, 0, 59, 59)),
        ("U1", "N2", "3", at(10, 0, 59, 59)),
        ("U2", "N3", "4", at(9, 0, 59, 59)),
        ("U3", "N1", "6", at(10, 1, 59, 59)),
    ]


def test_a_history_never_tells_what_was_clicked_in_an_impression(mind: Path) -> None:
    behaviors = "1\tU1\t11/10/2019 1:00:00 AM\tN1\tN3-1 N2-0\n2\tU1\t11/14/2019 1:00:00 AM\tN1 N3\tN2-1\n"
    assert histories(mind, behaviors) == [("U1", "N1", "1", at(10, 0, 59, 59))]

    loaded = load_dataset(mind, "mind").interactions
    assert loaded.select("item_id", "timestamp").rows() == [
        ("N1", at(10, 0, 59, 59)),
        ("N3", at(10, 1, 0, 0)),  # once, when it was clicked
        ("N2", at(14, 1, 0, 0)),
    ]


def test_additions_lie_between_two_impressions_however_close_these_are(mind: Path) -> None:
    found = histories(
        mind,
        "1\tU1\t11/10/2019 1:00:00 AM\t\tN3-0\n"
        "2\tU1\t11/10/2019 1:00:00 AM\tN3\tN3-0\n"  # at the same moment: there is no place for N3
        "3\tU1\t11/10/2019 1:00:01 AM\tN3 N1 N2 N1\tN3-0\n",
    )

    assert [(item, request) for _, item, request, _ in found] == [("N1", "3"), ("N2", "3"), ("N1", "3")]
    moments = [moment for *_, moment in found]
    assert moments == sorted(set(moments))
    assert at(10, 1, 0, 0) < moments[0]
    assert moments[-1] < at(10, 1, 0, 1)


def test_gzipped_files_read_like_plain_ones(mind: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    packed = tmp_path_factory.mktemp("packed")
    for path in mind.iterdir():
        (packed / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

    plain, zipped = read(mind)[0], read(packed)[0]

    assert MindReader().detects(packed)
    for name in ("items", "interactions", "impressions"):
        assert getattr(plain, name).drop(FILE).equals(getattr(zipped, name).drop(FILE))


def test_largest_news_file_wins_and_others_add_items_and_categories(mind: Path) -> None:
    (mind / "news_zh.tsv").write_text(
        "nid\ttitle\tabstract\nN1\t小鳥\t短洞\nN3\t蛋糕\t\nN8\t新聞\t文\nN9\t更多\t\n", encoding="utf-8"
    )

    items = read(mind)[0].items

    assert items is not None
    assert items.drop(ROW).rows() == [
        ("N1", "小鳥", "短洞", ["sports", "golf"], "news_zh.tsv"),
        ("N3", "蛋糕", None, ["food", "cake"], "news_zh.tsv"),
        ("N8", "新聞", "文", None, "news_zh.tsv"),
        ("N9", "更多", None, None, "news_zh.tsv"),
        ("N2", "Vote", None, ["news"], "news.tsv"),
    ]


def test_plain_behaviours_are_taken_before_others_unless_the_setting_names_one(mind: Path) -> None:
    packed = gzip.compress(b"9\tU9\t11/14/2019 9:00:00 AM\tN1\tN3-1 N1-0\n")
    (mind / "behaviors_small.tsv.gz").write_bytes(packed)

    by_default, by_name = read(mind)[0].impressions, read(mind, "behaviors_small.tsv")[0].impressions

    assert by_default is not None
    assert by_name is not None
    assert by_default["request_id"].unique().sort().to_list() == ["5", "6", "7"]
    assert by_name["request_id"].unique().to_list() == ["9"]


def test_only_behaviours_file_is_taken_whatever_its_name(mind: Path) -> None:
    (mind / "behaviors.tsv").rename(mind / "behaviors_dev.tsv")

    raw, faults = read(mind)

    assert raw.impressions is not None
    assert not faults.faults


def test_several_behaviours_without_a_plain_one_are_a_fault(mind: Path) -> None:
    (mind / "behaviors.tsv").rename(mind / "behaviors_a.tsv")
    (mind / "behaviors_b.tsv").write_text(BEHAVIORS, encoding="utf-8")

    raw, faults = read(mind)

    assert raw.impressions is None
    assert "there are 2 files of behaviours" in str(faults.faults[0])
    assert "Name the one to read with the setting data.behaviors_file" in str(faults.faults[0])


def test_named_behaviours_that_are_absent_are_a_fault(mind: Path) -> None:
    _, faults = read(mind, "behaviors_big.tsv")

    assert "behaviors_big.tsv: the file that data.behaviors_file names is not there" in str(faults.faults[0])
    assert "Name one of those that are: behaviors.tsv." in str(faults.faults[0])


@pytest.mark.parametrize("missing", ["news.tsv", "behaviors.tsv"])
def test_missing_file_is_a_fault(mind: Path, missing: str) -> None:
    (mind / missing).unlink()

    _, faults = read(mind)

    assert [f"{fault.file}: {fault.problem}" for fault in faults.faults] == [f"{missing}: the file is missing"]


@pytest.mark.parametrize("time", ["2019-11-12 14:14:46", "11/12/2019 14:14:46 PM", "13/12/2019 2:14:46 PM", ""])
def test_unreadable_time_is_a_fault_with_row_and_value(mind: Path, time: str) -> None:
    (mind / "behaviors.tsv").write_text(
        f"1\tU1\t11/09/2019 1:00:00 AM\tN1\tN3-1\n2\tU2\t{time}\tN1\tN3-1\n", encoding="utf-8"
    )

    _, faults = read(mind)

    assert [(fault.row, fault.column, fault.value) for fault in faults.faults] == [(2, "time", time or None)]
    assert "not written as MIND writes it" in faults.faults[0].problem


def test_shown_news_without_a_mark_are_a_fault(mind: Path) -> None:
    (mind / "behaviors.tsv").write_text("1\tU1\t11/09/2019 1:00:00 AM\tN1\tN3-1 N2 N1-2\n", encoding="utf-8")

    _, faults = read(mind)

    assert [fault.value for fault in faults.faults] == ["N2", "N1-2"]
    assert "do not say whether they were clicked" in faults.faults[0].problem


def test_row_that_shows_nothing_is_counted_and_its_history_kept(mind: Path) -> None:
    (mind / "behaviors.tsv").write_text(
        "1\tU1\t11/09/2019 1:00:00 AM\tN1\t\n2\tU2\t11/09/2019 1:00:01 AM\tN2\tN3-1\n", encoding="utf-8"
    )

    raw, faults = read(mind)

    assert dict(faults.notes) == {"behaviours rows that show no news, left out": 1}
    assert raw.interactions is not None
    assert raw.interactions["user_id"].to_list() == ["U1", "U2"]


def test_detection_needs_the_shape_and_not_only_the_name(tmp_path: Path) -> None:
    (tmp_path / "news.tsv").write_text("a\tb\n", encoding="utf-8")
    (tmp_path / "behaviors.tsv").write_text("user_id\titem_id\ttimestamp\tevent\nu\ti\t1\tclick\n", encoding="utf-8")

    assert not MindReader().detects(tmp_path)

    (tmp_path / "behaviors.tsv").write_text(BEHAVIORS, encoding="utf-8")

    assert MindReader().detects(tmp_path)


@pytest.mark.data
def test_published_behaviours_are_read_in_full(published_data: Path) -> None:
    raw, faults = read(published_data / "mind-zh")

    assert not faults.faults
    assert raw.impressions is not None
    assert raw.items is not None
    assert raw.interactions is not None
    assert raw.impressions.height == 189_359
    assert raw.impressions["clicked"].sum() == 7_542
    assert raw.impressions["request_id"].n_unique() == 5_000
    assert raw.impressions["user_id"].n_unique() == 4_637
    assert raw.items.height == 42_416 + 2_000 - 1_110
    assert raw.items.filter(pl.col("categories").is_not_null()).height == 2_000
    assert raw.interactions["timestamp"].max() < raw.impressions["timestamp"].min()  # type: ignore[operator]


@pytest.mark.data
def test_published_covered_behaviours_load_as_a_data_set(published_data: Path) -> None:
    config = DataConfig(behaviors_file="behaviors_covered.tsv.gz")

    dataset = load_dataset(published_data / "mind-zh", config=config)

    assert dataset.format == "mind"
    assert dataset.impressions is not None
    assert dataset.impressions.height == 76_006
    assert dataset.impressions["clicked"].sum() == 3_464
    assert dataset.impressions["item_id"].n_unique() == 2_467
    assert dataset.impressions["request_id"].n_unique() == 2_496
