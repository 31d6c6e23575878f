"""Maximal marginal relevance: the best items of a ranking that are not too much alike."""

from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.catalogue import Catalogue
from recsys.errors import RequestError
from recsys.schema import Col

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

# What may enter a list at all: at the far end of the knob, too, a list is made of the ranker's best.
_MIN_POOL: Final = 200


def category_matrix(catalogue: Catalogue) -> sp.csr_matrix:
    """Return which item has which category, float32 CSR `(n_items, n_categories)`; no columns where none are known."""
    columns = [field == Col.CATEGORIES for field in catalogue.value_fields]
    is_category = np.asarray(columns, np.bool_)[catalogue.value_field] if columns else np.zeros(0, np.bool_)
    return sp.csr_matrix(catalogue.values[:, np.flatnonzero(is_category)])


def pool_size(n: int) -> int:
    """Return how many of a ranking's first items a list of `n` is chosen from: twice `n`, at least 200."""
    return max(_MIN_POOL, 2 * n)


def diversified(embeddings: Float32, categories: sp.csr_matrix, n: int, diversity: float) -> Int64:
    """Return the places of `n` items, int64 `(min(n, m),)`, chosen one after the other by marginal relevance.

    After the first, which is the ranker's first, each choice is the item with the largest

        (1 - diversity) * relevance - diversity * similarity

    of Carbonell and Goldstein (1998), where similarity is that to the most similar item chosen before. Relevance is
    1 / log2(1 + rank), the gain that nDCG gives a rank: from ranks, not scores, so that the knob means the same in
    every request and under every ranker. Similarity is in [0, 1]: the mean of the cosine of the texts, not below 0, and
    of the cosine of the sets of categories; where one of two items lacks either, the other alone; where they
    share neither kind, 0. Equal values go to the better rank. O(n m d).

    Args:
        embeddings: float32 `(m, d)`, unit rows in the ranker's order, best first; zero rows where an item has no text.
        categories: CSR `(m, n_categories)`, not zero where an item has a category; rows in the same order.
        n: length of the list.
        diversity: 0, the ranker's order as it is, to 1, where rank only breaks ties.

    Raises:
        RequestError: `diversity` is outside 0..1.

    References:
        J. Carbonell and J. Goldstein, The Use of MMR, SIGIR 1998.
    """
    check_diversity(diversity)
    m = len(embeddings)
    if diversity == 0.0 or m < 2:
        return np.arange(min(n, m))
    alike = _Likeness(embeddings, categories)
    relevance = (1.0 - diversity) / np.log2(np.arange(2, m + 2))
    nearest = np.zeros(m)
    chosen = np.empty(min(n, m), np.int64)
    for place in range(len(chosen)):
        value = relevance - diversity * nearest
        value[chosen[:place]] = -np.inf
        chosen[place] = np.argmax(value)  # the first of equal ones
        np.maximum(nearest, alike.to(int(chosen[place])), out=nearest)
    return chosen


def check_diversity(diversity: float) -> None:
    """Refuse a diversity outside 0..1, NaN too.

    Raises:
        RequestError: with `field` set.
    """
    if not 0.0 <= diversity <= 1.0:
        raise RequestError(f"diversity must be between 0 and 1 (got {diversity})", field="diversity")


class _Likeness:
    """Similarity of one item to all, by text and categories."""

    def __init__(self, embeddings: Float32, categories: sp.csr_matrix) -> None:
        self._embeddings = embeddings
        pattern = sp.csr_matrix(categories != 0, dtype=np.float64)
        sizes = np.diff(pattern.indptr)
        self._categories = sp.csr_matrix(sp.diags(1.0 / np.sqrt(np.maximum(sizes, 1))) @ pattern)
        self._has_text = np.linalg.norm(embeddings, axis=1) > 0
        self._has_categories = sizes > 0

    def to(self, row: int) -> npt.NDArray[np.float64]:
        """Return the similarity of every item to the one at `row`, float64 `(m,)` in [0, 1]."""
        both_text = self._has_text & self._has_text[row]
        both_categories = self._has_categories & self._has_categories[row]
        text = np.maximum(self._embeddings @ self._embeddings[row], 0.0).astype(np.float64)
        overlap = self._categories @ self._categories[row].toarray().ravel()
        n_known = both_text.astype(np.float64) + both_categories
        return np.where(both_text, text, 0.0) / np.maximum(n_known, 1.0) + overlap / np.maximum(n_known, 1.0)
