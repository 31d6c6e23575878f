"""The Gorse reader, on hand-written exports as JSON Lines and as CSV."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.faults import FaultLog
from recsys.datasets.gorse import GorseReader
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError

ITEMS: list[dict[str, Any]] = [
    {
        "ItemId": "i1",
        "IsHidden": False,
        "Categories": ["socks", "wool"],
        "Timestamp": "2021-01-01T01:01:01.000000001Z",
        "Labels": {"brand": "Sheep", "size": {"eu": 42}, "colors": ["grey"], "title": "Wool socks"},
        "Comment": "comment of i1",
    },
    {
        "ItemId": "i2",
        "IsHidden": False,
        "Categories": None,
        "Timestamp": "0001-01-01T00:00:00Z",
        "Labels": None,
        "Comment": "Straw hat",
    },
    {"ItemId": "i3", "IsHidden": True, "Categories": [], "Timestamp": "2021-01-01T01:01:01Z", "Labels": {}},
]
USERS: list[dict[str, Any]] = [
    {"UserId": "u1", "Labels": {"gender": "f"}, "Comment": ""},
    {"UserId": "u2", "Labels": None},
]
FEEDBACK: list[dict[str, Any]] = [
    {"FeedbackType": "star", "UserId": "u1", "ItemId": "i1", "Value": 1, "Timestamp": "2026-01-02T10:00:00Z"},
    {"FeedbackType": "Read", "UserId": "u2", "ItemId": "i2", "Value": 0, "Timestamp": "2026-01-02T10:00:00+02:00"},
    {"FeedbackType": "share", "UserId": "u2", "ItemId": "i3", "Value": 0, "Timestamp": "2026-01-02T10:00:00Z"},
    {"FeedbackType": "like", "UserId": "u2", "ItemId": "i1", "Timestamp": "2026-01-02T11:00:00Z", "Comment": "warm"},
]


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


def read(folder: Path) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return GorseReader().read(folder, DataConfig(), faults), faults


@pytest.fixture
def export(tmp_path: Path) -> Path:
    write(tmp_path / "items.jsonl", ITEMS)
    write(tmp_path / "users.jsonl.gz", USERS)
    write(tmp_path / "feedback.jsonl", FEEDBACK)
    return tmp_path


def test_items_have_flat_labels_and_a_title(export: Path) -> None:
    items = read(export)[0].items

    assert items is not None
    assert items.drop(FILE).to_dicts() == [
        {
            "brand": "Sheep",
            "size_eu": 42,
            "colors": ["grey"],
            "item_id": "i1",
            "title": "Wool socks",
            "categories": ["socks", "wool"],
            "created_at": "2021-01-01T01:01:01.000000001Z",
            ROW: 1,
        },
        {
            "brand": None,
            "size_eu": None,
            "colors": None,
            "item_id": "i2",
            "title": "Straw hat",
            "categories": None,
            "created_at": None,
            ROW: 2,
        },
    ]


def test_feedback_becomes_events_without_hidden_items(export: Path) -> None:
    raw, faults = read(export)

    assert raw.interactions is not None
    assert raw.interactions.drop(FILE).to_dict(as_series=False) == {
        "user_id": ["u1", "u2", "u2"],
        "item_id": ["i1", "i2", "i1"],
        "timestamp": ["2026-01-02T10:00:00Z", "2026-01-02T10:00:00+02:00", "2026-01-02T11:00:00Z"],
        "event": ["like", "view", "like"],
        "value": [1, None, None],
        "text": [None, None, "warm"],
        ROW: [1, 2, 4],
    }
    assert not faults.faults
    assert dict(faults.notes) == {"hidden items, left out": 1, "feedback on hidden items, left out": 1}


def test_user_labels_become_attributes(export: Path) -> None:
    users = read(export)[0].users

    assert users is not None
    assert users.drop(ROW).to_dicts() == [
        {"user_id": "u1", "gender": "f", FILE: "users.jsonl.gz"},
        {"user_id": "u2", "gender": None, FILE: "users.jsonl.gz"},
    ]


def test_loaded_times_are_utc(export: Path) -> None:
    dataset = load_dataset(export)

    assert dataset.format == "gorse"
    assert dataset.interactions["timestamp"].dt.hour().to_list() == [8, 10, 11]
    assert dataset.items["created_at"].dt.year().to_list() == [2021, None]


def test_csv_export_of_older_versions(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "item_id,is_hidden,categories,time_stamp,labels,description\r\n"
        '1,false,x,2020-01-01 01:01:01.000000001 +0000 UTC,"{""genre"":[""comedy"",""sci-fi""]}","o,n,e"\r\n'
        '2,false,x|y,2021-01-01 09:01:01 +0800 CST,"{""genre"":[""drama""]}","t\r\nw\r\no"\r\n'
        '3,true,,0001-01-01 00:00:00 +0000 UTC,null,"""three"""\r\n',
        encoding="utf-8",
        newline="",
    )
    (tmp_path / "feedback.csv.gz").write_bytes(
        gzip.compress(b"feedback_type,user_id,item_id,time_stamp\r\nclick,u0,2,2022-05-05 05:05:05 +0000 UTC\r\n")
    )

    dataset = load_dataset(tmp_path)

    assert dataset.format == "gorse"
    assert dataset.items.select("item_id", "title", "categories", "genre").rows() == [
        ("1", "o,n,e", ["x"], ["comedy", "sci-fi"]),
        ("2", "t w o", ["x", "y"], ["drama"]),
    ]
    assert [time.isoformat() for time in dataset.items["created_at"].to_list()] == [
        "2020-01-01T01:01:01+00:00",
        "2021-01-01T01:01:01+00:00",
    ]
    assert dataset.interactions.select("user_id", "item_id", "event").rows() == [("u0", "2", "click")]


def test_labels_that_are_a_bare_list_become_one_attribute(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "item_id,is_hidden,categories,time_stamp,labels,description\n1,false,,2020-01-01 01:01:01 +0000 UTC,a|b,One\n",
        encoding="utf-8",
    )
    write(tmp_path / "feedback.jsonl", FEEDBACK)

    items = read(tmp_path)[0].items

    assert items is not None
    assert items.select("labels", "title", "categories").rows() == [(["a", "b"], "One", None)]


def test_whole_numbers_are_ids_and_category_labels_fill_in(export: Path) -> None:
    write(export / "items.jsonl", [{"ItemId": 7, "IsHidden": False, "Labels": {"categories": ["c"], "item_id": "x"}}])

    raw, faults = read(export)

    assert raw.items is not None
    assert raw.items.select("item_id", "categories").rows() == [("7", ["c"])]
    assert dict(faults.notes) == {"labels named item_id, which is a column's own name, left out": 1}


@pytest.mark.parametrize("name", ["items", "feedback"])
def test_missing_file_is_a_fault(export: Path, name: str) -> None:
    (export / f"{name}.jsonl").unlink()

    _, faults = read(export)

    assert GorseReader().detects(export)
    assert [str(fault) for fault in faults.faults] == [
        f"{name}.jsonl or {name}.csv: the file is missing. Export it from Gorse's dashboard into the same folder."
    ]


def test_feedback_without_a_user_or_with_a_strange_time_stops_the_loading(export: Path) -> None:
    nobody = {key: value for key, value in FEEDBACK[0].items() if key != "UserId"}
    write(export / "feedback.jsonl", [FEEDBACK[0], nobody, {**FEEDBACK[3], "Timestamp": "last week"}])

    with pytest.raises(DataError) as error:
        load_dataset(export)

    assert "feedback.jsonl, row 2, column user_id: the id is missing" in str(error.value)
    assert "feedback.jsonl, row 3, column timestamp: this is no time (value 'last week')" in str(error.value)


def test_array_as_the_programming_interface_sends_it_is_recognised_and_refused(export: Path) -> None:
    (export / "feedback.jsonl").write_text(json.dumps(FEEDBACK), encoding="utf-8")

    with pytest.raises(DataError, match="one JSON array, not JSON Lines"):
        load_dataset(export)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("items.jsonl", '{"item_id": "i1", "title": "Hat"}'),
        ("items.csv", "item_id,title,categories"),
        ("feedback.csv", "user,product,score"),
        ("feedback.txt", "feedback_type,user_id"),
    ],
)
def test_files_of_other_shapes_are_not_claimed(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text(line + "\n", encoding="utf-8")

    assert not GorseReader().detects(tmp_path)
