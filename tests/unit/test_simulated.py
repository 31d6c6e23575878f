"""The simulated log: its tables, its text, and whether the truth behind it is what the log shows."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.datasets.simulated import Simulation, SimulationConfig, Truth, simulate, write_sample
from recsys.datasets.simulated_text import NO_SUBTOPIC, author_names, load_vocabulary, write_comment, write_texts
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


class Rows:
    """The impressions as arrays of rows, and the truth about each."""

    def __init__(self, simulation: Simulation) -> None:
        dataset, self.truth = simulation.dataset, simulation.truth
        assert dataset.impressions is not None
        assert dataset.users is not None
        table = dataset.impressions
        self.user = _row_of(dataset.users["user_id"], table["user_id"])
        self.item = _row_of(dataset.items["item_id"], table["item_id"])
        self.at_us = table["timestamp"].dt.epoch("us").to_numpy()
        self.request = table["request_id"].rank("dense").to_numpy().astype(np.int64)
        self.position = table["position"].to_numpy()
        self.clicked = table["clicked"].to_numpy()
        self.relevance = self.truth.relevance(self.user, self.item, self.at_us)

    def auc(self, scores: np.ndarray) -> float:
        """Return the mean over requests of the AUC of `scores`; a tie counts half."""
        aucs = []
        starts = np.flatnonzero(np.diff(self.request, prepend=-1))
        for rows in np.split(np.arange(len(scores)), starts[1:]):
            good, bad = scores[rows][self.clicked[rows]], scores[rows][~self.clicked[rows]]
            if len(good) and len(bad):
                wins = (good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2
                aucs.append(wins)
        return float(np.mean(aucs))

    def clicks_so_far(self) -> np.ndarray:
        counts = np.zeros(self.item.max() + 1)
        seen = np.empty(len(self.item))
        for row, (item, clicked) in enumerate(zip(self.item, self.clicked, strict=True)):
            seen[row] = counts[item]
            counts[item] += clicked
        return seen


def _row_of(ids: pl.Series, values: pl.Series) -> np.ndarray:
    rows = {id_: row for row, id_ in enumerate(ids)}
    return np.array([rows[value] for value in values], np.int32)


@pytest.fixture(scope="module")
def rows(simulation: Simulation) -> Rows:
    return Rows(simulation)


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


def test_likes_and_purchases_go_to_relevant_items_and_comments_tell_by_their_words(simulation: Simulation) -> None:
    keys = ["request_id", "item_id"]
    assert simulation.dataset.impressions is not None
    truth = simulation.dataset.impressions.select(keys).with_columns(relevance=Rows(simulation).relevance)
    events = simulation.dataset.interactions.join(truth, on=keys)
    mean = {event: table["relevance"].mean() for (event,), table in events.group_by("event")}
    assert mean["like"] > mean["click"] + 0.03
    assert mean["purchase"] > mean["click"] + 0.03
    comments = events.filter(pl.col("event") == "comment")
    praise = comments["text"].str.contains("exactly what|finally managed|One of the best|Loved|Wonderful|Thank you")
    assert comments.filter(praise)["relevance"].mean() > comments.filter(~praise)["relevance"].mean() + 0.1


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
    missing = categories.is_null().mean()
    broad = (categories.list.len() == 1).fill_null(False).mean()
    assert missing == pytest.approx(0.075, abs=0.03)
    assert broad == pytest.approx(0.075, abs=0.03)
    assert {names[0] for names in categories.drop_nulls()} <= topics


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


# The truth, and whether the log shows it


def test_relevance_is_worked_out_from_the_state_that_holds() -> None:
    second = 1_000_000
    truth = Truth(
        topic_names=np.array(["a", "b"]),
        subtopic_names=np.array(["a1", "a2", "b1"]),
        topic_of_subtopic=np.array([0, 0, 1], np.int32),
        mixtures=np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32),
        quality=np.array([0.0, 2.0], np.float32),
        state_user_idx=np.array([0, 0, 1], np.int32),
        state_since_us=np.array([100, 160, 100], np.int64) * second,
        state_interests=np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.4]], np.float32),
        examination=np.array([1.0, 0.5]),
        base_relevance=0.5,
        interest_strength=3.0,
        quality_strength=0.25,
    )
    at_us = np.array([50, 159, 160, 999, 999], np.int64) * second
    user, item = np.array([0, 0, 0, 0, 1], np.int32), np.array([0, 0, 0, 1, 0], np.int32)
    cosines = [1.0, 1.0, 0.0, 2**-0.5, 0.6 / 0.52**0.5]
    np.testing.assert_allclose(truth.affinity(user, item, at_us), cosines, rtol=1e-6)
    # logit(1/2) is 0, so what remains is the logistic of 3 * cosine + 0.25 * quality.
    expected = [1 / (1 + np.exp(-3 * c - 0.25 * truth.quality[i])) for c, i in zip(cosines, item, strict=True)]
    np.testing.assert_allclose(truth.relevance(user, item, at_us), expected, rtol=1e-6)
    assert truth.main_topics().tolist() == [0, 0]


def test_items_have_one_or_two_topics_and_shares_that_sum_to_one(simulation: Simulation) -> None:
    truth = simulation.truth
    np.testing.assert_allclose(truth.mixtures.sum(axis=1), 1.0, rtol=1e-6)
    n_topics = [len(set(truth.topic_of_subtopic[np.flatnonzero(shares)])) for shares in truth.mixtures]
    assert set(n_topics) == {1, 2}
    assert n_topics.count(2) / len(n_topics) == pytest.approx(0.35, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_clicks_fall_with_position_as_the_known_exponent(exponent: float) -> None:
    rows = Rows(
        simulate(
            CONFIG.model_copy(update={"position_bias_exponent": exponent, "base_relevance": 0.2, "n_items": 300}), 3
        )
    )
    clicks = np.bincount(rows.position, weights=rows.clicked)[1:]
    # The policy puts what it thinks relevant on top, so clicks are held against what relevance alone would give.
    expected = np.bincount(rows.position, weights=rows.relevance)[1:]
    np.testing.assert_allclose(clicks / expected, rows.truth.examination, atol=0.06)
    slope = np.polyfit(np.log(np.arange(1, 11)), np.log(clicks / expected), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.07)


def test_the_truth_orders_shown_items_far_better_than_chance_and_popularity(rows: Rows) -> None:
    random = rows.auc(np.random.default_rng(0).random(len(rows.item)))
    popularity = rows.auc(rows.clicks_so_far())
    oracle = rows.auc(rows.relevance)
    assert random == pytest.approx(0.5, abs=0.02)
    assert popularity > random
    assert oracle > 0.75
    assert oracle > popularity + 0.2


@pytest.mark.parametrize(
    ("strength", "base_relevance", "lowest", "highest"), [(0.0, 0.2, 0.48, 0.52), (12.0, 0.01, 0.87, 1.0)]
)
def test_interests_tell_nothing_at_strength_0_and_nearly_all_at_a_great_one(
    strength: float, base_relevance: float, lowest: float, highest: float
) -> None:
    knobs = {"interest_strength": strength, "base_relevance": base_relevance, "quality_strength": 0.0}
    config = CONFIG.model_copy(update={**knobs, **PLAIN_POLICY, "position_bias_exponent": 0.0, "n_items": 300})
    rows = Rows(simulate(config, 11))
    assert lowest < rows.auc(rows.truth.affinity(rows.user, rows.item, rows.at_us)) < highest
    if strength == 0.0:
        np.testing.assert_allclose(rows.relevance, base_relevance)


def test_history_text_predicts_clicks(simulation: Simulation, rows: Rows) -> None:
    vectors = _tfidf(simulation.dataset.items)
    profile = np.zeros((CONFIG.n_users, vectors.shape[1]))
    scores = np.empty(len(rows.item))
    starts = np.flatnonzero(np.diff(rows.request, prepend=-1))
    for block in np.split(np.arange(len(scores)), starts[1:]):
        user = rows.user[block[0]]
        scores[block] = vectors[rows.item[block]] @ profile[user]
        profile[user] += vectors[rows.item[block][rows.clicked[block]]].sum(axis=0)
    assert rows.auc(scores) > 0.6


def test_interests_drift_from_session_to_session(simulation: Simulation) -> None:
    assert _early_late_similarity(simulation.truth).mean() < 0.9
    still = simulate(SMALL.model_copy(update={"interest_drift": 0.0, "topic_switch_share": 0.0}), 3)
    np.testing.assert_allclose(_early_late_similarity(still.truth), 1.0, rtol=1e-5)


def test_who_switches_has_another_main_topic_at_the_end() -> None:
    config = SMALL.model_copy(update={"interest_drift": 0.0, "topic_switch_share": 1.0, "late_user_share": 0.0})
    truth = simulate(config, 3).truth
    first, last = _first_and_last_interests(truth)
    topics = np.eye(12)[truth.topic_of_subtopic]
    came_late = truth.state_since_us[np.r_[np.flatnonzero(np.diff(truth.state_user_idx)), -1]] > (
        config.start_us + 0.7 * (config.end_us - config.start_us)
    )
    assert came_late.sum() > 30
    changed = (first @ topics).argmax(axis=1) != (last @ topics).argmax(axis=1)
    assert changed[came_late].mean() > 0.8


def _first_and_last_interests(truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    last = np.r_[np.flatnonzero(np.diff(truth.state_user_idx)), len(truth.state_user_idx) - 1]
    first = np.r_[0, last[:-1] + 1]
    return truth.state_interests[first], truth.state_interests[last]


def _early_late_similarity(truth: Truth) -> np.ndarray:
    """Return the cosine of first and last interests of users with at least five sessions."""
    first, last = _first_and_last_interests(truth)
    often = np.bincount(truth.state_user_idx) >= 6
    assert often.sum() > 10
    cosines = (first * last).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1)
    return cosines[often]


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
    np.testing.assert_array_equal(Rows(replace(simulation, truth=loaded)).relevance, Rows(simulation).relevance)


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


# The words


def _tfidf(items: pl.DataFrame) -> np.ndarray:
    texts = (items["title"] + ". " + items["description"]).to_list()
    return TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(texts).toarray()


def test_the_nearest_text_is_about_the_same_topic(simulation: Simulation) -> None:
    vectors = _tfidf(simulation.dataset.items)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1.0)
    topics = simulation.truth.main_topics()
    chance = (np.bincount(topics) ** 2).sum() / len(topics) ** 2
    agreement = (topics[similarity.argmax(axis=1)] == topics).mean()
    assert chance < 0.12
    assert agreement > 0.85


def test_titles_are_unique_and_texts_are_whole_sentences(simulation: Simulation) -> None:
    items = simulation.dataset.items
    assert items["title"].is_unique().all()
    for text in [*items["title"], *items["description"]]:
        assert text[0].isupper() or text[0].isdigit()
        assert "{" not in text
        assert "  " not in text
    n_sentences = items["description"].str.count_matches(r"\.(\s|$)")
    assert set(n_sentences) == {1, 2, 3}
    assert items["description"].str.ends_with(".").all()


def test_every_template_can_be_filled_for_every_subtopic() -> None:
    vocabulary = load_vocabulary()
    assert len(vocabulary.topic_names) == 12
    assert len(vocabulary.subtopics) == len(set(vocabulary.subtopic_names)) == 60
    for subtopic in vocabulary.subtopics:
        assert len(set(subtopic.things)) >= 6, subtopic.name
        assert min(len(subtopic.tasks), len(subtopic.problems), len(subtopic.facts)) >= 3, subtopic.name
        assert subtopic.style in vocabulary.titles, subtopic.name
    rng = np.random.default_rng(0)
    main = np.repeat(np.arange(60, dtype=np.int32), 60)  # sixty of each, so that every template comes up
    second = np.where(rng.random(len(main)) < 0.5, (main + 7) % 60, NO_SUBTOPIC).astype(np.int32)
    titles, descriptions = write_texts(vocabulary, main, second, rng)
    assert len(set(titles)) == len(titles) == len(descriptions) == 3600
    assert not any("{" in text for text in titles + descriptions)


def test_titles_get_a_part_number_when_the_words_run_out() -> None:
    n = 1500
    alike = np.zeros(n, np.int32), np.full(n, NO_SUBTOPIC, np.int32)
    titles, _ = write_texts(load_vocabulary(), *alike, np.random.default_rng(0))
    assert len(set(titles)) == n
    assert any(title.endswith(", part 2") for title in titles)
    assert not any(", part 2, part" in title for title in titles)


def test_a_pleased_reader_does_not_sound_disappointed() -> None:
    vocabulary = load_vocabulary()
    rng = np.random.default_rng(1)
    pleased = {write_comment(vocabulary, 7, is_positive=True, rng=rng) for _ in range(200)}
    disappointed = {write_comment(vocabulary, 7, is_positive=False, rng=rng) for _ in range(200)}
    assert len(pleased) > 10
    assert not pleased & disappointed


def test_author_names_do_not_repeat() -> None:
    vocabulary = load_vocabulary()
    names = author_names(vocabulary, vocabulary.n_author_names, np.random.default_rng(0))
    assert len(set(names)) == len(names) == 1600
