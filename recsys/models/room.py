"""Fitted models with free rows behind their items, for items that come while they serve."""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.ids import IdMap
from recsys.models.fitted import FittedModels

_Array = TypeVar("_Array", bound=npt.NDArray[np.generic])


def with_room(models: FittedModels, n_free: int) -> FittedModels:
    """Return the models with `n_free` empty rows behind the catalogue's in every item array.

    Item arrays and the id map are copies, which may be written to; what is fitted is shared. A free row has no text, no
    factors and no neighbours, and nothing must return it before it is filled: see `features.live.LiveItems`.
    """
    n_rows = models.n_rows + n_free
    factors = models.factors
    sequence = models.sequence
    if sequence is not None:
        bias = _longer(sequence.item_bias, n_free)
        sequence = replace(sequence, item_vectors=_longer(sequence.item_vectors, n_free), item_bias=bias)
    return replace(
        models,
        catalogue=replace(models.catalogue, ids=IdMap(models.catalogue.ids.ids)),
        item_embeddings=_longer(models.item_embeddings, n_free),
        factors=replace(
            factors,
            own=_longer(factors.own, n_free),
            content=_longer(factors.content, n_free),
            is_warm=_longer(factors.is_warm, n_free),
        ),
        covisitation=replace(models.covisitation, transitions=_larger(models.covisitation.transitions, n_rows)),
        ease=replace(models.ease, weights=_larger(models.ease.weights, n_rows)),
        next_item=replace(models.next_item, weights=_larger(models.next_item.weights, n_rows)),
        sequence=sequence,
    )


def _longer(array: _Array, n_free: int) -> _Array:
    longer = np.zeros((len(array) + n_free, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer  # type: ignore[return-value]


def _larger(matrix: sp.csr_matrix, n_rows: int) -> sp.csr_matrix:
    indptr = np.append(matrix.indptr, np.full(n_rows - matrix.shape[0], matrix.indptr[-1], matrix.indptr.dtype))
    return sp.csr_matrix((matrix.data, matrix.indices, indptr), shape=(n_rows, n_rows))
