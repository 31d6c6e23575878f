"""Fitted models with free rows behind their items, for items that come while they serve."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.ids import IdMap
from recsys.models.fitted import FittedModels
from recsys.models.kept_files import KeptFiles
from recsys.models.sequence import SequenceModel

Float32 = npt.NDArray[np.float32]
_Array = TypeVar("_Array", bound=npt.NDArray[np.generic])


def with_room(models: FittedModels, n_free: int, kept: KeptFiles | None = None) -> FittedModels:
    """Return the models with `n_free` empty rows behind the catalogue's in every item array.

    Item arrays and the id map are copies, which may be written to; what is fitted is shared. A free row has no text, no
    factors and no neighbours, and nothing must return it before it is filled: see `features.live.LiveItems`.

    kept: where large arrays are mapped from, so that processes share them; None for arrays of this process alone.
    """
    n_rows = models.n_rows + n_free

    def large(name: str, make: Callable[[], Float32]) -> Float32:
        return _longer(make(), n_rows) if kept is None else kept.array(name, n_rows, make)

    factors, sequence = models.factors, models.sequence
    longer = replace(
        factors,
        own=large("factors_own", lambda: factors.own),
        content=large("factors_content", lambda: factors.content),
        is_warm=_longer(factors.is_warm, n_rows),
    )
    # What is derived from the others is derived once, for all processes. The Gram matrix reads all of the factors, as
    # nothing else does: those of the models without room, which are released.
    vars(longer)["gram"] = factors.gram
    vars(longer)["placed"] = large("factors_placed", lambda: factors.placed)
    vars(longer)["unit_placed"] = large("factors_unit_placed", lambda: factors.unit_placed)
    if sequence is not None:
        sequence = _longer_sequence(sequence, n_rows, large)
    return replace(
        models,
        catalogue=replace(models.catalogue, ids=IdMap(models.catalogue.ids.ids)),
        item_embeddings=large("item_embeddings", lambda: models.item_embeddings),
        factors=longer,
        covisitation=replace(models.covisitation, transitions=_larger(models.covisitation.transitions, n_rows)),
        ease=replace(models.ease, weights=_larger(models.ease.weights, n_rows)),
        next_item=replace(models.next_item, weights=_larger(models.next_item.weights, n_rows)),
        sequence=sequence,
    )


def _longer_sequence(
    model: SequenceModel, n_rows: int, large: Callable[[str, Callable[[], Float32]], Float32]
) -> SequenceModel:
    vectors = large("sequence_vectors", lambda: model.item_vectors)
    longer = replace(model, item_vectors=vectors, item_bias=_longer(model.item_bias, n_rows))
    vars(longer)["biased_vectors"] = large("sequence_biased_vectors", lambda: model.biased_vectors)
    return longer


def _longer(array: _Array, n_rows: int) -> _Array:
    longer = np.zeros((n_rows, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer  # type: ignore[return-value]


def _larger(matrix: sp.csr_matrix, n_rows: int) -> sp.csr_matrix:
    indptr = np.append(matrix.indptr, np.full(n_rows - matrix.shape[0], matrix.indptr[-1], matrix.indptr.dtype))
    return sp.csr_matrix((matrix.data, matrix.indices, indptr), shape=(n_rows, n_rows))
