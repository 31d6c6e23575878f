"""Trains the ranker over everything else, out of fold, and measures the whole on the test fold."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.models.ranker import Ranker
from recsys.splits import Fold
from training.evaluation import Evaluation, evaluate
from training.fitting import Corpus, fit_models, requests_of
from training.progress import Advance, Reporter
from training.ranker import RankerFit, RankerRows, build_rows, train_ranker
from training.requests import LabelledRequest
from training.timings import Stage
from training.work import WorkFolder, stage_key

T = TypeVar("T")

# The ranker's settings that its rows depend on; the others only change how it is trained on them.
_ROW_SETTINGS: Final = {"rows", "max_requests", "negatives_per_request", "pseudo_cold_share"}


def seed_for(seed: int, name: str) -> np.random.SeedSequence:
    """Return the seed of one random thing, so that a change in one leaves the others as they are."""
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))


class Clock(Protocol):
    """Times stages; a `StageClock` or a `TrainingRun`."""

    def stage(self, name: str) -> AbstractContextManager[Stage]: ...


@dataclass(frozen=True)
class Desk:
    """What every stage works with: where results are kept, who is told, and the clock."""

    work: WorkFolder
    reporter: Reporter
    clock: Clock

    def run(self, name: str, task: Callable[[Advance], T]) -> T:
        """Run a stage, announced and timed."""
        with self.clock.stage(name), self.reporter.stage(name) as advance:
            return task(advance)


def train_on_past(corpus: Corpus, desk: Desk, key: str) -> RankerFit:
    """Return a ranker whose training rows come from models that have not seen their labels.

    key: hash of the data and of what else is particular to the caller. Rows are used again where that, everything
    they are computed with, and the encoder are the same.
    """
    config = corpus.config
    sections = config.model_dump(mode="json", exclude={"tracking", "evaluation", "encoder", "ranker"})
    row_settings = config.ranker.model_dump(include=_ROW_SETTINGS)
    n_valid = config.evaluation.max_requests
    fingerprint = corpus.encoder.fingerprint if corpus.encoder is not None else None
    key = stage_key(key, sections, row_settings, n_valid, fingerprint)
    past: list[RankingPath] = []

    def path() -> RankingPath:
        if not past:
            seed = seed_for(config.seed, "factors")
            past.append(desk.run("models of the past", lambda _: RankingPath(fit_models(corpus, Fold.LABEL, seed))))
        return past[0]

    train = _rows(corpus, Fold.LABEL, config.ranker.max_requests, path, desk, key)
    valid = _rows(corpus, Fold.VALID, n_valid, path, desk, key)
    seed = seed_for(config.seed, "ranker")
    return desk.run("ranker", lambda advance: train_ranker(train, valid, config.ranker, seed, advance))


def _rows(corpus: Corpus, fold: Fold, n: int, path: Callable[[], RankingPath], desk: Desk, key: str) -> RankerRows:
    name = f"rows to {'train' if fold == Fold.LABEL else 'validate'}"
    stage, stage_id = name.replace(" ", "-"), stage_key(key, name)
    if desk.work.is_finished(stage, stage_id):
        desk.reporter.say(f"  {name}: kept from before")
        return RankerRows.load(desk.work.folder / stage / "rows.npz")
    source = path()
    rng = np.random.default_rng(seed_for(corpus.config.seed, name))
    requests = requests_of(corpus, fold, n, rng, newest=True)
    # Requests are many and small: threads for their linear algebra cost more than they bring.
    with threadpool_limits(limits=1):
        made = desk.run(
            name, lambda advance: build_rows(source, requests, corpus.config.ranker, rng, lambda i: advance(i, n))
        )
    with desk.work.writing(stage, stage_id) as folder:
        made.save(folder / "rows.npz")
    return made


def measure(
    corpus: Corpus, ranker: Ranker, desk: Desk, *, requests: Sequence[LabelledRequest] | None = None
) -> tuple[RankingPath, Evaluation]:
    """Return the path with models refitted on all that is known before the test, and how it did there.

    requests: what to measure on; by default at most `evaluation.max_requests` requests of the test fold. Where the
    ranker orders hidden items these requests are about them, so the models are then those of the past, which have not
    seen their behaviour.
    """
    config = corpus.config
    seed = seed_for(config.seed, "factors")
    fold = Fold.LABEL if requests is None and corpus.rows == "cold" else Fold.TEST
    path = desk.run("models before the test", lambda _: RankingPath(fit_models(corpus, fold, seed).with_ranker(ranker)))
    if requests is None:
        rng = np.random.default_rng(seed_for(config.seed, "test requests"))
        requests = list(requests_of(corpus, Fold.TEST, config.evaluation.max_requests, rng))
    with threadpool_limits(limits=1):
        evaluation = desk.run(
            "evaluation",
            lambda advance: evaluate(
                path,
                requests,
                config.evaluation,
                seed_for(config.seed, "evaluation"),
                advance,
                as_lists=corpus.rows == "impressions",
            ),
        )
    return path, evaluation
