"""What the encoder learns from: as set, or by what the data has; never what is hidden or lies ahead."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.config import Config
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.datasets.simulated import SimulationConfig, simulate
from recsys.splits import Fold, make_split
from training.encoder_choices import ChoiceSource
from training.encoder_objectives import PairSource
from training.text import encoder_source

CONFIG = Config()
SEED = np.random.SeedSequence(1)


@pytest.fixture(scope="module")
def data() -> EncodedData:
    world = simulate(SimulationConfig(n_users=30, n_items=40, n_days=6, sessions_per_user=3.0), 2)
    return encode_dataset(world.dataset, CONFIG.data)


@pytest.mark.parametrize(
    ("objective", "has_impressions", "expected"),
    [
        ("auto", True, PairSource),
        ("auto", False, ChoiceSource),
        ("contrastive", False, PairSource),
        ("choices", True, ChoiceSource),
    ],
)
def test_objective_is_as_set_or_as_the_data_allows(
    data: EncodedData, objective: str, has_impressions: bool, expected: type
) -> None:
    config = CONFIG.with_overrides({"encoder.objective": objective})
    some = data if has_impressions else replace(data, impressions=None)
    split = make_split(some.log, some.impressions, config.split)
    assert isinstance(encoder_source(some, split, config, SEED), expected)


def test_choices_are_those_of_the_past_that_are_visible(data: EncodedData) -> None:
    config = CONFIG.with_overrides({"encoder.objective": "choices"})
    split = make_split(data.log, data.impressions, config.split)
    visible = data.log.item_idx != data.log.item_idx[0]
    source = encoder_source(data, split, config, SEED, visible=visible)
    assert isinstance(source, ChoiceSource)
    expected = np.flatnonzero(split.known_before(Fold.LABEL) & visible)
    assert 0 < len(expected) < len(data.log)
    np.testing.assert_array_equal(source.log.row, data.log.row[expected])


@pytest.mark.parametrize("objective", ["contrastive", "choices"])
def test_hidden_items_teach_neither_by_what_was_done_nor_by_what_was_shown(data: EncodedData, objective: str) -> None:
    config = CONFIG.with_overrides({"encoder.objective": objective})
    split = make_split(data.log, data.impressions, config.split)
    hidden = np.sort(np.argsort(-data.log.item_counts(), kind="stable")[:8]).astype(np.int32)

    for hidden_idx, is_taught in ((hidden[:0], True), (hidden, False)):
        source = encoder_source(data, split, config, SEED, hidden_idx=hidden_idx)
        if isinstance(source, ChoiceSource):
            taught = [source.log.item_idx]
        else:
            assert isinstance(source, PairSource)
            assert source.valid is not None
            drawn = (source.train(np.random.default_rng(0)), source.valid)
            taught = [column for some in drawn for column in (some.anchor, some.positive, some.hard_negative)]
        for items in taught:
            assert len(items)
            assert np.isin(hidden, items).any() == is_taught
