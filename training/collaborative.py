"""Fits item factors and transitions on a log, and places items without behaviour among the factors."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from implicit.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from recsys.catalogue import Catalogue
from recsys.config import CollaborativeConfig, Config
from recsys.counters import BucketCounts, Counters
from recsys.histories import ImpressionLog, InteractionLog
from recsys.models.content_map import ContentMap
from recsys.models.factors import ItemFactors

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


def fit_als(
    log: InteractionLog,
    settings: CollaborativeConfig,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Float32, Float32]:
    """Return implicit ALS factors of users `(n_users, factors)` and of items `(n_items, factors)`, float32.

    The confidence of an interaction is `1 + alpha * weight` (Hu, Koren and Volinsky, 2008), weights of repeated
    interactions added up.
    """
    matrix = log.matrix()
    matrix.data = 1.0 + np.float32(settings.alpha) * matrix.data
    with threadpool_limits(limits=1, user_api="blas"):  # implicit brings its own threads
        model = AlternatingLeastSquares(
            factors=settings.factors,
            regularization=settings.regularization,
            alpha=1.0,
            iterations=settings.iterations,
            random_state=seed,
            use_gpu=False,
        )
        model.fit(
            matrix,
            show_progress=False,
            callback=None if on_progress is None else lambda i, *_: on_progress(i + 1, settings.iterations),
        )
    return np.asarray(model.user_factors, np.float32), np.asarray(model.item_factors, np.float32)


def fit_factors(
    log: InteractionLog,
    catalogue: Catalogue,
    embeddings: Float32,
    config: Config,
    seed: np.random.SeedSequence,
    on_progress: Callable[[int, int], None] | None = None,
) -> ItemFactors:
    """Return ALS item factors with every item placed: own factors where warm, else those its content predicts."""
    _, items = fit_als(log, config.collaborative, int(seed.generate_state(1)[0]), on_progress)
    counts = log.item_counts()
    own = np.where(counts[:, None] > 0, items, np.float32(0))
    content_map = ContentMap.fit(catalogue, embeddings, own, counts, config.cold)
    return ItemFactors(
        own=own,
        content=content_map.predict(catalogue, embeddings),
        is_warm=counts >= config.cold.min_interactions,
        regularization=config.collaborative.regularization,
        alpha=config.collaborative.alpha,
        content_map=content_map,
    )


def fit_counters(
    log: InteractionLog,
    impressions: ImpressionLog | None,
    request_mask: npt.NDArray[np.bool_] | None,
    config: Config,
    *,
    hidden_idx: Int32,
) -> Counters:
    """Return time-bucketed counters of the given interactions and of the impressions of the masked requests.

    hidden_idx: int32, items of which no impression is counted.
    """
    bucket_us = int(config.features.bucket_minutes * 60_000_000)
    none = BucketCounts.build(np.empty(0, np.int32), np.empty(0, np.int64), None, bucket_us=bucket_us)
    shown = clicked = none
    if impressions is not None and request_mask is not None:
        rows = request_mask[impressions.row_request] & ~np.isin(impressions.item_idx, hidden_idx)
        times = impressions.timestamp_us[impressions.row_request]
        shown = BucketCounts.build(impressions.item_idx[rows], times[rows], None, bucket_us=bucket_us)
        rows = rows & impressions.clicked
        clicked = BucketCounts.build(impressions.item_idx[rows], times[rows], None, bucket_us=bucket_us)
    interactions = BucketCounts.build(log.item_idx, log.timestamp_us, log.weight, bucket_us=bucket_us)
    return Counters(interactions, shown, clicked)
