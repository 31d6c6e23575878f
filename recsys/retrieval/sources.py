"""Candidate sources: each proposes items for a request, and can say what it thinks of any given item."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.retrieval.index import VectorIndex, build_index, top_n

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_PROFILE_LENGTH = 30
_PROFILE_DECAY = 0.9
_HOUR_US = 3_600_000_000


def history_profile(vectors: Float32, history: History) -> Float32:
    """Return the decayed mean of the latest items' vectors, length 1, float32 `(d,)`; zeros without a history.

    The newest of at most 30 items weighs its event weight, each one before it 0.9 times as much.
    """
    recent = history.last(_PROFILE_LENGTH)
    if not len(recent):
        return np.zeros(vectors.shape[1], np.float32)
    decay = np.float32(_PROFILE_DECAY) ** np.arange(len(recent) - 1, -1, -1, dtype=np.float32)
    mean = (decay * recent.weight) @ vectors[recent.item_idx]
    norm = float(np.linalg.norm(mean))
    return (mean / norm).astype(np.float32) if norm > 0 else mean.astype(np.float32)


class CandidateSource(Protocol):
    """One way of finding candidates."""

    name: str

    def retrieve(self, request: Request, n: int) -> Int32:
        """Return at most `n` item rows, best first, int32, without repeats; may be empty."""
        ...

    def score_all(self, request: Request) -> Float32:
        """Return this source's score of every item, float32 `(n_items,)`."""
        ...


class AlsSource:
    """Inner products of the folded-in user factor with the item factors."""

    name = "als"

    def __init__(self, models: FittedModels) -> None:
        self._factors = models.factors
        self._index = build_index(models.factors.placed, exact_below=models.config.retrieval.exact_below)

    def retrieve(self, request: Request, n: int) -> Int32:
        return self._index.search(self._factors.fold_in(request.history), n) if len(request.history) else _none()

    def score_all(self, request: Request) -> Float32:
        return self._factors.placed @ self._factors.fold_in(request.history)


class HistoryScorer(Protocol):
    """A fitted model that scores every item by a history."""

    def score(self, history: History) -> Float32:
        """Return float32 `(n_items,)`; above 0 where the history speaks for an item."""
        ...


class _ScorerSource:
    """Proposes what a model scores highest, as far as it is above 0."""

    def __init__(self, scorer: HistoryScorer) -> None:
        self._scorer = scorer

    def retrieve(self, request: Request, n: int) -> Int32:
        scores = self._scorer.score(request.history)
        rows = top_n(scores, n)
        return rows[scores[rows] > 0]

    def score_all(self, request: Request) -> Float32:
        return self._scorer.score(request.history)


class CovisitationSource(_ScorerSource):
    """What tends to follow the latest items of the history."""

    name = "covisitation"

    def __init__(self, models: FittedModels) -> None:
        super().__init__(models.covisitation)


class EaseSource(_ScorerSource):
    """Items that the linear item model finds the whole history to speak for."""

    name = "ease"

    def __init__(self, models: FittedModels) -> None:
        super().__init__(models.ease)


class NextItemSource(_ScorerSource):
    """What the linear transition model expects next."""

    name = "next_item"

    def __init__(self, models: FittedModels) -> None:
        super().__init__(models.next_item)


class SequenceSource:
    """What the sequence model expects next; nothing where it was switched off."""

    name = "sequence"

    def __init__(self, models: FittedModels) -> None:
        self._sequence = models.sequence
        self._n_items = len(models.catalogue)
        self._index: VectorIndex | None = None
        if self._sequence is not None:
            vectors = np.column_stack([self._sequence.item_vectors, self._sequence.item_bias])
            self._index = build_index(np.ascontiguousarray(vectors), exact_below=models.config.retrieval.exact_below)

    def retrieve(self, request: Request, n: int) -> Int32:
        if self._sequence is None or self._index is None or not len(request.history):
            return _none()
        return self._index.search(np.append(self._sequence.user_vector(request.history), np.float32(1.0)), n)

    def score_all(self, request: Request) -> Float32:
        if self._sequence is None:
            return np.zeros(self._n_items, np.float32)
        return self._sequence.score(request.history)


class TextSource:
    """Items whose text is near the texts of the history."""

    name = "text"

    def __init__(self, models: FittedModels) -> None:
        self._embeddings = models.item_embeddings
        self._index = build_index(models.item_embeddings, exact_below=models.config.retrieval.exact_below)

    def retrieve(self, request: Request, n: int) -> Int32:
        profile = history_profile(self._embeddings, request.history)
        return self._index.search(profile, n) if profile.any() else _none()

    def score_all(self, request: Request) -> Float32:
        return self._embeddings @ history_profile(self._embeddings, request.history)


class PopularSource:
    """Items with the most interactions lately; all-time counts decide between equals."""

    name = "popular"

    def __init__(self, models: FittedModels) -> None:
        self._counters = models.counters
        self._all = np.arange(len(models.catalogue), dtype=np.int32)
        windows = sorted(models.config.features.windows_hours)
        self._window_us = int(windows[len(windows) // 2] * _HOUR_US)
        self._latest: tuple[tuple[int, int], Float32] | None = None

    def retrieve(self, request: Request, n: int) -> Int32:
        return top_n(self.score_all(request), n)

    def score_all(self, request: Request) -> Float32:
        state = self._counters.state_at(request.as_of_us)
        latest = self._latest
        if latest is not None and latest[0] == state:
            return latest[1]
        scores = self._count(request)
        self._latest = (state, scores)
        return scores

    def _count(self, request: Request) -> Float32:
        counts = self._counters.count("interactions", self._all, request.as_of_us, (self._window_us, None))
        return (counts[:, 0] + counts[:, 1] / (counts[:, 1].max() + 1.0)).astype(np.float32)


class ColdSource:
    """Items without behaviour of their own, by the factors that their content predicts."""

    name = "cold"

    def __init__(self, models: FittedModels) -> None:
        self._factors = models.factors
        self._cold = np.flatnonzero(~models.factors.is_warm).astype(np.int32)
        self._vectors = np.ascontiguousarray(models.factors.content[self._cold])

    def retrieve(self, request: Request, n: int) -> Int32:
        if not len(request.history) or not len(self._cold):
            return _none()
        return self._cold[top_n(self._vectors @ self._factors.fold_in(request.history), n)]

    def score_all(self, request: Request) -> Float32:
        return self._factors.content @ self._factors.fold_in(request.history)


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


def build_sources(models: FittedModels) -> tuple[CandidateSource, ...]:
    """Return the sources that the configuration names, in its order."""
    return tuple(_SOURCES[name](models) for name in models.config.retrieval.sources)


def _none() -> Int32:
    return np.empty(0, np.int32)
