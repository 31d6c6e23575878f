"""Microsoft Recommenders: SAR, items that occur together with those of the user, older ones counting less."""

from typing import Final

import numpy as np
import pandas as pd
from recommenders.models.sar import SAR

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid

_COLUMNS: Final = ("user", "item", "rating", "timestamp")


def fit_sar(data: FitData, settings: Settings) -> Scorer:
    """Every interaction rates 1, as every rating counts as liking here."""
    train = data.train
    table = pd.DataFrame(
        {
            "user": train.user_idx,
            "item": train.item_idx,
            "rating": np.ones(len(train)),
            "timestamp": train.timestamp_us / 1e6,
        }
    )
    days = settings["half_life_days"]
    model = SAR(
        *_COLUMNS,
        similarity_type=settings["similarity"],
        time_decay_coefficient=30 if days is None else days,
        timedecay_formula=days is not None,
    )
    model.fit(table.drop_duplicates(["user", "item"], keep="last"))
    items = np.array([model.index2item[place] for place in range(model.n_items)])
    similarity = np.asarray(model.item_similarity)

    def score(requests: Requests) -> Float32:
        scores = np.zeros((len(requests), data.n_items), np.float32)
        known = np.array([int(user) in model.user2index for user in requests.user_idx])
        users = [model.user2index[int(user)] for user in requests.user_idx[known]]
        scores[np.ix_(known, items)] = model.user_affinity[users] @ similarity
        return scores

    return score


RUNS: Final[dict[str, Run]] = {
    "recommenders-sar": by_search(fit_sar, grid(similarity=("jaccard", "lift", "cosine"), half_life_days=(None, 5))),
}
