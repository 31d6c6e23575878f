"""RecTools' models that read item features: iALS with explicit features, and LightFM.

Both can rank items that nobody has met: the rest of such an item's vector is zero.
"""

from typing import Final

import numpy as np
import pandas as pd
from implicit.cpu.als import AlternatingLeastSquares
from lightfm import LightFM
from rectools.dataset import Dataset
from rectools.models import ImplicitALSWrapperModel, LightFMWrapperModel

from benchmarks.peers.exchange import Float32, Requests
from benchmarks.peers.rectools_tables import interactions_table
from benchmarks.peers.search import FitData, Run, Scorer, Settings, by_search, feature_matrix, grid

_DECADE: Final = 10


def item_features(data: FitData, n_features: int) -> tuple[Float32, list[str]]:
    """Return the features that most items have, and the decade where there is a year: float32 `(n_items, n)`, names."""
    items = [{"features": [*item["features"], *_decades(item["numbers"])]} for item in data.items]
    matrix, names = feature_matrix(items)
    kept = np.sort(np.argsort(-np.asarray(matrix.sum(axis=0)).ravel(), kind="stable")[:n_features])
    return matrix[:, kept].toarray(), [names[column] for column in kept]


def _decades(numbers: dict[str, float | None]) -> list[str]:
    years = (value for name, value in numbers.items() if "year" in name and value is not None)
    return [f"decade={int(year) // _DECADE * _DECADE}" for year in years]


def fit_ials(data: FitData, settings: Settings) -> Scorer:
    """The features are part of the item's vector as they are; users learn what weight they give them."""
    features, names = item_features(data, settings["features"])
    table = interactions_table(data.train)
    met = np.unique(data.train.item_idx)
    dataset = Dataset.construct(
        table,
        item_features_df=pd.DataFrame(features[met], columns=names).assign(id=met),
        make_dense_item_features=True,
    )
    als = AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularization"],
        alpha=settings["alpha"],
        iterations=15,
        random_state=data.seed,
        num_threads=1,
    )
    model = ImplicitALSWrapperModel(als, fit_features_together=True)
    model.fit(dataset)
    users, items = model.get_vectors()
    vectors = np.zeros((data.n_items, items.shape[1]), np.float32)
    vectors[:, items.shape[1] - features.shape[1] :] = features
    return _products(data, dataset, users, items, vectors)


def fit_lightfm(data: FitData, settings: Settings) -> Scorer:
    """An item is the sum of its features' vectors and one of its own."""
    features, names = item_features(data, settings["features"])
    rows, columns = np.nonzero(features)
    described = pd.DataFrame({"id": rows, "feature": "feature", "value": [names[column] for column in columns]})
    dataset = Dataset.construct(
        interactions_table(data.train), item_features_df=described, cat_item_features=["feature"]
    )
    inner = LightFM(
        no_components=settings["factors"], loss="warp", learning_rate=settings["learning_rate"], random_state=data.seed
    )
    model = LightFMWrapperModel(inner, epochs=settings["epochs"], num_threads=1)
    model.fit(dataset)
    users, items = model.get_vectors(dataset)
    return _products(data, dataset, users, items, np.zeros((data.n_items, items.shape[1]), np.float32))


def _products(data: FitData, dataset: Dataset, users: Float32, items: Float32, vectors: Float32) -> Scorer:
    """Score by inner product; `vectors` holds what stands in for items that RecTools has no vector of."""
    vectors[dataset.item_id_map.external_ids.astype(np.int64)] = items
    everyone = np.zeros((data.n_users, users.shape[1]), np.float32)
    everyone[dataset.user_id_map.external_ids.astype(np.int64)] = users

    def score(requests: Requests) -> Float32:
        return everyone[requests.user_idx] @ vectors.T

    return score


RUNS: Final[dict[str, Run]] = {
    "rectools-ials-features": by_search(
        fit_ials, grid(features=(50, 150, 300), factors=(32,), regularization=(10.0, 100.0, 1000.0), alpha=(1.0,))
    ),
    "rectools-lightfm": by_search(
        fit_lightfm, grid(features=(150, 1000), factors=(32, 64), learning_rate=(0.02, 0.05), epochs=(20,))
    ),
}
