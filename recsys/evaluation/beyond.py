"""What lists of recommendations are like beyond accuracy, system by system, with intervals over users.

Plain arrays in: lists of item rows, what each user had done, and three arrays about the items. So the lists of any
system can be judged, this engine's or another's. Equations are in docs/metrics.md.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.evaluation.intervals import Interval, bootstrap_mean, bootstrap_means
from recsys.evaluation.metrics import (
    PADDING,
    EvaluationError,
    Float64,
    Int64,
    checked_lists,
    coverage,
    first_three,
    gini_of_exposure,
    intra_list_diversity,
    novelty,
)

Table = dict[str, dict[str, Interval]]

SMOOTHING: Final = 0.01  # share of the history's distribution that is mixed into the list's, as in Steck (2018)
_CHUNK_VALUES: Final = 4_000_000  # float64 values held at once: 32 MB
_REFERENCE: Final = "full"


@dataclass(frozen=True)
class ItemFacts:
    """What lists are judged by. Row `i` of each array is item `i`.

    counts: int `(n_items,)`, interactions in training. embeddings: float `(n_items, d)`, of the texts, zero rows where
    there is none. categories: CSR `(n_items, n_categories)`, an entry that is not zero where an item has a category.
    """

    counts: npt.NDArray[np.integer]
    embeddings: npt.NDArray[np.floating]
    categories: sp.csr_matrix

    def __post_init__(self) -> None:
        rows = {"counts": len(self.counts), "embeddings": len(self.embeddings), "categories": self.categories.shape[0]}
        if len(set(rows.values())) > 1:
            raise EvaluationError(f"the arrays about the items have {rows} rows; pass one row per item in each")

    def __len__(self) -> int:
        return len(self.counts)


@dataclass(frozen=True)
class BeyondAccuracy:
    """What the lists of one system are like; names end in `@k`, k being the width of the lists.

    per_request: `novelty`, `ild`, `miscalibration`, `cold_share`, each float64 `(n_requests,)`, NaN where a list has
    none. aggregates: `coverage` and `gini`, which only all lists together have.
    """

    per_request: dict[str, Float64]
    aggregates: dict[str, float]


def beyond_accuracy(
    lists: npt.ArrayLike, histories: Sequence[npt.NDArray[np.integer]], items: ItemFacts
) -> BeyondAccuracy:
    """Return novelty, diversity, miscalibration, share of cold items, coverage and Gini of one system's lists.

    Args:
        lists: int item rows `(n_requests, k)`, best first, -1 as padding.
        histories: one array of item rows per request, what the user had done by then. Order plays no part.
        items: what is known of the items.

    Raises:
        EvaluationError: lists of another shape or dtype, rows outside the catalogue, or not one history per request.
    """
    rows = checked_lists(lists, len(items))
    k = rows.shape[1]
    per_request = {
        f"novelty@{k}": novelty(rows, items.counts),
        f"ild@{k}": intra_list_diversity(rows, items.embeddings),
        f"miscalibration@{k}": miscalibration(rows, histories, items.categories),
        f"cold_share@{k}": cold_share(rows, items.counts),
    }
    aggregates = {f"coverage@{k}": coverage(rows, len(items)), f"gini@{k}": gini_of_exposure(rows, len(items))}
    return BeyondAccuracy(per_request, aggregates)


def cold_share(recommended: npt.ArrayLike, item_counts: npt.NDArray[np.integer]) -> Float64:
    """Return the share of each list's items that have no interaction in training, float64 `(n_requests,)`, 0..1.

    item_counts: interactions in training, int `(n_items,)`. NaN for an empty list.
    """
    lists = checked_lists(recommended, len(item_counts))
    if not len(item_counts):
        return np.full(len(lists), np.nan)
    filled = lists != PADDING
    return _ratio((filled & (item_counts[lists] == 0)).sum(axis=1), filled.sum(axis=1))


def miscalibration(
    recommended: npt.ArrayLike, histories: Sequence[npt.NDArray[np.integer]], categories: sp.csr_matrix
) -> Float64:
    """Return how far each list's mix of categories is from that of the user's history, float64 `(n_requests,)`, nats.

    It is the Kullback-Leibler divergence C_KL(p, q) of Steck (2018), equation 6, with smoothing .01: 0 where the mixes
    are equal, log(100) = 4.6 where nothing of the history's categories is in the list. An item spreads one unit evenly
    over its categories. Every interaction of the history and every place of the list weighs the same: neither
    recency nor rank counts, where the paper allows both. Items without a category are left out; NaN where the history
    or the list then holds nothing.

    Args:
        recommended: int item rows `(n_requests, k)`, -1 as padding.
        histories: one array of item rows per request.
        categories: CSR `(n_items, n_categories)`; entries that are not zero count alike.

    Raises:
        EvaluationError: as `beyond_accuracy`.

    References:
        H. Steck, Calibrated Recommendations, RecSys 2018.
    """
    n_items, n_categories = categories.shape
    lists = checked_lists(recommended, n_items)
    past = _history_matrix(histories, len(lists), n_items)
    shown = _exposure(np.arange(len(lists)), lists, len(lists), n_items)
    of_item = _spread(categories)
    result = np.full(len(lists), np.nan)
    step = max(1, _CHUNK_VALUES // max(1, n_categories))
    for start in range(0, len(lists), step):
        stop = start + step
        wanted = (past[start:stop] @ of_item).toarray()  # (rows, n_categories)
        given = (shown[start:stop] @ of_item).toarray()
        n_wanted, n_given = wanted.sum(axis=1), given.sum(axis=1)
        defined = (n_wanted > 0) & (n_given > 0)
        p = wanted[defined] / n_wanted[defined, None]
        q = given[defined] / n_given[defined, None]
        smoothed = (1.0 - SMOOTHING) * q + SMOOTHING * p
        terms = np.log(np.divide(p, smoothed, out=np.ones_like(p), where=p > 0))
        result[start:stop][defined] = np.maximum((p * terms).sum(axis=1), 0.0)
    return result


def compare_lists(
    lists: Mapping[str, npt.NDArray[np.integer]],
    histories: Sequence[npt.NDArray[np.integer]],
    items: ItemFacts | Sequence[tuple[int, ItemFacts]],
    *,
    clusters: npt.NDArray[Any],
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> tuple[Table, Table]:
    """Return every system's figures beyond accuracy with intervals, and those of `full` minus each other system.

    Both fit beside what `recsys.evaluation.report.compare_systems` returns. A difference is over the requests for which
    both systems have a value; there are none where no system is named `full`. All systems see the same resamples.

    Args:
        lists: system → int item rows `(n_requests, k)`, -1 as padding; the same requests in the same order.
        histories: one array of item rows per request.
        items: what is known of the items; or, where what is known differs, how many requests each of them is for, one
            after the other, all of one catalogue.
        clusters: the user of each request, `(n_requests,)`.
        n_bootstrap: resamples of users. confidence: coverage aimed at.
        rng: source of the resamples.

    Raises:
        EvaluationError: as `beyond_accuracy`, systems with lists of different shapes, or items of other requests.
    """
    _check_same_shape(lists, len(clusters))
    seed = int(rng.integers(2**63))
    parts = [(len(clusters), items)] if isinstance(items, ItemFacts) else list(items)
    found = {name: _judged(rows, histories, parts) for name, rows in lists.items()}
    per_request = {name: one.per_request for name, one in found.items()}
    settings: dict[str, Any] = {"clusters": clusters, "n_bootstrap": n_bootstrap, "confidence": confidence}
    n_items = len(parts[0][1])
    resampled = _resampled_aggregates(lists, n_items, clusters, n_bootstrap, np.random.default_rng(seed))
    systems: Table = {}
    differences: Table = {}
    for name, one in found.items():
        systems[name] = bootstrap_means(one.per_request, rng=np.random.default_rng(seed), **settings)
        for metric, value in one.aggregates.items():
            systems[name][metric] = _around(value, resampled[name][metric], len(clusters), confidence, lowest=0.0)
        if name == _REFERENCE or _REFERENCE not in found:
            continue
        differences[name] = {
            metric: bootstrap_mean(gap, undefined="skip", rng=np.random.default_rng(seed), **settings)
            for metric, gap in _gaps(per_request[_REFERENCE], per_request[name]).items()
        }
        for metric, value in one.aggregates.items():
            gap = found[_REFERENCE].aggregates[metric] - value
            draws = resampled[_REFERENCE][metric] - resampled[name][metric]
            differences[name][metric] = _around(gap, draws, len(clusters), confidence, lowest=-1.0)
    return systems, differences


def _judged(
    lists: npt.NDArray[np.integer],
    histories: Sequence[npt.NDArray[np.integer]],
    parts: Sequence[tuple[int, ItemFacts]],
) -> BeyondAccuracy:
    """Return the figures of requests that are judged by different facts: each by its own, all lists together."""
    ends = np.cumsum([n for n, _ in parts])
    if not len(ends) or ends[-1] != len(lists) or len({len(items) for _, items in parts}) != 1:
        raise EvaluationError(
            f"{len(lists)} lists, but items for {[n for n, _ in parts]} of them, "
            f"with {[len(i) for _, i in parts]} rows; pass the facts of one catalogue for every request"
        )
    found = [
        beyond_accuracy(lists[end - n : end], histories[end - n : end], items)
        for end, (n, items) in zip(ends, parts, strict=True)
    ]
    k, n_items = lists.shape[1], len(parts[0][1])
    return BeyondAccuracy(
        {metric: np.concatenate([one.per_request[metric] for one in found]) for metric in found[0].per_request},
        {f"coverage@{k}": coverage(lists, n_items), f"gini@{k}": gini_of_exposure(lists, n_items)},
    )


def _gaps(first: Mapping[str, Float64], second: Mapping[str, Float64]) -> dict[str, Float64]:
    """Return first minus second of each metric, NaN where either has no value; not the metrics without any gap."""
    gaps = {metric: values - second[metric] for metric, values in first.items()}
    return {metric: gap for metric, gap in gaps.items() if not np.isnan(gap).all()}


def joined(first: Table, second: Table) -> Table:
    """Return the metrics of two tables side by side, row by row; rows in the order of the first."""
    return {row: metrics | second.get(row, {}) for row, metrics in first.items()}


def _check_same_shape(lists: Mapping[str, npt.NDArray[np.integer]], n_requests: int) -> None:
    if not lists:
        raise EvaluationError("there are no lists to judge; pass those of at least one system")
    shapes = {name: np.shape(rows) for name, rows in lists.items()}
    if len(set(shapes.values())) > 1:
        first = dict(list(shapes.items())[:3])
        raise EvaluationError(f"systems have lists of different shapes, {first}; judge all on the same requests and k")
    if (shape := next(iter(shapes.values())))[:1] != (n_requests,):
        raise EvaluationError(f"lists have shape {shape}, but {n_requests} clusters; name the user of every request")


def _history_matrix(histories: Sequence[npt.NDArray[np.integer]], n_requests: int, n_items: int) -> sp.csr_matrix:
    """Return how often each item is in each history, CSR float64 `(n_requests, n_items)`."""
    if len(histories) != n_requests:
        raise EvaluationError(f"{n_requests} lists but {len(histories)} histories; pass one history per request")
    lengths = np.array([len(history) for history in histories], np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *histories]).astype(np.int64)
    if (outside := (flat < 0) | (flat >= n_items)).any():
        raise EvaluationError(
            f"{int(outside.sum())} rows of the histories are outside 0..{n_items - 1}, the first at "
            f"{first_three(outside)}; pass item_idx of the catalogue that the lists are of"
        )
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return sp.csr_matrix((np.ones(len(flat)), flat, indptr), shape=(n_requests, n_items))


def _exposure(row_of: Int64, lists: Int64, n_rows: int, n_items: int) -> sp.csr_matrix:
    """Return how often each item is in the lists of each row, CSR float64 `(n_rows, n_items)`."""
    filled = lists != PADDING
    rows = np.repeat(row_of, filled.sum(axis=1))
    return sp.csr_matrix((np.ones(len(rows)), (rows, lists[filled])), shape=(n_rows, n_items))


def _spread(categories: sp.csr_matrix) -> sp.csr_matrix:
    """Return the category matrix with each item's entries equal and adding up to one; rows without any stay empty."""
    pattern = sp.csr_matrix(categories != 0, dtype=np.float64)
    return sp.csr_matrix(sp.diags(1.0 / np.maximum(np.diff(pattern.indptr), 1)) @ pattern)


def _resampled_aggregates(
    lists: Mapping[str, npt.NDArray[np.integer]],
    n_items: int,
    clusters: npt.NDArray[Any],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, Float64]]:
    """Return coverage and Gini of each system in each resample of users, float64 `(n_bootstrap,)`; NaN for one user."""
    users, number = np.unique(clusters, return_inverse=True)
    exposures: dict[str, sp.csr_matrix] = {}
    for name, rows in lists.items():
        matrix = _exposure(number.ravel(), checked_lists(rows, n_items), len(users), n_items)
        exposures[name] = matrix[:, np.unique(matrix.indices)]  # items that no resample can hold add nothing
    k = np.shape(next(iter(lists.values())))[1]
    result = {
        name: {f"{metric}@{k}": np.full(n_bootstrap, np.nan) for metric in ("coverage", "gini")} for name in lists
    }
    if len(users) < 2:
        return result
    width = max([len(users), *(matrix.shape[1] for matrix in exposures.values())])
    for start, stop, weights in _drawn_users(len(users), n_bootstrap, max(1, _CHUNK_VALUES // max(1, width)), rng):
        for name, matrix in exposures.items():
            counts = np.asarray(matrix.T @ weights.T).T  # (resamples, exposed items)
            result[name][f"coverage@{k}"][start:stop] = _ratio((counts > 0).sum(axis=1), np.full(len(counts), n_items))
            result[name][f"gini@{k}"][start:stop] = _gini_of_rows(counts, n_items)
    return result


def _drawn_users(
    n_users: int, n_bootstrap: int, step: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, Float64]]:
    """Yield `start, stop` and how often each resample between them draws each user, `(stop - start, n_users)`."""
    for start in range(0, n_bootstrap, step):
        stop = min(start + step, n_bootstrap)
        drawn = rng.integers(0, n_users, size=(stop - start, n_users))
        flat = drawn + n_users * np.arange(stop - start)[:, None]
        weights = np.bincount(flat.ravel(), minlength=n_users * (stop - start)).reshape(stop - start, n_users)
        yield start, stop, weights.astype(np.float64)


def _gini_of_rows(counts: Float64, n_items: int) -> Float64:
    """Return the Gini coefficient of each row `(m,)` of exposures, all other items of the catalogue having none."""
    m = counts.shape[1]
    ranks = np.arange(n_items - m + 1, n_items + 1)
    weighted = np.sort(counts, axis=1) @ (2.0 * ranks - n_items - 1)
    return _ratio(weighted, n_items * counts.sum(axis=1))


def _around(value: float, draws: Float64, n: int, confidence: float, *, lowest: float) -> Interval:
    """Return the interval of a figure that its resamples understate or overstate, within `lowest` and 1.

    A resample repeats some users, so it holds fewer different lists and items than the sample: coverage falls
    and concentration rises in all of them. Their spread is kept, and their mean is moved onto the figure.
    """
    known = draws[~np.isnan(draws)]
    if math.isnan(value) or len(known) < 2:
        return Interval(value, math.nan, math.nan, n)
    tail = (1.0 - confidence) / 2.0
    lo, hi = np.clip(value + np.quantile(known - known.mean(), [tail, 1.0 - tail]), lowest, 1.0)
    return Interval(value, min(float(lo), value), max(float(hi), value), n)


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Float64:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
