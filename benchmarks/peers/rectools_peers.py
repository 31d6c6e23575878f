"""RecTools' EASE and its popularity within a window of time."""

from typing import Final

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel, PopularModel

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.rectools_tables import interactions_table
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid, history_matrix


def fit_ease(data: FitData, settings: Settings) -> Scorer:
    """A closed-form item-item matrix, applied to the history."""
    dataset = Dataset.construct(interactions_table(data.train))
    model = EASEModel(**settings)
    model.fit(dataset)
    items = dataset.item_id_map.external_ids.astype(np.int64)

    def score(requests: Requests) -> Float32:
        scores = np.full((len(requests), data.n_items), -np.inf, np.float32)
        scores[:, items] = history_matrix(requests, data.n_items)[:, items] @ model.weight
        return scores

    return score


def fit_popular(data: FitData, settings: Settings) -> Scorer:
    """How often an item was chosen in the last hours of the training, the same for every request."""
    table = interactions_table(data.train)
    table[Columns.Datetime] = pd.to_datetime(data.train.timestamp_us, unit="us")
    hours = settings["hours"]
    model = PopularModel("n_interactions", period=None if hours is None else pd.Timedelta(hours=hours))
    dataset = Dataset.construct(table)
    model.fit(dataset)
    some_user = table[Columns.User].to_numpy()[:1]
    ranking = model.recommend(some_user, dataset, k=data.n_items, filter_viewed=False)
    popularity = np.zeros(data.n_items, np.float32)
    popularity[ranking[Columns.Item].to_numpy()] = ranking[Columns.Score]

    def score(requests: Requests) -> Float32:
        return np.tile(popularity, (len(requests), 1))

    return score


RUNS: Final[dict[str, Run]] = {
    "rectools-ease": by_search(fit_ease, grid(regularization=(100.0, 200.0, 500.0, 1000.0, 2000.0))),
    "rectools-popular": by_search(fit_popular, grid(hours=(None, 240, 48, 24, 12))),
}
