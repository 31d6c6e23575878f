"""Raw tables into a data set: what is converted, what is tolerated and counted, and what order rows come in."""

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import Dataset, FaultLog, build_dataset
from recsys.datasets.check_times import to_time
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError
from recsys.schema import IMPRESSIONS, INTERACTIONS, ITEMS, TIMESTAMP

NOW = datetime(2024, 6, 1, tzinfo=UTC)
T1, T2, T3 = "2024-03-01T10:00:00Z", "2024-03-01T11:00:00Z", "2024-03-02T10:00:00Z"


def raw(file: str, **columns: Any) -> pl.DataFrame:
    frame = pl.DataFrame(columns, strict=False)
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW), pl.lit(file).alias(FILE))


def items(**columns: Any) -> pl.DataFrame:
    return raw("items.csv", **({"item_id": ["i1", "i2", "i3"]} | columns))


def interactions(**columns: Any) -> pl.DataFrame:
    base = {"user_id": ["u1", "u1", "u2"], "item_id": ["i1", "i2", "i3"], "timestamp": [T1, T2, T3]}
    return raw("interactions.csv", **(base | {"event": ["click"] * 3} | columns))


def impressions(**columns: Any) -> pl.DataFrame:
    base = {"request_id": ["r1", "r1", "r2"], "user_id": ["u1", "u1", "u2"], "timestamp": [T1, T1, T3]}
    return raw("impressions.csv", **(base | {"item_id": ["i1", "i2", "i3"], "clicked": [0, 1, 0]} | columns))


def build(
    tables: RawTables | None = None, *, faults: FaultLog | None = None, now: datetime = NOW, **config: Any
) -> Dataset:
    tables = tables or RawTables(items(), interactions())
    return build_dataset(tables, DataConfig(**config), faults if faults is not None else FaultLog(), now=now)


class TestTables:
    def test_every_standard_column_is_there_with_its_dtype(self) -> None:
        dataset = build(RawTables(items(colour=["red", None, "blue"]), interactions(), impressions()))
        assert dataset.items.schema == pl.Schema({**ITEMS.dtypes, "colour": pl.String()})
        assert dataset.interactions.schema == pl.Schema(INTERACTIONS.dtypes)
        assert dataset.impressions is not None
        assert dataset.impressions.schema == pl.Schema(IMPRESSIONS.dtypes)

    def test_the_raw_frames_stay_as_they_were(self) -> None:
        tables = RawTables(items(title=["<b>a</b>", "b", "c"]), interactions(), impressions())
        before = [
            frame.clone() for frame in (tables.items, tables.interactions, tables.impressions) if frame is not None
        ]
        build(tables)
        after = [frame for frame in (tables.items, tables.interactions, tables.impressions) if frame is not None]
        assert all(one.equals(other) for one, other in zip(before, after, strict=True))

    def test_interactions_come_in_order_of_time_and_then_of_the_file(self) -> None:
        dataset = build(RawTables(items(), interactions(timestamp=[T3, T1, T1])))
        assert dataset.interactions["item_id"].to_list() == ["i2", "i3", "i1"]

    def test_impressions_come_in_order_of_time_with_requests_together(self) -> None:
        shown = impressions(
            request_id=["r2", "r1", "r2"], user_id=["u1"] * 3, timestamp=[T1] * 3, item_id=["i3", "i1", "i2"]
        )
        dataset = build(RawTables(items(), interactions(), shown))
        assert dataset.impressions is not None
        assert dataset.impressions.select("request_id", "item_id").rows() == [("r2", "i3"), ("r2", "i2"), ("r1", "i1")]

    def test_items_without_behaviour_stay(self) -> None:
        dataset = build(RawTables(items(item_id=["i1", "i2", "i3", "i4"]), interactions()))
        assert dataset.items["item_id"].to_list() == ["i1", "i2", "i3", "i4"]

    def test_further_columns_of_interactions_are_noted(self) -> None:
        dataset = build(RawTables(items(), interactions(device=["a", "b", "c"])))
        assert dataset.notes == {"column device of interactions, which no model uses, left out": 1}

    def test_missing_tables_are_faults_unless_the_reader_said_why(self) -> None:
        with pytest.raises(DataError, match=r"data: there is no items table\. Add a table of items"):
            build(RawTables(interactions=interactions()))
        with pytest.raises(DataError, match=r"data: there is no behaviour: neither interactions nor impressions\. Add"):
            build(RawTables(items=items()))

    def test_whole_number_ids_match_across_tables_whatever_their_type(self) -> None:
        dataset = build(RawTables(items(item_id=[1, 2, 3]), interactions(item_id=["1", "2", "3"], user_id=[7, 7, 8])))
        assert dataset.items["item_id"].to_list() == ["1", "2", "3"]
        assert dataset.interactions["user_id"].to_list() == ["7", "7", "8"]


class TestTimes:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2024-03-01T10:00:00Z", datetime(2024, 3, 1, 10)),
            ("2024-03-01 10:00:00", datetime(2024, 3, 1, 10)),
            ("2024-03-01T10:00", datetime(2024, 3, 1, 10)),
            ("2024-03-01", datetime(2024, 3, 1)),
            (" 2024-03-01T10:00:00.1234567Z ", datetime(2024, 3, 1, 10, 0, 0, 123456)),
            ("2024-03-01T10:00:00,5+02:00", datetime(2024, 3, 1, 8, 0, 0, 500000)),
            ("2024-03-01T10:00:00-0330", datetime(2024, 3, 1, 13, 30)),
            ("2024-03-01 10:00:00 UTC", datetime(2024, 3, 1, 10)),
            ("978300760", datetime(2000, 12, 31, 22, 12, 40)),
            ("978300760123", datetime(2000, 12, 31, 22, 12, 40, 123000)),
            ("978300760123456", datetime(2000, 12, 31, 22, 12, 40, 123456)),
            ("978300760123456789", datetime(2000, 12, 31, 22, 12, 40, 123456)),
            ("978300760.25", datetime(2000, 12, 31, 22, 12, 40, 250000)),
            ("9.7830076e8", datetime(2000, 12, 31, 22, 12, 40)),
        ],
    )
    def test_text_is_read_as_iso_8601_or_by_its_magnitude(self, value: str, expected: datetime) -> None:
        beside = ["2020-02-29", "yesterday", None]
        assert to_time(pl.Series("t", [value, *beside])).to_list()[0] == expected.replace(tzinfo=UTC)
        assert to_time(pl.Series("t", [value])).to_list() == [expected.replace(tzinfo=UTC)]

    @pytest.mark.parametrize(
        "value",
        ["2024-13-01", "2024-02-30", "2024-3-1", "01.03.2024", "2024-03-01T25:00:00Z", "10:00", "", "9" * 25, "1e300"],
    )
    def test_text_that_is_no_time_is_null(self, value: str) -> None:
        assert to_time(pl.Series("t", [value])).to_list() == [None]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (pl.Series("t", [978300760], dtype=pl.UInt32), datetime(2000, 12, 31, 22, 12, 40)),
            (pl.Series("t", [978300760123.0]), datetime(2000, 12, 31, 22, 12, 40, 123000)),
            (pl.Series("t", [date(2024, 3, 1)]), datetime(2024, 3, 1)),
            (pl.Series("t", [datetime(2024, 3, 1, 10)], dtype=pl.Datetime("ns")), datetime(2024, 3, 1, 10)),
            (
                pl.Series("t", [datetime(2024, 3, 1, 10)]).dt.replace_time_zone("Asia/Tokyo"),
                datetime(2024, 3, 1, 1),
            ),
        ],
    )
    def test_typed_columns_are_converted(self, values: pl.Series, expected: datetime) -> None:
        times = to_time(values)
        assert times.dtype == TIMESTAMP
        assert times.to_list() == [expected.replace(tzinfo=UTC)]

    @pytest.mark.parametrize("values", [[True], [[1]], [float("nan")], [float("inf")], [None]])
    def test_other_values_are_null(self, values: list[object]) -> None:
        assert to_time(pl.Series("t", values)).to_list() == [None]

    def test_a_day_of_clock_difference_is_allowed_and_no_more(self) -> None:
        tables = RawTables(items(), interactions(timestamp=[T1, T2, "2024-06-01T23:00:00Z"]))
        assert build(tables).interactions.height == 3
        with pytest.raises(
            DataError, match=r"row 3, column timestamp: the time lies in the future \(value '2024-06-01"
        ):
            build(tables, now=datetime(2024, 5, 31, tzinfo=UTC))

    def test_items_may_be_announced_for_the_future_and_be_older_than_any_log(self) -> None:
        dataset = build(RawTables(items(created_at=["1813-01-28", "2030-01-01", None]), interactions()))
        assert dataset.items["created_at"].dt.year().to_list() == [1813, 2030, None]
        assert dataset.notes == {"items whose created_at lies in the future": 1}


class TestText:
    def test_html_is_cleaned_and_emptiness_is_null(self) -> None:
        tables = RawTables(
            items(title=["<b>Tom</b> &amp; Jerry", " ", "a\u00a0 b"], description=["<br/>", None, "x"]), interactions()
        )
        dataset = build(tables)
        assert dataset.items["title"].to_list() == ["Tom & Jerry", None, "a b"]
        assert dataset.items["description"].to_list() == [None, None, "x"]

    def test_a_title_may_be_a_number(self) -> None:
        dataset = build(RawTables(items(title=[1984, 2001, None]), interactions()))
        assert dataset.items["title"].to_list() == ["1984", "2001", None]

    def test_the_longest_allowed_title_is_kept(self) -> None:
        dataset = build(RawTables(items(title=["x" * 10_000, "", ""]), interactions()))
        assert dataset.items["title"].str.len_chars().to_list() == [10_000, None, None]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([["a", " b "], None, [""]], [["a", "b"], [], []]),
            (['["a", "b|c"]', "a|b| ", None], [["a", "b|c"], ["a", "b"], []]),
            (["[]", '["a", null, 3]', "Sci-Fi"], [[], ["a", "3"], ["Sci-Fi"]]),
            ([[1, 2], [3], None], [["1", "2"], ["3"], []]),
        ],
    )
    def test_categories_are_lists_json_arrays_or_bars(self, values: list[Any], expected: list[list[str]]) -> None:
        dataset = build(RawTables(items(categories=values), interactions()))
        assert dataset.items["categories"].to_list() == expected

    @pytest.mark.parametrize("value", ['["a"', '[["a"]]', '[{"a": 1}]', '["\\ud83d"]'])
    def test_categories_that_are_no_flat_list_are_refused(self, value: str) -> None:
        with pytest.raises(DataError, match=r"row 1, column categories: this is no list of texts"):
            build(RawTables(items(categories=[value, None, None]), interactions()))


class TestAttributes:
    def attribute(self, values: Any, faults: FaultLog | None = None) -> pl.Series | None:
        found = build(RawTables(items(x=values), interactions()), faults=faults).items
        return found["x"] if "x" in found.columns else None

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            (["1", "-2.5", None], [1.0, -2.5, None]),
            (["0", "1e3", "0.5"], [0.0, 1000.0, 0.5]),
            ([1, None, 3], [1.0, None, 3.0]),
            ([1.5, float("nan"), None], [1.5, None, None]),
            (["02139", "85711", "10001"], ["02139", "85711", "10001"]),
            (["1234567890123456", "2", "3"], ["1234567890123456", "2", "3"]),
            ([1234567890123456, 2, 3], ["1234567890123456", "2", "3"]),
            (["12", "12a", None], ["12", "12a", None]),
            (["1e999", "1", "2"], ["1e999", "1", "2"]),
            (["true", "False", None], [True, False, None]),
            ([True, False, None], [True, False, None]),
            (['["a"]', None, "[]"], [["a"], [], []]),
            ([["a", None, " "], None, []], [["a"], [], []]),
            ([date(2020, 1, 2), None, None], ["2020-01-02", None, None]),
        ],
    )
    def test_values_say_the_type(self, values: list[Any], expected: list[Any]) -> None:
        found = self.attribute(values)
        assert found is not None
        assert found.to_list() == expected
        if isinstance(expected[0], float):
            assert found.dtype == pl.Float64

    @pytest.mark.parametrize(
        ("values", "note"),
        [
            ([None, None, None], "attribute column x without any value, left out"),
            (["", "", ""], "attribute column x without any value, left out"),
            ([[0.5], [1.5], None], "attribute column x of type List(Float64), left out"),
            ([{"a": 1}, None, None], "attribute column x of type Struct({'a': Int64}), left out"),
            ([b"\xff", None, None], "attribute column x of type Binary, left out"),
        ],
    )
    def test_what_no_model_can_use_is_left_out_with_a_note(self, values: list[Any], note: str) -> None:
        faults = FaultLog()
        assert self.attribute(values, faults) is None
        assert dict(faults.notes) == {note: 1}

    def test_users_have_attributes_too(self) -> None:
        users = raw("users.csv", user_id=["u1", "u9"], zip=["02139", None], age=["31", "44"])
        dataset = build(RawTables(items(), interactions(), users=users))
        assert dataset.users is not None
        assert dataset.users.rows() == [("u1", "02139", 31.0), ("u9", None, 44.0)]
        assert dataset.user_ids() == ["u1", "u2", "u9"]


class TestTolerance:
    unknown = ("i1", "i9", "i3")

    def test_rows_with_an_unknown_item_are_dropped_and_counted(self) -> None:
        dataset = build(RawTables(items(), interactions(item_id=self.unknown)), max_unknown_item_share=0.34)
        assert dataset.interactions["item_id"].to_list() == ["i1", "i3"]
        assert dataset.notes == {"interactions with an unknown item, dropped": 1}

    def test_more_of_them_than_allowed_are_a_fault(self) -> None:
        tables = RawTables(items(), interactions(item_id=self.unknown))
        with pytest.raises(DataError, match=r"1 of 3 rows \(33\.3%\).* more than data\.max_unknown_item_share = 0\.33"):
            build(tables, max_unknown_item_share=0.33)

    def test_unknown_items_can_be_kept_without_text(self) -> None:
        shown = impressions(item_id=["i8", "i9", "i3"])
        tables = RawTables(items(title=["a", "b", "c"], price=[1, 2, 3]), interactions(item_id=self.unknown), shown)
        dataset = build(tables, unknown_items="keep")
        assert dataset.items["item_id"].to_list() == ["i1", "i2", "i3", "i9", "i8"]
        assert dataset.items.row(3) == ("i9", None, None, [], None, None)
        assert dataset.interactions.height == 3 + 1  # and the click of the impression
        assert dataset.notes["items that only behaviour names, added without text"] == 2

    def test_unknown_shown_items_and_their_clicks_are_counted(self) -> None:
        shown = impressions(item_id=["i1", "i9", "i3"])
        dataset = build(RawTables(items(), interactions(), shown), max_unknown_item_share=0.5)
        assert dataset.impressions is not None
        assert dataset.impressions["item_id"].to_list() == ["i1", "i3"]
        assert dataset.notes == {
            "impressions with an unknown item, dropped": 1,
            "clicked impressions with an unknown item, dropped": 1,
        }

    def test_exact_repeats_are_dropped_and_counted(self) -> None:
        log = interactions(user_id=["u1"] * 3, item_id=["i1"] * 3, timestamp=[T1, T1, T2])
        dataset = build(RawTables(items(), log))
        assert dataset.interactions.height == 2
        assert dataset.notes == {"repeated interactions, dropped": 1}

    def test_repeats_that_differ_in_value_are_kept(self) -> None:
        log = interactions(user_id=["u1"] * 3, item_id=["i1"] * 3, timestamp=[T1] * 3, value=[1, 2, None])
        assert build(RawTables(items(), log)).interactions.height == 3

    def test_low_ratings_are_left_out_and_other_events_are_not(self) -> None:
        log = interactions(event=["rating", "rating", "purchase"], value=[2, 3, 1])
        dataset = build(RawTables(items(), log), min_rating=3)
        assert dataset.interactions["item_id"].to_list() == ["i2", "i3"]
        assert dataset.notes == {"ratings below data.min_rating, left out": 1}

    def test_a_rating_without_value_is_kept(self) -> None:
        log = interactions(event=["rating"] * 3, value=[None, 5, 1])
        assert build(RawTables(items(), log), min_rating=3).interactions["item_id"].to_list() == ["i1", "i2"]

    def test_unknown_kinds_of_events_are_kept_and_noted(self) -> None:
        dataset = build(RawTables(items(), interactions(event=["click", "dwell", "dwell"])))
        assert dataset.interactions["event"].to_list() == ["click", "dwell", "dwell"]
        assert dataset.notes == {"interactions of kind 'dwell', which data.event_weights does not name (weight 1)": 2}

    def test_an_item_shown_twice_is_merged_to_its_first_place_and_any_click(self) -> None:
        shown = impressions(
            request_id=["r1"] * 3, user_id=["u1"] * 3, timestamp=[T1] * 3, item_id=["i1", "i2", "i1"], clicked=[0, 0, 1]
        ).with_columns(pl.Series("position", [1, 2, 3]))
        dataset = build(RawTables(items(), interactions(), shown))
        assert dataset.impressions is not None
        assert dataset.impressions.select("item_id", "position", "clicked").rows() == [
            ("i1", 1, True),
            ("i2", 2, False),
        ]
        assert dataset.notes["items shown twice in one request, merged"] == 1


class TestClicksOfImpressions:
    def clicks(self, log: pl.DataFrame | None) -> list[tuple[Any, ...]]:
        dataset = build(RawTables(items(), log, impressions()))
        return dataset.interactions.filter(pl.col("event") == "click").select("user_id", "item_id", "request_id").rows()

    def test_without_interactions_they_are_the_behaviour(self) -> None:
        assert self.clicks(None) == [("u1", "i2", "r1")]

    def test_a_click_with_its_request_is_there_already(self) -> None:
        log = interactions(request_id=[None, "r1", None], timestamp=[T2, T2, T3])
        assert self.clicks(log).count(("u1", "i2", "r1")) == 1

    def test_another_event_of_the_request_counts_as_its_click(self) -> None:
        assert self.clicks(interactions(event=["view", "purchase", "view"], request_id=[None, "r1", None])) == []

    def test_a_click_without_request_at_the_same_time_is_there_already(self) -> None:
        log = interactions(event=["view", "click", "view"], timestamp=[T3, T1, T3])
        assert self.clicks(log) == [("u1", "i2", None)]

    def test_an_earlier_event_of_the_request_is_history_and_not_its_click(self) -> None:
        log = interactions(event=["view"] * 3, request_id=[None, "r1", None], timestamp=["2024-02-28T10:00:00Z"] * 3)
        assert self.clicks(log) == [("u1", "i2", "r1")]

    def test_the_same_item_of_another_user_is_another_click(self) -> None:
        log = interactions(user_id=["u1", "u2", "u2"], request_id=[None, "r1", None])
        assert ("u1", "i2", "r1") in self.clicks(log)

    def test_it_stands_at_the_time_of_its_impression_and_is_noted(self) -> None:
        dataset = build(RawTables(items(), None, impressions()))
        assert dataset.interactions["timestamp"].to_list() == [datetime(2024, 3, 1, 10, tzinfo=UTC)]
        assert dataset.notes == {"clicks of impressions, added to the interactions": 1}

    @pytest.mark.parametrize(
        "clicked", [["false", "TRUE", " false"], ["0", "1", "0.0"], [0.0, 1.0, 0.0], [False, True, False]]
    )
    def test_clicked_may_be_written_in_several_ways(self, clicked: list[Any]) -> None:
        dataset = build(RawTables(items(), None, impressions(clicked=clicked)))
        assert dataset.impressions is not None
        assert dataset.impressions["clicked"].to_list() == [False, True, False]
