"""The Metarank reader, on hand-written events."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.faults import FaultLog
from recsys.datasets.metarank import MetarankReader
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError

T0 = 1_700_000_000_000


def item(id_: str, time: object, **fields: Any) -> dict[str, Any]:
    pairs = [{"name": name, "value": value} for name, value in fields.items()]
    return {"event": "item", "id": f"e-{id_}", "timestamp": time, "item": id_, "fields": pairs}


def ranking(id_: str, *items: str, **more: Any) -> dict[str, Any]:
    shown = [{"id": i, "relevancy": 0.5} for i in items]
    return {"event": "ranking", "id": id_, "timestamp": str(T0), "user": "u1", "session": "s1", "items": shown} | more


def interaction(ranking_id: str | None, item_id: str, type_: str, **more: Any) -> dict[str, Any]:
    event = {"event": "interaction", "id": "x", "timestamp": T0 + 5, "user": "u1", "type": type_, "item": item_id}
    return event | ({"ranking": ranking_id} if ranking_id else {}) | more


def write(folder: Path, events: Sequence[Mapping[str, Any]], name: str = "events.jsonl") -> Path:
    data = "".join(json.dumps(event) + "\n" for event in events).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def read(folder: Path, **config: str) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return MetarankReader().read(folder, DataConfig.model_validate(config), faults), faults


LOG = [
    item("i1", T0 - 9, title="Wool socks", color=["grey", "red"], votes=3),
    item("i2", T0 - 9, title="Hat", categories=["head"], votes=4.5, color="blue"),
    {"event": "user", "id": "e", "timestamp": T0, "user": "u1", "fields": [{"name": "age", "value": 33}]},
    ranking("r1", "i2", "i1"),
    interaction("r1", "i1", "click"),
    interaction(None, "i2", "purchase"),
]


def test_item_and_user_fields_become_columns(tmp_path: Path) -> None:
    raw, faults = read(write(tmp_path, LOG))

    assert not faults.faults
    assert raw.items is not None
    assert raw.users is not None
    assert raw.items.drop(FILE).to_dicts() == [
        {"item_id": "i1", "title": "Wool socks", "color": ["grey", "red"], "votes": 3.0, "categories": None, ROW: 1},
        {"item_id": "i2", "title": "Hat", "color": ["blue"], "votes": 4.5, "categories": ["head"], ROW: 2},
    ]
    assert raw.users.drop(ROW, FILE).to_dicts() == [{"user_id": "u1", "age": 33}]


def test_rankings_become_impressions_with_positions_from_one(tmp_path: Path) -> None:
    impressions = read(write(tmp_path, LOG))[0].impressions

    assert impressions is not None
    assert impressions.to_dict(as_series=False) == {
        "request_id": ["r1", "r1"],
        "user_id": ["u1", "u1"],
        "timestamp": [str(T0)] * 2,
        "item_id": ["i2", "i1"],
        "position": [1, 2],
        "clicked": [False, True],
        ROW: [4, 4],
        FILE: ["events.jsonl"] * 2,
    }


def test_interactions_keep_their_type_and_ranking(tmp_path: Path) -> None:
    interactions = read(write(tmp_path, LOG))[0].interactions

    assert interactions is not None
    assert interactions.rows() == [
        ("u1", "i1", str(T0 + 5), "click", "r1", 5, "events.jsonl"),
        ("u1", "i2", str(T0 + 5), "purchase", None, 6, "events.jsonl"),
    ]


def test_loaded_log_counts_every_click_once(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, LOG))

    assert dataset.format == "metarank"
    assert dataset.interactions.select("item_id", "event").rows() == [("i1", "click"), ("i2", "purchase")]
    assert dataset.impressions is not None
    assert dataset.impressions["timestamp"].dt.epoch("ms").unique().to_list() == [T0]


def test_newest_field_wins_whatever_the_order_in_the_log(tmp_path: Path) -> None:
    events = [
        item("i1", "2023-11-14T22:13:21Z", title="new"),  # one second after T0
        item("i1", T0, title="old", price=5),
        item("i1", str(T0 + 2000), price=7),
    ]

    items = read(write(tmp_path, events))[0].items

    assert items is not None
    assert items.select("title", "price").rows() == [("new", 7)]


def test_name_and_category_stand_in_for_the_standard_fields(tmp_path: Path) -> None:
    items = read(write(tmp_path, [item("i1", T0, name="Hat", category="head", description="Warm.")]))[0].items

    assert items is not None
    assert items.drop(ROW, FILE).to_dicts() == [
        {"item_id": "i1", "title": "Hat", "categories": "head", "description": "Warm."}
    ]


def test_name_stays_an_attribute_beside_a_title(tmp_path: Path) -> None:
    events = [item("i1", T0, name="hat-1"), item("i2", T0, title="Scarf", name="scarf-1")]

    items = read(write(tmp_path, events))[0].items

    assert items is not None
    assert items.sort("item_id").select("title", "name").rows() == [(None, "hat-1"), ("Scarf", "scarf-1")]


def test_only_clicks_count_as_clicked_where_the_log_has_clicks(tmp_path: Path) -> None:
    events = [
        item("i1", T0),
        ranking("r1", "i1", "i2", "i3"),
        interaction("r1", "i1", "like"),
        interaction("r1", "i3", "click"),
    ]

    impressions = read(write(tmp_path, events))[0].impressions

    assert impressions is not None
    assert impressions["clicked"].to_list() == [False, False, True]


def test_any_interaction_counts_as_clicked_in_a_log_without_clicks(tmp_path: Path) -> None:
    events = [item("i1", T0), ranking("r1", "i1", "i2"), ranking("r2", "i2", "i1"), interaction("r1", "i2", "buy")]

    impressions = read(write(tmp_path, events))[0].impressions

    assert impressions is not None
    assert impressions.select("request_id", "item_id", "clicked").rows() == [
        ("r1", "i1", False),
        ("r1", "i2", True),
        ("r2", "i2", False),
        ("r2", "i1", False),
    ]


def test_session_and_ranking_stand_in_for_a_missing_user(tmp_path: Path) -> None:
    events = [
        ranking("r1", "i1", user=None),
        ranking("r2", "i1", user=None, session=None),
        interaction("r1", "i1", "click", user=None),
        interaction("r2", "i1", "click", user=None),
        interaction(None, "i1", "click", user=None, session="s7"),
    ]

    raw, faults = read(write(tmp_path, events))

    assert raw.impressions is not None
    assert raw.interactions is not None
    assert raw.impressions.select("request_id", "user_id").rows() == [("r1", "s1")]
    assert raw.interactions["user_id"].to_list() == ["s1", "s7"]
    assert dict(faults.notes) == {
        "rankings without user or session, left out": 1,
        "interactions without user or session, left out": 1,
    }


def test_all_files_of_events_are_one_log_and_gzip_is_read(tmp_path: Path) -> None:
    write(tmp_path, LOG[:3], "a_metadata.jsonl.gz")
    write(tmp_path, LOG[3:], "b_events.json")
    write(tmp_path, [{"note": "no event"}], "c_other.json")

    raw, faults = read(tmp_path)

    assert MetarankReader().detects(tmp_path)
    assert not faults.faults
    assert raw.items is not None
    assert raw.impressions is not None
    assert raw.items[FILE].unique().to_list() == ["a_metadata.jsonl.gz"]
    assert raw.impressions[FILE].unique().to_list() == ["b_events.json"]


def test_log_without_items_needs_unknown_items_kept(tmp_path: Path) -> None:
    write(tmp_path, LOG[3:])

    with pytest.raises(DataError, match="there is no items table"):
        load_dataset(tmp_path)
    kept = load_dataset(tmp_path, config=DataConfig(unknown_items="keep"))
    assert kept.items["item_id"].sort().to_list() == ["i1", "i2"]


def test_field_that_would_replace_an_id_is_left_out(tmp_path: Path) -> None:
    raw, faults = read(write(tmp_path, [item("i1", T0, item_id="other", title="Hat")]))

    assert raw.items is not None
    assert raw.items["item_id"].to_list() == ["i1"]
    assert dict(faults.notes) == {"fields named item_id, which is a column's own name, left out": 1}


@pytest.mark.parametrize(
    ("event", "column", "problem"),
    [
        ({"event": "ranked", "id": "1"}, "event", "the kind of event is not known"),
        (item("i1", T0) | {"item": None}, "item", "an event of kind item needs text or a whole number here"),
        (item("i1", T0) | {"timestamp": 1.5}, "timestamp", "an event of kind item needs text or a whole number here"),
        (item("i1", "yesterday"), "timestamp", "this is no time"),
        (item("i1", T0) | {"fields": {"title": "x"}}, "fields", "fields are a list of objects with a name and a value"),
        (ranking("r1") | {"items": ["i1"]}, "items", "the items of a ranking are a list of objects with an id"),
        (ranking("r1") | {"items": None}, "items", "the items of a ranking are a list of objects with an id"),
        (interaction("r1", "i1", ""), "type", "an event of kind interaction needs text or a whole number here"),
    ],
)
def test_faulty_event_is_named_with_row_and_column(
    tmp_path: Path, event: dict[str, Any], column: str, problem: str
) -> None:
    write(tmp_path, [item("i0", T0), event])

    _, faults = read(tmp_path)

    assert [(fault.row, fault.column, fault.problem) for fault in faults.faults] == [(2, column, problem)]
    assert faults.faults[0].file == "events.jsonl"
    assert faults.faults[0].remedy


def test_every_fault_of_an_event_is_reported(tmp_path: Path) -> None:
    write(tmp_path, [item("i0", T0), {"event": "interaction", "id": "x"}])

    _, faults = read(tmp_path)

    assert [fault.column for fault in faults.faults] == ["type", "item", "timestamp"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("interactions.jsonl", '{"user_id": "u", "item_id": "i", "timestamp": 1, "event": "click"}'),
        ("events.jsonl", '{"user_id": "u", "item": "i"}'),
        ("events.csv", '{"event": "item", "id": "1"}'),
    ],
)
def test_files_of_other_shapes_are_not_claimed(tmp_path: Path, name: str, line: str) -> None:
    (tmp_path / name).write_text(line + "\n", encoding="utf-8")

    assert not MetarankReader().detects(tmp_path)
