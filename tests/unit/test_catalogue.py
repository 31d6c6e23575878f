from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from recsys.catalogue import NO_TIME, Catalogue
from recsys.errors import UnknownIdError

FIELDS = ("title", "categories", "*", "description")
PROSE = "this sentence has more than six words in it"


def _items(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"item_id": ["a", "b", "c", "d"]} | columns)


def _values(catalogue: Catalogue) -> dict[str, list[str]]:
    """Return each item's values as field=value, by item id."""
    shown: dict[str, list[str]] = {}
    for row, id_ in enumerate(catalogue.ids.ids):
        columns = np.sort(catalogue.values[row].indices)
        shown[id_] = [
            f"{catalogue.value_fields[catalogue.value_field[c]]}={catalogue.value_names[c]}" for c in columns.tolist()
        ]
    return shown


def test_values_shared_by_two_items_are_kept_and_the_commonest_come_first() -> None:
    catalogue = Catalogue.from_items(
        _items(categories=[["x", "y"], ["y"], ["y", "rare", "y"], []], brand=["P", "Q", None, "Q"]), FIELDS
    )

    assert list(catalogue.value_fields) == ["categories", "brand"]
    assert list(catalogue.value_names) == ["y", "Q"]
    assert catalogue.value_field.tolist() == [0, 1]
    assert _values(catalogue) == {"a": ["categories=y"], "b": ["categories=y", "brand=Q"], "c": ["categories=y"], "d": [
        "brand=Q"
    ]}  # fmt: skip
    assert catalogue.values.dtype == np.float32
    assert set(catalogue.values.data.tolist()) == {1.0}


def test_equally_common_values_come_in_alphabetical_order() -> None:
    catalogue = Catalogue.from_items(_items(categories=[["z", "m", "a"], ["a", "m", "z"], [], []]), FIELDS)

    assert list(catalogue.value_names) == ["a", "m", "z"]


def test_a_value_of_one_field_is_not_that_of_another() -> None:
    catalogue = Catalogue.from_items(_items(maker=["x", "x", None, None], owner=[None, "x", "x", "x"]), FIELDS)

    assert _values(catalogue)["b"] == ["maker=x", "owner=x"]
    assert catalogue.value_field.tolist() == [0, 1]


def test_a_value_below_the_wanted_count_is_left_out() -> None:
    items = _items(brand=["P", "P", "P", "Q"])

    assert list(Catalogue.from_items(items, FIELDS, min_value_count=1).value_names) == ["P", "Q"]
    assert list(Catalogue.from_items(items, FIELDS, min_value_count=4).value_names) == []


def test_booleans_are_labels_and_long_text_is_not() -> None:
    catalogue = Catalogue.from_items(
        _items(in_stock=[True, False, True, True], blurb=[PROSE, PROSE, None, PROSE], title=["t", "t", "t", "t"]),
        FIELDS,
    )

    assert list(catalogue.value_fields) == ["in_stock"]
    assert list(catalogue.value_names) == ["True"]


def test_empty_and_missing_values_are_no_labels() -> None:
    catalogue = Catalogue.from_items(_items(brand=["", "", None, None], categories=[[""], [""], None, []]), FIELDS)

    assert catalogue.values.shape == (4, 0)


def test_numbers_are_kept_as_given_with_nan_where_missing() -> None:
    catalogue = Catalogue.from_items(_items(price=[1.5, None, -2.0, 0.0], year=[1999, 2001, None, 2003]), FIELDS)

    assert list(catalogue.numeric_fields) == ["price", "year"]
    assert catalogue.numeric.dtype == np.float32
    np.testing.assert_array_equal(
        catalogue.numeric, np.array([[1.5, 1999], [np.nan, 2001], [-2, np.nan], [0, 2003]], np.float32)
    )


def test_numbers_beyond_float32_stay_finite() -> None:
    catalogue = Catalogue.from_items(_items(price=[1e300, -1e39, 2.0, None]), FIELDS)

    assert catalogue.numeric[:, 0].tolist()[:3] == pytest.approx([1e30, -1e30, 2.0])


def test_creation_times_are_microseconds_with_a_mark_where_unknown() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    items = _items().with_columns(pl.Series("created_at", [moment, None, None, moment], pl.Datetime("us", "UTC")))

    assert Catalogue.from_items(items, FIELDS).created_at_us.tolist() == [
        1_714_564_800_000_000,
        NO_TIME,
        NO_TIME,
        1_714_564_800_000_000,
    ]


def test_a_catalogue_of_ids_alone_has_empty_parts() -> None:
    catalogue = Catalogue.from_items(_items(), FIELDS)

    assert len(catalogue) == 4
    assert catalogue.values.shape == (4, 0)
    assert catalogue.numeric.shape == (4, 0)
    assert list(catalogue.texts) == [""] * 4
    assert catalogue.created_at_us.tolist() == [NO_TIME] * 4
    assert catalogue.titles == ["a", "b", "c", "d"]


def test_an_empty_catalogue_has_no_rows() -> None:
    catalogue = Catalogue.from_items(
        pl.DataFrame(schema={"item_id": pl.String, "price": pl.Float64, "brand": pl.String}), FIELDS
    )

    assert len(catalogue) == 0
    assert catalogue.values.shape == (0, 0)
    assert catalogue.numeric.shape == (0, 1)


def test_the_id_stands_in_for_a_missing_title() -> None:
    assert Catalogue.from_items(_items(title=["A", None, "", "D"]), FIELDS).titles == ["A", "b", "c", "D"]


def test_texts_follow_the_configured_fields() -> None:
    catalogue = Catalogue.from_items(_items(title=["A", "B", "C", "D"], brand=["P", "Q", "P", "Q"]), ("brand", "title"))

    assert list(catalogue.texts)[:2] == ["brand: P. A", "brand: Q. B"]


def test_two_items_of_one_id_are_refused() -> None:
    with pytest.raises(UnknownIdError, match="id 'a' occurs twice"):
        Catalogue.from_items(pl.DataFrame({"item_id": ["a", "a"]}), FIELDS)


def test_texts_on_demand_are_the_texts() -> None:
    catalogue = Catalogue.from_items(_items(title=["A", None, "", "D"]), FIELDS)
    later = catalogue.with_texts_on_demand(FIELDS)
    assert list(later.texts) == list(catalogue.texts)
    assert [later.texts[row] for row in range(-4, 4)] == [catalogue.texts[row] for row in range(-4, 4)]
    assert list(later.texts[1:3]) == list(catalogue.texts[1:3])
    assert len(later.texts) == 4
    with pytest.raises(IndexError):
        later.texts[4]


def test_title_of_a_row_is_its_id_where_it_has_none() -> None:
    catalogue = Catalogue.from_items(_items(title=["A", None, "", "D"]), FIELDS)
    assert [catalogue.title_of(row) for row in range(4)] == catalogue.titles
