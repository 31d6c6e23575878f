"""Candidate sources: each proposes items for a request, and can say what it thinks of any given item."""

from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recsys.histories import Request
from recsys.models.fitted import FittedModels
from recsys.models.item_scores import ItemScores
from recsys.retrieval.asked import Asked
from recsys.retrieval.index import Indexes, VectorIndex, top_n

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_HOUR_US = 3_600_000_000
_KEPT_POPULAR = 2_000


class CandidateSource(Protocol):
    """One way of finding candidates. A request may come as `Asked`, which keeps what sources and features share."""

    name: str

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        """Return at most `n` item rows, best first, int32, without repeats; may be empty.

        allowed: bool `(n_items,)`, which items may return; None for all.
        """
        ...

    def score_all(self, request: Request) -> Float32:
        """Return this source's score of every item, float32 `(n_items,)`."""
        ...


class AlsSource:
    """Inner products of the folded-in user factor with the item factors."""

    name = "als"

    def __init__(self, models: FittedModels, indexes: Indexes) -> None:
        self._models = models
        self._index = indexes.of("factors", models.factors.placed)

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        if not len(request.history):
            return _none()
        return self._index.search(Asked.of(self._models, request).user_factor, n, allowed)

    def score_all(self, request: Request) -> Float32:
        return self._models.factors.placed @ Asked.of(self._models, request).user_factor


class _ScorerSource(ABC):
    """Proposes what a sparse item-to-item model scores highest, as far as it is above 0."""

    def __init__(self, models: FittedModels, indexes: Indexes) -> None:
        self._models = models
        self._indexes = indexes

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        scores = self._scores(Asked.of(self._models, request))
        values = scores.values if scores.rows is not None else scores.values[: self._indexes.n_used]
        if allowed is not None:
            allowed = allowed[scores.rows] if scores.rows is not None else allowed[: len(values)]
        places = top_n(values, n, allowed)
        places = places[values[places] > 0]
        return places if scores.rows is None else scores.rows[places].astype(np.int32)

    def score_all(self, request: Request) -> Float32:
        return self._scores(Asked.of(self._models, request)).all(self._models.n_rows)

    @abstractmethod
    def _scores(self, asked: Asked) -> ItemScores: ...


class CovisitationSource(_ScorerSource):
    """What tends to follow the latest items of the history."""

    name = "covisitation"

    def _scores(self, asked: Asked) -> ItemScores:
        return asked.covisitation(asked.history)


class EaseSource(_ScorerSource):
    """Items that the linear item model finds the whole history to speak for."""

    name = "ease"

    def _scores(self, asked: Asked) -> ItemScores:
        return asked.ease(asked.history)


class NextItemSource(_ScorerSource):
    """What the linear transition model expects next."""

    name = "next_item"

    def _scores(self, asked: Asked) -> ItemScores:
        return asked.next_item(asked.history)


class SequenceSource:
    """What the sequence model expects next; nothing where it was switched off."""

    name = "sequence"

    def __init__(self, models: FittedModels, indexes: Indexes) -> None:
        self._models = models
        self._index: VectorIndex | None = None
        if models.sequence is not None:
            self._index = indexes.of("sequence", models.sequence.biased_vectors)

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        user = Asked.of(self._models, request).sequence_vector
        if user is None or self._index is None or not len(request.history):
            return _none()
        return self._index.search(np.append(user, np.float32(1.0)), n, allowed)

    def score_all(self, request: Request) -> Float32:
        model, user = self._models.sequence, Asked.of(self._models, request).sequence_vector
        if model is None or user is None or not len(request.history):
            return np.zeros(self._models.n_rows, np.float32)
        return model.biased_vectors @ np.append(user, np.float32(1.0))


class TextSource:
    """Items whose text is near the texts of the history."""

    name = "text"

    def __init__(self, models: FittedModels, indexes: Indexes) -> None:
        self._models = models
        self._index = indexes.of("text", models.item_embeddings)

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        profile = Asked.of(self._models, request).text_profile(request.history)
        return self._index.search(profile, n, allowed) if profile.any() else _none()

    def score_all(self, request: Request) -> Float32:
        return self._models.item_embeddings @ Asked.of(self._models, request).text_profile(request.history)


class PopularSource:
    """Items with the most interactions lately; all-time counts decide between equals."""

    name = "popular"

    def __init__(self, models: FittedModels, _: Indexes) -> None:
        self._counters = models.counters
        self._all = np.arange(models.n_rows, dtype=np.int32)
        windows = sorted(models.config.features.windows_hours)
        self._window_us = int(windows[len(windows) // 2] * _HOUR_US)
        self._latest: tuple[tuple[int, int], Float32, Int32] | None = None

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        scores, best = self._now(request)
        if allowed is None:
            return best[:n] if n <= len(best) else top_n(scores, n)
        found = best[allowed[best]][:n]
        return found if len(found) == n else top_n(scores, n, allowed)

    def score_all(self, request: Request) -> Float32:
        return self._now(request)[0]

    def _now(self, request: Request) -> tuple[Float32, Int32]:
        """Return every item's score and the best rows, as of the request; kept until a count can have changed."""
        state = self._counters.state_at(request.as_of_us)
        latest = self._latest
        if latest is None or latest[0] != state:
            counts = self._counters.count("interactions", self._all, request.as_of_us, (self._window_us, None))
            scores = (counts[:, 0] + counts[:, 1] / (counts[:, 1].max() + 1.0)).astype(np.float32)
            latest = (state, scores, top_n(scores, _KEPT_POPULAR))
            self._latest = latest
        return latest[1], latest[2]


class ColdSource:
    """Items without behaviour of their own, by the factors that their content predicts."""

    name = "cold"

    def __init__(self, models: FittedModels, indexes: Indexes) -> None:
        self._models = models
        self._index = indexes.of("content", models.factors.content)

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        is_cold = ~self._models.factors.is_warm
        if not len(request.history) or not is_cold.any():
            return _none()
        allowed = is_cold if allowed is None else is_cold & allowed
        return self._index.search(Asked.of(self._models, request).user_factor, n, allowed)

    def score_all(self, request: Request) -> Float32:
        return self._models.factors.content @ Asked.of(self._models, request).user_factor


_SOURCES: dict[str, type] = {
    source.name: source
    for source in (
        AlsSource,
        EaseSource,
        NextItemSource,
        SequenceSource,
        CovisitationSource,
        TextSource,
        PopularSource,
        ColdSource,
    )
}


def build_sources(models: FittedModels, indexes: Indexes | None = None) -> tuple[CandidateSource, ...]:
    """Return the sources that the configuration names, in its order. indexes: None builds what they need."""
    indexes = indexes or Indexes(models.config.retrieval.exact_below, len(models.catalogue))
    return tuple(_SOURCES[name](models, indexes) for name in models.config.retrieval.sources)


def _none() -> Int32:
    return np.empty(0, np.int32)
