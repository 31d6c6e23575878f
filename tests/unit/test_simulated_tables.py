"""The simulated log as tables: what they promise, what is shown to whom, seeds, files and settings."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from recsys.datasets import load_dataset
from recsys.datasets.simulated import Simulation, SimulationConfig, Truth, simulate, write_sample
from recsys.errors import DataError
from recsys.schema import IMPRESSIONS, INTERACTIONS, ITEMS, TABLES

CONFIG = SimulationConfig()
SMALL = SimulationConfig(n_users=90, n_items=150, n_days=20, sessions_per_user=3.0, slate_size=7)
PLAIN_POLICY = {
    "policy_popularity": 0.0,
    "policy_freshness": 0.0,
    "policy_personalisation": 0.0,
    "editorial_share": 0.0,
}


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(CONFIG, 7)


# The tables


def test_tables_have_the_dtypes_of_the_schema(simulation: Simulation) -> None:
    dataset = simulation.dataset
    assert dataset.impressions is not None
    assert dict(dataset.impressions.schema) == IMPRESSIONS.dtypes
    assert dict(dataset.interactions.schema) == INTERACTIONS.dtypes
    for name, dtype in ITEMS.dtypes.items():
        assert dataset.items.schema[name] == dtype
    assert dataset.items.columns[len(ITEMS.columns) :] == ["author", "reading_minutes"]
    assert dataset.users is not None
    assert dataset.users.columns == ["user_id", "country", "device"]


def test_sizes_are_those_of_a_small_shop(simulation: Simulation) -> None:
    dataset = simulation.dataset
    assert dataset.impressions is not None
    assert (dataset.items.height, dataset.n_users) == (800, 600)
    assert 40_000 < dataset.impressions.height < 60_000
    assert 6_000 < dataset.impressions["clicked"].sum() < 9_000


def test_ids_are_unique_and_in_row_order(simulation: Simulation) -> None:
    dataset = simulation.dataset
    assert dataset.users is not None
    assert dataset.items["item_id"].is_unique().all()
    assert dataset.items["item_id"].is_sorted()
    assert dataset.user_ids() == dataset.users["user_id"].to_list()


def test_every_slate_is_full_and_numbered_from_the_top(simulation: Simulation) -> None:
    assert simulation.dataset.impressions is not None
    slates = simulation.dataset.impressions.group_by("request_id", maintain_order=True).agg(
        pl.col("position"), pl.col("item_id").n_unique(), pl.col("user_id").n_unique(), pl.col("timestamp").n_unique()
    )
    assert slates["position"].to_list() == [list(range(1, 11))] * slates.height
    assert slates["item_id"].unique().to_list() == [10]
    assert slates["user_id"].unique().to_list() == [1]
    assert slates["timestamp"].unique().to_list() == [1]


def test_requests_and_interactions_are_in_order_of_time_and_end_with_the_log(simulation: Simulation) -> None:
    dataset = simulation.dataset
    assert dataset.impressions is not None
    end = datetime(2026, 1, 1, tzinfo=UTC)
    for table in (dataset.impressions, dataset.interactions):
        assert table["timestamp"].is_sorted()
        assert table["timestamp"].min() >= end - timedelta(days=60)
        assert end - timedelta(days=1) < table["timestamp"].max() < end


def test_clicks_are_the_clicked_impressions_seconds_later(simulation: Simulation) -> None:
    assert simulation.dataset.impressions is not None
    keys = ["request_id", "user_id", "item_id"]
    shown = simulation.dataset.impressions.filter(pl.col("clicked")).select(*keys, shown_at="timestamp")
    clicks = simulation.dataset.interactions.filter(pl.col("event") == "click")
    joined = clicks.join(shown, on=keys, how="inner", validate="1:1")
    assert joined.height == clicks.height == shown.height
    delay = joined.select((pl.col("timestamp") - pl.col("shown_at")).dt.total_milliseconds())["timestamp"]
    assert delay.min() >= 2_000
    assert delay.max() <= 40_000


def test_other_events_follow_a_click_on_the_same_item(simulation: Simulation) -> None:
    events = simulation.dataset.interactions
    assert set(events["event"]) == {"click", "like", "comment", "purchase"}
    keys = ["request_id", "user_id", "item_id"]
    clicks = events.filter(pl.col("event") == "click").select(*keys, clicked_at="timestamp")
    later = events.filter(pl.col("event") != "click").join(clicks, on=keys, how="left")
    assert later["clicked_at"].null_count() == 0
    assert (later["timestamp"] > later["clicked_at"]).all()


def test_comments_have_text_and_purchases_their_price(simulation: Simulation) -> None:
    events = simulation.dataset.interactions.join(simulation.dataset.items, on="item_id", how="left")
    with_text = events.filter(pl.col("text").is_not_null())
    with_value = events.filter(pl.col("value").is_not_null())
    assert set(with_text["event"]) == {"comment"}
    assert with_text.height == events.filter(pl.col("event") == "comment").height
    assert set(with_value["event"]) == {"purchase"}
    assert with_value["value"].to_list() == [round(1 + 0.05 * m, 2) for m in with_value["reading_minutes"]]


def test_sessions_are_bursts_with_days_between(simulation: Simulation) -> None:
    assert simulation.dataset.impressions is not None
    requests = simulation.dataset.impressions.unique("request_id").sort("user_id", "timestamp")
    gaps = requests.select(gap=pl.col("timestamp").diff().over("user_id").dt.total_seconds())["gap"].drop_nulls()
    assert (gaps < 20 * 60).mean() > 0.45
    assert ((gaps > 20 * 60) & (gaps < 2 * 3600)).mean() < 0.05
    assert gaps.filter(gaps > 2 * 3600).median() > 86_400


def test_categories_are_missing_or_broad_for_the_stated_share(simulation: Simulation) -> None:
    categories = simulation.dataset.items["categories"]
    topics = set(simulation.truth.topic_names.tolist())
    missing = (categories.list.len() == 0).mean()
    broad = (categories.list.len() == 1).mean()
    assert missing == pytest.approx(0.075, abs=0.03)
    assert broad == pytest.approx(0.075, abs=0.03)
    assert {names[0] for names in categories if len(names)} <= topics


def test_authors_mostly_write_in_one_topic(simulation: Simulation) -> None:
    items = simulation.dataset.items.select("author", topic=pl.Series(simulation.truth.main_topics()))
    counts = items.group_by("author", "topic").len()
    in_main_topic = counts.group_by("author").agg(pl.col("len").max())["len"].sum()
    assert 0.75 < in_main_topic / items.height < 0.95


# Items that arrive, and what is shown


def test_a_share_of_the_items_arrives_in_the_last_quarter(simulation: Simulation) -> None:
    created = simulation.dataset.items["created_at"]
    end = datetime(2026, 1, 1, tzinfo=UTC)
    assert (created >= end - timedelta(days=15)).mean() == pytest.approx(0.15, abs=0.01)
    assert (created < end - timedelta(days=60)).mean() == pytest.approx(0.40, abs=0.001)


def test_new_items_are_shown_after_their_creation_and_never_before(simulation: Simulation) -> None:
    assert simulation.dataset.impressions is not None
    shown = simulation.dataset.impressions.join(simulation.dataset.items, on="item_id")
    assert (shown["timestamp"] >= shown["created_at"]).all()
    new = shown.filter(pl.col("created_at") >= datetime(2025, 12, 17, tzinfo=UTC))
    assert new["item_id"].n_unique() > 80


def test_fresh_items_are_shown_more_where_the_policy_likes_them() -> None:
    shares = []
    for weight in (0.0, 3.0):
        config = SMALL.model_copy(update={**PLAIN_POLICY, "policy_freshness": weight})
        dataset = simulate(config, 5).dataset
        assert dataset.impressions is not None
        shown = dataset.impressions.join(dataset.items, on="item_id")
        shares.append((shown["timestamp"] - shown["created_at"] < timedelta(days=5)).mean())
    assert shares[1] > 2 * shares[0]


def test_what_was_clicked_is_not_shown_to_that_user_again() -> None:
    config = SMALL.model_copy(update={"base_relevance": 0.9, "position_bias_exponent": 0.1})
    impressions = simulate(config, 2).dataset.impressions
    assert impressions is not None
    assert impressions["clicked"].mean() > 0.6
    clicks = impressions.filter(pl.col("clicked"))
    first = clicks.group_by("user_id", "item_id").agg(clicked_at=pl.col("timestamp").min())
    again = impressions.join(first, on=["user_id", "item_id"]).filter(pl.col("timestamp") > pl.col("clicked_at"))
    assert again.height == 0


def test_a_user_who_has_clicked_nearly_everything_sees_short_slates_and_then_none() -> None:
    config = SimulationConfig(
        n_users=2, n_items=12, new_item_share=0.0, slate_size=5, n_days=30, sessions_per_user=40,
        base_relevance=0.999, position_bias_exponent=0.0,
    )  # fmt: skip
    impressions = simulate(config, 4).dataset.impressions
    assert impressions is not None
    sizes = impressions.group_by("user_id", "request_id", maintain_order=True).len()
    assert set(sizes["len"]) >= {5, 2}
    assert impressions.filter(pl.col("clicked")).group_by("user_id").len()["len"].max() == 12


def test_only_editorial_slates_lack_propensities(simulation: Simulation) -> None:
    assert simulation.dataset.impressions is not None
    slates = simulation.dataset.impressions.group_by("request_id").agg(
        missing=pl.col("propensity").is_null().sum(), low=pl.col("propensity").min(), high=pl.col("propensity").max()
    )
    assert set(slates["missing"]) == {0, 10}
    assert (slates["missing"] == 10).mean() == pytest.approx(0.1, abs=0.02)
    assert 0 < slates["low"].min() < slates["high"].max() <= 1


# Seeds


def test_the_same_seed_gives_the_same_log() -> None:
    _assert_same(simulate(SMALL, 5), simulate(SMALL, 5))
    other = simulate(SMALL, 6)
    assert not simulate(SMALL, 5).dataset.interactions.equals(other.dataset.interactions)


def test_a_seed_sequence_is_not_used_up() -> None:
    sequence = np.random.SeedSequence(5)
    child = sequence.spawn(1)[0]
    _assert_same(simulate(SMALL, sequence), simulate(SMALL, 5))
    _assert_same(simulate(SMALL, child), simulate(SMALL, child))
    assert not simulate(SMALL, child).dataset.items.equals(simulate(SMALL, sequence).dataset.items)


def test_a_change_of_behaviour_leaves_catalogue_and_visits_alone() -> None:
    weak, strong = (
        simulate(SMALL.model_copy(update={"interest_strength": strength}), 5).dataset for strength in (1.0, 9.0)
    )
    assert_frame_equal(weak.items, strong.items)
    assert weak.impressions is not None
    assert strong.impressions is not None
    columns = ["request_id", "user_id", "timestamp", "position"]
    assert_frame_equal(weak.impressions.select(columns), strong.impressions.select(columns))
    assert not weak.interactions.equals(strong.interactions)


def _assert_same(left: Simulation, right: Simulation) -> None:
    for name in TABLES:
        assert_frame_equal(getattr(left.dataset, name), getattr(right.dataset, name))
    _assert_same_truth(left.truth, right.truth)


def _assert_same_truth(left: Truth, right: Truth) -> None:
    for field in fields(Truth):
        np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


# Files and settings


def test_a_written_sample_is_read_back_as_it_was(tmp_path: Path) -> None:
    simulation = simulate(SMALL, 1)
    folder = tmp_path / "new" / "sample"
    write_sample(folder, simulation)
    write_sample(folder, simulation)
    assert sorted(path.name for path in folder.iterdir()) == [
        "impressions.parquet", "interactions.parquet", "items.parquet", "truth.npz", "users.parquet",
    ]  # fmt: skip
    for name in TABLES:
        assert_frame_equal(pl.read_parquet(folder / f"{name}.parquet"), getattr(simulation.dataset, name))
    loaded = Truth.load(folder / "truth.npz")
    _assert_same_truth(loaded, simulation.truth)
    assert isinstance(loaded.interest_strength, float)


def test_a_sample_loads_as_a_folder_of_tables(tmp_path: Path) -> None:
    simulation = simulate(SMALL, 1)
    write_sample(tmp_path, simulation)
    loaded = load_dataset(tmp_path)
    assert (loaded.format, dict(loaded.notes)) == ("tables", {})
    for name in TABLES:
        assert_frame_equal(getattr(loaded, name), getattr(simulation.dataset, name))
    assert loaded.fingerprint() == simulation.dataset.fingerprint()


def test_a_missing_or_incomplete_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no truth at .*truth\.npz; write_sample"):
        Truth.load(tmp_path / "truth.npz")
    np.savez(tmp_path / "truth.npz", quality=np.zeros(3))
    with pytest.raises(DataError, match=r"lacks \['topic_names', .*write the sample again"):
        Truth.load(tmp_path / "truth.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_items": 20, "slate_size": 9}, r"slate_size=9, but only 8 of 20 items are there on the first day; raise"),
        ({"new_item_share": 1.2}, "less than or equal to 1"),
        ({"base_relevance": 0.0}, "greater than 0"),
        ({"ends_at": datetime(2026, 1, 1)}, "timezone"),
        ({"n_user": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SimulationConfig(**values)


def test_every_setting_is_described() -> None:
    for name, field in SimulationConfig.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_without_visits_the_log_is_empty_and_the_catalogue_is_there() -> None:
    dataset = simulate(SimulationConfig(n_users=3, n_items=40, sessions_per_user=0.0), 0).dataset
    assert dataset.impressions is not None
    assert dataset.impressions.height == dataset.interactions.height == 0
    assert dict(dataset.impressions.schema) == IMPRESSIONS.dtypes
    assert dict(dataset.interactions.schema) == INTERACTIONS.dtypes
    assert (dataset.items.height, dataset.n_users) == (40, 3)
