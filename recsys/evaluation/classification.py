"""How well probabilities of a yes or no fit what came: ranking (AUC) and size (log loss, Brier score)."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from recsys.evaluation.intervals import Clusters, Interval
from recsys.evaluation.metrics import EvaluationError

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

_SMALLEST: Final = 1e-9


def auc(is_positive: Bool, score: npt.NDArray[np.floating]) -> float:
    """Return the share of (positive, negative) pairs in which the positive scores higher; ties count half.

    NaN where one of the classes is empty.
    """
    n_positive = int(is_positive.sum())
    n_negative = len(is_positive) - n_positive
    if not n_positive or not n_negative:
        return math.nan
    ranks = rankdata(score)
    return float((ranks[is_positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def log_losses(is_positive: Bool, probability: npt.NDArray[np.floating]) -> Float64:
    """Return the negative log likelihood of each outcome, float64 `(n,)`; probabilities are kept off 0 and 1."""
    right = np.where(is_positive, probability, 1.0 - np.asarray(probability, np.float64))
    return -np.log(np.clip(right, _SMALLEST, 1.0))


def brier_scores(is_positive: Bool, probability: npt.NDArray[np.floating]) -> Float64:
    """Return the squared error of each probability, float64 `(n,)`."""
    return (np.asarray(probability, np.float64) - is_positive) ** 2


def auc_interval(
    is_positive: Bool,
    score: npt.NDArray[np.floating],
    *,
    baseline: npt.NDArray[np.floating] | None = None,
    clusters: Clusters,
    n_bootstrap: int = 1000,
    rng: np.random.Generator,
) -> Interval:
    """Return the AUC with its 95 % percentile interval over resampled clusters (users).

    baseline: scores `(n,)` of another system; what is returned is then the AUC less the baseline's, paired. Resamples
    that draw a single class say nothing and are left out; without two of any other the bounds are NaN.

    Raises:
        EvaluationError: arrays of different lengths, or one class only.
    """
    lengths = {len(is_positive), len(score), len(clusters), len(baseline) if baseline is not None else len(score)}
    if len(lengths) > 1:
        raise EvaluationError(f"outcomes, scores and clusters have lengths {sorted(lengths)}; pass one of each per row")
    if not 0 < is_positive.sum() < len(is_positive):
        raise EvaluationError(
            f"{int(is_positive.sum())} of {len(is_positive)} outcomes are positive; an AUC needs both kinds, so bring "
            "more rows"
        )

    def value(rows: npt.NDArray[np.int64]) -> float:
        own = auc(is_positive[rows], score[rows])
        return own if baseline is None else own - auc(is_positive[rows], baseline[rows])

    _, number = np.unique(np.asarray(clusters), return_inverse=True)
    by_cluster = np.split(np.argsort(number, kind="stable"), np.flatnonzero(np.diff(np.sort(number))) + 1)
    values = np.array(
        [
            value(np.concatenate([by_cluster[c] for c in rng.integers(len(by_cluster), size=len(by_cluster))]))
            for _ in range(n_bootstrap)
        ]
    )
    values = values[np.isfinite(values)]
    lo, hi = np.quantile(values, [0.025, 0.975]) if len(values) > 1 else (math.nan, math.nan)
    return Interval(value(np.arange(len(is_positive))), float(lo), float(hi), len(is_positive))
