"""Trains a trial and measures it; and the ablations, the same without one of its groups, measured beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from benchmarks.suites import Trial
from features.path import RankingPath
from recsys.config import Config
from recsys.models.ranker import Ranker
from recsys.splits import Fold
from training.desk import Desk, seed_for
from training.evaluation import Measured
from training.fits import Fits, uses_sequence
from training.fitting import Corpus
from training.system import measure_path, train_on_past
from training.work import WorkFolder, stage_key

# What is placed by text or attributes alone is placed among the factors of what people did, so these go with them.
_COLLABORATIVE: Final = ("als", "ease", "next_item", "covisitation", "cold")
_BY_FACTORS: Final = ("text_content_factor", "text_content_share_below")
_BY_COUNTS: Final = ("user_mean_popularity", "popularity_against_user")


@dataclass(frozen=True)
class Arm:
    """One ablation.

    settings: dotted settings in which it differs from the whole. keeps_models: whether it differs in candidates and
    features alone. keeps_candidates: whether it differs in features alone. has_encoder: whether its text stage is
    another one.
    """

    settings: Callable[[Config], dict[str, object]]
    keeps_models: bool = True
    keeps_candidates: bool = False
    has_encoder: bool = False


def _without(
    group: str, *sources: str, columns: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Config], dict[str, object]]:
    """Return the settings without a group, some sources, and some columns of other groups, by group."""

    def settings(config: Config) -> dict[str, object]:
        groups = [name for name in config.features.groups if name != group]
        also = [name for other, names in (columns or {}).items() if other in groups for name in names]
        return {
            "features.groups": groups,
            "features.without_columns": [*config.features.without_columns, *also],
            "retrieval.sources": [name for name in config.retrieval.sources if name not in sources],
        }

    return settings


WITHOUT_TEXT, WITHOUT_SEQUENCE = "without text", "without sequence"
ARMS: Final = {
    # Neither columns nor candidates from text, and no embedding behind the factors that content predicts.
    WITHOUT_TEXT: Arm(_without("text", "text"), keeps_models=False),
    "frozen text": Arm(lambda _: {"encoder.tune": "none"}, keeps_models=False, has_encoder=True),
    "without collaborative": Arm(_without("collaborative", *_COLLABORATIVE, columns={"text": _BY_FACTORS})),
    WITHOUT_SEQUENCE: Arm(_without("sequence", "sequence")),
    "without session": Arm(_without("session"), keeps_candidates=True),
    "without popularity": Arm(_without("popularity", "popular", columns={"user": _BY_COUNTS})),
    "without item": Arm(_without("item"), keeps_candidates=True),
    "without user": Arm(_without("user"), keeps_candidates=True),
}


@dataclass(frozen=True)
class TrialFits:
    """The fits of a trial's parts, and those that answer its test."""

    parts: list[Fits]
    test: Fits

    @staticmethod
    def of(trial: Trial, desk: Desk) -> "TrialFits":
        """Prepare the fits of a trial."""
        parts = [Fits(corpus, desk) for corpus in trial.parts]
        return TrialFits(parts, parts[0] if trial.test is None else Fits(trial.test, desk))

    def like(self, settings: Mapping[str, object], desk: Desk) -> "TrialFits":
        """Return the same fits under other settings of features and candidates."""
        parts = [Fits(_changed(one.corpus, settings), desk, like=one) for one in self.parts]
        if self.test is self.parts[0]:
            return TrialFits(parts, parts[0])
        return TrialFits(parts, Fits(_changed(self.test.corpus, settings), desk, like=self.test))


def measure_trial(trial: Trial, fits: TrialFits, desk: Desk, *, name: str = "", only_full: bool = False) -> Measured:
    """Train on a trial's parts and return how the system does on its requests."""
    fit = train_on_past(fits.parts, desk, stage_key(trial.key, name))
    return _measured(trial, fits, fit.ranker, desk, only_full=only_full)


def _measured(trial: Trial, fits: TrialFits, ranker: Ranker, desk: Desk, *, only_full: bool) -> Measured:
    corpus = fits.test.corpus
    path = RankingPath(fits.test.models(Fold.TEST).with_ranker(ranker))
    seed = seed_for(corpus.config.seed, "evaluation")
    return measure_path(path, trial.requests, corpus, desk, seed, only_full=only_full)


def measure_arm(
    name: str, trial: Trial, fits: TrialFits, desk: Desk, trial_of: Callable[[Config, Desk], Trial]
) -> Measured:
    """Train an arm and return its figures on the trial's requests, as the system `full`.

    trial_of: makes the trial of another configuration, text stage and all.
    """
    arm, whole = ARMS[name], fits.parts[0].corpus.config
    settings = arm.settings(whole)
    if arm.keeps_candidates:
        # The rows are those of the whole, less some columns.
        changed = fits.like(settings, desk)
        columns = RankingPath(changed.parts[0].models(Fold.LABEL)).feature_names
        fit = train_on_past(fits.parts, desk, stage_key(trial.key, ""), columns=columns)
        return _measured(trial, changed, fit.ranker, desk, only_full=True)
    desk = replace(desk, work=WorkFolder(desk.work.folder / name.replace(" ", "-")))
    if arm.keeps_models:
        return measure_trial(trial, fits.like(settings, desk), desk, name=name, only_full=True)
    if arm.has_encoder:
        trial = replace(trial_of(whole.with_overrides(settings), desk), requests=trial.requests)
    else:
        trial = replace(
            trial,
            parts=[_without_embeddings(_changed(corpus, settings)) for corpus in trial.parts],
            test=None if trial.test is None else _without_embeddings(_changed(trial.test, settings)),
        )
    return measure_trial(trial, TrialFits.of(trial, desk), desk, name=name, only_full=True)


def _changed(corpus: Corpus, settings: Mapping[str, object]) -> Corpus:
    """Return a corpus with some settings changed; the others stay its own, since parts and test may differ in them."""
    return replace(corpus, config=corpus.config.with_overrides(dict(settings)))


def _without_embeddings(corpus: Corpus) -> Corpus:
    return replace(corpus, item_embeddings=np.zeros_like(corpus.item_embeddings))


def arms_of(names: Sequence[str], config: Config) -> list[str]:
    """Return those of the named arms that differ from the whole under a configuration."""
    idle = set() if uses_sequence(config) else {WITHOUT_SEQUENCE}
    return [name for name in names if name not in idle and config.with_overrides(ARMS[name].settings(config)) != config]
