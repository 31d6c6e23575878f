"""Nearest vectors by inner product: exact for small catalogues, FAISS HNSW for large ones."""

from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

_NEIGHBOURS_PER_NODE = 32
_BUILD_DEPTH = 128
_SEARCH_DEPTH = 256


class VectorIndex(Protocol):
    """Finds the items whose vectors have the largest inner product with a query."""

    def search(self, query: Float32, n: int) -> Int32:
        """Return at most `n` item rows, best first; ties go to the lower row."""
        ...


def top_n(scores: Float32, n: int) -> Int32:
    """Return the rows of the `n` largest scores, best first, int32; ties go to the lower row; -inf never returns."""
    n = min(n, len(scores))
    if n <= 0:
        return np.empty(0, np.int32)
    rows = np.argpartition(-scores, n - 1)[:n] if n < len(scores) else np.arange(len(scores))
    if n < len(scores):
        # argpartition picks any of the rows tied at the edge; take the lowest ones instead.
        edge = scores[rows].min()
        better = np.flatnonzero(scores > edge)
        rows = np.concatenate([better, np.flatnonzero(scores == edge)[: n - len(better)]])
    rows = rows[np.lexsort((rows, -scores[rows]))]
    return rows[scores[rows] > -np.inf].astype(np.int32)


class ExactIndex:
    """Scores every vector. vectors: float32 `(n_items, d)`."""

    def __init__(self, vectors: Float32) -> None:
        self._vectors = vectors

    def search(self, query: Float32, n: int) -> Int32:
        return top_n(self._vectors @ query, n)


class HnswIndex:
    """FAISS HNSW over inner product. vectors: float32 `(n_items, d)`."""

    def __init__(self, vectors: Float32) -> None:
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], _NEIGHBOURS_PER_NODE, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = _BUILD_DEPTH
        self._index.hnsw.efSearch = _SEARCH_DEPTH
        self._index.add(np.ascontiguousarray(vectors))

    def search(self, query: Float32, n: int) -> Int32:
        _, rows = self._index.search(query[None, :], n)
        return rows[0][rows[0] >= 0].astype(np.int32)


def build_index(vectors: Float32, *, exact_below: int) -> VectorIndex:
    """Return an exact index for fewer than `exact_below` vectors, else an approximate one."""
    return ExactIndex(vectors) if len(vectors) < exact_below else HnswIndex(vectors)
