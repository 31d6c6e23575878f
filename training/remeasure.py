"""Measures a trained system on feedback that is newer than what it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.counters import BucketCounts, Counters
from recsys.datasets import load_dataset
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.errors import DataError
from recsys.evaluation.report import SuiteReport
from recsys.histories import ImpressionLog, InteractionLog
from recsys.models.fitted import FittedModels
from recsys.schema import Col
from recsys.splits import Fold, Split
from training.desk import seed_for
from training.evaluation import evaluate
from training.fitting import Corpus, requests_of
from training.progress import Reporter
from training.signals import with_signals


@dataclass(frozen=True)
class Remeasured:
    """How a system did on newer feedback.

    since: when its own data ended, ISO 8601 UTC. unknown_items: rows of the newer feedback that were left out because
    the system does not know their item. unknown_users: users of it that the system was not trained on.
    """

    report: SuiteReport
    since: str
    n_requests: int
    unknown_items: int
    unknown_users: int


def remeasure(
    bundle: Bundle,
    folder: Path | str,
    *,
    format: str = "auto",
    overrides: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Remeasured:
    """Return how a bundle does on a data folder's feedback that is newer than its training data.

    What a user did before a request counts as history, whether it was part of the training or came later; counters
    of interactions, shown items and clicks go on in the same way, read as of each request. Nothing is fitted.

    Args:
        bundle: the system.
        folder: data, of which older feedback is ignored. format: its format.
        overrides: dotted keys of the bundle's own configuration, such as `evaluation.max_requests`.
        reporter: shows progress.

    Raises:
        DataError: the data has faults, or none of its feedback is newer and on items that the system knows.
    """
    reporter = reporter or Reporter()
    config = bundle.manifest.config.with_overrides(dict(overrides or {}))
    with reporter.stage("data"):
        dataset = load_dataset(folder, format, config.data)
    newer, unknown_items = _newer_part(dataset, bundle)
    until_us = bundle.manifest.data_until_us
    data, models, unknown_users = _on_the_systems_rows(newer, bundle.models, config, until_us=until_us)
    corpus = _corpus(data, models, bundle.models.log, config)
    rng = np.random.default_rng(seed_for(config.seed, "test requests"))
    requests = list(requests_of(corpus, Fold.TEST, config.evaluation.max_requests, rng))
    if not requests:
        raise DataError(f"the newer feedback of {dataset.name} holds no request with a known outcome; bring more of it")
    with reporter.stage("evaluation") as advance, threadpool_limits(limits=1):
        found = evaluate(
            RankingPath(models),
            requests,
            config.evaluation,
            seed_for(config.seed, "evaluation"),
            advance,
            as_lists=corpus.rows == "impressions",
        )
    report = SuiteReport(dataset.name, "after training", config.seed, found.systems, found.differences, found.slices)
    return Remeasured(report, _iso(until_us), len(requests), unknown_items, unknown_users)


def _newer_part(dataset: Dataset, bundle: Bundle) -> tuple[Dataset, int]:
    """Return the feedback after the bundle's on items that it knows, over its catalogue, and how many rows it lacks."""
    until = pl.lit(bundle.manifest.data_until_us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    catalogue = bundle.models.catalogue
    is_known = pl.col(Col.ITEM_ID).is_in(list(catalogue.ids.ids))
    unknown = 0
    tables: list[pl.DataFrame | None] = []
    for table in (dataset.interactions, dataset.impressions):
        newer = table.filter(pl.col(Col.TIMESTAMP) > until) if table is not None else None
        known = newer.filter(is_known) if newer is not None else None
        tables.append(known)
        unknown += newer.height - known.height if newer is not None and known is not None else 0
    interactions, impressions = tables
    if interactions is None or not interactions.height:
        raise DataError(
            f"{dataset.name} holds no feedback after {_iso(bundle.manifest.data_until_us)}, where the training data of "
            "this version ends, on items that it knows; bring a later log"
        )
    return Dataset(catalogue.table, interactions, impressions, name=dataset.name, format=dataset.format), unknown


def _on_the_systems_rows(
    dataset: Dataset, models: FittedModels, config: Config, *, until_us: int
) -> tuple[EncodedData, FittedModels, int]:
    """Return the newer feedback behind the older in the system's rows, and the system with rows for the new users.

    The items are the system's own table, so that they have its rows already. until_us: when the system's own data
    ends, before everything that is newer.
    """
    encoded = with_signals(dataset, encode_dataset(dataset, config.data), models.sentiment, models.encoder, config.data)
    new_users = [user for user in encoded.user_ids.ids if user not in models.user_ids]
    user_ids = models.user_ids.extended(new_users)
    row_of = user_ids.lookup(encoded.user_ids.ids, unknown="error")
    old = models.log
    nothing = old.select(np.zeros(len(old), np.bool_))
    log = _joined(old, encoded.log, row_of, len(user_ids))
    seen = _joined(models.seen or nothing, encoded.seen or nothing, row_of, len(user_ids))
    shown = encoded.impressions
    attributes = np.pad(models.user_attributes, ((0, len(new_users)), (0, 0)), constant_values=np.nan)
    extended = replace(
        models,
        config=config,
        user_ids=user_ids,
        user_attributes=attributes,
        log=replace(old, n_users=len(user_ids)),
        seen=None,  # the data has it
        counters=_continued(models.counters, log, shown, until_us),
    )
    data = replace(
        encoded,
        user_ids=user_ids,
        log=log,
        seen=seen,
        impressions=None if shown is None else replace(shown, user_idx=row_of[shown.user_idx]),
        user_attributes=attributes,
        user_attribute_names=models.user_attribute_names,
    )
    return data, extended, len(new_users)


def _continued(counters: Counters, log: InteractionLog, newer: ImpressionLog | None, until_us: int) -> Counters:
    """Return counters of the whole log and of what was shown before and is newer; see `Counters` for as of when."""
    bucket_us = counters.interactions.bucket_us
    interactions = BucketCounts.build(log.item_idx, log.timestamp_us, log.weight, bucket_us=bucket_us)
    if newer is None:
        return Counters(interactions, counters.shown, counters.clicked)
    time_us, clicked = newer.timestamp_us[newer.row_request], newer.clicked
    # Lists that were shown behind the last interaction of the training are in its counters and newer all the same.
    return Counters(
        interactions,
        counters.shown.continued(newer.item_idx, time_us, since_us=until_us),
        counters.clicked.continued(newer.item_idx[clicked], time_us[clicked], since_us=until_us),
    )


def _joined(old: InteractionLog, new: InteractionLog, row_of: npt.NDArray[np.int32], n_users: int) -> InteractionLog:
    """Return both logs as one. row_of: the row of each of `new`'s users among `n_users`."""
    return InteractionLog.from_arrays(
        np.concatenate([old.user_idx, row_of[new.user_idx]]),
        np.concatenate([old.item_idx, new.item_idx]),
        np.concatenate([old.timestamp_us, new.timestamp_us]),
        np.concatenate([old.weight, new.weight]),
        n_users=n_users,
        n_items=old.n_items,
    )


def _corpus(data: EncodedData, models: FittedModels, trained_on: InteractionLog, config: Config) -> Corpus:
    """Return the data with everything newer as the test fold."""
    newest_us = trained_on.timestamp_us.max() if len(trained_on) else np.iinfo(np.int64).min
    fold = np.where(data.log.timestamp_us > newest_us, Fold.TEST, Fold.FIT).astype(np.int8)
    request_fold = None if data.impressions is None else np.full(len(data.impressions), Fold.TEST, np.int8)
    if config.ranker.rows == "cold":  # hides items from a training; there is none here
        config = config.with_overrides({"ranker.rows": "auto"})
    return Corpus(
        data,
        Split(fold, request_fold, None),
        config,
        models.item_embeddings,
        models.encoder,
        np.empty(0, np.int32),
    )


def _iso(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1_000_000, UTC).isoformat(timespec="seconds")
