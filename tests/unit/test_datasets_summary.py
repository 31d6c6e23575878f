"""The numbers that `recsys validate` shows."""

import json
from pathlib import Path

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset, summarise, validate_folder
from recsys.datasets.summary import script_shares


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text(
        "item_id,title,description\ni1,Socks,Warm\ni2,Hats,\ni3,Shoes,\ni4,,\n", encoding="utf-8"
    )
    (tmp_path / "interactions.csv").write_text(
        "user_id,item_id,timestamp,event\n"
        "u1,i1,2024-03-05T10:00:00Z,view\nu1,i1,2024-03-05T10:00:00Z,view\nu1,i2,2024-03-06T10:00:00Z,like\n"
        "u3,i9,2024-03-06T11:00:00Z,view\nu2,i1,2024-03-07T10:00:00Z,view\n"
    )
    (tmp_path / "impressions.csv").write_text(
        "request_id,user_id,timestamp,item_id,clicked\n"
        "r1,u1,2024-03-01T10:00:00Z,i1,1\nr1,u1,2024-03-01T10:00:00Z,i2,0\nr1,u1,2024-03-01T10:00:00Z,i3,0\n"
        "r2,u4,2024-03-02T10:00:00Z,i3,0\nr2,u4,2024-03-02T10:00:00Z,i8,1\n"
    )
    return tmp_path


TOLERANT = DataConfig(max_unknown_item_share=0.3)


def test_counts_shares_and_span(folder: Path) -> None:
    summary = summarise(load_dataset(folder, config=TOLERANT))
    assert summary.to_dict() == {
        "name": folder.name,
        "format": "tables",
        "users": 3,  # u1, u2 and u4, who was only shown something; u3 went with an unknown item
        "items": 4,
        "items_without_behaviour": 2,
        "interactions": 4,
        "events": {"view": 2, "click": 1, "like": 1},
        "impressions": 4,
        "requests": 2,
        "click_through_rate": 0.25,
        "first": "2024-03-01T10:00:00Z",
        "last": "2024-03-07T10:00:00Z",
        "title_share": 0.75,
        "description_share": 0.25,
        "duplicates": 1,
        "clicks_without_item": 2,  # the view of i9 and the clicked impression of i8
        "scripts": {"Latin": 1.0},
    }


def test_the_report_of_sound_data_shows_what_was_tolerated(folder: Path) -> None:
    report = validate_folder(folder, config=TOLERANT)
    assert report.is_sound
    lines = report.lines()
    assert "users          3" in lines
    assert "interactions   4: view 2, click 1, like 1" in lines
    assert "impressions    4 in 2 requests, 25.0% clicked" in lines
    assert "time span      2024-03-01T10:00:00Z to 2024-03-07T10:00:00Z" in lines
    assert lines[lines.index("tolerated:") + 1 :] == [
        "  1 interactions with an unknown item, dropped",
        "  1 impressions with an unknown item, dropped",
        "  1 clicked impressions with an unknown item, dropped",
        "  1 clicks of impressions, added to the interactions",
        "  1 repeated interactions, dropped",
    ]


def test_reports_are_plain_json(folder: Path) -> None:
    sound = json.loads(json.dumps(validate_folder(folder, config=TOLERANT).to_dict()))
    assert (sound["is_sound"], sound["faults"], sound["summary"]["items"]) == (True, [], 4)
    refused = json.loads(json.dumps(validate_folder(folder).to_dict()))
    assert (refused["is_sound"], refused["n_faults"], refused["summary"]) == (False, 2, None)
    assert refused["faults"][0]["file"] == "interactions.csv"
    assert refused["faults"][0]["column"] == "item_id"


def test_a_log_without_impressions_says_so(folder: Path) -> None:
    (folder / "impressions.csv").unlink()
    summary = summarise(load_dataset(folder, config=TOLERANT))
    assert (summary.impressions, summary.requests, summary.click_through_rate) == (0, 0, None)
    assert "impressions    none" in summary.lines()


def test_impressions_can_be_left_aside_and_their_clicks_stay(folder: Path) -> None:
    summary = summarise(load_dataset(folder, config=TOLERANT.model_copy(update={"use_impressions": False})))
    assert "interactions   4: view 2, click 1, like 1" in summary.lines()  # the click came with the impressions
    assert "impressions    none" in summary.lines()


@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        (["abcdefgh", "пи"], {"Latin": 0.8, "Cyrillic": 0.2}),
        (["購買筆記本 A", "123 !?"], {"Han": 5 / 6, "Latin": 1 / 6}),
        (["ひらカタ"], {"Hiragana": 0.5, "Katakana": 0.5}),
        (["ᚠᚢ"], {"other": 1.0}),
        (["123", None], {}),
    ],
)
def test_scripts_of_the_catalogue(titles: list[str | None], expected: dict[str, float]) -> None:
    shares = script_shares(pl.DataFrame({"title": titles}))
    assert shares == pytest.approx(expected)
    assert list(shares) == list(expected)
