"""One request as a set of fitted models sees it: what several sources and features read is computed once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
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
    """A request with the models that answer it. Made by `Asked.of`, used in one thread and then forgotten.

    Methods that take a history take the request's own or its newest part.
    """

    models: FittedModels = field(kw_only=True)
    _kept: dict[tuple[str, int], Any] = field(init=False, repr=False, default_factory=dict)

    @staticmethod
    def of(models: FittedModels, request: Request) -> "Asked":
        """Return the request as these models see it; itself where it is that already."""
        if isinstance(request, Asked) and request.models is models:
            return request
        return Asked(request.history, request.as_of_us, request.user_idx, request.candidates, models=models)

    @property
    def plain(self) -> Request:
        """The request without what was computed."""
        return Request(self.history, self.as_of_us, self.user_idx, self.candidates)

    @cached_property
    def user_factor(self) -> Float32:
        """The user factor that the history implies, float32 `(d,)`."""
        return self.models.factors.fold_in(self.history)

    @cached_property
    def sequence_vector(self) -> Float32 | None:
        """What the sequence model makes of the history, float32 `(d,)`; None where it was switched off."""
        return None if self.models.sequence is None else self.models.sequence.user_vector(self.history)

    def ease(self, history: History) -> ItemScores:
        """Return what the linear item model makes of a history."""
        return self._once("ease", history, lambda: self.models.ease.points_to(history))

    def next_item(self, history: History) -> ItemScores:
        """Return what the linear transition model makes of a history."""
        return self._once("next_item", history, lambda: self.models.next_item.points_to(history))

    def covisitation(self, history: History) -> ItemScores:
        """Return what the transitions make of a history."""
        return self._once("covisitation", history, lambda: self.models.covisitation.points_to(history))

    def text_profile(self, history: History) -> Float32:
        """Return the profile of a history's texts, float32 `(embedding_size,)`; see `history_profile`."""
        return self._once("text", history, lambda: history_profile(self.models.item_embeddings, history))

    def _once(self, name: str, history: History, compute: Callable[[], _Value]) -> _Value:
        # Of one request's history every newest part is told by its length.
        key = (name, len(history))
        if key not in self._kept:
            self._kept[key] = compute()
        value: _Value = self._kept[key]
        return value
