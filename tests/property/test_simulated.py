"""What holds for every simulated log, and the slate draw against a slow, obvious one."""

import math

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.datasets.simulated import SimulationConfig, simulate
from recsys.datasets.simulated_log import draw_slates

SHARES = st.floats(0.0, 1.0)
WEIGHTS = st.floats(0.0, 5.0)


@st.composite
def configs(draw: st.DrawFn) -> SimulationConfig:
    slate_size = draw(st.integers(1, 6))
    return SimulationConfig(
        n_users=draw(st.integers(1, 25)),
        n_items=draw(st.integers(4 * slate_size + 2, 60)),
        n_days=draw(st.integers(1, 12)),
        new_item_share=draw(st.floats(0.0, 0.7)),
        two_topic_share=draw(SHARES),
        category_noise=draw(SHARES),
        late_user_share=draw(SHARES),
        sessions_per_user=draw(st.floats(0.0, 6.0)),
        requests_per_session=draw(st.floats(1.0, 4.0)),
        slate_size=slate_size,
        position_bias_exponent=draw(st.floats(0.0, 2.0)),
        base_relevance=draw(st.floats(0.01, 0.95)),
        interest_strength=draw(st.floats(0.0, 12.0)),
        interest_drift=draw(st.floats(0.0, 1.0)),
        topic_switch_share=draw(SHARES),
        policy_popularity=draw(WEIGHTS),
        policy_freshness=draw(WEIGHTS),
        policy_personalisation=draw(WEIGHTS),
        editorial_share=draw(SHARES),
        comment_share=draw(SHARES),
    )


@settings(max_examples=30, deadline=None)
@given(config=configs(), seed=st.integers(0, 2**32))
def test_every_log_keeps_its_promises(config: SimulationConfig, seed: int) -> None:
    simulation = simulate(config, seed)
    dataset, truth = simulation.dataset, simulation.truth
    assert dataset.impressions is not None
    assert dataset.users is not None
    shown = dataset.impressions.join(dataset.items.select("item_id", "created_at"), on="item_id", how="left")
    assert dataset.items.height == config.n_items
    assert dataset.user_ids() == dataset.users["user_id"].to_list()
    assert (shown["created_at"] <= shown["timestamp"]).all()
    assert shown.filter((pl.col("propensity") <= 0) | (pl.col("propensity") > 1 + 1e-12)).height == 0
    slates = shown.group_by("request_id", maintain_order=True).agg("position", "item_id")
    for positions, items in zip(slates["position"], slates["item_id"], strict=True):
        assert positions.to_list() == list(range(1, len(positions) + 1))
        assert len(positions) <= config.slate_size
        assert items.n_unique() == len(items)
    clicked = shown.filter(pl.col("clicked"))
    assert clicked.select("user_id", "item_id").is_duplicated().sum() == 0
    events = dataset.interactions
    assert events.filter(pl.col("event") == "click").height == clicked.height
    assert events.join(clicked, on=["request_id", "user_id", "item_id"], how="anti").height == 0
    assert events["timestamp"].is_sorted()
    for table in (shown, events):
        times = table["timestamp"].dt.epoch("us")
        assert ((times >= config.start_us) & (times < config.end_us)).all()
    np.testing.assert_allclose(truth.state_interests.sum(axis=1), 1.0, rtol=1e-4)
    assert truth.mixtures.shape == (config.n_items, len(truth.subtopic_names))


@settings(max_examples=100, deadline=None)
@given(
    n_items=st.integers(3, 9),
    n_slates=st.integers(1, 4),
    scale=st.floats(0.0, 900.0),
    share_missing=SHARES,
    seed=st.integers(0, 2**32),
)
def test_propensities_are_those_of_drawing_one_place_after_the_other(
    n_items: int, n_slates: int, scale: float, share_missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = scale * rng.standard_normal((n_slates, n_items))
    scores[rng.random(scores.shape) < share_missing] = -np.inf
    is_editorial = rng.random(n_slates) < 0.3
    slates, propensities = draw_slates(scores, 3, is_editorial, rng)
    assert slates.shape == propensities.shape == (n_slates, 3)
    for row in range(n_slates):
        left = [item for item in range(n_items) if np.isfinite(scores[row, item])]
        n_shown = min(3, len(left))
        assert (slates[row, n_shown:] == -1).all()
        assert np.isnan(propensities[row, n_shown:]).all()
        if is_editorial[row]:
            best = sorted(scores[row, left], reverse=True)[:n_shown]
            np.testing.assert_allclose(scores[row, slates[row, :n_shown]], best, atol=1e-6)
            assert np.isnan(propensities[row]).all()
            continue
        for place in range(n_shown):
            item = int(slates[row, place])
            shifted = [math.exp(scores[row, other] - scores[row, left].max()) for other in left]
            expected = shifted[left.index(item)] / math.fsum(shifted)
            np.testing.assert_allclose(propensities[row, place], expected, rtol=1e-9, atol=1e-300)
            left.remove(item)


def test_places_are_drawn_as_often_as_their_propensity_says() -> None:
    scores = np.log(np.array([[1.0, 2.0, 5.0, 8.0]]))
    n = 40_000
    slates, propensities = draw_slates(
        np.repeat(scores, n, axis=0), 2, np.zeros(n, dtype=bool), np.random.default_rng(3)
    )
    share_on_top = np.bincount(slates[:, 0], minlength=4) / n
    np.testing.assert_allclose(share_on_top, [1 / 16, 2 / 16, 5 / 16, 8 / 16], atol=0.01)
    after_the_last = slates[slates[:, 0] == 3]
    share_second = np.bincount(after_the_last[:, 1], minlength=4) / len(after_the_last)
    np.testing.assert_allclose(share_second, [1 / 8, 2 / 8, 5 / 8, 0.0], atol=0.015)
    np.testing.assert_allclose(propensities[slates[:, 0] == 3, 0], 0.5)
