"""The searches over the candidate sources' settings: each source by its own order, retrieval by what it finds."""

from dataclasses import replace
from functools import cache, cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from recsys.config import Config
from recsys.errors import DataError
from recsys.histories import Request
from recsys.models.covisitation import Covisitation
from recsys.models.fitted import FittedModels
from recsys.models.linear_items import Ease, NextItem
from recsys.retrieval.blend import blend
from recsys.retrieval.index import top_n
from recsys.retrieval.sources import CandidateSource, build_sources
from recsys.splits import Fold
from training.collaborative import fit_factors
from training.desk import Desk, seed_for
from training.fits import Fits
from training.fitting import Corpus
from training.requests import LabelledRequest
from training.tune_requests import metric_name, metric_of, users_of, validation_requests
from training.tune_study import Question, Score, Setting

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

RETRIEVAL: Final = "retrieval"

_SETTINGS: Final[dict[str, tuple[Setting, ...]]] = {
    "als": (
        Setting("collaborative.factors", 16, 128, is_log=True),
        Setting("collaborative.alpha", 1.0, 100.0, is_log=True),
        Setting("collaborative.regularization", 0.005, 1.0, is_log=True),
    ),
    "ease": (
        Setting("ease.regularization", 20.0, 5_000.0, is_log=True),
        Setting("ease.nearness", 0.0, 1.0),
        Setting("ease.nearness_steps", 1.0, 30.0, is_log=True),
    ),
    "next_item": (
        Setting("next_item.regularization", 10.0, 2_000.0, is_log=True),
        Setting("next_item.window", 5, 50, is_log=True),
        Setting("next_item.fading", 0.0, 2.0),
    ),
    "covisitation": (
        Setting("covisitation.window", 1, 30, is_log=True),
        Setting("covisitation.decay", 0.4, 1.0),
        Setting("covisitation.history_length", 2, 30, is_log=True),
        Setting("covisitation.history_decay", 0.4, 1.0),
        Setting("covisitation.normalisation", 0.0, 1.0),
    ),
}


class SourceTrials:
    """Fits one source per trial on what is known before the validation window and scores it on all of its requests.

    Where the ranker orders hidden or held-out items, the requests are about them, and the fits leave them out.
    """

    def __init__(self, corpus: Corpus, desk: Desk) -> None:
        self._corpus = corpus
        self._desk = desk

    def names(self) -> tuple[str, ...]:
        """Return what can be searched, in order: the sources in use, then how many items each may propose."""
        sources = tuple(name for name in _SETTINGS if name in self._corpus.config.retrieval.sources)
        return (*sources, RETRIEVAL) if self._retrieves else sources

    def question(self, name: str, config: Config) -> Question:
        """Return one search; that of retrieval is about the sources as a configuration sets them."""
        if name != RETRIEVAL:
            return Question(
                name,
                metric_name(self._corpus),
                _SETTINGS[name],
                lambda trial: self._score_source(name, trial),
                lambda: users_of(self._requests),
            )
        n = config.retrieval.n_candidates
        per_source = Setting("retrieval.per_source", max(1, n // 10), n, is_log=True)
        per_source = per_source.around(config.retrieval.per_source)
        found = cache(lambda: _Finder(self._fitted(config), self._requests, int(per_source.high)))
        return Question(
            RETRIEVAL,
            f"recall@{n}",
            (per_source,),
            lambda trial: Score(found().recall(trial), {}),
            lambda: users_of(self._requests),
        )

    def _score_source(self, name: str, config: Config) -> Score:
        only = config.with_overrides({"retrieval.sources": [name]})
        source = build_sources(_refitted(self._models, name, only))[0]
        metric, k, n = metric_name(self._corpus), config.evaluation.k, config.retrieval.n_candidates
        values, recall = [], []
        with threadpool_limits(limits=1):
            for labelled in self._requests:
                scores = _allowed(source.score_all(labelled.request), labelled)
                relevant = np.zeros(len(scores), np.bool_)
                relevant[labelled.relevant_idx] = True
                if (given := labelled.request.candidates) is not None:
                    scores, relevant = scores[given], relevant[given]
                values.append(metric_of(metric, scores, relevant, len(labelled.relevant_idx), k))
                recall.append(relevant[top_n(scores, n)].sum() / len(labelled.relevant_idx))
        figures = {f"recall@{n}": float(np.mean(recall))} if self._retrieves else {}
        return Score(np.array(values), figures)

    def _fitted(self, config: Config) -> FittedModels:
        models = self._models
        for name in self.names():
            if name in _SETTINGS:
                models = _refitted(models, name, config)
        return models

    @property
    def _retrieves(self) -> bool:
        """Whether candidates are retrieved; requests bring their own otherwise."""
        return self._corpus.rows in ("retrieved", "held_out")

    @cached_property
    def _models(self) -> FittedModels:
        # Where folds divide users, not moments, the requests are about what the label window hides.
        fold = Fold.LABEL if self._corpus.rows in ("cold", "held_out") else Fold.VALID
        return Fits(self._corpus, self._desk).models(fold)

    @cached_property
    def _requests(self) -> list[LabelledRequest]:
        requests = validation_requests(self._corpus)
        if not requests:
            raise DataError(
                "the validation window holds no request with a known outcome; enlarge split.valid_share, or bring "
                "more feedback"
            )
        return requests


def _refitted(models: FittedModels, name: str, config: Config) -> FittedModels:
    """Return the models with one source fitted anew, as a configuration sets it."""
    parts: dict[str, Any] = {}
    if name == "covisitation":
        parts["covisitation"] = Covisitation.fit(models.log, config.covisitation)
    elif name == "ease":
        parts["ease"] = Ease.fit(models.log, config.ease)
    elif name == "next_item":
        parts["next_item"] = NextItem.fit(models.log, config.next_item)
    else:
        seed = seed_for(config.seed, "factors")
        parts["factors"] = fit_factors(models.log, models.catalogue, models.item_embeddings, config, seed)
    return replace(models, config=config, **parts)


class _Remembered:
    """A source that answers each request once, with as many items as will ever be asked for."""

    def __init__(self, source: CandidateSource, requests: list[LabelledRequest], n: int) -> None:
        self.name = source.name
        self._source = source
        # Held by the caller as long as this, so that an id stays that of its request.
        self._rows = {
            id(labelled.request): source.retrieve(labelled.request, n + len(labelled.exclude)) for labelled in requests
        }

    def retrieve(self, request: Request, n: int, allowed: Bool | None = None) -> Int32:
        rows = self._rows[id(request)]
        return (rows if allowed is None else rows[allowed[rows]])[:n]

    def score_all(self, request: Request) -> Float32:
        return self._source.score_all(request)


class _Finder:
    """Says how much of what is relevant is among the candidates."""

    def __init__(self, models: FittedModels, requests: list[LabelledRequest], most_per_source: int) -> None:
        self._requests = requests
        self._n_items = len(models.catalogue)
        with threadpool_limits(limits=1):
            self._sources = [_Remembered(source, requests, most_per_source) for source in build_sources(models)]

    def recall(self, config: Config) -> npt.NDArray[np.float64]:
        """Return the share of each request's relevant items that retrieval proposes, float64 `(n_requests,)`."""
        shares = [
            np.isin(
                labelled.relevant_idx,
                blend(
                    self._sources, labelled.request, config.retrieval, n_items=self._n_items, exclude=labelled.exclude
                ).item_idx,
            ).mean()
            for labelled in self._requests
        ]
        return np.array(shares, np.float64)


def _allowed(scores: Float32, labelled: LabelledRequest) -> Float32:
    """Return a copy of the scores in which items that must not be recommended again are -inf."""
    allowed = scores.astype(np.float32, copy=True)
    allowed[labelled.exclude] = -np.inf
    return allowed
