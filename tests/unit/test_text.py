import polars as pl
import pytest

from recsys.text import clean_text, item_text, item_texts

ALL = ("title", "categories", "*", "description")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain", "plain"),
        ("", ""),
        ("  two \n\t words  ", "two words"),
        ("a\u00a0b\u3000c", "a b c"),
        ("<p>One<br/>two</p>", "One two"),
        ('<a href="/x">link</a> text', "link text"),
        ("R&amp;D &lt;b&gt; &#233; &nbsp;x", "R&D <b> é x"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("I <3 you", "I <3 you"),
        ("a<script>if (b < c) { x() }</script>d", "a d"),
        ("a<STYLE>b</style >c", "a c"),
        ("a<!-- b <i> -->c", "a c"),
        ("a <!-- never closed", "a <!-- never closed"),
        ("a <script> never closed", "a never closed"),
        ("&amp;lt;", "&lt;"),
    ],
)
def test_markup_goes_and_text_stays(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize("opening", ["<!--", "<script ", "<style>", "<a", "</script", "<script></script "])
def test_a_megabyte_of_broken_markup_is_cleaned_in_one_pass(opening: str) -> None:
    # Quadratic time would take hours here.
    assert "word" in clean_text(opening * (1_000_000 // len(opening)) + ">word")


def test_fields_come_in_order_as_sentences_labelled_unless_they_speak_for_themselves() -> None:
    item = {
        "item_id": "i1",
        "title": "Blue <b>Socks.</b>",
        "description": "Warm, of wool.",
        "categories": ["socks", "winter"],
        "created_at": None,
        "brand_name": "Acme",
        "price": 4.5,
    }

    assert item_text(item, ALL) == "Blue Socks. categories: socks, winter. brand name: Acme. Warm, of wool"
    assert item_text(item, ("description", "title")) == "Warm, of wool. Blue Socks"
    assert item_text(item, ("price", "title")) == "price: 4.5. Blue Socks"


def test_named_attributes_do_not_come_again_with_the_rest() -> None:
    item = {"title": "T", "a": "1st", "b": "2nd", "c": ["x", None, "y"]}

    assert item_text(item, ("b", "*", "title")) == "b: 2nd. a: 1st. c: x, y. T"


@pytest.mark.parametrize(
    "item",
    [
        {"item_id": "i"},
        {"item_id": "i", "title": None, "description": "", "categories": [], "brand": None},
        {"item_id": "i", "title": "  ", "description": "<br>", "categories": [None]},
    ],
)
def test_an_item_without_text_has_an_empty_text(item: dict[str, object]) -> None:
    assert item_text(item, ALL) == ""


def test_texts_of_a_table_come_in_row_order() -> None:
    items = pl.DataFrame({"item_id": ["b", "a"], "title": ["B", None], "categories": [["x"], []], "year": [1999, 2001]})

    assert item_texts(items, ALL) == ["B. categories: x", ""]


def test_a_table_without_text_columns_has_empty_texts() -> None:
    assert item_texts(pl.DataFrame({"item_id": ["b", "a"]}), ALL) == ["", ""]
