"""Directed item-to-item transitions: what tends to follow what."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.config import CovisitationConfig
from recsys.histories import History, InteractionLog
from recsys.models.item_scores import ItemScores, entries_at, sum_of_rows

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Covisitation:
    """Transition weights, float32 CSR `(n_items, n_items)`: row = what came before, column = what came after."""

    transitions: sp.csr_matrix
    history_length: int
    history_decay: float

    @staticmethod
    def fit(log: InteractionLog, config: CovisitationConfig) -> "Covisitation":
        """Count transitions of every user's sequence.

        An interaction `d` steps after another (1 ≤ d ≤ window) adds `decay^(d-1)` times its own weight; columns are
        divided by the target's frequency to the power `normalisation`; each row keeps its strongest entries. A step
        from an item to itself is not counted.
        """
        total = sp.csr_matrix((log.n_items, log.n_items), dtype=np.float32)
        for step in range(1, config.window + 1):
            before, after = log.item_idx[:-step], log.item_idx[step:]
            keep = (log.user_idx[:-step] == log.user_idx[step:]) & (before != after)
            weight = log.weight[step:][keep] * np.float32(config.decay ** (step - 1))
            total = total + sp.csr_matrix((weight, (before[keep], after[keep])), shape=total.shape, dtype=np.float32)
        frequency = np.maximum(log.item_counts(), 1).astype(np.float32)
        total = (total @ sp.diags_array(frequency**-config.normalisation)).astype(np.float32).tocsr()
        return Covisitation(_strongest(total, config.max_neighbours), config.history_length, config.history_decay)

    def score(self, history: History) -> Float32:
        """Return how strongly the latest items point to every item, float32 `(n_items,)`."""
        return self.points_to(history).all(self.transitions.shape[1])

    def points_to(self, history: History) -> ItemScores:
        """Return what `score` does, for the items that the history points to alone where that is cheaper."""
        recent = history.item_idx[-self.history_length :][::-1]
        strength = np.float32(self.history_decay) ** np.arange(len(recent), dtype=np.float32)
        return sum_of_rows(self.transitions, np.ascontiguousarray(recent), strength)

    def between(self, item_idx: int, following: Int32) -> Float32:
        """Return the transitions from one item to the given ones, float32 `(n,)`."""
        return entries_at(self.transitions, item_idx, following)


def _strongest(matrix: sp.csr_matrix, k: int) -> sp.csr_matrix:
    """Keep the `k` largest entries of each row; of equal ones the lower column."""
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    kept = order[place < k]
    result = sp.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)
    result.sort_indices()
    return result
