"""Linear item models in closed form: items of a history speak, with a weight each, for every other item.

`Ease` asks which items belong to a history at all, `NextItem` which one comes next.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.linalg.lapack
import scipy.sparse as sp

from recsys.config import EaseConfig, NextItemConfig
from recsys.histories import History, InteractionLog
from recsys.models.item_scores import ItemScores, sum_of_rows

logger = logging.getLogger(__name__)

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

_CHUNK_ROWS: Final = 200_000


@dataclass(frozen=True)
class Ease:
    """Item-to-item weights, float32 CSR `(n_items, n_items)`: row = item of the history, column = item scored."""

    weights: sp.csr_matrix

    @staticmethod
    def fit(log: InteractionLog, config: EaseConfig) -> "Ease":
        """Solve equation 8 of Steck (2019), "Embarrassingly shallow autoencoders for sparse data".

        Deviations: in the Gram matrix a pair of items of one user counts `1 - nearness` plus, where at most three times
        `nearness_steps` interactions lie between them, `nearness * exp(-distance / nearness_steps)`, at the smallest
        distance where they repeat: what was turned to together says more than what one life has in common. Where that
        leaves a matrix that is not positive definite, as much repetition under little regularization may, a warning is
        logged and `nearness` is taken to be 0. Only the `max_items` most frequent items with at least
        `min_interactions` take part, and of each row only the `max_neighbours` weights that are largest in size are
        kept. An interaction counts once per user and item, whatever its weight; those of weight 0 or less do not count.
        """
        log = log.select(log.weight > 0)
        items = _most_frequent(log, config)
        if not len(items):
            return Ease(_no_weights(log.n_items))
        try:
            precision = _inverse(_gram(log, items, config, config.nearness))
        except np.linalg.LinAlgError:
            logger.warning(
                "ease.nearness %g leaves no positive definite matrix under ease.regularization %g; it is taken to be "
                "0, so raise the regularization or lower the nearness",
                config.nearness,
                config.regularization,
            )
            precision = _inverse(_gram(log, items, config, 0.0))
        weights = (-precision / np.diag(precision)).astype(np.float32)  # (m, m)
        np.fill_diagonal(weights, 0.0)
        return Ease(_strongest(weights, items, log.n_items, config.max_neighbours))

    def score(self, history: History) -> Float32:
        """Return how strongly the history's items speak for every item, float32 `(n_items,)`.

        An item counts once, however often it is in the history.
        """
        return self.points_to(history).all(self.weights.shape[1])

    def points_to(self, history: History) -> ItemScores:
        """Return what `score` does, for the items that the history points to alone where that is cheaper."""
        return sum_of_rows(self.weights, np.unique(history.item_idx[history.weight > 0]))


@dataclass(frozen=True)
class NextItem:
    """Item-to-next-item weights, float32 CSR `(n_items, n_items)`: row = item of the history, column = what follows.

    window: latest items of a history that are read. fading: exponent of their weight, `steps_back ** -fading`.
    """

    weights: sp.csr_matrix
    window: int
    fading: float

    @staticmethod
    def fit(log: InteractionLog, config: NextItemConfig) -> "NextItem":
        """Regress each interaction's item on the latest items before it: `B = (FᵀF + λI)⁻¹ FᵀY`.

        The transition model of Choe, Kim, Lee and Lee (2021), "Session-aware linear item-item models for
        session-based recommendation" (SLIT, equation 7). Deviations: a whole history is one session, only the very next
        item is the target, the items before it weigh `steps_back ** -fading` instead of exponentially less, and rows
        and entries are limited as in `Ease.fit`. Interactions of weight 0 or less do not count.
        """
        log = log.select(log.weight > 0)
        items = _most_frequent(log, config)
        if not len(items):
            return NextItem(_no_weights(log.n_items), config.window, config.fading)
        place = np.full(log.n_items, -1, np.int32)
        place[items] = np.arange(len(items), dtype=np.int32)
        gram, cross = np.zeros((len(items),) * 2), np.zeros((len(items),) * 2)
        for start in range(0, len(log), _CHUNK_ROWS):
            before, after = _next_item_rows(log, place, range(start, min(start + _CHUNK_ROWS, len(log))), config)
            gram += (before.T @ before).toarray()
            cross += (before.T @ after).toarray()
        gram[np.diag_indices_from(gram)] += config.regularization
        weights = scipy.linalg.solve(gram, cross, assume_a="pos", overwrite_a=True, overwrite_b=True)
        kept = _strongest(weights.astype(np.float32), items, log.n_items, config.max_neighbours)
        return NextItem(kept, config.window, config.fading)

    def score(self, history: History) -> Float32:
        """Return how strongly the latest items point to every item, float32 `(n_items,)`."""
        return self.points_to(history).all(self.weights.shape[1])

    def points_to(self, history: History) -> ItemScores:
        """Return what `score` does, for the items that the history points to alone where that is cheaper."""
        latest = history.item_idx[history.weight > 0][-self.window :]
        strength = np.arange(len(latest), 0, -1, dtype=np.float32) ** np.float32(-self.fading)
        return sum_of_rows(self.weights, latest, strength)


def _most_frequent(log: InteractionLog, config: EaseConfig | NextItemConfig) -> Int32:
    """Return the items that take part, int32, sorted; of equally frequent ones the lower rows."""
    counts = log.item_counts()
    n = min(config.max_items, int((counts >= config.min_interactions).sum()))
    return np.sort(np.argsort(-counts, kind="stable")[:n]).astype(np.int32)


def _gram(log: InteractionLog, items: Int32, config: EaseConfig, nearness: float) -> Float64:
    """Return the regularised Gram matrix of some items, symmetric `(m, m)`."""
    seen = (log.matrix() > 0).astype(np.float32)[:, items]
    gram: Float64 = (seen.T @ seen).toarray().astype(np.float64)
    frequency = np.diag(gram).copy()
    if nearness > 0:
        gram = (1.0 - nearness) * gram + nearness * _nearness(log, items, config.nearness_steps).toarray()
    gram[np.diag_indices_from(gram)] = frequency + config.regularization
    return gram


def _inverse(matrix: Float64) -> Float64:
    """Return the inverse of a symmetric matrix, which is overwritten.

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite.
    """
    # The transpose of a symmetric matrix is itself, in the order that LAPACK reads.
    factor, is_lower = scipy.linalg.cho_factor(matrix.T, overwrite_a=True, check_finite=False)
    inverse: Float64 = scipy.linalg.lapack.dpotri(factor, lower=is_lower, overwrite_c=True)[0]
    for row in range(len(inverse)):  # LAPACK fills one triangle
        inverse[row + 1 :, row] = inverse[row, row + 1 :]
    return inverse


def _nearness(log: InteractionLog, items: Int32, steps: float) -> sp.csr_matrix:
    """Return the sum over users of `exp(-distance / steps)` for each pair of items, symmetric CSR `(m, m)`.

    The distance is the smallest at which the user turned to both.
    """
    column_of = np.full(log.n_items, -1, np.int32)
    column_of[items] = np.arange(len(items), dtype=np.int32)
    column = column_of[log.item_idx]
    is_nearest = _is_nearest(log, column, min(int(3 * steps) + 1, len(log) - 1))
    total = sp.csr_matrix((len(items), len(items)), dtype=np.float32)
    for distance, keep in enumerate(is_nearest, start=1):
        first, second = column[:-distance][keep[:-distance]], column[distance:][keep[:-distance]]
        data = np.full(len(first), np.exp(-distance / steps), np.float32)
        total = total + sp.csr_matrix((data, (first, second)), shape=total.shape)
    return (total + total.T).tocsr()


def _is_nearest(log: InteractionLog, column: Int32, max_distance: int) -> Bool:
    """Return whether a row and the one `distance` behind it are to count as their user's pair of these two items.

    Row `distance - 1` of bool `(max_distance, len(log))`. Of pairs of one user that are the same two items in either
    order, the nearest counts, the first among equals; one with itself or with a `column` of -1 does not.
    """
    counts = np.zeros((max_distance, len(log)), np.bool_)
    n_columns = int(column.max(initial=-1)) + 1
    starts = log.indptr[np.unique(np.searchsorted(log.indptr, np.arange(0, len(log), _CHUNK_ROWS)))]
    for start, stop in zip(starts, [*starts[1:], len(log)], strict=True):  # whole users
        user, item = log.user_idx[start:stop].astype(np.int64), column[start:stop]
        _, inverse, times = np.unique(user * (n_columns + 1) + item, return_inverse=True, return_counts=True)
        repeats = times[inverse] > 1
        pairs, places = [], []
        for distance in range(1, min(max_distance, len(user) - 1) + 1):
            first, second = item[:-distance], item[distance:]
            keep = (user[:-distance] == user[distance:]) & (first >= 0) & (second >= 0) & (first != second)
            counts[distance - 1, start : stop - distance] = keep
            # Only a pair with an item that repeats can come again.
            rows = np.flatnonzero(keep & (repeats[:-distance] | repeats[distance:]))
            low, high = np.minimum(first[rows], second[rows]), np.maximum(first[rows], second[rows])
            pairs.append((user[rows] * n_columns + low) * n_columns + high)
            places.append((distance - 1) * len(log) + start + rows)
        if pairs:
            place = np.concatenate(places)
            counts.ravel()[place] = False
            counts.ravel()[place[np.unique(np.concatenate(pairs), return_index=True)[1]]] = True
    return counts


def _next_item_rows(
    log: InteractionLog, place: Int32, rows: range, config: NextItemConfig
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Return for some rows of the log the weighted items before each and the item itself, CSR `(len(rows), m)`."""
    target = np.arange(rows.start, rows.stop)
    n_items = int((place >= 0).sum())
    parts: list[tuple[npt.NDArray[np.int64], Int32, Float32]] = []
    for steps_back in range(1, config.window + 1):
        source = target - steps_back
        keep = source >= log.indptr[log.user_idx[target]]
        column = place[log.item_idx[source[keep]]]
        known = column >= 0
        row = np.flatnonzero(keep)[known]
        parts.append((row, column[known], np.full(len(row), steps_back**-config.fading, np.float32)))
    row, column, data = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    before = sp.csr_matrix((data, (row, column)), shape=(len(rows), n_items))
    own = place[log.item_idx[target]]
    known = own >= 0
    ones = np.ones(int(known.sum()), np.float32)
    return before, sp.csr_matrix((ones, (np.flatnonzero(known), own[known])), shape=before.shape)


def _strongest(weights: Float32, items: Int32, n_items: int, k: int) -> sp.csr_matrix:
    """Return the `k` entries of each row that are largest in size, among rows and columns of the whole catalogue."""
    k = min(k, len(items))
    columns = np.sort(np.argpartition(-np.abs(weights), k - 1, axis=1)[:, :k], axis=1)  # (m, k)
    data = np.take_along_axis(weights, columns, axis=1)
    lengths = np.zeros(n_items, np.int64)
    lengths[items] = k
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((data.ravel(), items[columns].ravel(), indptr), shape=(n_items, n_items))


def _no_weights(n_items: int) -> sp.csr_matrix:
    return sp.csr_matrix((n_items, n_items), dtype=np.float32)
