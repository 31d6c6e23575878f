"""From a ranking to the items of an answer: what the rules say, which scores, why, all by their ids."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt

from features.path import Ranking, RankingPath
from features.rungs import Rung
from recsys.histories import History
from recsys.models.fitted import FittedModels
from serving.explain import Contribution, Evidence, explain_scores, find_evidence
from serving.rules import Rule
from serving.shaping import Shaper
from serving.slates import Ignored, Query, SlateItem
from serving.telemetry import observe_stage

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# A pinned item that was not retrieved has no score.
_PINNED_SCORE: Final = 0.0


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
        ignored: dict[str, Ignored],
        history: History,
        kinds: Callable[[], Sequence[str | None]],
        as_of_us: int,
        rung: Rung,
    ) -> tuple[SlateItem, ...]:
        """Return the items of a slate: the first of the ranking, as far as no rule or wish wants it otherwise.

        kinds: kinds of the events in `history`, None where unknown; called where reasons are asked for.
        """
        began = perf_counter()
        drawn: list[float | None]
        rules: tuple[Rule, ...]
        if query.rules.shapes_slate:
            placed = self._shaper().place(query, ranking, ignored, as_of_us, rung)
            places, item_idx, rules = placed.places, placed.item_idx, placed.rules
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
            evidence = self._evidence(item_idx, history, kinds())
            observe_stage("explanation", perf_counter() - began)
        return tuple(
            SlateItem(
                item_id,
                float(ranking.score[place]) if place >= 0 else _PINNED_SCORE,
                rank + 1,
                tuple(ranking.source_names_of(place)) if place >= 0 else (),
                propensity=drawn[rank],
                rule=rules[rank],
                explanation=parts[rank],
                evidence=evidence[rank],
            )
            for rank, (item_id, place) in enumerate(
                zip(self._models.catalogue.ids.ids_of(item_idx), places.tolist(), strict=True)
            )
        )

    def _parts(self, ranking: Ranking, places: Int64) -> list[tuple[Contribution, ...] | None]:
        """Return what each group added to the scores of a slate, None for an item without one."""
        parts: list[tuple[Contribution, ...] | None] = [None] * len(places)
        scored = np.flatnonzero(places >= 0)
        ranker = self._models.ranker
        if ranker is not None and len(scored) and ranking.features.shape[1]:
            explained = explain_scores(ranker, ranking.features[places[scored]], self._path.feature_groups)
            for at, contributions in zip(scored.tolist(), explained, strict=True):
                parts[at] = contributions
        return parts

    def _evidence(self, item_idx: Int32, history: History, kinds: Sequence[str | None]) -> Sequence[Evidence | None]:
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
        )
