"""The way of a request: candidates, features, scores. The same for training, evaluation and serving."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from features.assemble import feature_names, feature_rows
from features.context import ItemTable
from features.rungs import Rung
from recsys.histories import Request
from recsys.models.fitted import FittedModels
from recsys.retrieval.asked import Asked
from recsys.retrieval.blend import Candidates, blend
from recsys.retrieval.diversify import diversified, pool_size
from recsys.retrieval.index import Indexes
from recsys.retrieval.sources import build_sources
from recsys.schema import Col

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_NOTHING = np.empty(0, np.int32)
# What a rung that goes without something retrieves from; every source on the others.
_SOURCES = {
    Rung.WITHOUT_ENCODER: ("als", "ease", "next_item", "covisitation", "popular"),
    Rung.COLLABORATIVE: ("als", "next_item", "covisitation", "popular"),
    Rung.POPULAR: ("popular",),
}


@dataclass(frozen=True)
class Ranking:
    """Candidates in order. Arrays of one length `(n,)`, best first; ties go to the better fused retrieval rank.

    item_idx: int32. score: float32, unbounded. sources: uint8 bits over `source_names`. features: float32
    `(n, n_features)`, row `i` belongs to `item_idx[i]`.
    """

    item_idx: Int32
    score: Float32
    sources: npt.NDArray[np.uint8]
    source_names: tuple[str, ...]
    features: Float32
    feature_names: tuple[str, ...]

    def source_names_of(self, place: int) -> list[str]:
        """Return the names of the sources that proposed the item at a place."""
        return [name for bit, name in enumerate(self.source_names) if self.sources[place] >> bit & 1]


class RankingPath:
    """Retrieves, computes features and ranks with one set of fitted models.

    indexes: vector indexes that exist already; None builds them.
    """

    def __init__(self, models: FittedModels, indexes: Indexes | None = None) -> None:
        self.models = models
        self.items = ItemTable.build(models)
        self.indexes = indexes or Indexes(models.config.retrieval.exact_below, len(models.catalogue))
        self.sources = build_sources(models, self.indexes)
        self.feature_groups = feature_names(models, self.items)
        self.n_fitted = len(models.catalogue)
        # bool (n_rows,): the items that may be recommended; False for free rows and for items that were taken out.
        self.is_listed = np.arange(models.n_rows) < self.n_fitted
        self._text_index = self.indexes.of("text", models.item_embeddings)
        self._factor_index = self.indexes.of("unit_factors", models.factors.unit_placed)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self.feature_groups)

    def candidates(
        self,
        request: Request,
        *,
        exclude: Int32 = _NOTHING,
        allowed: Bool | None = None,
        rung: Rung = Rung.FULL,
        at_least: int = 0,
    ) -> Candidates:
        """Return what the sources propose, or the request's own candidates; see `recsys.retrieval.blend`."""
        return blend(
            [source for source in self.sources if source.name in _SOURCES.get(rung, (source.name,))],
            Asked.of(self.models, request),
            self.models.config.retrieval,
            n_items=self.models.n_rows,
            exclude=exclude,
            allowed=self._listed(allowed),
            at_least=at_least,
        )

    def rows(self, request: Request, candidate_idx: Int32, *, rung: Rung = Rung.FULL) -> Float32:
        """Return feature rows, float32 `(n, n_features)`; see `features.assemble`."""
        without = ("text",) if rung == Rung.WITHOUT_ENCODER else ()
        return feature_rows(self.models, self.items, request, candidate_idx, without=without)

    def rank(
        self,
        request: Request,
        *,
        exclude: Int32 = _NOTHING,
        allowed: Bool | None = None,
        rung: Rung = Rung.FULL,
        at_least: int = 0,
        on_stage: Callable[[str, float], None] = lambda stage, seconds: None,
    ) -> Ranking:
        """Return the request's candidates in the ranker's order, best first.

        Without a ranker, and on the rungs that go without it, the fused retrieval order stands, with falling scores and
        no feature rows. `exclude` and `allowed` (bool `(n_rows,)`, None for all) do not touch candidates that the
        request itself names.

        at_least: candidates that are wanted, where the configuration's numbers may be too small for that.
        on_stage: called with `retrieval`, `features` and `ranking` and the seconds that each took.
        """
        began = perf_counter()
        asked = Asked.of(self.models, request)
        found = self.candidates(asked, exclude=exclude, allowed=allowed, rung=rung, at_least=at_least)
        retrieved = perf_counter()
        on_stage("retrieval", retrieved - began)
        ranker = self.models.ranker
        if ranker is None or rung in (Rung.COLLABORATIVE, Rung.POPULAR):
            score = -np.arange(len(found), dtype=np.float32)
            rows = np.empty((len(found), 0), np.float32) if ranker is not None else self.rows(asked, found.item_idx)
        else:
            rows = self.rows(asked, found.item_idx, rung=rung)
            computed = perf_counter()
            on_stage("features", computed - retrieved)
            score = ranker.score(rows)
            on_stage("ranking", perf_counter() - computed)
        order = np.argsort(-score, kind="stable")
        return Ranking(
            found.item_idx[order],
            score[order],
            found.sources[order],
            found.source_names,
            rows[order],
            self.feature_names,
        )

    def _listed(self, allowed: Bool | None) -> Bool | None:
        if self.models.n_rows == self.n_fitted and self.is_listed.all():
            return allowed
        return self.is_listed if allowed is None else self.is_listed & allowed

    def diversify(self, ranking: Ranking, n: int, diversity: float) -> Ranking:
        """Return a ranking whose first `n` items are less alike, the others behind them in their order.

        `diversity` 0 gives the ranking as it is, 1 lets rank only break ties; the list is chosen from the first 200, or
        twice `n` where that is more. Scores stay the ranker's, so they need not fall. See `recsys.retrieval.diversify`.

        Raises:
            RequestError: `diversity` is outside 0..1.
        """
        first = self.diverse_places(ranking.item_idx, n, diversity)
        is_first = np.zeros(len(ranking.item_idx), np.bool_)
        is_first[first] = True
        order = np.concatenate([first, np.flatnonzero(~is_first)])
        return replace(
            ranking,
            item_idx=ranking.item_idx[order],
            score=ranking.score[order],
            sources=ranking.sources[order],
            features=ranking.features[order],
        )

    def diverse_places(self, item_idx: Int32, n: int, diversity: float) -> npt.NDArray[np.int64]:
        """Return places in a list of items, best first, of `n` of its first that are less alike; see `diversify`."""
        pool = item_idx[: pool_size(n)]
        return diversified(self.models.item_embeddings[pool], self._categories(pool), n, diversity)

    def similar(self, item_idx: int, n: int, *, exclude: Int32 = _NOTHING) -> tuple[Int32, Float32]:
        """Return at most `n` items like one item, and scores in [-1, 1]: mean of text and factor cosine, best first."""
        embeddings, factors = self.models.item_embeddings, self.models.factors.unit_placed
        allowed = self.is_listed.copy()
        allowed[exclude] = False
        allowed[item_idx] = False
        near = np.union1d(
            self._text_index.search(embeddings[item_idx], n, allowed),
            self._factor_index.search(factors[item_idx], n, allowed),
        ).astype(np.int32)
        score = 0.5 * (embeddings[near] @ embeddings[item_idx] + factors[near] @ factors[item_idx])
        order = np.lexsort((near, -score))[:n]
        return near[order], score[order].astype(np.float32)

    def _categories(self, rows: Int32) -> sp.csr_matrix:
        """Return the categories of some items, CSR `(n, n_values)`."""
        values, place = self.items.values.of(rows)
        names = self.items.field_names
        field = names.index(Col.CATEGORIES) if Col.CATEGORIES in names else -1
        kept = self.items.value_field[values] == field
        ones = np.ones(int(kept.sum()), np.float32)
        return sp.csr_matrix((ones, (place[kept], values[kept])), shape=(len(rows), self.items.values.n_values))

    def record(self, item_idx: int, timestamp_us: int, *, kind: str, weight: float = 1.0) -> None:
        """Count a live event; kind is `interactions`, `shown` or `clicked`. Safe to call from several threads."""
        self.models.counters.record(item_idx, timestamp_us, kind=kind, weight=weight)
