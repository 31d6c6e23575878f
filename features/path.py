"""The way of a request: candidates, features, scores. The same for training, evaluation and serving."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from features.assemble import feature_names, feature_rows
from features.context import ItemTable
from recsys.histories import Request
from recsys.models.fitted import FittedModels
from recsys.retrieval.asked import Asked
from recsys.retrieval.blend import Candidates, blend
from recsys.retrieval.diversify import category_matrix, diversified, pool_size
from recsys.retrieval.index import Indexes
from recsys.retrieval.sources import build_sources

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_NOTHING = np.empty(0, np.int32)


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
    """Retrieves, computes features and ranks with one set of fitted models."""

    def __init__(self, models: FittedModels) -> None:
        self.models = models
        self.items = ItemTable.build(models)
        indexes = Indexes(models.config.retrieval.exact_below)
        self.sources = build_sources(models, indexes)
        self.feature_groups = feature_names(models, self.items)
        self._text_index = indexes.of("text", models.item_embeddings)
        self._factor_index = indexes.of("unit_factors", models.factors.unit_placed)
        self._categories = category_matrix(models.catalogue)

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(self.feature_groups)

    def candidates(self, request: Request, *, exclude: Int32 = _NOTHING, allowed: Bool | None = None) -> Candidates:
        """Return what the sources propose, or the request's own candidates; see `recsys.retrieval.blend`."""
        return blend(
            self.sources,
            Asked.of(self.models, request),
            self.models.config.retrieval,
            n_items=self.models.n_rows,
            exclude=exclude,
            allowed=allowed,
        )

    def rows(self, request: Request, candidate_idx: Int32) -> Float32:
        """Return feature rows, float32 `(n, n_features)`; see `features.assemble`."""
        return feature_rows(self.models, self.items, request, candidate_idx)

    def rank(self, request: Request, *, exclude: Int32 = _NOTHING, allowed: Bool | None = None) -> Ranking:
        """Return the request's candidates in the ranker's order, best first.

        Without a ranker the fused retrieval order stands, with falling scores. `exclude` and `allowed` (bool
        `(n_items,)`, None for all) do not touch candidates that the request itself names.
        """
        asked = Asked.of(self.models, request)
        found = self.candidates(asked, exclude=exclude, allowed=allowed)
        rows = self.rows(asked, found.item_idx)
        ranker = self.models.ranker
        score = ranker.score(rows) if ranker is not None else -np.arange(len(found), dtype=np.float32)
        order = np.argsort(-score, kind="stable")
        return Ranking(
            found.item_idx[order],
            score[order],
            found.sources[order],
            found.source_names,
            rows[order],
            self.feature_names,
        )

    def diversify(self, ranking: Ranking, n: int, diversity: float) -> Ranking:
        """Return a ranking whose first `n` items are less alike, the others behind them in their order.

        `diversity` 0 gives the ranking as it is, 1 lets rank only break ties; the list is chosen from the first 200, or
        twice `n` where that is more. Scores stay the ranker's, so they need not fall. See `recsys.retrieval.diversify`.

        Raises:
            RequestError: `diversity` is outside 0..1.
        """
        pool = ranking.item_idx[: pool_size(n)]
        first = diversified(self.models.item_embeddings[pool], self._categories[pool], n, diversity)
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

    def similar(self, item_idx: int, n: int, *, exclude: Int32 = _NOTHING) -> tuple[Int32, Float32]:
        """Return at most `n` items like one item, and scores in [-1, 1]: mean of text and factor cosine, best first."""
        wanted = n + len(exclude) + 1
        embeddings, factors = self.models.item_embeddings, self.models.factors.unit_placed
        near = np.union1d(
            self._text_index.search(embeddings[item_idx], wanted), self._factor_index.search(factors[item_idx], wanted)
        ).astype(np.int32)
        near = near[~np.isin(near, exclude) & (near != item_idx)]
        score = 0.5 * (embeddings[near] @ embeddings[item_idx] + factors[near] @ factors[item_idx])
        order = np.lexsort((near, -score))[:n]
        return near[order], score[order].astype(np.float32)

    def record(self, item_idx: int, timestamp_us: int, *, kind: str, weight: float = 1.0) -> None:
        """Count a live event; kind is `interactions`, `shown` or `clicked`. Safe to call from several threads."""
        self.models.counters.record(item_idx, timestamp_us, kind=kind, weight=weight)
