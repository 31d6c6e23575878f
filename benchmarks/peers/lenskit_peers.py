"""LensKit: item-kNN for implicit feedback, and biased matrix factorisation of the ratings."""

from typing import Final

import numpy as np
import pandas as pd
from lenskit.als import BiasedMFScorer
from lenskit.data import Dataset, ItemList, RecQuery, from_interactions_df
from lenskit.knn import ItemKNNScorer
from lenskit.training import TrainingOptions

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid


def _dataset(data: FitData, *, with_ratings: bool) -> Dataset:
    table = pd.DataFrame({"user_id": data.train.user_idx, "item_id": data.train.item_idx})
    if with_ratings:
        table["rating"] = data.train.value
    return from_interactions_df(table.drop_duplicates(["user_id", "item_id"], keep="last"))


def _filled(scores: Float32) -> Float32:
    return np.where(np.isnan(scores), -np.inf, scores).astype(np.float32)


def fit_item_knn(data: FitData, settings: Settings) -> Scorer:
    """Items near to those of the request's history."""
    model = ItemKNNScorer(**settings, feedback="implicit")
    model.train(_dataset(data, with_ratings=False), TrainingOptions(rng=data.seed))
    everything = ItemList(item_ids=np.arange(data.n_items))

    def score(requests: Requests) -> Float32:
        queries = (RecQuery(user_items=ItemList(item_ids=requests.history[row])) for row in range(len(requests)))
        return _filled(np.stack([model(query, everything).scores() for query in queries]))

    return score


def fit_biased_mf(data: FitData, settings: Settings) -> Scorer:
    """Items by the rating that is predicted; users are those of the training, since histories carry no ratings."""
    model = BiasedMFScorer(**settings, user_embeddings="prefer")
    model.train(_dataset(data, with_ratings=True), TrainingOptions(rng=data.seed))
    everything = ItemList(item_ids=np.arange(data.n_items))

    def score(requests: Requests) -> Float32:
        queries = (RecQuery(user_id=int(user)) for user in requests.user_idx)
        return _filled(np.stack([model(query, everything).scores() for query in queries]))

    return score


RUNS: Final[dict[str, Run]] = {
    "lenskit-itemknn": by_search(fit_item_knn, grid(max_nbrs=(10, 20, 50, 100), save_nbrs=(1000,))),
    "lenskit-biasedmf": by_search(
        fit_biased_mf, grid(embedding_size=(25, 50), regularization=(0.05, 0.1, 0.5), damping=(5.0, 50.0), epochs=(20,))
    ),
}
