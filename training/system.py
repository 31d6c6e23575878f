"""Trains the ranker over everything else, out of fold, and measures the whole on the test fold."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from features.path import RankingPath
from recsys.models.ranker import Ranker
from recsys.splits import Fold
from training.desk import Desk, seed_for
from training.evaluation import Evaluation, Measured, measure_systems
from training.fits import Fits
from training.fitting import Corpus, requests_of
from training.no_rows import why_no_rows
from training.ranker import RankerFit, RankerRows, build_rows, train_ranker
from training.requests import LabelledRequest
from training.work import stage_key

# The ranker's settings that its rows depend on; the others only change how it is trained on them.
_ROW_SETTINGS: Final = {"rows", "max_requests", "negatives_per_request", "pseudo_cold_share", "graded"}


def train_on_past(parts: Sequence[Fits], desk: Desk, key: str, *, columns: Sequence[str] | None = None) -> RankerFit:
    """Return a ranker whose training rows come from models that have not seen their labels.

    Args:
        parts: fits of one corpus, or of several that divide the same data in different ways; the rows of all are
            learned from together, `ranker.max_requests` shared among them.
        desk: where the rows are kept, and used again while all they are computed with is the same.
        key: hash of the data and of what else is particular to the caller.
        columns: the features to learn from; all of them by default.
    """
    config = parts[0].corpus.config
    made = [_rows_of_part(part, number, len(parts), desk, key) for number, part in enumerate(parts)]
    train, valid = [rows[0] for rows in made], [rows[1] for rows in made]
    if parts[0].corpus.rows == "cold" and len(parts) > 1:
        # Users divide the rows of a part, but it is items that differ at the test: the last part's stop the training.
        train, valid = train[:-1], valid[-1:]
    to_train, to_stop = RankerRows.join(train), RankerRows.join(valid)
    if columns is not None:
        to_train, to_stop = to_train.only(columns), to_stop.only(columns)
    seed = seed_for(config.seed, "ranker")
    return desk.run("ranker", lambda advance: train_ranker(to_train, to_stop, config.ranker, seed, advance))


def _rows_of_part(part: Fits, number: int, n_parts: int, desk: Desk, key: str) -> tuple[RankerRows, RankerRows]:
    """Return the rows to train and to validate on of one way to divide the data."""
    corpus, config = part.corpus, part.corpus.config
    sections = config.model_dump(mode="json", exclude={"tracking", "evaluation", "encoder", "ranker"})
    row_settings = config.ranker.model_dump(include=_ROW_SETTINGS)
    fingerprint = corpus.encoder.fingerprint if corpus.encoder is not None else None
    key = stage_key(key, sections, row_settings, config.evaluation.max_requests, fingerprint, number, n_parts)
    stage = "rows" if n_parts == 1 else f"rows-{number + 1}"
    if desk.work.is_finished(stage, key):
        desk.reporter.say(f"  {stage}: kept from before")
    else:
        path = RankingPath(part.models(Fold.LABEL))
        with desk.work.writing(stage, key) as folder:
            for fold, name, n in (
                (Fold.LABEL, "train", config.ranker.max_requests),
                (Fold.VALID, "validate", config.evaluation.max_requests),
            ):
                _build(path, part, fold, name, max(1, n // n_parts), desk).save(folder / f"{name}.npz")
    folder = desk.work.folder / stage
    return RankerRows.load(folder / "train.npz"), RankerRows.load(folder / "validate.npz")


def _build(path: RankingPath, part: Fits, fold: Fold, name: str, n: int, desk: Desk) -> RankerRows:
    rng = np.random.default_rng(seed_for(part.corpus.config.seed, f"rows to {name}"))
    requests = requests_of(part.corpus, fold, n, rng, newest=True)
    config = part.corpus.config.ranker
    # Requests are many and small: threads for their linear algebra cost more than they bring.
    with threadpool_limits(limits=1):
        return desk.run(
            f"rows to {name}",
            lambda advance: build_rows(
                path, requests, config, rng, lambda i: advance(i, n), why_none=partial(why_no_rows, part.corpus, fold)
            ),
        )


def measure(
    part: Fits, ranker: Ranker, desk: Desk, *, requests: Sequence[LabelledRequest] | None = None
) -> tuple[RankingPath, Evaluation]:
    """Return the path with models refitted on all that is known before the test, and how it did there.

    requests: what to measure on; by default those of `test_requests`. Where the ranker orders hidden items these are
    about `Corpus.test_cold_idx`, whose behaviour the models have not seen and the ranker has not learned from.
    """
    corpus, config = part.corpus, part.corpus.config
    path = RankingPath(part.models(Fold.TEST).with_ranker(ranker))
    if requests is None:
        requests = test_requests(corpus)
    measure_seed, summary_seed = seed_for(config.seed, "evaluation").spawn(2)
    measured = measure_path(path, requests, corpus, desk, measure_seed)
    return path, measured.summarised(config.evaluation, summary_seed)


def test_requests(corpus: Corpus) -> list[LabelledRequest]:
    """Return at most `evaluation.max_requests` requests of the test fold."""
    rng = np.random.default_rng(seed_for(corpus.config.seed, "test requests"))
    return list(requests_of(corpus, Fold.TEST, corpus.config.evaluation.max_requests, rng))


def measure_path(
    path: RankingPath,
    requests: Sequence[LabelledRequest],
    corpus: Corpus,
    desk: Desk,
    seed: np.random.SeedSequence,
    *,
    only_full: bool = False,
) -> Measured:
    """Return how a path does on requests, see `training.evaluation.measure_systems`."""
    as_lists = corpus.rows == "impressions"
    with threadpool_limits(limits=1):
        return desk.run(
            "evaluation",
            lambda advance: measure_systems(
                path, requests, corpus.config.evaluation, seed, advance, as_lists=as_lists, only_full=only_full
            ),
        )
