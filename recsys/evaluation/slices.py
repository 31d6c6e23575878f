"""The same metrics for parts of the requests: warm and cold users and items, popular and rare items, long histories."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.evaluation.intervals import Clusters, Interval, bootstrap_means
from recsys.evaluation.metrics import Bool, EvaluationError, Float64, first_three
from recsys.schema import Warmth

Integers = npt.NDArray[np.integer]

TIERS: Final = ("head", "torso", "tail")
HISTORY_EDGES: Final = (1, 5, 20, 100)
MIN_REQUESTS: Final = 30
# Tenths of all interactions that lie on more popular items, below which an item is head, and torso.
_HEAD_TENTHS: Final = 5
_TORSO_TENTHS: Final = 8


def popularity_tiers(item_counts: Integers) -> npt.NDArray[np.int8]:
    """Return each item's tier as its place in `TIERS`, int8 `(n_items,)`: 0 head, 1 torso, 2 tail.

    An item is head while more popular items hold less than 50 % of the interactions, torso while they hold less than
    80 %, else tail. Equally popular items share a tier; items without interactions are tail.

    Args:
        item_counts: interactions before the test, int `(n_items,)`, at least 0.

    Raises:
        EvaluationError: counts that are negative or no integers.
    """
    counts = np.asarray(item_counts)
    if counts.size and (counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any()):
        raise EvaluationError(
            f"item_counts have shape {counts.shape} and dtype {counts.dtype}; pass non-negative integers (n_items,)"
        )
    values, place, n_items = np.unique(counts.astype(np.int64), return_inverse=True, return_counts=True)
    held = values * n_items  # interactions on items of each popularity, least popular first
    more_popular = (held.sum() - np.cumsum(held))[place]
    tier = np.full(len(counts), TIERS.index("tail"), np.int8)
    tier[more_popular * 10 < held.sum() * _TORSO_TENTHS] = TIERS.index("torso")
    tier[more_popular * 10 < held.sum() * _HEAD_TENTHS] = TIERS.index("head")
    tier[counts == 0] = TIERS.index("tail")
    return tier


def slice_masks(
    *,
    user_warmth: Sequence[str] | npt.NDArray[np.str_] | None = None,
    item_warmth: Sequence[str] | npt.NDArray[np.str_] | None = None,
    relevant_item_idx: Integers | None = None,
    item_counts: Integers | None = None,
    history_length: Integers | None = None,
    history_edges: Sequence[int] = HISTORY_EDGES,
) -> dict[str, Bool]:
    """Return the requests of each slice as bool `(n_requests,)`, slices without requests included.

    Names are `user=warm`, `item=cold`, `tier=head`, `history=5-19` and so on. What is not given makes no slices.

    Args:
        user_warmth: `Warmth` of each request's user, `(n_requests,)`.
        item_warmth: `Warmth` of each request's relevant item, `(n_requests,)`; an empty string is in no slice.
        relevant_item_idx: row of each request's relevant item, int `(n_requests,)`; -1 puts a request in no tier.
            Needs `item_counts`. Where several items are relevant, the caller decides which one stands for the request.
        item_counts: interactions before the test, int `(n_items,)`; see `popularity_tiers`.
        history_length: interactions that each request's user had before it, int `(n_requests,)`.
        history_edges: ascending first lengths of the buckets after the one from 0.

    Raises:
        EvaluationError: a value that is no warmth, a row outside the catalogue, a negative length, unequal numbers of
            requests, or edges out of order.
    """
    masks: dict[str, Bool] = {}
    for name, labels in (("user", user_warmth), ("item", item_warmth)):
        if labels is not None:
            masks |= _warmth_masks(name, np.asarray(labels, dtype=np.str_))
    if relevant_item_idx is not None:
        if item_counts is None:
            raise EvaluationError("relevant_item_idx needs item_counts: tiers come from the items' past interactions")
        masks |= _tier_masks(np.asarray(relevant_item_idx), item_counts)
    if history_length is not None:
        masks |= _history_masks(np.asarray(history_length), history_edges)
    lengths = {name: len(mask) for name, mask in masks.items()}
    if len(set(lengths.values())) > 1:
        raise EvaluationError(f"slices speak of different numbers of requests: {lengths}; give one value per request")
    return masks


def _warmth_masks(name: str, labels: npt.NDArray[np.str_]) -> dict[str, Bool]:
    known = [str(warmth) for warmth in Warmth]
    if (odd := ~np.isin(labels, [*known, ""])).any():
        raise EvaluationError(
            f"{int(odd.sum())} {name}_warmth values are not one of {known}, the first: {labels[odd][:3].tolist()} at "
            f"{first_three(odd)}; use recsys.schema.Warmth"
        )
    return {f"{name}={warmth}": labels == warmth for warmth in known}


def _tier_masks(relevant_item_idx: Integers, item_counts: Integers) -> dict[str, Bool]:
    tiers = popularity_tiers(item_counts)
    if (outside := (relevant_item_idx < -1) | (relevant_item_idx >= len(tiers))).any():
        raise EvaluationError(
            f"{int(outside.sum())} relevant items are outside 0..{len(tiers) - 1}, the first: "
            f"{relevant_item_idx[outside][:3].tolist()}; pass item_idx of this catalogue, -1 for none"
        )
    of_request = np.append(tiers, np.int8(-1))[relevant_item_idx]
    return {f"tier={name}": of_request == number for number, name in enumerate(TIERS)}


def _history_masks(history_length: Integers, edges: Sequence[int]) -> dict[str, Bool]:
    starts = [0, *edges]
    if any(later <= earlier for earlier, later in zip(starts, edges, strict=False)):
        raise EvaluationError(f"history_edges are {list(edges)}; give ascending lengths from 1, as in {HISTORY_EDGES}")
    if (negative := history_length < 0).any():
        raise EvaluationError(
            f"{int(negative.sum())} history lengths are negative, the first: {history_length[negative][:3].tolist()}; "
            "count the interactions before each request"
        )
    bucket = np.searchsorted(starts, history_length, side="right") - 1
    names = [
        f"history={start}" if end == start + 1 else f"history={start}-{end - 1}"
        for start, end in zip(starts, edges, strict=False)
    ]
    return {name: bucket == number for number, name in enumerate([*names, f"history={starts[-1]}+"])}


def summarise(
    metrics: Mapping[str, Float64],
    masks: Mapping[str, Bool],
    *,
    clusters: Clusters | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    min_requests: int = MIN_REQUESTS,
) -> dict[str, dict[str, Interval]]:
    """Return slice → metric → interval. Below `min_requests` requests an interval has its `n` only, the rest NaN.

    All slices and metrics see resamples from one seed, so one more slice leaves the others' bounds as they are.

    Args:
        metrics: values per request, float64 `(n_requests,)`; NaN leaves the request out of that metric.
        masks: requests of each slice; see `slice_masks`.
        clusters: user of each request `(n_requests,)`; the rest as in `intervals.bootstrap_mean`.

    Raises:
        EvaluationError: masks, metrics and clusters are not of one length.
    """
    lengths = {name: len(column) for name, column in (*metrics.items(), *masks.items())}
    if clusters is not None:
        lengths["clusters"] = len(clusters)
    if len(set(lengths.values())) > 1:
        raise EvaluationError(f"metrics, masks and clusters differ in length: {lengths}; give one value per request")
    group = None if clusters is None else np.asarray(clusters)
    seed = int(rng.integers(2**63))
    return {
        name: bootstrap_means(
            {metric: values[mask] for metric, values in metrics.items()},
            clusters=None if group is None else group[mask],
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            rng=np.random.default_rng(seed),
            min_requests=min_requests,
        )
        for name, mask in masks.items()
    }
