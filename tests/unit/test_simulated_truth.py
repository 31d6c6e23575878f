"""The truth behind a simulated log, and whether the log shows it."""

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from recsys.datasets.simulated import Simulation, SimulationConfig, Truth, simulate

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
    items = simulation.dataset.items
    texts = (items["title"] + ". " + items["description"]).to_list()
    vectors = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit_transform(texts).toarray()
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
    walking = simulate(SMALL.model_copy(update={"topic_switch_share": 0.0}), 3)
    assert 0.5 < _early_late_similarity(walking.truth).mean() < 0.97
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


def test_likes_and_purchases_go_to_relevant_items_and_comments_tell_by_their_words(
    simulation: Simulation, rows: Rows
) -> None:
    keys = ["request_id", "item_id"]
    assert simulation.dataset.impressions is not None
    truth = simulation.dataset.impressions.select(keys).with_columns(relevance=rows.relevance)
    events = simulation.dataset.interactions.join(truth, on=keys)
    mean = {event: table["relevance"].mean() for (event,), table in events.group_by("event")}
    assert mean["like"] > mean["click"] + 0.03
    assert mean["purchase"] > mean["click"] + 0.03
    comments = events.filter(pl.col("event") == "comment")
    praise = comments["text"].str.contains("exactly what|finally managed|One of the best|Loved|Wonderful|Thank you")
    assert comments.filter(praise)["relevance"].mean() > comments.filter(~praise)["relevance"].mean() + 0.1
