"""One request as a set of fitted models sees it: what several sources and features read is computed once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.models.item_scores import ItemScores

Float32 = npt.NDArray[np.float32]

_PROFILE_LENGTH = 30
_PROFILE_DECAY = 0.9
_Value = TypeVar("_Value")


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


@dataclass(frozen=True, eq=False)
class Asked(Request):
    """A request with the models that answer it. Made by `Asked.of`.

    Methods that take a history take the request's own or its newest part. computed: the vectors that were computed so
    far; may be handed from one request to another with the same history and models.
    """

    models: FittedModels = field(kw_only=True)
    computed: dict[Any, Any] = field(kw_only=True, repr=False, default_factory=dict)
    # Scores of items are large and quickly computed again: they are for this request alone.
    _scores: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    @staticmethod
    def of(models: FittedModels, request: Request, computed: dict[Any, Any] | None = None) -> "Asked":
        """Return the request as these models see it; itself where it is that already."""
        if isinstance(request, Asked) and request.models is models:
            return request
        kept = {} if computed is None else computed
        return Asked(
            request.history, request.as_of_us, request.user_idx, request.candidates, models=models, computed=kept
        )

    @property
    def plain(self) -> Request:
        """The request without what was computed."""
        return Request(self.history, self.as_of_us, self.user_idx, self.candidates)

    @property
    def user_factor(self) -> Float32:
        """The user factor that the history implies, float32 `(d,)`."""
        return self._once(self.computed, "factor", self.history, lambda: self.models.factors.fold_in(self.history))

    @property
    def sequence_vector(self) -> Float32 | None:
        """What the sequence model makes of the history, float32 `(d,)`; None where it was switched off."""
        sequence = self.models.sequence
        return (
            None
            if sequence is None
            else self._once(self.computed, "user", self.history, lambda: sequence.user_vector(self.history))
        )

    def ease(self, history: History) -> ItemScores:
        """Return what the linear item model makes of a history."""
        return self._once(self._scores, "ease", history, lambda: self.models.ease.points_to(history))

    def next_item(self, history: History) -> ItemScores:
        """Return what the linear transition model makes of a history."""
        return self._once(self._scores, "next_item", history, lambda: self.models.next_item.points_to(history))

    def covisitation(self, history: History) -> ItemScores:
        """Return what the transitions make of a history."""
        return self._once(self._scores, "covisitation", history, lambda: self.models.covisitation.points_to(history))

    def text_profile(self, history: History) -> Float32:
        """Return the profile of a history's texts, float32 `(embedding_size,)`; see `history_profile`."""
        return self._once(self.computed, "text", history, lambda: history_profile(self.models.item_embeddings, history))

    def _once(self, kept: dict[Any, Any], name: str, history: History, compute: Callable[[], _Value]) -> _Value:
        # Of one request's history every newest part is told by its length.
        key = (name, len(history))
        value: _Value | None = kept.get(key)
        if value is None:
            value = kept[key] = compute()
        return value
