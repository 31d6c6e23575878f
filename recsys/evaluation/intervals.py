"""Means with bootstrap intervals, resampled over users where a user has several requests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from recsys.evaluation.metrics import EvaluationError, Float64, first_three

_CHUNK_DRAWS: Final = 1 << 20  # resampled rows held at once: 8 MB of each array

Clusters = npt.NDArray[np.generic] | Sequence[str]


@dataclass(frozen=True)
class Interval:
    """A mean over `n` requests and the bounds of its interval; NaN where there are too few to say."""

    mean: float
    lo: float
    hi: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the bounds; False where there are none."""
        return self.lo > 0.0 or self.hi < 0.0

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return f"n = {self.n}"
        return f"{self.mean:.3f}" if math.isnan(self.lo) else f"{self.mean:.3f} [{self.lo:.3f}, {self.hi:.3f}]"


def bootstrap_mean(
    values: npt.ArrayLike,
    *,
    clusters: Clusters | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    undefined: Literal["error", "skip"] = "error",
) -> Interval:
    """Return the mean of `values` with its percentile bootstrap interval.

    Args:
        values: float `(n,)`, one per request.
        clusters: whose request each one is, `(n,)` of anything sortable: whole clusters are resampled, and the mean
            stays one over requests. None resamples single requests.
        n_bootstrap: resamples, at least 1.
        confidence: coverage aimed at, between 0 and 1.
        rng: source of the resamples.
        undefined: what NaN means: an `error`, or a request without this metric, which is left out of mean and `n`.

    With one cluster the mean has no bounds (NaN).

    Raises:
        EvaluationError: no values, NaN or infinite values, unequal lengths, or a setting out of range.
    """
    _check_settings(n_bootstrap, confidence)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise EvaluationError(f"values have shape {array.shape}; pass one value per request, (n,)")
    if clusters is not None and len(clusters) != len(array):
        raise EvaluationError(f"{len(array)} values but {len(clusters)} clusters; name the user of every request")
    group = None if clusters is None else np.asarray(clusters)
    if undefined == "skip":
        defined = ~np.isnan(array)
        array, group = array[defined], None if group is None else group[defined]
    if not len(array):
        raise EvaluationError(
            "no values to take a mean of; check that the test window holds requests with something relevant, or "
            "widen the window"
        )
    if (bad := ~np.isfinite(array)).any():
        raise EvaluationError(
            f"{int(bad.sum())} of {len(array)} values are NaN or infinite, the first at {first_three(bad)}; where "
            "requests without this metric are expected, say undefined='skip'"
        )
    sums, counts = _cluster_totals(array, group)
    mean = float(array.mean())
    if len(sums) < 2:
        return Interval(mean, math.nan, math.nan, len(array))
    tail = (1.0 - confidence) / 2.0
    lo, hi = np.quantile(_resampled_means(sums, counts, n_bootstrap, rng), [tail, 1.0 - tail])
    return Interval(mean, float(lo), float(hi), len(array))


def bootstrap_means(
    metrics: Mapping[str, Float64],
    *,
    clusters: Clusters | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    min_requests: int = 1,
) -> dict[str, Interval]:
    """Return the mean and interval of each metric over the requests that have it.

    All metrics see the same resamples, so one more metric leaves the others' bounds as they are. A metric with fewer
    than `min_requests` values (never fewer than one) has its `n` only, the rest NaN. Errors as in `bootstrap_mean`.
    """
    seed = int(rng.integers(2**63))
    result: dict[str, Interval] = {}
    for name, values in metrics.items():
        if (n := int((~np.isnan(values)).sum())) < max(min_requests, 1):
            result[name] = Interval(math.nan, math.nan, math.nan, n)
            continue
        result[name] = bootstrap_mean(
            values,
            clusters=clusters,
            n_bootstrap=n_bootstrap,
            confidence=confidence,
            rng=np.random.default_rng(seed),
            undefined="skip",
        )
    return result


def paired_difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    clusters: Clusters | None = None,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    rng: np.random.Generator,
    undefined: Literal["error", "skip"] = "error",
) -> Interval:
    """Return the mean of a - b with its interval, both `(n,)` over the same requests in the same order.

    `excludes_zero` of the result says whether the systems differ. Other arguments and errors as in `bootstrap_mean`.

    Raises:
        EvaluationError: also where a and b differ in length, or only one of them is NaN for a request.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise EvaluationError(
            f"a has shape {first.shape} and b {second.shape}; a paired difference needs both systems on the same "
            "requests"
        )
    if (one_sided := np.isnan(first) != np.isnan(second)).any():
        raise EvaluationError(
            f"{int(one_sided.sum())} requests have a value for one system only, the first at {first_three(one_sided)}; "
            "measure both systems on the same requests in the same order"
        )
    return bootstrap_mean(
        first - second,
        clusters=clusters,
        n_bootstrap=n_bootstrap,
        confidence=confidence,
        rng=rng,
        undefined=undefined,
    )


def _check_settings(n_bootstrap: int, confidence: float) -> None:
    if n_bootstrap < 1:
        raise EvaluationError(f"n_bootstrap is {n_bootstrap}; draw at least one resample, better 1000")
    if not 0.0 < confidence < 1.0:
        raise EvaluationError(f"confidence is {confidence}; it is a share between 0 and 1, such as 0.95")


def _cluster_totals(values: Float64, group: npt.NDArray[np.generic] | None) -> tuple[Float64, Float64 | None]:
    """Return each cluster's sum of values and number of rows; None where every cluster has one row."""
    if group is None:
        return values, None
    _, number, counts = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.bincount(number, weights=values).astype(np.float64)
    return sums, None if len(sums) == len(values) else counts.astype(np.float64)


def _resampled_means(sums: Float64, counts: Float64 | None, n_bootstrap: int, rng: np.random.Generator) -> Float64:
    n = len(sums)
    step = max(1, _CHUNK_DRAWS // n)
    means = np.empty(n_bootstrap)
    for start in range(0, n_bootstrap, step):
        stop = min(start + step, n_bootstrap)
        drawn = rng.integers(0, n, size=(stop - start, n), dtype=np.int32)
        n_rows = n if counts is None else counts[drawn].sum(axis=1)
        means[start:stop] = sums[drawn].sum(axis=1) / n_rows
    return means
