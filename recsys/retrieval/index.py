"""Nearest vectors by inner product: exact for small catalogues, FAISS inverted lists for large ones."""

from pathlib import Path
from typing import Any, Final, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from recsys.models.kept_files import KeptFiles
from recsys.models.kernels import top_rows
from recsys.retrieval.byte_rows import ByteRows

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

# Lists per square root of the number of vectors, and the share of them that a search opens.
_LISTS_PER_ROOT: Final = 4
_OPENED: Final = 24
_TRAINED_PER_LIST: Final = 50
# The lists keep eight bits per dimension: what they find is ordered anew by the vectors themselves.
_FOUND_PER_WANTED: Final = 2
# Where a filter leaves fewer rows than this, all of them are compared.
_EXACT_ROWS: Final = 10_000
_ADDED_AT_ONCE: Final = 50_000
_ALL: Final = np.empty(0, np.bool_)
# From so many numbers on, reading all vectors takes longer than looking through a copy in bytes first.
_READ_WHOLE_UP_TO: Final = 500_000


class VectorIndex(Protocol):
    """Finds the items whose vectors have the largest inner product with a query."""

    def search(self, query: Float32, n: int, allowed: Bool | None = None) -> Int32:
        """Return at most `n` item rows, best first; ties go to the lower row.

        allowed: bool `(n_items,)`, which rows may return; None for all.
        """
        ...

    def touch(self, rows: Int32) -> None:
        """Take note that the vectors of some rows were changed in place."""
        ...


def top_n(scores: Float32, n: int, allowed: Bool | None = None) -> Int32:
    """Return the rows of the `n` largest scores, best first, int32; ties go to the lower row; -inf never returns.

    allowed: bool, one per score, which rows may return; None for all.
    """
    return top_rows(scores, _ALL if allowed is None else allowed, max(n, 0))


class ExactIndex:
    """Scores every vector that can be among the best. vectors: float32 `(n_rows, d)`.

    n_used: rows behind these are free until touched.
    """

    def __init__(self, vectors: Float32, n_used: int | None = None) -> None:
        self._vectors = vectors
        self._n_used = len(vectors) if n_used is None else n_used
        self._bytes = ByteRows(vectors) if vectors.size > _READ_WHOLE_UP_TO else None

    def search(self, query: Float32, n: int, allowed: Bool | None = None) -> Int32:
        if self._bytes is None:
            scores = self._vectors[: self._n_used] @ query
            return top_n(scores, n, None if allowed is None else allowed[: len(scores)])
        rows = self._bytes.may_be_best(query, n, _ALL if allowed is None else allowed, self._n_used)
        return rows[top_n(self._vectors[rows] @ query, n)]

    def touch(self, rows: Int32) -> None:
        if self._bytes is not None:
            self._bytes.put(rows, self._vectors[rows])
        self._n_used = max(self._n_used, int(rows.max(initial=-1)) + 1)


class InvertedIndex:
    """FAISS inverted lists over vectors in eight bits, the best of which are compared exactly.

    vectors: float32 `(n_rows, d)`. n_used: rows behind these are free until touched. lists: over the others, in the
    order of the rows; None builds them, in minutes for a million.
    """

    def __init__(self, vectors: Float32, n_used: int | None = None, *, lists: Any = None) -> None:
        self._vectors = vectors
        self._lists = build_lists(vectors[:n_used]) if lists is None else lists
        self._lists.nprobe = min(_OPENED, self._lists.nlist)
        # Rows that lie in another list than their vector now would: always compared.
        self._touched: Int32 = np.empty(0, np.int32)

    def search(self, query: Float32, n: int, allowed: Bool | None = None) -> Int32:
        n_allowed = len(self._vectors) if allowed is None else np.count_nonzero(allowed)
        if allowed is not None and n_allowed <= max(_EXACT_ROWS, n):
            rows = np.flatnonzero(allowed).astype(np.int32)
        else:
            rows = self._approximately(query, n * _FOUND_PER_WANTED, allowed)
            touched = self._touched if allowed is None else self._touched[allowed[self._touched]]
            if len(touched):
                rows = np.union1d(rows, touched)
        return rows[top_n(self._vectors[rows] @ query, n)]

    def touch(self, rows: Int32) -> None:
        self._touched = np.union1d(self._touched, rows)

    def _approximately(self, query: Float32, n: int, allowed: Bool | None) -> Int32:
        selected = {}
        if allowed is not None:
            selector: Any = faiss.IDSelectorBitmap
            selected["sel"] = selector(np.packbits(allowed, bitorder="little"))
        settings: Any = faiss.SearchParametersIVF
        parameters = settings(nprobe=self._lists.nprobe, **selected)
        _, found = self._lists.search(query[None, :], n, params=parameters)
        return np.sort(found[0][found[0] >= 0]).astype(np.int32)


class Indexes:
    """The vector indexes of one set of models, each built once, whoever asks first.

    exact_below: number of vectors from which search is approximate. n_used: rows of the vectors that are taken; those
    behind them are free until they are touched. kept: where inverted lists are read from, so that processes share them;
    None builds them here.
    """

    def __init__(self, exact_below: int, n_used: int, kept: KeptFiles | None = None) -> None:
        self._exact_below = exact_below
        self.n_used = n_used
        self._kept = kept
        self._indexes: dict[str, VectorIndex] = {}

    def of(self, name: str, vectors: Float32) -> VectorIndex:
        """Return the index of that name, over these vectors: exact for fewer than `exact_below`."""
        if name not in self._indexes:
            lists = None
            if self._kept is not None and self.n_used >= self._exact_below:
                fitted = vectors[: self.n_used]
                lists = self._kept.file(
                    f"{name}.faiss",
                    lambda path: faiss.write_index(build_lists(fitted), str(path)),
                    lambda path: read_lists(path, fitted.shape),
                    lambda: build_lists(fitted),
                )
            self._indexes[name] = build_index(vectors, exact_below=self._exact_below, n_used=self.n_used, lists=lists)
        return self._indexes[name]

    def touch(self, rows: Int32) -> None:
        """Take note that the vectors of some rows were changed."""
        self.n_used = max(self.n_used, int(rows.max(initial=-1)) + 1)
        for index in self._indexes.values():
            index.touch(rows)


def build_index(vectors: Float32, *, exact_below: int, n_used: int | None = None, lists: Any = None) -> VectorIndex:
    """Return an exact index for fewer than `exact_below` vectors, else an approximate one.

    n_used: rows behind these are free; None for all being taken. lists: see `InvertedIndex`.
    """
    n_used = len(vectors) if n_used is None else n_used
    return ExactIndex(vectors, n_used) if n_used < exact_below else InvertedIndex(vectors, n_used, lists=lists)


def read_lists(path: Path, shape: tuple[int, ...]) -> Any:
    """Return inverted lists that were written over vectors of that shape; they stay in the file, and are mapped.

    Raises:
        ValueError, RuntimeError: they are damaged, or are those of other vectors.
    """
    lists: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    if (lists.ntotal, lists.d) != shape:
        raise ValueError(f"it is over {lists.ntotal} vectors of {lists.d} numbers, not {shape}")
    # What is mapped need not be fetched ahead, by threads that each search would start.
    mapped: Any = faiss.downcast_InvertedLists(lists.invlists)
    mapped.prefetch_nthread = 0
    return lists


def build_lists(vectors: Float32) -> Any:
    """Return inverted lists over vectors, float32 `(n, d)`."""
    n, d = vectors.shape
    n_lists = max(1, min(int(_LISTS_PER_ROOT * n**0.5), n // 40))
    lists = faiss.index_factory(d, f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = vectors[:: max(1, n // (n_lists * _TRAINED_PER_LIST))]
    lists.train(np.ascontiguousarray(sample))
    for start in range(0, n, _ADDED_AT_ONCE):
        lists.add(np.ascontiguousarray(vectors[start : start + _ADDED_AT_ONCE]))
    return lists
