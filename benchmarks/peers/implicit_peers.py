"""implicit: alternating least squares, Bayesian personalised ranking, and three item-kNN weightings."""

from typing import Final

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid, history_matrix

_NEIGHBOURS: Final = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}


def fit_als(data: FitData, settings: Settings) -> Scorer:
    """Factors of items are fitted, those of a user are solved from the request's history."""
    model = AlternatingLeastSquares(**settings, iterations=15, random_state=data.seed, num_threads=1)
    model.fit(data.matrix(), show_progress=False)
    item_factors = model.item_factors[: data.n_items]

    def score(requests: Requests) -> Float32:
        history = history_matrix(requests, data.n_items)
        users = model.recalculate_user(np.arange(len(requests)), history)
        return users @ item_factors.T

    return score


def fit_bpr(data: FitData, settings: Settings) -> Scorer:
    """Users without a row in the training get the scores of a user that did nothing."""
    model = BayesianPersonalizedRanking(**settings, random_state=data.seed, num_threads=1)
    model.fit(data.matrix(), show_progress=False)

    def score(requests: Requests) -> Float32:
        return model.user_factors[requests.user_idx] @ model.item_factors.T

    return score


def fit_item_knn(data: FitData, settings: Settings) -> Scorer:
    """Items near to those of the history, summed."""
    model = _NEIGHBOURS[settings["weighting"]](K=settings["neighbours"], num_threads=1)
    model.fit(data.matrix(), show_progress=False)

    def score(requests: Requests) -> Float32:
        return (history_matrix(requests, data.n_items) @ model.similarity).toarray()

    return score


RUNS: Final[dict[str, Run]] = {
    "implicit-als": by_search(fit_als, grid(factors=(64, 128), regularization=(1.0, 30.0), alpha=(1.0, 5.0))),
    "implicit-bpr": by_search(
        fit_bpr, grid(factors=(64,), learning_rate=(0.02, 0.05), regularization=(0.001, 0.01), iterations=(100,))
    ),
    "implicit-itemknn": by_search(
        fit_item_knn, grid(weighting=("cosine", "tfidf", "bm25"), neighbours=(10, 20, 50, 100, 300))
    ),
}
