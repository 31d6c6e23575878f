from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import encode_dataset, request_rows
from recsys.schema import IMPRESSIONS, INTERACTIONS, TIMESTAMP

START = datetime(2024, 1, 1, tzinfo=UTC)
START_US = 1_704_067_200_000_000
MINUTE_US = 60_000_000

ITEMS = pl.DataFrame({"item_id": ["x", "y", "z"], "title": ["X", "Y", "Z"], "price": [1.0, None, 3.0]})


def _minutes(values: list[int]) -> pl.Series:
    return pl.Series([START + timedelta(minutes=m) for m in values], dtype=TIMESTAMP)


def _interactions(rows: list[tuple[str, str, int, str]]) -> pl.DataFrame:
    user, item, minute, event = zip(*rows, strict=True)
    columns = {"user_id": user, "item_id": item, "timestamp": _minutes(list(minute)), "event": event}
    empty = {name: pl.Series([None] * len(rows), dtype=dtype) for name, dtype in INTERACTIONS.dtypes.items()}
    return pl.DataFrame(empty | columns)


INTERACTED = _interactions(
    [
        ("bob", "z", 0, "click"),
        ("ann", "x", 1, "view"),
        ("ann", "y", 2, "purchase"),
        ("bob", "x", 2, "hover"),
        ("bob", "x", 3, "unlike"),
    ]
)
WEIGHTS = {"view": 0.25, "click": 1.0, "purchase": 4.0, "unlike": -1.0}


def _impressions(rows: list[tuple[str, str, int, str, int | None, bool]], *, drop: str = "propensity") -> pl.DataFrame:
    request, user, minute, item, position, clicked = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {
            "request_id": request,
            "user_id": user,
            "timestamp": _minutes(list(minute)),
            "item_id": item,
            "position": position,
            "clicked": clicked,
            "propensity": [None] * len(rows),
        },
        schema_overrides=IMPRESSIONS.dtypes,
    )
    return frame.drop(drop)


SHOWN = _impressions(
    [
        ("late", "bob", 9, "x", 1, False),
        ("late", "bob", 9, "z", 2, True),
        ("early", "cy", 4, "y", 1, False),
        ("same", "ann", 9, "z", None, True),
    ]
)


def test_users_of_every_table_have_a_row_in_alphabetical_order() -> None:
    users = pl.DataFrame({"user_id": ["zoe", "ann"], "age": [31, 20]})
    data = encode_dataset(Dataset(ITEMS, INTERACTED, SHOWN, users), DataConfig(event_weights=WEIGHTS))

    assert list(data.user_ids.ids) == ["ann", "bob", "cy", "zoe"]
    assert list(data.catalogue.ids.ids) == ["x", "y", "z"]


def test_events_weigh_what_the_configuration_says_and_those_without_weight_are_left_out() -> None:
    log = encode_dataset(Dataset(ITEMS, INTERACTED), DataConfig(event_weights=WEIGHTS)).log

    assert log.user_idx.tolist() == [0, 0, 1, 1]
    assert log.item_idx.tolist() == [0, 1, 2, 0]
    assert log.weight.tolist() == [0.25, 4.0, 1.0, 1.0]  # "hover" is not named and weighs 1
    assert log.timestamp_us.tolist() == [START_US + m * MINUTE_US for m in (1, 2, 0, 2)]
    assert (log.n_users, log.n_items) == (2, 3)


def test_without_any_named_weight_every_event_weighs_one() -> None:
    log = encode_dataset(Dataset(ITEMS, INTERACTED), DataConfig(event_weights={})).log

    assert log.weight.tolist() == [1.0] * 5


def test_requests_are_in_order_of_time_and_then_of_arrival() -> None:
    impressions = encode_dataset(Dataset(ITEMS, INTERACTED, SHOWN), DataConfig()).impressions

    assert impressions is not None
    assert impressions.request_id == ["early", "late", "same"]
    assert impressions.user_idx.tolist() == [2, 1, 0]
    assert impressions.timestamp_us.tolist() == [START_US + m * MINUTE_US for m in (4, 9, 9)]
    assert impressions.indptr.tolist() == [0, 1, 3, 4]
    assert impressions.item_idx.tolist() == [1, 0, 2, 2]
    assert impressions.clicked.tolist() == [False, False, True, True]
    assert impressions.position.tolist() == [1, 1, 2, 0]
    assert (impressions.item_idx.dtype, impressions.position.dtype) == (np.int32, np.int32)


def test_rows_of_a_request_are_brought_together() -> None:
    shown = _impressions(
        [
            ("b", "bob", 5, "x", 1, False),
            ("a", "ann", 5, "z", 1, True),
            ("b", "bob", 5, "y", 2, True),
            ("a", "ann", 5, "x", 2, False),
        ]
    )
    impressions = encode_dataset(Dataset(ITEMS, INTERACTED, shown), DataConfig()).impressions

    assert impressions is not None
    assert impressions.request_id == ["b", "a"]
    assert impressions.indptr.tolist() == [0, 2, 4]
    assert impressions.item_idx.tolist() == [0, 1, 2, 0]


def test_impressions_without_a_position_column_have_no_positions() -> None:
    shown = encode_dataset(Dataset(ITEMS, INTERACTED, SHOWN.drop("position")), DataConfig()).impressions

    assert shown is not None
    assert not shown.has_positions


@pytest.mark.parametrize("impressions", [None, SHOWN.clear()])
def test_without_impressions_there_are_none(impressions: pl.DataFrame | None) -> None:
    assert encode_dataset(Dataset(ITEMS, INTERACTED, impressions), DataConfig()).impressions is None


def test_without_a_users_table_users_have_no_attributes() -> None:
    data = encode_dataset(Dataset(ITEMS, INTERACTED), DataConfig())

    assert data.user_attributes.shape == (2, 0)
    assert data.user_attribute_names == ()


def test_a_users_table_of_ids_alone_gives_no_attributes() -> None:
    data = encode_dataset(Dataset(ITEMS, INTERACTED, users=pl.DataFrame({"user_id": ["bob"]})), DataConfig())

    assert data.user_attributes.shape == (2, 0)


def test_attributes_are_numbers_or_codes_by_falling_frequency_and_nan_where_missing() -> None:
    users = pl.DataFrame(
        {
            "user_id": ["cy", "ann", "dee", "bob"],
            "age": [30, None, 41, 20],
            "country": ["fr", "de", "de", None],
            "vip": [True, False, True, True],
            "tags": [["a"], [], [], []],
        }
    )
    data = encode_dataset(Dataset(ITEMS, INTERACTED, users=users), DataConfig())

    assert data.user_attribute_names == ("age", "country", "vip")
    assert data.user_attributes.dtype == np.float32
    np.testing.assert_array_equal(
        data.user_attributes,  # ann, bob, cy, dee
        np.array([[np.nan, 0, 1], [20, np.nan, 0], [30, 1, 0], [41, 0, 0]], np.float32),
    )


def test_equally_frequent_values_have_codes_in_alphabetical_order() -> None:
    users = pl.DataFrame({"user_id": ["ann", "bob"], "country": ["se", "at"]})

    assert encode_dataset(Dataset(ITEMS, INTERACTED, users=users), DataConfig()).user_attributes.tolist() == [[1], [0]]


def test_an_attribute_that_nobody_has_is_missing_for_all() -> None:
    users = pl.DataFrame({"user_id": ["ann", "bob"], "country": pl.Series([None, None], dtype=pl.String)})

    assert np.isnan(encode_dataset(Dataset(ITEMS, INTERACTED, users=users), DataConfig()).user_attributes).all()


def test_a_single_user_is_enough() -> None:
    data = encode_dataset(Dataset(ITEMS, INTERACTED.filter(pl.col("user_id") == "ann")), DataConfig())

    assert len(data.user_ids) == 1
    assert data.log.indptr.tolist() == [0, 2]


def test_items_that_nobody_touched_have_rows() -> None:
    data = encode_dataset(Dataset(ITEMS, INTERACTED.filter(pl.col("item_id") == "z")), DataConfig())

    assert data.log.item_counts().tolist() == [0, 0, 1]


def test_each_interaction_names_the_request_it_came_with() -> None:
    interactions = INTERACTED.with_columns(pl.Series("request_id", ["r2", None, "r1", "r1", "gone"], dtype=pl.String))
    impressions = _impressions(
        [("r1", "ann", 0, "x", 1, True), ("r1", "ann", 0, "y", 2, False), ("r2", "bob", 5, "z", 1, False)]
    )
    dataset = Dataset(ITEMS, interactions, impressions)
    data = encode_dataset(dataset, DataConfig(event_weights=WEIGHTS))
    found = request_rows(dataset, data)

    assert found is not None
    named = interactions["request_id"].to_list()
    assert [named[row] for row in data.log.row] == [None, "r1", "r2", "r1"]
    assert found.tolist() == [-1, 0, 1, 0]
    assert (
        request_rows(Dataset(ITEMS, interactions), encode_dataset(Dataset(ITEMS, interactions), DataConfig())) is None
    )
