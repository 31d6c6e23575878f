"""Searches settings of the candidate sources and of the ranker on the validation window; the test is never read.

The corpus of a search is cut before the test begins (`training.tune_cut`), so that no mask stands between a trial and
the test: there is nothing behind it.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import yaml

from recsys.config import Config
from recsys.datasets import load_dataset
from recsys.datasets.dataset import Dataset
from recsys.errors import ConfigError
from recsys.mlflow_store import shown_uri
from training.desk import Desk, seed_for
from training.fitting import Corpus, draw_pseudo_cold
from training.progress import Reporter
from training.signals import apply_signals, fit_text
from training.tracking import TrainingRun
from training.tune_cut import PastData, check_no_test, without_test
from training.tune_ranker import RankerTrials
from training.tune_runs import TrialRuns
from training.tune_sources import SourceTrials
from training.tune_study import Question, Study, StudyResult, TrialLog
from training.work import WorkFolder, stage_key

Search = Literal["ranker", "sources", "all"]

BEST_FILE: Final = "best.yaml"


@dataclass(frozen=True)
class Budget:
    """How much is tried. n_trials: per question, over all sessions. deadline: `time.monotonic()`."""

    n_trials: int
    deadline: float = float("inf")

    @staticmethod
    def of(n_trials: int, timeout_minutes: float | None) -> "Budget":
        """Return a budget that begins now; None is no limit of time."""
        if n_trials < 1:
            raise ConfigError(f"{n_trials} trials are none; try at least one, better 30")
        if timeout_minutes is None:
            return Budget(n_trials)
        if not timeout_minutes > 0:
            raise ConfigError(f"a timeout of {timeout_minutes} minutes leaves no time; give more, or none")
        return Budget(n_trials, time.monotonic() + 60.0 * timeout_minutes)


@dataclass(frozen=True)
class TuneResult:
    """What a search left behind: the best configuration, what each question found, and the run that tells of it."""

    config: Config
    studies: tuple[StudyResult, ...]
    out: Path
    work: Path
    run_id: str
    tracking_uri: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; a password in the tracking URI is left out."""
        return {
            "out": str(self.out),
            "run_id": self.run_id,
            "tracking_uri": shown_uri(self.tracking_uri),
            "seconds": round(self.seconds, 1),
            "studies": [study.to_dict() for study in self.studies],
        }


def checked_search(name: str) -> Search:
    """Return the name of a search.

    Raises:
        ConfigError: there is no such search.
    """
    for search in get_args(Search):
        if name == search:
            return search
    raise ConfigError(f"no search {name!r}; there are {', '.join(get_args(Search))}")


def tune_folder(
    folder: Path | str,
    config: Config,
    budget: Budget,
    *,
    search: Search = "all",
    out: Path = Path(BEST_FILE),
    data_format: str = "auto",
    runs_folder: Path = Path("runs"),
    reporter: Reporter | None = None,
) -> TuneResult:
    """Search settings for a data folder; see `tune`.

    Raises:
        DataError: the data has faults; nothing was written.
    """
    reporter = reporter or Reporter()
    with reporter.stage("data"):
        dataset = load_dataset(folder, data_format, config.data)
    return tune(dataset, config, budget, search=search, out=out, runs_folder=runs_folder, reporter=reporter)


def tune(
    dataset: Dataset,
    config: Config,
    budget: Budget,
    *,
    search: Search = "all",
    out: Path = Path(BEST_FILE),
    runs_folder: Path = Path("runs"),
    reporter: Reporter | None = None,
) -> TuneResult:
    """Search settings, log every trial, and write the best configuration.

    The trials are kept in `runs_folder`: an interrupted search goes on after its last finished trial, and a finished
    one can be asked for more.

    Args:
        dataset: the data; what lies in its test fold is dropped before anything is fitted.
        config: where the search begins; its own values are the first trial of every question.
        budget: trials and time.
        search: what is searched: the `ranker`, the `sources`, or `all`, the sources first.
        out: file that the best configuration is written to.
        runs_folder: where trials and rows are kept.
        reporter: shows progress.

    Raises:
        ConfigError: the file cannot be written.
        DataError: the validation window has too few labelled requests.
        RegistryError: MLflow's store cannot be reached.
    """
    _check_writable(out)
    began, reporter = time.monotonic(), reporter or Reporter()
    reporter.say(repr(dataset))
    past = without_test(dataset, config)
    key = past.fingerprint()
    whole_key = stage_key(key, config.model_dump(mode="json", exclude={"tracking"}))
    work = WorkFolder(runs_folder / f"tune-{dataset.name}-{whole_key[:12]}")
    tags = {"data.format": dataset.format, "tune.search": search, "mlflow.source.name": "recsys tune"}
    with TrainingRun(config, run_name=f"tune {dataset.name}", tags=tags) as run:
        counts = {"users": past.dataset.n_users, "items": past.dataset.items.height}
        run.log_dataset(dataset.name, key, counts | {"interactions": past.dataset.interactions.height})
        desk = Desk(work, reporter, run)
        corpus = _corpus(past, config, desk, key)
        studies = tuple(search_settings(corpus, budget, desk, key, TrialRuns(run), search=search))
        # What the signals filled in is for each training to find anew.
        best = studies[-1].config.model_copy(update={"data": config.data})
        run.log_metrics(
            {f"tune/{study.name}/{end}": getattr(study, end) for study in studies for end in ("base", "best")}
        )
        run.log_text(config_text(best, studies, password=False), BEST_FILE)
        _write(out, config_text(best, studies, password=True))
    return TuneResult(best, studies, out, work.folder, run.run_id, run.uri, time.monotonic() - began)


def _corpus(past: PastData, config: Config, desk: Desk, key: str) -> Corpus:
    """Return the data of a search with its encoder and its weights, made as a training makes them."""
    data, split = past.data, past.split
    pseudo_cold = draw_pseudo_cold(data, split, config, np.random.default_rng(seed_for(config.seed, "pseudo-cold")))
    text = fit_text(past.dataset, data, split, config, desk, key, hidden_idx=pseudo_cold)
    signals = apply_signals(past.dataset, data, split, text, config, desk, key)
    return Corpus(signals.data, signals.split, signals.config, text.embeddings, text.encoder, pseudo_cold)


def search_settings(
    corpus: Corpus, budget: Budget, desk: Desk, key: str, log: TrialLog, *, search: Search
) -> Iterator[StudyResult]:
    """Yield what each question found, one after the other; each begins with the best configuration of the one before.

    corpus: data without a test, see `without_test`. key: hash of the data.

    Raises:
        LeakageError: the corpus holds something of the test.
    """
    check_no_test(corpus.data, corpus.split)
    config = corpus.config
    if search in ("sources", "all"):
        sources = SourceTrials(corpus, desk)
        for name in sources.names():
            result = _answer(sources.question(name, config), config, budget, desk, log)
            config = result.config
            yield result
    if search in ("ranker", "all"):
        trials = RankerTrials(replace(corpus, config=config), desk, key)
        yield _answer(trials.question(), config, budget, desk, log)


def _answer(question: Question, base: Config, budget: Budget, desk: Desk, log: TrialLog) -> StudyResult:
    study = Study(question, base, desk.work.folder, log)
    return desk.run(f"search {question.name}", lambda advance: study.run(budget.n_trials, budget.deadline, advance))


def config_text(config: Config, studies: tuple[StudyResult, ...], *, password: bool) -> str:
    """Return a configuration as YAML that `recsys train --config` reads, under a comment on where it comes from.

    password: keep one that stands in `tracking.uri`.
    """
    lines = ["# Written by recsys tune: the best settings that it found, the others as they were."]
    for study in studies:
        gap = study.difference
        bounds = "" if np.isnan(gap.lo) else f" [{gap.lo:+.4f}, {gap.hi:+.4f}]"
        lines.append(
            f"# {study.name}: {study.metric} {study.base:.4f} -> {study.best:.4f} on {study.n_requests} validation "
            f"requests, {study.n_trials} trials, difference {gap.mean:+.4f}{bounds}"
        )
    values: Mapping[str, Any] = config.model_dump(mode="json")
    if not password and values["tracking"]["uri"]:
        values["tracking"]["uri"] = shown_uri(values["tracking"]["uri"])
    return "\n".join(lines) + "\n\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _check_writable(out: Path) -> None:
    """Refuse a file that cannot be written before hours have gone into its content."""
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name the file that the best configuration goes to, such as {BEST_FILE}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} to; make it, or choose another --out")


def _write(out: Path, text: str) -> None:
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}; choose another --out") from error
