"""How good recommendations are: metrics per request, intervals over users, slices, and the report of a suite.

`recsys.evaluation.report` is imported by name only, because it brings matplotlib with it.
"""

from recsys.evaluation.intervals import Interval, bootstrap_mean, bootstrap_means, paired_difference
from recsys.evaluation.metrics import (
    EvaluationError,
    PerRequestMetrics,
    coverage,
    gini_of_exposure,
    graded_ndcg,
    intra_list_diversity,
    list_metrics,
    list_metrics_by_request,
    novelty,
    pessimistic_ranks,
    ranking_metrics,
)
from recsys.evaluation.slices import popularity_tiers, slice_masks, summarise

__all__ = [
    "EvaluationError",
    "Interval",
    "PerRequestMetrics",
    "bootstrap_mean",
    "bootstrap_means",
    "coverage",
    "gini_of_exposure",
    "graded_ndcg",
    "intra_list_diversity",
    "list_metrics",
    "list_metrics_by_request",
    "novelty",
    "paired_difference",
    "pessimistic_ranks",
    "popularity_tiers",
    "ranking_metrics",
    "slice_masks",
    "summarise",
]
