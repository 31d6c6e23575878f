"""`diversity` of a request, through a real bundle."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from features.path import RankingPath
from recsys.api import Recommendation, Recommender, load
from recsys.cli import app
from recsys.evaluation import intra_list_diversity
from recsys.histories import Request
from serving.slates import ServedRequest

N_ASKED = 25


@pytest.fixture(scope="module")
def recommender(tiny_bundle: Path) -> Iterator[Recommender]:
    with load(tiny_bundle) as recommender:
        yield recommender


def users(recommender: Recommender) -> list[str]:
    return list(recommender.engine.bundle.models.user_ids.ids)[:N_ASKED]


def diversity_of(recommender: Recommender, lists: list[list[Recommendation]]) -> float:
    models = recommender.engine.bundle.models
    rows = np.array([models.catalogue.ids.lookup([item.item_id for item in found], unknown="error") for found in lists])
    return float(intra_list_diversity(rows, models.item_embeddings).mean())


def test_a_diversity_of_zero_is_the_list_without_the_wish(recommender: Recommender) -> None:
    for user in users(recommender):
        assert recommender.recommend(user, 10, diversity=0.0) == recommender.recommend(user, 10)


def test_more_diversity_makes_lists_less_alike(recommender: Recommender) -> None:
    asked = users(recommender)
    measured = [
        diversity_of(recommender, [recommender.recommend(user, 10, diversity=share / 10) for user in asked])
        for share in range(11)
    ]

    # A choice looks at the nearest item and at categories too, the measure at all pairs of texts: the far end is flat.
    assert np.diff(measured[:6]).min() > 0
    assert min(measured[6:]) > measured[5] - 0.02
    assert measured[-1] > measured[0] + 0.1


def test_a_diverse_list_keeps_the_best_item_and_holds_no_other_than_the_ranking(recommender: Recommender) -> None:
    for user in users(recommender)[:5]:
        best = recommender.recommend(user, 1)[0]
        served: list[ServedRequest] = []
        recommender.engine.on_served = served.append
        diverse = recommender.recommend(user, 10, diversity=0.8)
        recommender.engine.on_served = None
        ranking = served[0].ranking
        ids = recommender.engine.bundle.models.catalogue.ids.ids_of(ranking.item_idx)
        scores = dict(zip(ids, ranking.score.tolist(), strict=True))

        assert diverse[0].item_id == best.item_id
        assert [item.rank for item in diverse] == list(range(1, 11))
        assert len({item.item_id for item in diverse}) == 10
        assert {item.item_id: item.score for item in diverse}.items() <= scores.items()


def test_given_candidates_all_come_back_in_another_order(recommender: Recommender) -> None:
    given = list(recommender.engine.bundle.models.catalogue.ids.ids)[:30]
    user = users(recommender)[0]

    plain = [item.item_id for item in recommender.recommend(user, 30, candidates=given)]
    diverse = [item.item_id for item in recommender.recommend(user, 30, candidates=given, diversity=0.9)]

    assert sorted(diverse) == sorted(plain) == sorted(given)
    assert diverse != plain


def test_rows_of_a_diversified_ranking_still_belong_to_their_items(recommender: Recommender) -> None:
    models = recommender.engine.bundle.models
    path = RankingPath(models)
    request = Request(models.log.history_of(0), int(models.log.timestamp_us.max()) + 1, 0)
    ranking = path.rank(request)
    diverse = path.diversify(ranking, 5, 0.7)

    assert sorted(diverse.item_idx.tolist()) == sorted(ranking.item_idx.tolist())
    assert diverse.item_idx[:5].tolist() != ranking.item_idx[:5].tolist()
    behind = [item for item in ranking.item_idx.tolist() if item not in diverse.item_idx[:5]]
    assert diverse.item_idx[5:].tolist() == behind
    place_of = {int(item): place for place, item in enumerate(ranking.item_idx)}
    order = [place_of[int(item)] for item in diverse.item_idx]
    for name in ("score", "sources", "features"):
        assert np.array_equal(getattr(diverse, name), getattr(ranking, name)[order], equal_nan=True)


def test_the_command_line_takes_a_diversity(recommender: Recommender, tiny_bundle: Path) -> None:
    user = users(recommender)[3]
    expected = [item.item_id for item in recommender.recommend(user, 6, diversity=0.9)]
    assert expected != [item.item_id for item in recommender.recommend(user, 6)]

    arguments = ["recommend", "--bundle", str(tiny_bundle), "--user", user, "-n", "6", "--diversity"]
    found = CliRunner().invoke(app, [*arguments, "0.9"])
    refused = CliRunner().invoke(app, [*arguments, "1.5"])

    places = [found.stdout.index(item_id) for item_id in expected]
    assert places == sorted(places)
    assert refused.exit_code != 0
    assert "diversity must be at most 1.0 (got 1.5)" in refused.output + str(refused.exception)
