"""The search over the ranker's settings, on rows that are made once."""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.config import Config
from recsys.errors import DataError
from recsys.splits import Fold
from training.desk import Desk, seed_for
from training.fits import Fits
from training.fitting import Corpus, requests_of
from training.no_rows import why_no_rows
from training.progress import Advance
from training.ranker import RankerRows, build_rows, train_ranker
from training.requests import LabelledRequest
from training.tune_requests import halves, metric_name, metric_of, users_of, validation_requests
from training.tune_study import Question, Score, Setting
from training.work import stage_key

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_OBJECTIVES: Final = Setting("ranker.objective", choices=("lambdarank", "binary"))
_MORE_NEGATIVES: Final = 2  # rows are made with so many times the configured negatives, of which trials take some


@dataclass(frozen=True)
class ScoredRows:
    """All candidates of every request that trials are scored on.

    features: float32 `(n_rows, n_features)`. label: bool `(n_rows,)`. indptr: int64 `(n_requests + 1,)`. n_relevant,
    user_idx: int32 `(n_requests,)`; relevant items that were not retrieved count.
    """

    features: Float32
    label: npt.NDArray[np.bool_]
    indptr: Int64
    n_relevant: Int32
    user_idx: Int32

    @staticmethod
    def build(path: RankingPath, requests: list[LabelledRequest], advance: Advance) -> "ScoredRows":
        """Return the rows of the requests, in their order."""
        features, labels = [np.empty((0, len(path.feature_names)), np.float32)], [np.empty(0, np.bool_)]
        for done, labelled in enumerate(requests, 1):
            found = path.candidates(labelled.request, exclude=labelled.exclude).item_idx
            features.append(path.rows(labelled.request, found))
            labels.append(np.isin(found, labelled.relevant_idx))
            advance(done, len(requests))
        lengths = [len(label) for label in labels]
        n_relevant = np.array([len(labelled.relevant_idx) for labelled in requests], np.int32)
        indptr = np.cumsum(lengths).astype(np.int64)
        return ScoredRows(np.concatenate(features), np.concatenate(labels), indptr, n_relevant, users_of(requests))

    def save(self, path: Path) -> None:
        """Write the rows as an npz file."""
        np.savez(path, allow_pickle=False, **vars(self))

    @staticmethod
    def load(path: Path) -> "ScoredRows":
        """Read rows that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return ScoredRows(**{name: file[name] for name in file.files})


@dataclass(frozen=True)
class _Rows:
    train: RankerRows
    stop: RankerRows
    scored: ScoredRows


class RankerTrials:
    """Trains a ranker per trial on the label window; half of the validation users stop it, the others score it.

    The rows come from models that have seen neither window, and are made when the first trial needs them.
    """

    def __init__(self, corpus: Corpus, desk: Desk, key: str) -> None:
        self._corpus = corpus
        self._desk = desk
        config = corpus.config
        sections = config.model_dump(mode="json", exclude={"tracking", "encoder"})
        fingerprint = corpus.encoder.fingerprint if corpus.encoder is not None else None
        self._key = stage_key(key, sections, fingerprint, _MORE_NEGATIVES)

    def question(self) -> Question:
        """Return what to search."""
        return Question(
            "ranker",
            metric_name(self._corpus),
            self._settings(),
            self._evaluate,
            lambda: self._rows.scored.user_idx,
        )

    def _settings(self) -> tuple[Setting, ...]:
        objectives = () if self._corpus.config.ranker.graded else (_OBJECTIVES,)
        settings = [
            *objectives,
            Setting("ranker.learning_rate", 0.02, 0.2, is_log=True),
            Setting("ranker.num_leaves", 7, 127, is_log=True),
            Setting("ranker.min_data_in_leaf", 20, 500, is_log=True),
            Setting("ranker.feature_fraction", 0.3, 1.0),
            Setting("ranker.bagging_fraction", 0.4, 1.0),
            Setting("ranker.lambda_l2", 0.1, 100.0, is_log=True),
            Setting("ranker.truncation", 5, 50, is_log=True),
        ]
        shown = self._corpus.data.impressions
        if self._corpus.rows == "impressions":
            if shown is not None and shown.has_positions:
                settings.append(Setting("ranker.position_bias", 0.01, 10.0, is_log=True))
        else:
            n = self._corpus.config.ranker.negatives_per_request
            settings.append(Setting("ranker.negatives_per_request", max(1, n // 4), _MORE_NEGATIVES * n, is_log=True))
        return tuple(settings)

    def _evaluate(self, config: Config) -> Score:
        rows, seed = self._rows, seed_for(config.seed, "tune negatives")
        train, stop = rows.train, rows.stop
        if self._corpus.rows != "impressions":  # shown lists stay whole
            # The same seed for every trial: the negatives of a smaller number are some of those of a larger one.
            n = config.ranker.negatives_per_request
            train, stop = (thinned(part, n, np.random.default_rng(seed)) for part in (train, stop))
        fit = train_ranker(train, stop, config.ranker, seed_for(config.seed, "ranker"))
        scores, scored, metric = fit.ranker.score(rows.scored.features), rows.scored, metric_name(self._corpus)
        values = [
            metric_of(metric, scores[start:stop], scored.label[start:stop], int(n_relevant), config.evaluation.k)
            for start, stop, n_relevant in zip(
                scored.indptr[:-1], scored.indptr[1:], scored.n_relevant, strict=True
            )
        ]  # fmt: skip
        return Score(np.array(values), {"n_trees": float(fit.n_trees)})

    @cached_property
    def _rows(self) -> _Rows:
        work, stage = self._desk.work, "tune-rows"
        folder = work.folder / stage
        if not work.is_finished(stage, self._key):
            rows = self._made()
            with work.writing(stage, self._key) as folder:
                rows.train.save(folder / "train.npz")
                rows.stop.save(folder / "stop.npz")
                rows.scored.save(folder / "scored.npz")
            return rows
        self._desk.reporter.say("  rows to search on: kept from before")
        return _Rows(
            RankerRows.load(folder / "train.npz"),
            RankerRows.load(folder / "stop.npz"),
            ScoredRows.load(folder / "scored.npz"),
        )

    def _made(self) -> _Rows:
        corpus, config = self._corpus, self._corpus.config
        stop, scored = halves(validation_requests(corpus), seed_for(config.seed, "tune halves"))
        if not stop or not scored:
            raise DataError(
                f"the validation window holds labelled requests of too few users to search with ({len(stop)} to stop "
                f"by, {len(scored)} to score); enlarge split.valid_share, or bring more feedback"
            )
        ranker = config.ranker.model_copy(
            update={"negatives_per_request": _MORE_NEGATIVES * config.ranker.negatives_per_request}
        )
        rng = np.random.default_rng(seed_for(config.seed, "tune rows"))
        requests = list(requests_of(corpus, Fold.LABEL, config.ranker.max_requests, rng, newest=True))

        path = RankingPath(Fits(corpus, self._desk).models(Fold.LABEL))

        def make(advance: Advance) -> _Rows:
            with threadpool_limits(limits=1):
                return _Rows(
                    build_rows(
                        path,
                        requests,
                        ranker,
                        rng,
                        lambda done: advance(done, len(requests)),
                        why_none=partial(why_no_rows, corpus, Fold.LABEL),
                    ),
                    build_rows(path, stop, ranker, rng, why_none=partial(why_no_rows, corpus, Fold.VALID)),
                    ScoredRows.build(path, scored, advance),
                )

        return self._desk.run("rows to search on", make)


def thinned(rows: RankerRows, n_negatives: int, rng: np.random.Generator) -> RankerRows:
    """Return the rows with at most `n_negatives` irrelevant ones per request, drawn at random."""
    negative = rows.label == 0
    request = np.repeat(np.arange(len(rows.group)), rows.group)
    places = np.flatnonzero(negative)
    places = places[np.lexsort((rng.random(len(places)), request[places]))]  # by request, in random order
    turn = np.arange(len(places)) - np.searchsorted(request[places], request[places], side="left")
    kept = rows.label > 0
    kept[places[turn < n_negatives]] = True
    group = np.bincount(request[kept], minlength=len(rows.group)).astype(np.int32)
    return replace(rows, features=rows.features[kept], label=rows.label[kept], group=group)
