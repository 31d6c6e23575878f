"""RecTools' two-stage model, as in its tutorial: candidates of iALS, item-kNN and popularity, ranked by CatBoost.

Scores and ranks of the generators are the features, with how much the user has done and how popular the item is. The
last known interaction of each user labels the ranker's rows.
"""

from typing import Final

import numpy as np
import pandas as pd
from catboost import CatBoostClassifier, CatBoostRanker
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender
from rectools import Columns
from rectools.dataset import Dataset
from rectools.model_selection import LastNSplitter
from rectools.models import ImplicitALSWrapperModel, ImplicitItemKNNWrapperModel, PopularModel
from rectools.models.ranking import (
    CandidateFeatureCollector,
    CandidateGenerator,
    CandidateRankingModel,
    CatBoostReranker,
    PerUserNegativeSampler,
)

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.rectools_tables import interactions_table
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, grid

_MISSING_RANK: Final = 1_000
_RANKERS: Final = {"classifier": CatBoostClassifier, "ranker": CatBoostRanker}


class Counts(CandidateFeatureCollector):
    """How many interactions the user and the item have in the history."""

    def _get_user_features(self, users: np.ndarray, dataset: Dataset, fold_info: dict | None) -> pd.DataFrame:
        return _counts(users, dataset, Columns.User)

    def _get_item_features(self, items: np.ndarray, dataset: Dataset, fold_info: dict | None) -> pd.DataFrame:
        return _counts(items, dataset, Columns.Item)


def _counts(ids: np.ndarray, dataset: Dataset, column: str) -> pd.DataFrame:
    counts = dataset.get_raw_interactions()[column].value_counts()
    return pd.DataFrame({column: ids, f"{column}_count": counts.reindex(ids, fill_value=0).to_numpy()})


def fit_two_stage(data: FitData, settings: Settings) -> Scorer:
    """Items that are no candidate of any generator get no score."""
    dataset = Dataset.construct(interactions_table(data.train))
    als = AlternatingLeastSquares(factors=64, regularization=1.0, iterations=15, random_state=data.seed, num_threads=1)
    first = [
        ImplicitALSWrapperModel(als),
        ImplicitItemKNNWrapperModel(BM25Recommender(K=100, num_threads=1)),
        PopularModel(),
    ]
    generators = [
        CandidateGenerator(
            model,
            settings["candidates"],
            keep_ranks=True,
            keep_scores=True,
            scores_fillna_value=0.0,
            ranks_fillna_value=_MISSING_RANK,
        )
        for model in first
    ]
    ranker = _RANKERS[settings["second_stage"]](random_state=data.seed, verbose=False, thread_count=1)
    model = CandidateRankingModel(
        generators,
        LastNSplitter(1, filter_cold_users=True, filter_cold_items=True, filter_already_seen=True),
        CatBoostReranker(ranker),
        PerUserNegativeSampler(settings["negatives"], random_state=data.seed),
        Counts(),
    )
    model.fit(dataset)

    def score(requests: Requests) -> Float32:
        scores = np.full((len(requests), data.n_items), -np.inf, np.float32)
        known = np.isin(requests.user_idx, dataset.user_id_map.external_ids.astype(np.int64))
        row = {int(user): place for place, user in enumerate(requests.user_idx)}
        if known.any():
            users = np.unique(requests.user_idx[known])
            lists = model.recommend(users, dataset, k=data.n_items, filter_viewed=True, on_unsupported_targets="ignore")
            rows = lists[Columns.User].map(row).to_numpy()
            scores[rows, lists[Columns.Item].to_numpy()] = lists[Columns.Score]
        return scores

    return score


RUNS: Final[dict[str, Run]] = {
    "rectools-two-stage": by_search(
        fit_two_stage, grid(second_stage=("classifier", "ranker"), candidates=(100,), negatives=(30,))
    ),
}
