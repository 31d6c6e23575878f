"""Pinned items that retrieval did not find, through a real bundle: they are scored and explained like the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from features.rungs import Rung
from recsys.api import Recommender, load
from serving.rules import Rule
from serving.schemas import RecommendationRequest
from serving.slates import Query, ServedRequest, Slate


@pytest.fixture(scope="module")
def recommender(tiny_bundle: Path) -> Iterator[Recommender]:
    with load(tiny_bundle) as recommender:
        yield recommender


def query(**fields: object) -> Query:
    return RecommendationRequest.model_validate(fields).query()


def ranked(recommender: Recommender, user: str) -> Slate:
    return recommender.engine.recommend(query(user_id=user, n=1_000))


@pytest.fixture
def user(recommender: Recommender) -> str:
    return recommender.engine.bundle.models.user_ids.id_of(0)


def without(recommender: Recommender, item_id: str) -> dict[str, object]:
    """A filter that leaves out the item, and others of its categories."""
    categories = recommender.engine.bundle.models.catalogue.table.filter(item_id=item_id)["categories"][0]
    return {"not": {"category": list(categories)}}


def test_a_pinned_item_has_the_score_that_it_has_where_it_is_found(recommender: Recommender, user: str) -> None:
    found = {item.item_id: item.score for item in ranked(recommender, user).items}
    for item_id, score in list(found.items())[:5]:
        wish = query(
            user_id=user, n=4, pins=[{"item_id": item_id, "position": 2}], filter=without(recommender, item_id)
        )
        items = recommender.engine.recommend(wish).items

        assert [item.rule for item in items] == [Rule.RANKING, Rule.PIN, Rule.RANKING, Rule.RANKING]
        assert (items[1].item_id, items[1].sources) == (item_id, ())
        assert items[1].score == pytest.approx(score, abs=1e-6)


def test_the_explanation_of_a_pinned_item_adds_up_to_its_score(recommender: Recommender, user: str) -> None:
    served: list[ServedRequest] = []
    recommender.engine.on_served = served.append
    recommender.engine.recommend(query(user_id=user, n=6))
    recommender.engine.on_served = None
    found = served[0].ranking.item_idx
    ids = recommender.engine.bundle.models.catalogue.ids
    lacking = [id_ for row, id_ in enumerate(ids.ids) if row not in found][:3]
    pins = [{"item_id": item_id, "position": place} for place, item_id in enumerate(lacking, 2)]

    items = recommender.engine.recommend(query(user_id=user, n=6, pins=pins, explain=True)).items

    assert [item.item_id for item in items[1:4]] == lacking
    for item in items:
        assert item.explanation is not None
        assert sum(part.contribution for part in item.explanation) == pytest.approx(item.score, abs=1e-5)
    assert all(item.score != 0.0 for item in items)


def test_only_what_popularity_proposed_is_called_popular(recommender: Recommender) -> None:
    found = [item.item_id for item in recommender.engine.recommend(query(n=10)).items]
    pins = [{"item_id": found[0], "position": 3}]
    narrow = query(n=5, pins=pins, filter=without(recommender, found[0]), explain=True)

    items = recommender.engine.recommend(narrow).items
    given = recommender.engine.recommend(query(candidates=found, explain=True)).items

    assert items[2].evidence is None
    rest = [item.evidence for item in items if item.rule == Rule.RANKING]
    assert [evidence and evidence.sentence for evidence in rest] == ["Popular right now"] * 4
    assert [item.evidence for item in given] == [None] * 10


@pytest.mark.parametrize("rung", [Rung.WITHOUT_ENCODER, Rung.COLLABORATIVE, Rung.POPULAR])
def test_on_lower_rungs_it_is_scored_as_they_score(recommender: Recommender, user: str, rung: Rung) -> None:
    whole = recommender.engine.recommend(query(user_id=user, n=1_000), rung=rung)
    found = {item.item_id: item.score for item in whole.items}
    item_id = whole.items[0].item_id
    wish = query(user_id=user, n=4, pins=[{"item_id": item_id, "position": 2}], filter=without(recommender, item_id))
    items = recommender.engine.recommend(wish, rung=rung).items

    assert items[1].item_id == item_id
    if rung == Rung.WITHOUT_ENCODER:
        assert items[1].score == pytest.approx(found[item_id], abs=1e-6)
    else:
        assert items[1].score < min(item.score for item in items if item.rule == Rule.RANKING)


def test_it_stands_alone_where_no_candidate_is_left(recommender: Recommender, user: str) -> None:
    pinned, other = recommender.engine.bundle.models.catalogue.ids.ids[:2]
    pins = [{"item_id": pinned, "position": 1}]
    wish = query(user_id=user, candidates=[other], filter=without(recommender, other), pins=pins, explain=True)
    (item,) = recommender.engine.recommend(wish).items

    assert (item.item_id, item.rule) == (pinned, Rule.PIN)
    assert item.explanation is not None
    assert sum(part.contribution for part in item.explanation) == pytest.approx(item.score, abs=1e-5)
