"""The labelled requests of the validation window that a search is scored on."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recsys.evaluation.metrics import list_metrics, pessimistic_ranks, ranking_metrics
from recsys.splits import Fold
from training.desk import seed_for
from training.fitting import Corpus, requests_of
from training.requests import LabelledRequest

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


def validation_requests(corpus: Corpus) -> list[LabelledRequest]:
    """Return the newest `evaluation.max_requests` labelled requests of the validation window."""
    rng = np.random.default_rng(seed_for(corpus.config.seed, "tune requests"))
    return list(requests_of(corpus, Fold.VALID, corpus.config.evaluation.max_requests, rng, newest=True))


def halves(
    requests: Sequence[LabelledRequest], seed: np.random.SeedSequence
) -> tuple[list[LabelledRequest], list[LabelledRequest]]:
    """Return the requests of a random half of the users and those of the others."""
    users = np.unique(users_of(requests))
    first = np.random.default_rng(seed).permutation(users)[: len(users) // 2]
    is_first = np.isin(users_of(requests), first)
    return (
        [labelled for labelled, chosen in zip(requests, is_first, strict=True) if chosen],
        [labelled for labelled, chosen in zip(requests, is_first, strict=True) if not chosen],
    )


def users_of(requests: Sequence[LabelledRequest]) -> Int32:
    """Return the user row of each request, int32 `(n_requests,)`."""
    return np.array([labelled.request.user_idx for labelled in requests], np.int32)


def metric_name(corpus: Corpus) -> str:
    """Return what orders are judged by: `auc` of shown lists, else `ndcg@k` with the configuration's k."""
    return "auc" if corpus.rows == "impressions" else f"ndcg@{corpus.config.evaluation.k}"


def metric_of(name: str, scores: Float32, is_relevant: npt.NDArray[np.bool_], n_relevant: int, k: int) -> float:
    """Return the metric of one request, given the scores of its candidates; -inf for one that is left out.

    n_relevant: relevant items, those that are no candidates included.
    """
    if name == "auc":
        return list_metrics(scores, is_relevant)["auc"]
    n_found = int((is_relevant & np.isfinite(scores)).sum())
    ranks = pessimistic_ranks(scores, is_relevant)[:n_found]
    return ranking_metrics(ranks, n_relevant, (k,))[name]
