"""Item factors of implicit matrix factorisation, and a user's factor solved from a history at request time."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dposv as posv

from recsys.histories import History
from recsys.models.content_map import ContentMap

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_ROWS_AT_ONCE: Final = 100_000


def unit_rows(vectors: Float32) -> Float32:
    """Return vectors `(n, d)` at length 1, float32; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class ItemFactors:
    """Factors of all items, and what is needed to fold a history in.

    own: float32 `(n_items, d)`, fitted; zero rows for items without behaviour.
    content: float32 `(n_items, d)`, predicted from text and attributes.
    is_warm: bool `(n_items,)`, whether an item's own factors are trusted.
    content_map: how content was predicted, for items to come; None where it was not kept.
    """

    own: Float32
    content: Float32
    is_warm: npt.NDArray[np.bool_]
    regularization: float
    alpha: float
    content_map: ContentMap | None = None

    @cached_property
    def placed(self) -> Float32:
        """Own factors where an item is warm, else those its content predicts, float32 `(n_items, d)`."""
        return np.ascontiguousarray(np.where(self.is_warm[:, None], self.own, self.content))

    @cached_property
    def unit_placed(self) -> Float32:
        """`placed` with rows of length 1 (zero rows stay zero)."""
        return unit_rows(self.placed)

    @cached_property
    def gram(self) -> Float64:
        """`ownᵀ own` plus the regularisation on the diagonal, float64 `(d, d)`."""
        gram = self.regularization * np.eye(self.own.shape[1])
        for start in range(0, len(self.own), _ROWS_AT_ONCE):
            own = self.own[start : start + _ROWS_AT_ONCE].astype(np.float64)
            gram += own.T @ own
        return gram

    def fold_in(self, history: History) -> Float32:
        """Return the user factor that a history implies, float32 `(d,)`; zeros for an empty history.

        Solves equation 4 of Hu, Koren and Volinsky (2008), "Collaborative filtering for implicit feedback datasets",
        with confidence `1 + alpha * weight`, weights of repeats added up, and the item factors held fixed. Deviation:
        items without factors of their own take part with those predicted from content.
        """
        if not len(history):
            return np.zeros(self.own.shape[1], np.float32)
        item_idx, weight = history.item_idx, history.weight.astype(np.float64)
        if len(set(item_idx.tolist())) < len(item_idx):
            # Weights of repeated interactions add up, as they do in the matrix that the factors were fitted on.
            item_idx, place = np.unique(item_idx, return_inverse=True)
            weight = np.bincount(place, weights=weight).astype(np.float64)
        items = self.placed[item_idx].astype(np.float64)  # (h, d)
        extra = self.alpha * weight  # (h,) confidence beyond 1
        # A product of a matrix with itself takes half as long.
        scaled = items * np.sqrt(extra)[:, None] if extra.min() >= 0 else None
        left = self.gram + (scaled.T @ scaled if scaled is not None else (items * extra[:, None]).T @ items)  # (d, d)
        right = (1.0 + extra) @ items  # (d,)
        # Positive definite, so that half of it is enough.
        _, solution, failed = posv(left, right, overwrite_a=True, overwrite_b=True)
        return (np.linalg.solve(left, right) if failed else solution).astype(np.float32)
