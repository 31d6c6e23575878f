"""Fits everything but the ranker on what is known at one fold, and makes the labelled requests of a fold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from recsys.config import Config
from recsys.datasets.encoded import EncodedData
from recsys.errors import ConfigError
from recsys.histories import MAX_REQUEST_HISTORY
from recsys.models.covisitation import Covisitation
from recsys.models.encoder import TextEncoder
from recsys.models.fitted import FittedModels
from recsys.models.linear_items import Ease, NextItem
from recsys.models.sequence import SequenceModel
from recsys.splits import Fold, Split
from training.collaborative import fit_counters, fit_factors
from training.requests import (
    LabelledRequest,
    cold_requests,
    fold_ends,
    held_out_requests,
    next_item_requests,
    sample_requests,
    sample_targets,
    shown_requests,
)

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

Rows = Literal["impressions", "retrieved", "held_out", "cold"]

_LABEL_USERS: Final = 0.9


@dataclass(frozen=True)
class Corpus:
    """The data as arrays with its split, and the items' texts as embeddings.

    item_embeddings: float32 `(n_items, embedding_size)`. pseudo_cold_idx: int32, items whose behaviour is hidden from
    what feeds the training rows. test_cold_idx: int32, others, whose behaviour is hidden from everything that is
    measured, the ranker included; what is asked about at the test where the ranker orders hidden items.
    """

    data: EncodedData
    split: Split
    config: Config
    item_embeddings: Float32
    encoder: TextEncoder | None
    pseudo_cold_idx: Int32
    test_cold_idx: Int32 = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def rows(self) -> Rows:
        """What the ranker learns to order here."""
        if self.config.ranker.rows == "auto":
            return "impressions" if self.data.impressions is not None else "retrieved"
        if self.config.ranker.rows == "impressions" and self.data.impressions is None:
            raise ConfigError(
                "ranker.rows is impressions, but the data has no impressions table; use auto or retrieved"
            )
        if self.config.ranker.rows == "cold" and not len(self.pseudo_cold_idx):
            raise ConfigError("ranker.rows is cold, but ranker.pseudo_cold_share hides no item; set it to 0.2, say")
        return self.config.ranker.rows


def draw_pseudo_cold(data: EncodedData, split: Split, config: Config, rng: np.random.Generator) -> Int32:
    """Return the items whose behaviour is hidden from what feeds the training rows, int32, sorted."""
    seen = _seen_before_test(data, split)
    n = round(config.ranker.pseudo_cold_share * len(seen))
    return np.sort(rng.choice(seen, n, replace=False)).astype(np.int32) if n else np.empty(0, np.int32)


def draw_test_cold(
    data: EncodedData, split: Split, config: Config, pseudo_cold_idx: Int32, rng: np.random.Generator
) -> Int32:
    """Return as many other items to test on where `ranker.rows` is cold, int32, sorted; else none.

    What orders hidden items is measured on others than it learned from, since the users are the same.

    Raises:
        ConfigError: no item with behaviour would remain.
    """
    if config.ranker.rows != "cold":
        return np.empty(0, np.int32)
    others = np.setdiff1d(_seen_before_test(data, split), pseudo_cold_idx)
    n = len(pseudo_cold_idx)
    if n >= len(others):
        raise ConfigError(
            f"ranker.pseudo_cold_share {config.ranker.pseudo_cold_share:g} hides {n} of {n + len(others)} items from "
            "the training rows, and the test has to hide as many others; with ranker.rows cold set it below 0.5, to "
            "0.2, say"
        )
    return np.sort(rng.choice(others, n, replace=False)).astype(np.int32)


def _seen_before_test(data: EncodedData, split: Split) -> Int64:
    return np.flatnonzero(data.log.select(split.known_before(Fold.TEST)).item_counts())


def known_to(corpus: Corpus, fold: Fold | None) -> Bool:
    """Return which interactions may be fitted on before rows of `fold` are made (None: all), bool `(len(log),)`."""
    log = corpus.data.log
    known = np.ones(len(log), np.bool_) if fold is None else corpus.split.known_before(fold)
    return known & ~_is_hidden(corpus, fold)


def fit_models(
    corpus: Corpus, fold: Fold | None, seed: np.random.SeedSequence, *, sequence: SequenceModel | None = None
) -> FittedModels:
    """Return everything but the ranker, fitted on what is known before rows of `fold` are made (None: on all data).

    Factors and transitions see earlier folds only. Counters are read as of a moment, so with a time split they also
    hold the fold itself, as they would in service; with leave_last, where a fold has no time of its own, they do not.

    sequence: the sequence model of the same fold.
    """
    log, split = corpus.data.log, corpus.split
    known = known_to(corpus, fold)
    counted = known
    shown = None if split.request_fold is None else np.ones(len(split.request_fold), np.bool_)
    if fold is not None and split.boundaries_us is not None:
        # The rows of VALID are made with the models of LABEL; both may count what came before each of them.
        last = Fold.VALID if fold == Fold.LABEL else fold
        # What only came with the test, though dated before it, would be counted at moments that did not know it.
        counted = (split.interaction_fold <= last) & split.in_time(log.timestamp_us) & ~_is_hidden(corpus, fold)
        shown = None if split.request_fold is None else split.request_fold <= last
    fitted_on, hidden_idx = log.select(known), _hidden_idx(corpus, fold)
    config = corpus.config
    return FittedModels(
        config=config,
        catalogue=corpus.data.catalogue,
        user_ids=corpus.data.user_ids,
        user_attributes=corpus.data.user_attributes,
        user_attribute_names=corpus.data.user_attribute_names,
        log=fitted_on,
        item_embeddings=corpus.item_embeddings,
        factors=fit_factors(fitted_on, corpus.data.catalogue, corpus.item_embeddings, config, seed),
        covisitation=Covisitation.fit(fitted_on, config.covisitation),
        ease=Ease.fit(fitted_on, config.ease),
        next_item=NextItem.fit(fitted_on, config.next_item),
        sequence=sequence,
        counters=fit_counters(log.select(counted), corpus.data.impressions, shown, config, hidden_idx=hidden_idx),
        encoder=corpus.encoder,
    )


def _hidden_idx(corpus: Corpus, fold: Fold | None) -> Int32:
    """Return the items whose behaviour is hidden from what rows of `fold` are made with, int32."""
    if fold is None:
        return np.empty(0, np.int32)
    return corpus.test_cold_idx if fold == Fold.TEST else np.union1d(corpus.pseudo_cold_idx, corpus.test_cold_idx)


def _is_hidden(corpus: Corpus, fold: Fold | None) -> Bool:
    """Return which interactions are with hidden items, bool `(len(log),)`."""
    return np.isin(corpus.data.log.item_idx, _hidden_idx(corpus, fold))


def requests_of(
    corpus: Corpus, fold: Fold, n: int, rng: np.random.Generator, *, newest: bool = False
) -> Iterator[LabelledRequest]:
    """Yield at most `n` labelled requests of a fold: of shown lists, of next items, or of hidden items."""
    data, split = corpus.data, corpus.split
    if corpus.rows == "impressions" and data.impressions is not None:
        chosen = sample_requests(split, fold, n, newest=newest, rng=rng)
        outcomes = data.log.select(split.interaction_fold == fold)
        yield from shown_requests(
            data.impressions, data.log, chosen, max_history=MAX_REQUEST_HISTORY, outcomes=outcomes
        )
    elif corpus.rows in ("cold", "held_out"):
        users = np.arange(data.log.n_users)
        if fold < Fold.TEST:
            # Users, not moments, are what the folds divide here: one part labels, another stops early.
            part = np.random.default_rng(corpus.config.seed).random(data.log.n_users) < _LABEL_USERS
            users = np.flatnonzero(part if fold == Fold.LABEL else ~part)
        users = np.sort(rng.permutation(users)[:n])
        if corpus.rows == "cold":
            known, cold_idx = split.known_before(Fold.TEST), corpus.test_cold_idx
            if fold < Fold.TEST:
                # What is asked about at the test is not even part of the histories that the ranker learns from.
                known, cold_idx = known & ~np.isin(data.log.item_idx, cold_idx), corpus.pseudo_cold_idx
            yield from cold_requests(data.log.select(known), cold_idx, users, max_history=MAX_REQUEST_HISTORY)
        else:
            wanted = Fold.TEST if fold == Fold.TEST else Fold.LABEL
            held_out, history = split.interaction_fold == wanted, split.known_before(wanted)
            yield from held_out_requests(data.log, held_out, history, users, max_history=MAX_REQUEST_HISTORY)
    else:
        targets = sample_targets(data.log, split.interaction_fold == fold, n, rng)
        yield from next_item_requests(
            data.log,
            targets,
            horizon=corpus.config.split.horizon,
            max_history=MAX_REQUEST_HISTORY,
            last_of_fold=fold_ends(data.log, split),
            seen=data.seen,
        )
