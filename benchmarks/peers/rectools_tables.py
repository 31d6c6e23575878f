"""RecTools' data set made of ours, and scores of every item out of its lists."""

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models.base import ModelBase

from benchmarks.peers.exchange import Float32, Interactions, Requests


def interactions_table(train: Interactions) -> pd.DataFrame:
    """Return RecTools' table of interactions. Times are places in the log: they keep the order where times tie."""
    return pd.DataFrame(
        {
            Columns.User: train.user_idx,
            Columns.Item: train.item_idx,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.arange(len(train)), unit="s"),
        }
    )


def history_table(requests: Requests) -> pd.DataFrame:
    """Return the requests' histories as a table of interactions in which every request is a user of its own."""
    return pd.DataFrame(
        {
            Columns.User: requests.history.owner,
            Columns.Item: requests.history.values,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.arange(len(requests.history.values)), unit="s"),
        }
    )


def scores_from_histories(model: ModelBase, requests: Requests, n_items: int) -> Float32:
    """Return the scores that a model gives from histories alone, `(n_requests, n_items)`, -inf where it gives none."""
    scores = np.full((len(requests), n_items), -np.inf, np.float32)
    if len(requests.history.values):
        table = history_table(requests)
        users = table[Columns.User].unique()
        lists = model.recommend(
            users,
            Dataset.construct(table),
            k=n_items,
            filter_viewed=False,
            add_rank_col=False,
            on_unsupported_targets="ignore",
        )
        scores[lists[Columns.User].to_numpy(), lists[Columns.Item].to_numpy()] = lists[Columns.Score]
    return scores
