"""Lists longer than retrieval usually finds, through a real bundle: 150 items, 60 candidates, 30 of each source."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from features.rungs import Rung
from recsys.api import Recommender, load
from recsys.histories import Request
from serving.rules import Rule
from serving.schemas import RecommendationRequest
from serving.slates import Query, SlateItem


@pytest.fixture(scope="module")
def recommender(tiny_bundle: Path) -> Iterator[Recommender]:
    with load(tiny_bundle) as recommender:
        yield recommender


def query(**fields: object) -> Query:
    return RecommendationRequest.model_validate(fields).query()


def items_of(recommender: Recommender, rung: Rung = Rung.FULL, **fields: object) -> list[SlateItem]:
    return list(recommender.engine.recommend(query(**fields), rung=rung).items)


def history_of(recommender: Recommender, user: str) -> list[int]:
    models = recommender.engine.bundle.models
    return np.unique(models.log.history_of(models.user_ids.get(user)).item_idx).tolist()


@pytest.mark.parametrize("rung", list(Rung))
@pytest.mark.parametrize("user", ["u0003", None])
def test_a_long_list_ends_where_the_catalogue_does(recommender: Recommender, user: str | None, rung: Rung) -> None:
    ids = set(recommender.engine.bundle.models.catalogue.ids.ids)
    if user is not None:
        ids -= {recommender.engine.bundle.models.catalogue.ids.id_of(row) for row in history_of(recommender, user)}

    whole = items_of(recommender, rung, user_id=user, n=1_000)
    part = items_of(recommender, rung, user_id=user, n=100)

    assert {item.item_id for item in whole} == ids
    assert len(whole) == len(ids)
    assert len(part) == 100


def test_a_short_list_is_made_from_the_usual_candidates(recommender: Recommender) -> None:
    path = recommender.engine._path
    rng = np.random.default_rng(0)
    as_of_us = int(path.models.log.timestamp_us.max()) + 1
    for user_idx in rng.choice(path.models.log.n_users, 5, replace=False).tolist():
        request = Request(path.models.log.history_of(user_idx), as_of_us, user_idx)
        plain, short, long = path.rank(request), path.rank(request, at_least=30), path.rank(request, at_least=31)

        assert len(plain.item_idx) <= 60
        assert plain.item_idx.tolist() == short.item_idx.tolist()
        np.testing.assert_array_equal(plain.score, short.score)
        np.testing.assert_array_equal(plain.features, short.features)
        assert len(long.item_idx) >= 31


def test_exploration_reaches_as_far_as_its_pool(recommender: Recommender) -> None:
    wish = {"n": 120, "exploration": {"slots": 20, "pool": 150}}

    items = items_of(recommender, user_id=None, **wish)

    assert len(items) == len({item.item_id for item in items}) == 120
    drawn = [item for item in items if item.rule == Rule.EXPLORATION]
    assert len(drawn) == 20
    # 100 places went by rank, which leaves 50 of the pool.
    assert drawn[0].propensity == pytest.approx(1 / 50)


def test_the_longest_list_can_be_explored() -> None:
    wish = query(n=1_000, exploration={"slots": 5, "pool": 2_000})

    wish.rules.check(wish.n)

    assert wish.rules.depth(wish.n) == 2_000
