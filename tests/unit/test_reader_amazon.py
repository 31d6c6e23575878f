"""The Amazon reader, on hand-written reviews and metadata of three generations and on the published ones."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.datasets.amazon import AmazonReader
from recsys.datasets.faults import FaultLog
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError

REVIEW_2018: dict[str, Any] = {
    "overall": 4.0,
    "reviewerID": "A2",
    "asin": "B1",
    "reviewText": "Gift card for my daughter",
    "summary": "Ease of use",
    "unixReviewTime": 1528934400,
}
META_2018: dict[str, Any] = {
    "asin": "B1",
    "title": "Gift Card",
    "description": ["<b>Fine</b> card.", "No fees."],
    "feature": ["Never expires"],
    "brand": "Amazon",
    "category": ["Gift Cards", "Gift Cards", "For Her"],
    "main_cat": "Gift Cards",
    "price": "$1,250.00",
    "also_view": ["B7"],
}


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


def read(folder: Path) -> tuple[RawTables, FaultLog]:
    faults = FaultLog()
    return AmazonReader().read(folder, DataConfig(), faults), faults


def only_item(folder: Path) -> dict[str, Any]:
    items = read(folder)[0].items
    assert items is not None
    return items.drop(ROW, FILE).row(0, named=True)


@pytest.fixture
def gifts(tmp_path: Path) -> Path:
    write(tmp_path / "Gift_Cards_5.json.gz", [REVIEW_2018, {**REVIEW_2018, "reviewerID": "A3", "reviewText": None}])
    write(tmp_path / "meta_Gift_Cards.json", [META_2018])
    return tmp_path


def test_reviews_of_2018_become_ratings_with_text(gifts: Path) -> None:
    raw, faults = read(gifts)

    assert not faults.faults
    assert raw.interactions is not None
    assert raw.interactions.rows() == [
        (
            "A2",
            "B1",
            "1528934400",
            "rating",
            "4.0",
            "Ease of use\nGift card for my daughter",
            1,
            "Gift_Cards_5.json.gz",
        ),
        ("A3", "B1", "1528934400", "rating", "4.0", "Ease of use", 2, "Gift_Cards_5.json.gz"),
    ]


def test_metadata_of_2018_become_items(gifts: Path) -> None:
    assert only_item(gifts) == {
        "item_id": "B1",
        "title": "Gift Card",
        "description": "<b>Fine</b> card.\nNo fees.\nNever expires",
        "categories": ["Gift Cards", "For Her"],
        "brand": "Amazon",
        "main_category": "Gift Cards",
        "price": "1250.00",
    }


def test_loading_cleans_html_and_types_the_price(gifts: Path) -> None:
    items = load_dataset(gifts).items

    assert items["description"].to_list() == ["Fine card. No fees. Never expires"]
    assert items["price"].to_list() == [1250.0]


def test_files_of_2023_are_keyed_by_parent_asin(tmp_path: Path) -> None:
    review = {
        "rating": 5.0,
        "title": "Such a lovely scent",
        "text": "but not overpowering.",
        "asin": "B00YQ6X8EO",
        "parent_asin": "P1",
        "user_id": "AGKH",
        "timestamp": 1588687728923,
    }
    meta = {
        "main_category": "All Beauty",
        "title": "Spray",
        "features": ["Vegan", "Small"],
        "description": [],
        "price": 12.5,
        "store": "Herbivore",
        "categories": ["Beauty", "Hair"],
        "details": {"Brand": "x"},
        "parent_asin": "P1",
    }
    write(tmp_path / "All_Beauty.jsonl", [review])
    write(tmp_path / "meta_All_Beauty.jsonl.gz", [meta])

    dataset = load_dataset(tmp_path)

    assert dataset.format == "amazon"
    row = dataset.interactions.row(0, named=True)
    assert (row["user_id"], row["item_id"], row["value"]) == ("AGKH", "P1", 5.0)
    assert row["text"] == "Such a lovely scent\nbut not overpowering."
    assert row["timestamp"].isoformat() == "2020-05-05T14:08:48.923000+00:00"
    assert only_item(tmp_path) == {
        "item_id": "P1",
        "title": "Spray",
        "description": "Vegan\nSmall",
        "categories": ["Beauty", "Hair"],
        "brand": "Herbivore",
        "main_category": "All Beauty",
        "price": "12.5",
    }


def test_metadata_of_2014_are_python_literals(tmp_path: Path) -> None:
    write(tmp_path / "reviews_Books_5.json", [REVIEW_2018])
    (tmp_path / "meta_Books.json").write_text(
        "{'asin': 'B1', 'title': \"Smith's Book\", 'price': 9.99, 'categories': [['Books', 'Art'], ['Books', 'New']]}\n"
        "\n"
        "{'asin': 'B2', 'title': 'Cut\n",
        encoding="utf-8",
    )

    _, faults = read(tmp_path)

    assert only_item(tmp_path) == {
        "item_id": "B1",
        "title": "Smith's Book",
        "description": None,
        "categories": ["Books", "Art", "New"],
        "brand": None,
        "main_category": None,
        "price": "9.99",
    }
    assert [(fault.file, fault.row) for fault in faults.faults] == [("meta_Books.json", 3)]
    assert "the line is no Python literal of an object" in faults.faults[0].problem


@pytest.mark.parametrize(
    ("published", "price", "unread"),
    [
        ("$29.99", "29.99", 0),
        ("$25.00 - $500.00", "25.00", 0),
        ("from 12.50", "12.50", 0),
        (7, "7", 0),
        ("", None, 0),
        (None, None, 0),
        ("None", None, 0),
        (".a-section.a-spacing-mini{margin-bottom:6px}", None, 1),
    ],
)
def test_price_is_read_as_a_number(gifts: Path, published: object, price: str | None, unread: int) -> None:
    write(gifts / "meta_Gift_Cards.json", [{**META_2018, "price": published}])

    _, faults = read(gifts)

    assert only_item(gifts)["price"] == price
    assert faults.notes["prices of meta_Gift_Cards.json that are no number, left out"] == unread


def test_main_category_given_as_a_picture_is_its_alternative_text(gifts: Path) -> None:
    picture = '<img src="https://x/am.png" class="nav-categ-image" alt="Amazon Fashion"/>'
    write(gifts / "meta_Gift_Cards.json", [{**META_2018, "main_cat": picture}])

    assert only_item(gifts)["main_category"] == "Amazon Fashion"


def test_repeated_metadata_are_counted_and_left_out(gifts: Path) -> None:
    write(gifts / "meta_Gift_Cards.json", [META_2018, {**META_2018, "also_view": []}, {**META_2018, "asin": "B2"}])
    write(gifts / "meta_Other.json", [META_2018])

    raw, faults = read(gifts)

    assert raw.items is not None
    assert raw.items["item_id"].to_list() == ["B1", "B2"]
    assert dict(faults.notes) == {"rows of the metadata that repeat an earlier row, left out": 2}


def test_differing_metadata_of_one_item_stop_the_loading(gifts: Path) -> None:
    write(gifts / "meta_Gift_Cards.json", [META_2018, {**META_2018, "title": "Another"}])

    with pytest.raises(DataError, match=r"meta_Gift_Cards\.json, row 2, column item_id: the id was already given"):
        load_dataset(gifts)


def test_several_files_of_reviews_are_read_one_after_the_other(gifts: Path) -> None:
    write(gifts / "Appliances.json", [{**REVIEW_2018, "reviewerID": "A0"}])

    interactions = read(gifts)[0].interactions

    assert interactions is not None
    assert interactions.select("user_id", FILE).rows() == [
        ("A0", "Appliances.json"),
        ("A2", "Gift_Cards_5.json.gz"),
        ("A3", "Gift_Cards_5.json.gz"),
    ]


def test_missing_keys_and_broken_lines_are_faults_with_their_row(gifts: Path) -> None:
    anonymous = {key: value for key, value in REVIEW_2018.items() if key != "reviewerID"}
    text = "\n".join([json.dumps(REVIEW_2018), json.dumps(anonymous), '{"asin": "B1"'])
    (gifts / "Gift_Cards_5.json.gz").write_bytes(gzip.compress(text.encode()))

    with pytest.raises(DataError) as error:
        load_dataset(gifts)

    assert "row 2, column user_id: the id is missing" in str(error.value)
    assert "row 3: the line is not valid JSON" in str(error.value)


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        ("Gift_Cards_5.json.gz", "meta_*.json.gz with the products"),
        ("meta_Gift_Cards.json", "*.json.gz with the reviews"),
    ],
)
def test_missing_file_is_a_fault(gifts: Path, kept: str, missing: str) -> None:
    for path in gifts.iterdir():
        if path.name != kept:
            path.unlink()

    _, faults = read(gifts)

    assert AmazonReader().detects(gifts)
    assert [f"{fault.file}: {fault.problem}" for fault in faults.faults] == [f"{missing}: the file is missing"]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("interactions.jsonl", {"user_id": "u", "item_id": "i", "timestamp": 1, "event": "click"}),
        ("events.jsonl", {"event": "item", "id": "1", "item": "i", "timestamp": 1}),
        ("meta_items.json", {"item_id": "i", "title": "t"}),
        ("reviews.txt", REVIEW_2018),
    ],
)
def test_files_of_other_shapes_are_not_claimed(tmp_path: Path, name: str, record: dict[str, Any]) -> None:
    write(tmp_path / name, [record])

    assert not AmazonReader().detects(tmp_path)


@pytest.mark.data
def test_published_gift_cards_load_whole(published_data: Path) -> None:
    dataset = load_dataset(published_data / "amazon-gift-cards-5core")

    assert dataset.format == "amazon"
    assert dataset.interactions.height == 2_972
    assert dataset.interactions["user_id"].n_unique() == 458
    assert dataset.interactions["item_id"].n_unique() == 148
    assert dataset.items.height == 1_547
    assert dataset.items["title"].null_count() == 0
    assert dataset.interactions["text"].null_count() == 0
    assert not dataset.items["description"].str.contains(r"<(br|div|p|b)\b").any()
    assert dataset.items["price"].drop_nulls().is_between(0, 2000).all()
    assert dataset.items["price"].drop_nulls().len() == 358
    assert str(dataset.interactions["timestamp"].min()).startswith("2012-01-31")
