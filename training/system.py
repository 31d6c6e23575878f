"""Trains the ranker over everything else, out of fold, and measures the whole on the test fold."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

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

    key: hash of the data, the configuration and the embeddings; rows made under the same key are used again.
    """
    config = corpus.config
    past: list[RankingPath] = []

    def path() -> RankingPath:
        if not past:
            seed = seed_for(config.seed, "factors")
            past.append(desk.run("models of the past", lambda _: RankingPath(fit_models(corpus, Fold.LABEL, seed))))
        return past[0]

    train = _rows(corpus, Fold.LABEL, config.ranker.max_requests, path, desk, key)
    valid = _rows(corpus, Fold.VALID, config.evaluation.max_requests, path, desk, key)
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

    requests: what to measure on; by default at most `evaluation.max_requests` requests of the test fold.
    """
    config = corpus.config
    seed = seed_for(config.seed, "factors")
    path = desk.run(
        "models before the test", lambda _: RankingPath(fit_models(corpus, Fold.TEST, seed).with_ranker(ranker))
    )
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
