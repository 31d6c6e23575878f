"""One search over some settings: trials that a sampler proposes, each kept in a database and told to MLflow."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from recsys.config import Config
from recsys.errors import DataError
from recsys.evaluation.intervals import Interval, paired_difference
from training.desk import seed_for
from training.progress import Advance
from training.work import stage_key

Float64 = npt.NDArray[np.float64]

TRIALS_PER_SETTING: Final = 10
_N_STARTUP: Final = 8  # trials before the sampler learns from what it has seen
_BASE: Final = "base"


@dataclass(frozen=True)
class Setting:
    """One setting to search: whole numbers or floats from `low` to `high`, on a log scale or not, or one of `choices`.

    key: dotted, such as `ranker.num_leaves`.
    """

    key: str
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    choices: tuple[str, ...] = ()

    def around(self, value: Any) -> "Setting":
        """Return the setting with its bounds widened to hold a value, where its scale can."""
        if self.choices or (self.is_log and value <= 0):
            return self
        return Setting(self.key, min(self.low, value), max(self.high, value), self.is_log)

    def suggest(self, trial: optuna.Trial) -> Any:
        """Return the trial's value."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.is_log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.is_log)

    def nearest(self, value: Any) -> Any:
        """Return the value itself where it is allowed, else the nearest bound."""
        return value if self.choices else min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Score:
    """What a trial reached: float64 `(n_requests,)`, one value per request, and further figures to log."""

    values: Float64
    figures: Mapping[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


@dataclass(frozen=True)
class Question:
    """What a search is about.

    metric: name of what is searched to be high. evaluate: returns the score of a configuration; the requests are the
    same for every trial. user_idx: whose requests they are, int `(n_requests,)`; resampled together.
    """

    name: str
    metric: str
    settings: tuple[Setting, ...]
    evaluate: Callable[[Config], Score]
    user_idx: Callable[[], npt.NDArray[np.integer]]

    def within(self, config: Config) -> "Question":
        """Return the question with the values of a configuration inside its bounds."""
        settings = tuple(setting.around(value_of(config, setting.key)) for setting in self.settings)
        return Question(self.name, self.metric, settings, self.evaluate, self.user_idx)


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    config: the configuration with the best settings, which are those it began with where no trial was better.
    difference: best minus base over the same requests, paired. The best of many trials looks better than it is.
    """

    name: str
    metric: str
    base: float
    best: float
    difference: Interval
    settings: dict[str, Any]
    n_trials: int
    n_requests: int
    config: Config

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, the configuration left out."""
        values = {key: value for key, value in vars(self).items() if key not in {"config", "difference"}}
        gap = {"mean": self.difference.mean, "lo": self.difference.lo, "hi": self.difference.hi}
        finite = {key: None if np.isnan(value) else value for key, value in gap.items()}
        return values | {"difference": finite | {"excludes_zero": self.difference.excludes_zero}}


class TrialLog(Protocol):
    """Where trials are told; the returned id finds them again."""

    def log_trial(self, study: str, number: int, settings: Mapping[str, Any], figures: Mapping[str, float]) -> str: ...

    def adopt(self, run_id: str) -> bool:
        """Take over a trial that an interrupted search told; False where it is not there."""
        ...


class Study:
    """The trials of one question, as far as they are done; the same folder, question and base go on where it was.

    What is tried depends on the seed and on the trials before, not on where the search was interrupted.
    """

    def __init__(self, question: Question, base: Config, folder: Path, log: TrialLog) -> None:
        self._question = question.within(base)
        self._base = base
        self._log = log
        # What the values depend on is all in the base; the folder stands for the data.
        key = stage_key(question.name, question.metric, base.model_dump(mode="json", exclude={"tracking"}))
        self._values = folder / "values" / f"{question.name}-{key[:12]}"
        self._values.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=f"sqlite:///{folder / 'trials.db'}",
            study_name=f"{question.name}-{key}",
            direction="maximize",
            load_if_exists=True,
        )
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)  # what was killed in the middle

    def run(self, n_trials: int, deadline: float, advance: Advance) -> StudyResult:
        """Return the result after `n_trials` trials over all sessions, at most ten per setting.

        deadline: `time.monotonic()` after which no trial is begun; the base is measured in any case.
        """
        n_trials = min(n_trials, TRIALS_PER_SETTING * len(self._question.settings))
        for trial in self._done():
            self._tell_log(trial)
        while len(done := self._done()) < max(n_trials, 1) and (not done or time.monotonic() < deadline):
            self._run_one(done)
            advance(len(done) + 1, n_trials, f"best {self._best().value:.4f}")
        return self._result()

    def _run_one(self, done: Sequence[FrozenTrial]) -> None:
        study, question = self._study, self._question
        seed = seed_for(self._base.seed, f"tune {question.name} {len(done)}")
        study.sampler = TPESampler(seed=int(seed.generate_state(1)[0]), n_startup_trials=_N_STARTUP)
        is_base = not done
        if is_base and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            values = {setting.key: setting.nearest(value) for setting, value in self._base_values()}
            study.enqueue_trial(values, user_attrs={_BASE: True})
        trial = study.ask()
        began = time.monotonic()
        try:
            suggested = {setting.key: setting.suggest(trial) for setting in question.settings}
            config = self._base if is_base else self._base.with_overrides(suggested)
            score = question.evaluate(config)
            if not np.isfinite(score.values).all() or not len(score.values):
                raise DataError(
                    f"{question.metric} is not defined for {int((~np.isfinite(score.values)).sum())} of "
                    f"{len(score.values)} validation requests; each needs something relevant and something else"
                )
        except BaseException:
            study.tell(trial, state=TrialState.FAIL)
            raise
        np.save(self._values / f"{trial.number}.npy", score.values, allow_pickle=False)
        trial.set_user_attr("figures", dict(score.figures) | {"seconds": time.monotonic() - began})
        self._tell_log(study.tell(trial, score.mean))

    def _done(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _best(self) -> FrozenTrial:
        """Return the trial with the highest value, of equals the first."""
        return min(self._done(), key=lambda trial: (-float(trial.value or 0.0), trial.number))

    def _base_values(self) -> list[tuple[Setting, Any]]:
        return [(setting, value_of(self._base, setting.key)) for setting in self._question.settings]

    def _settings_of(self, trial: FrozenTrial) -> dict[str, Any]:
        if trial.user_attrs.get(_BASE):
            return {setting.key: value for setting, value in self._base_values()}
        return dict(trial.params)

    def _tell_log(self, trial: FrozenTrial) -> None:
        """Tell a finished trial once, also one that an interrupted search finished."""
        told = self._study.user_attrs.get(f"run {trial.number}")
        if told is not None and self._log.adopt(told):
            return
        number = sum(other.number < trial.number for other in self._done())
        figures = {self._question.metric: float(trial.value or 0.0)} | trial.user_attrs["figures"]
        run_id = self._log.log_trial(self._question.name, number, self._settings_of(trial), figures)
        self._study.set_user_attr(f"run {trial.number}", run_id)

    def _result(self) -> StudyResult:
        done, best = self._done(), self._best()
        first, chosen = (np.load(self._values / f"{trial.number}.npy", allow_pickle=False) for trial in (done[0], best))
        settings = self._settings_of(best)
        difference = paired_difference(
            chosen,
            first,
            clusters=self._question.user_idx(),
            n_bootstrap=self._base.evaluation.n_bootstrap,
            rng=np.random.default_rng(seed_for(self._base.seed, "tune intervals")),
        )
        return StudyResult(
            name=self._question.name,
            metric=self._question.metric,
            base=float(done[0].value or 0.0),
            best=float(best.value or 0.0),
            difference=difference,
            settings=settings,
            n_trials=len(done),
            n_requests=len(chosen),
            config=self._base if best is done[0] else self._base.with_overrides(settings),
        )


def value_of(config: Config, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
