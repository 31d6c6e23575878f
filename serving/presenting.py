"""From a ranking to the items of an answer: what the rules say, which scores, why, all by their ids."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
import numpy.typing as npt

from features.path import Ranking, RankingPath
from features.rungs import Rung
from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.retrieval.sources import PopularSource
from serving.explain import Contribution, Evidence, explain_scores, find_evidence
from serving.placing import Placed
from serving.rules import Rule
from serving.shaping import Shaper
from serving.slates import Ignored, Query, SlateItem
from serving.telemetry import observe_stage

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Presenter:
    """Makes the items of slates of one path. May be called from several threads at once.

    shaper: asked for when a rule first wants it. title_of: title of an item's id.
    """

    def __init__(
        self, models: FittedModels, path: RankingPath, shaper: Callable[[], Shaper], title_of: Callable[[str], str]
    ) -> None:
        self._models = models
        self._path = path
        self._shaper = shaper
        self._title_of = title_of

    def items(
        self,
        query: Query,
        ranking: Ranking,
        request: Request,
        ignored: dict[str, Ignored],
        history: History,
        kinds: Callable[[], Sequence[str | None]],
        rung: Rung,
    ) -> tuple[SlateItem, ...]:
        """Return the items of a slate: the first of the ranking, as far as no rule or wish wants it otherwise.

        Pinned items that the ranking lacks are scored as it was.

        request: that of the ranking. history: all of the user's. kinds: of the events in `history`, None where unknown;
        called where reasons are asked for.
        """
        began = perf_counter()
        drawn: list[float | None]
        rules: tuple[Rule, ...]
        if query.rules.shapes_slate:
            placed = self._shaper().place(query, ranking, ignored, request.as_of_us, rung)
            ranking, places = self._with_pins(ranking, placed, request, rung)
            item_idx, rules = placed.item_idx, placed.rules
            chances = zip(placed.propensity.tolist(), rules, strict=True)
            drawn = [chance if rule == Rule.EXPLORATION else None for chance, rule in chances]
        else:
            item_idx = ranking.item_idx[: query.n]
            places = np.arange(len(item_idx))
            drawn, rules = [None] * len(item_idx), (Rule.RANKING,) * len(item_idx)
        observe_stage("rules", perf_counter() - began)
        parts: Sequence[tuple[Contribution, ...] | None] = [None] * len(item_idx)
        evidence: Sequence[Evidence | None] = parts  # type: ignore[assignment]
        if query.explain:
            began = perf_counter()
            parts = self._parts(ranking, places)
            evidence = self._evidence(
                item_idx, [ranking.source_names_of(place) for place in places.tolist()], history, kinds()
            )
            observe_stage("explanation", perf_counter() - began)
        return tuple(
            SlateItem(
                item_id,
                float(ranking.score[place]),
                rank + 1,
                tuple(ranking.source_names_of(place)),
                propensity=drawn[rank],
                rule=rules[rank],
                explanation=parts[rank],
                evidence=evidence[rank],
            )
            for rank, (item_id, place) in enumerate(
                zip(self._models.catalogue.ids.ids_of(item_idx), places.tolist(), strict=True)
            )
        )

    def _with_pins(self, ranking: Ranking, placed: Placed, request: Request, rung: Rung) -> tuple[Ranking, Int64]:
        """Return the ranking with the slate's other items behind it, and the place in that of each item of the slate.

        They are scored by the ranker from the same request; where no ranker orders, they stand behind all that was
        found.
        """
        lacking = np.flatnonzero(placed.places < 0)
        if not len(lacking):
            return ranking, placed.places
        item_idx, n_found, width = placed.item_idx[lacking], len(ranking.item_idx), ranking.features.shape[1]
        features = np.empty((len(lacking), 0), np.float32)
        if width:
            # Beside what was found, since some columns compare candidates with each other.
            features = self._path.rows(request, np.concatenate([ranking.item_idx, item_idx]), rung=rung)[n_found:]
        ranker = self._models.ranker
        score = ranker.score(features) if ranker is not None and width else np.full(len(lacking), -n_found, np.float32)
        places = placed.places.copy()
        places[lacking] = n_found + np.arange(len(lacking))
        longer = replace(
            ranking,
            item_idx=np.concatenate([ranking.item_idx, item_idx]),
            score=np.concatenate([ranking.score, score]),
            sources=np.concatenate([ranking.sources, np.zeros(len(lacking), np.uint8)]),
            features=np.concatenate([ranking.features, features]),
        )
        return longer, places

    def _parts(self, ranking: Ranking, places: Int64) -> Sequence[tuple[Contribution, ...] | None]:
        """Return what each group added to the scores of a slate, None for all where no ranker scored it."""
        ranker = self._models.ranker
        if ranker is None or not len(places) or not ranking.features.shape[1]:
            return [None] * len(places)
        return explain_scores(ranker, ranking.features[places], self._path.feature_groups)

    def _evidence(
        self, item_idx: Int32, sources: Sequence[Sequence[str]], history: History, kinds: Sequence[str | None]
    ) -> Sequence[Evidence | None]:
        def describe(row: int) -> tuple[str, str]:
            item_id = self._models.catalogue.ids.id_of(row)
            return item_id, self._title_of(item_id)

        return find_evidence(
            item_idx,
            history.item_idx,
            kinds,
            self._models.item_embeddings,
            self._models.covisitation.transitions,
            describe,
            is_popular=np.array([PopularSource.name in names for names in sources], np.bool_),
        )
