"""Ranking metrics per request, and what lists of recommendations look like beyond accuracy.

Relevance is binary. A tie is broken against the system. A value that a request does not have (nothing is relevant, or
everything is) is NaN: means leave it out and count what they used. Equations are in docs/metrics.md.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import RecsysError

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

PADDING: Final = -1
_LIST_CUTOFFS: Final = (5, 10)
_CHUNK_VALUES: Final = 4_000_000  # float64 values of gathered embeddings held at once: 32 MB


class EvaluationError(RecsysError, ValueError):
    """A metric, an interval or a report cannot be worked out from what was given."""


def first_three(mask: Bool) -> list[int]:
    """Return the first three places, from 0, where `mask` (bool `(n,)`) holds."""
    return [int(place) for place in np.flatnonzero(mask)[:3]]


def _checked_scores(scores: npt.ArrayLike, relevant: npt.ArrayLike, name: str) -> tuple[Float64, Bool]:
    values, mask = np.asarray(scores, dtype=np.float64), np.asarray(relevant)
    if mask.dtype != np.bool_ and mask.size:
        raise EvaluationError(f"{name} has dtype {mask.dtype}; pass a bool array with one entry per score")
    if values.ndim != 1 or values.shape != mask.shape:
        raise EvaluationError(
            f"scores have shape {values.shape} and {name} {mask.shape}; pass two arrays of one length (n,)"
        )
    if (missing := np.isnan(values)).any():
        raise EvaluationError(
            f"{int(missing.sum())} of {len(values)} scores are NaN, the first at {first_three(missing)}; NaN has no "
            "place in a ranking: mend the system, or give items it cannot score -inf"
        )
    return values, mask.astype(np.bool_, copy=False)


def pessimistic_ranks(scores: npt.ArrayLike, relevant: npt.ArrayLike) -> Int64:
    """Return the 1-based ranks of the relevant items, ascending, int64 `(n_relevant,)`.

    A relevant item ranks behind every item with a higher score and behind every non-relevant item with an equal one;
    relevant items with equal scores take consecutive ranks. O(n log n_relevant).

    Args:
        scores: float `(n,)`, higher is better, infinities allowed. Leave out what must not be ranked (the history).
        relevant: bool `(n,)`.

    Raises:
        EvaluationError: NaN scores (with their count), unequal shapes, or `relevant` is not boolean.
    """
    values, mask = _checked_scores(scores, relevant, "relevant")
    ascending = np.sort(values[mask])
    n_relevant = len(ascending)
    # How many relevant items each other item beats or ties with: always the lowest ones.
    n_beaten = np.searchsorted(ascending, values[~mask], side="right")
    n_beating_at_least = np.bincount(n_beaten, minlength=n_relevant + 1)[::-1].cumsum()[::-1]
    others_ahead = n_beating_at_least[1:][::-1]  # (n_relevant,), best relevant item first
    return (others_ahead + np.arange(1, n_relevant + 1)).astype(np.int64)


@cache
def _ideal_dcg(n: int) -> float:
    return float((1.0 / np.log2(np.arange(2, n + 2))).sum())


def _checked_ranks(ranks: npt.ArrayLike, n_relevant: int, ks: Sequence[int]) -> Int64:
    if bad := [k for k in ks if k < 1]:
        raise EvaluationError(f"{len(bad)} cut-offs are below 1: {bad[:3]}; a cut-off k is a list length from 1")
    places = np.asarray(ranks)
    if places.size and (places.ndim != 1 or not np.issubdtype(places.dtype, np.integer)):
        raise EvaluationError(f"ranks have shape {places.shape} and dtype {places.dtype}; pass integers (n,)")
    places = places.astype(np.int64).reshape(-1)
    if (bad_step := np.diff(places, prepend=0) < 1).any():
        raise EvaluationError(
            f"{int(bad_step.sum())} of {len(places)} ranks are below 1 or not above the one before, the first at "
            f"{first_three(bad_step)}; pass 1-based ranks in ascending order without repeats"
        )
    if n_relevant < len(places):
        raise EvaluationError(
            f"n_relevant is {n_relevant}, but {len(places)} relevant items have ranks; count all relevant items, "
            "those not retrieved included"
        )
    return places


def ranking_metrics(ranks: npt.ArrayLike, n_relevant: int, ks: Sequence[int]) -> dict[str, float]:
    """Return `ndcg@k`, `hr@k`, `recall@k`, `precision@k`, `map@k` for each k, and `mrr`, of one request.

    `recall@k`, `map@k` and the ideal of `ndcg@k` count min(k, n_relevant) relevant items; `precision@k` divides by k
    however short the list; `mrr` is 1/rank of the first relevant item, 0 where none was ranked.

    Args:
        ranks: int `(m,)`, ascending 1-based ranks of the relevant items that were ranked; see `pessimistic_ranks`.
        n_relevant: all relevant items, those not retrieved included. Where it is 0 every value is NaN.
        ks: cut-offs, each at least 1.

    Raises:
        EvaluationError: a cut-off below 1, ranks that are no ascending ranks, or more ranks than relevant items.
    """
    places = _checked_ranks(ranks, n_relevant, ks)
    n_hits = np.arange(1, len(places) + 1)
    gains, precisions = 1.0 / np.log2(places + 1.0), n_hits / places
    result: dict[str, float] = {}
    for k in ks:
        depth = int(np.searchsorted(places, k, side="right"))  # relevant items among the first k
        reachable = min(k, n_relevant)
        result[f"ndcg@{k}"] = float(gains[:depth].sum()) / _ideal_dcg(reachable) if reachable else np.nan
        result[f"hr@{k}"] = float(depth > 0)
        result[f"recall@{k}"] = depth / reachable if reachable else np.nan
        result[f"precision@{k}"] = depth / k
        result[f"map@{k}"] = float(precisions[:depth].sum()) / reachable if reachable else np.nan
    result["mrr"] = 1.0 / int(places[0]) if len(places) else 0.0
    return result if n_relevant else dict.fromkeys(result, float("nan"))


def graded_ndcg(scores: npt.ArrayLike, worth: npt.ArrayLike, k: int) -> float:
    """Return nDCG@k in which relevant items count what they are worth, NaN where nothing is relevant.

    Järvelin and Kekäläinen (2002) with the worth itself as gain, not 2^worth - 1. A tie is broken against the system,
    among relevant items too; an item with a score of -inf is not ranked.

    Args:
        scores: float `(n,)`, higher is better. Leave out what must not be ranked (the history).
        worth: float `(n,)`, 0 for what is not relevant, above for what is.
        k: cut-off, at least 1.

    Raises:
        EvaluationError: NaN scores, unequal shapes, a cut-off below 1, or a worth that is no number or below 0.
    """
    gains = np.asarray(worth, dtype=np.float64)
    if bad := first_three(~(np.isfinite(gains) & (gains >= 0))) if gains.ndim == 1 else [0]:
        raise EvaluationError(f"worth must be `(n,)` finite numbers from 0, and is not at {bad}; give 0 to other items")
    values, relevant = _checked_scores(scores, gains > 0, "worth")
    _checked_ranks([], 0, (k,))
    if not relevant.any():
        return float("nan")
    ranks = pessimistic_ranks(values, relevant)
    wanted, of = values[relevant], gains[relevant]
    order = np.lexsort((of, -wanted))
    counts = (ranks <= k) & (wanted[order] > -np.inf)
    found = (of[order][counts] / np.log2(ranks[counts] + 1.0)).sum()
    best = np.sort(of)[::-1][:k]
    return float(found / (best / np.log2(np.arange(2, len(best) + 2))).sum())


def list_metrics(
    scores: npt.ArrayLike, clicked: npt.ArrayLike, *, ties: Literal["against", "half"] = "against"
) -> dict[str, float]:
    """Return `auc`, `mrr`, `ndcg@5` and `ndcg@10` of the order that scores give the shown items of one request.

    Arrays are `(n_shown,)`; see `list_metrics_by_request` for the values and the errors.
    """
    shown = np.asarray(scores)
    table = list_metrics_by_request(shown, clicked, np.array([0, shown.size]), ties=ties)
    return {name: float(values[0]) for name, values in table.items()}


def list_metrics_by_request(
    scores: npt.ArrayLike,
    clicked: npt.ArrayLike,
    request_ptr: npt.ArrayLike,
    *,
    ties: Literal["against", "half"] = "against",
) -> dict[str, Float64]:
    """Return `auc`, `mrr`, `ndcg@5` and `ndcg@10` of many requests at once, each float64 `(n_requests,)`.

    `mrr` is the mean of 1/rank over the clicked items, as in the MIND evaluation, and not 1/rank of the first one.
    NaN: everything where nothing was clicked, `auc` also where everything was.

    Args:
        scores: float `(n,)`, the shown items of request r at `request_ptr[r]:request_ptr[r + 1]`.
        clicked: bool `(n,)`.
        request_ptr: int `(n_requests + 1,)`, from 0, never falling, to n.
        ties: what a clicked item that ties with one not clicked adds to `auc`: nothing (`against`), or `half` a
            pair, as scikit-learn has it. `mrr` and `ndcg@k` always break ties against the system.

    Raises:
        EvaluationError: NaN scores, unequal shapes, `clicked` is not boolean, or `request_ptr` does not fit.
    """
    values, mask = _checked_scores(scores, clicked, "clicked")
    ptr = np.asarray(request_ptr, dtype=np.int64)
    if ptr.ndim != 1 or len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(values) or (np.diff(ptr) < 0).any():
        raise EvaluationError(f"request_ptr must rise from 0 to the {len(values)} scores; got {ptr.ravel()[:3]}…")
    sizes = np.diff(ptr)
    n_requests, request = len(sizes), np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((mask, -values, request))
    hit = mask[order]
    rank = (np.arange(len(values)) - np.repeat(ptr[:-1], sizes) + 1)[hit]
    of = request[hit]  # request of each click, in order of (request, rank)
    n_clicked = np.bincount(of, minlength=n_requests)
    nth_click = np.arange(len(of)) - np.repeat(np.cumsum(n_clicked) - n_clicked, n_clicked) + 1

    n_pairs = n_clicked * (sizes - n_clicked)
    lost: Float64 = np.bincount(of, weights=rank - nth_click, minlength=n_requests).astype(np.float64)
    if ties == "half":
        lost = lost - 0.5 * _tied_pairs(values[order], hit, request, n_requests)
    result = {
        "auc": 1.0 - _divide(lost, n_pairs),
        "mrr": _divide(np.bincount(of, weights=1.0 / rank, minlength=n_requests), n_clicked),
    }
    for k in _LIST_CUTOFFS:
        gains = np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0)
        ideal = np.array([_ideal_dcg(n) for n in range(k + 1)])[np.minimum(n_clicked, k)]
        result[f"ndcg@{k}"] = _divide(np.bincount(of, weights=gains, minlength=n_requests), ideal)
    return result


def _tied_pairs(values: Float64, hit: Bool, request: Int64, n_requests: int) -> Float64:
    """Return pairs of a clicked and a not clicked item with equal scores per request, from rows sorted by both."""
    if not len(values):
        return np.zeros(n_requests)
    starts = np.concatenate([[True], (request[1:] != request[:-1]) | (values[1:] != values[:-1])])
    run = np.cumsum(starts) - 1
    n_hits, n_rows = np.bincount(run, weights=hit), np.bincount(run)
    return np.bincount(request[starts], weights=n_hits * (n_rows - n_hits), minlength=n_requests).astype(np.float64)


def _divide(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Float64:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


class PerRequestMetrics:
    """Metric values of one system, request by request, with the user each request belongs to."""

    def __init__(self) -> None:
        self._user_ids: list[str] = []
        self._values: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return len(self._user_ids)

    def __repr__(self) -> str:
        return f"PerRequestMetrics({len(self)} requests × {sorted(self._values)})"

    def add(self, user_id: str, values: Mapping[str, float]) -> None:
        """Append one request; see `add_batch` for the errors."""
        self.add_batch([user_id], {name: [value] for name, value in values.items()})

    def add_batch(self, user_ids: Sequence[str], values: Mapping[str, Sequence[float] | Float64]) -> None:
        """Append requests, values being `(n_requests,)` per metric.

        Raises:
            EvaluationError: other metrics than the requests before, or not one value per request. Nothing is added.
        """
        if self._user_ids and values.keys() != self._values.keys():
            raise EvaluationError(
                f"request {len(self)} has the metrics {sorted(values)}, the ones before have {sorted(self._values)}; "
                "work out the same metrics for every request"
            )
        if uneven := {name: len(column) for name, column in values.items() if len(column) != len(user_ids)}:
            raise EvaluationError(f"{len(user_ids)} requests, but metrics have {uneven} values; give one per request")
        for name, column in values.items():
            self._values.setdefault(name, []).extend(float(value) for value in column)
        self._user_ids.extend(user_ids)

    @staticmethod
    def join(parts: Sequence["PerRequestMetrics"]) -> "PerRequestMetrics":
        """Return the requests of all parts, one part after the other; see `add_batch` for the errors."""
        joined = PerRequestMetrics()
        for part in parts:
            joined.add_batch(part.user_ids, part.arrays())
        return joined

    @property
    def user_ids(self) -> Sequence[str]:
        """The user of each request, in order of addition. Not a copy: do not change it."""
        return self._user_ids

    def arrays(self) -> dict[str, Float64]:
        """Return each metric as float64 `(n_requests,)`, requests in order of addition."""
        return {name: np.array(column, dtype=np.float64) for name, column in self._values.items()}

    def clusters(self) -> Int64:
        """Return the user of each request as a number from 0 in order of first appearance, int64 `(n_requests,)`."""
        number: dict[str, int] = {}
        return np.array([number.setdefault(user_id, len(number)) for user_id in self._user_ids], dtype=np.int64)


def checked_lists(recommended: npt.ArrayLike, n_items: int) -> Int64:
    """Return lists of item rows as int64 `(n_requests, k)`; errors as in `coverage`."""
    lists = np.asarray(recommended)
    if lists.ndim != 2 or not np.issubdtype(lists.dtype, np.integer):
        raise EvaluationError(
            f"recommended has shape {lists.shape} and dtype {lists.dtype}; pass integers (n_requests, k), short lists "
            f"filled up with {PADDING}"
        )
    if (outside := (lists < PADDING) | (lists >= n_items)).any():
        raise EvaluationError(
            f"{int(outside.sum())} recommended rows are outside 0..{n_items - 1}, the first: "
            f"{lists[outside][:3].tolist()}; pass item_idx of this catalogue, {PADDING} as padding"
        )
    return lists.astype(np.int64)


def coverage(recommended: npt.ArrayLike, n_items: int) -> float:
    """Return the share of the catalogue that stands in at least one list, 0..1.

    recommended: int item_idx `(n_requests, k)`, -1 as padding; the same for the three functions below, as are the
    errors: `EvaluationError` on another shape or dtype and on rows outside the catalogue.
    """
    lists = checked_lists(recommended, n_items)
    return len(np.unique(lists[lists != PADDING])) / n_items if n_items else float("nan")


def gini_of_exposure(recommended: npt.ArrayLike, n_items: int) -> float:
    """Return the Gini coefficient of how often items are recommended: 0 all alike, 1 - 1/n_items one item only.

    Items in no list count as zero exposure. NaN where nothing is recommended.
    """
    lists = checked_lists(recommended, n_items)
    exposure = np.sort(np.bincount(lists[lists != PADDING], minlength=n_items))
    if not exposure.sum():
        return float("nan")
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float((weights * exposure).sum() / (n_items * exposure.sum()))


def novelty(recommended: npt.ArrayLike, item_counts: npt.NDArray[np.integer]) -> Float64:
    """Return each list's mean -log2 of its items' share of past interactions, float64 `(n_requests,)`, in bits.

    item_counts: past interactions `(n_items,)`; each item gets one more, so that those without any stay finite.
    NaN for an empty list.
    """
    lists = checked_lists(recommended, len(item_counts))
    if not len(item_counts):
        return np.full(len(lists), np.nan)
    surprise = -np.log2((item_counts + 1.0) / (item_counts.sum() + len(item_counts)))
    filled = lists != PADDING
    return _divide(np.where(filled, surprise[lists], 0.0).sum(axis=1), filled.sum(axis=1))


def intra_list_diversity(recommended: npt.ArrayLike, item_embeddings: npt.NDArray[np.floating]) -> Float64:
    """Return each list's mean 1 - cosine over its pairs of items, float64 `(n_requests,)`, 0 alike to 2 opposite.

    item_embeddings: float `(n_items, d)`, of any norm; an all-zero row has cosine 0 to everything. NaN for lists of
    fewer than two items.
    """
    lists = checked_lists(recommended, len(item_embeddings))
    result = np.full(len(lists), np.nan)
    if not len(item_embeddings):
        return result
    norms = np.linalg.norm(item_embeddings.astype(np.float64), axis=1)
    step = max(1, _CHUNK_VALUES // max(1, lists.shape[1] * item_embeddings.shape[1]))
    for start in range(0, len(lists), step):
        rows = lists[start : start + step]
        filled = rows != PADDING
        scale = np.where(filled & (norms[rows] > 0), 1.0 / np.where(norms[rows] > 0, norms[rows], 1.0), 0.0)
        unit = item_embeddings[rows] * scale[:, :, None]  # (rows, k, d)
        # The cosines of all ordered pairs add up to the squared sum of the unit vectors less each with itself.
        total = (unit.sum(axis=1) ** 2).sum(axis=1) - (unit**2).sum(axis=(1, 2))
        n = filled.sum(axis=1)
        result[start : start + step] = 1.0 - _divide(total, n * (n - 1))
    return np.maximum(result, 0.0)
