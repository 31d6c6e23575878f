"""The models of one corpus along the folds, each fitted when it is first asked for."""

from dataclasses import replace
from typing import Any, Final

import numpy.typing as npt

from recsys.config import Config
from recsys.models.fitted import FittedModels
from recsys.splits import Fold
from training.desk import Desk, seed_for
from training.fitting import Corpus, fit_models, known_to
from training.progress import how_it_ended
from training.sequence import SequenceFit, fit_sequence
from training.work import content_hash, stage_key

_NAMES: Final[dict[Fold | None, str]] = {
    Fold.LABEL: "models of the past",
    Fold.TEST: "models before the test",
    None: "models of everything",
}
_BEFORE: Final[dict[Fold | None, Fold]] = {Fold.TEST: Fold.LABEL, None: Fold.TEST}


class Fits:
    """Fits everything but the ranker on what is known at a fold.

    The sequence model is fitted once, on the past, and brought up to date for later folds from there; all else is
    fitted anew. The same corpus and seed give the same models, whichever of them was asked for before.
    """

    def __init__(self, corpus: Corpus, desk: Desk, *, like: "Fits | None" = None) -> None:
        """Prepare the fits of a corpus.

        like: fits of the same corpus under a configuration that differs in features, retrieval and ranker alone, whose
        models are taken over.
        """
        self.corpus = corpus
        self._desk = desk
        self._like = like
        self._sequences: dict[Fold | None, SequenceFit] = {}
        self._models: dict[Fold | None, FittedModels] = {}

    def models(self, fold: Fold | None) -> FittedModels:
        """Return the models fitted on what is known before rows of `fold` are made (None: on all data)."""
        if fold not in self._models:
            self._models[fold] = self._fitted(fold)
        return self._models[fold]

    @property
    def sequence_reports(self) -> dict[str, dict[str, Any]]:
        """What the fits of the sequence model so far say of themselves, by the models that they are part of."""
        if self._like is not None:
            return self._like.sequence_reports
        return {_NAMES.get(fold, "models"): fit.report() for fold, fit in self._sequences.items()}

    @property
    def sequence_curve(self) -> list[dict[str, float]]:
        """The sequence model's learning curve on the past, a `step` per epoch; empty where it was not fitted."""
        if self._like is not None:
            return self._like.sequence_curve
        fit = self._sequences.get(Fold.LABEL)
        curve = [] if fit is None else fit.curve
        return [{"step" if name == "epoch" else name: value for name, value in point.items()} for point in curve]

    def _fitted(self, fold: Fold | None) -> FittedModels:
        config = self.corpus.config
        if self._like is not None:
            return replace(self._like.models(fold), config=config)
        sequence = self._sequence(fold).export() if uses_sequence(config) else None
        seed = seed_for(config.seed, "factors")
        name = _NAMES.get(fold, "models")
        return self._desk.run(name, lambda _: fit_models(self.corpus, fold, seed, sequence=sequence))

    def _sequence(self, fold: Fold | None) -> SequenceFit:
        if fold not in self._sequences:
            self._sequences[fold] = self._kept_sequence(fold)
        return self._sequences[fold]

    def _kept_sequence(self, fold: Fold | None) -> SequenceFit:
        """Return the sequence model of a fold, kept from before where the work folder has it for the same inputs."""
        corpus, work, say = self.corpus, self._desk.work, self._desk.reporter.say
        config, embeddings = corpus.config.sequence, corpus.item_embeddings
        start = self._sequence(_BEFORE[fold]) if fold in _BEFORE else None
        log = corpus.data.log.select(known_to(corpus, fold) & (corpus.data.log.weight > 0))
        name = "sequence model" if start is None else "sequence model, brought up to date"
        inputs: list[npt.NDArray[Any]] = [log.user_idx, log.item_idx, log.timestamp_us, log.weight, embeddings]
        if start is not None:
            inputs += [start.state[key].numpy() for key in sorted(start.state)]
        key = stage_key(config.model_dump(mode="json"), corpus.config.seed, name, log.n_users, content_hash(*inputs))
        # Named by its key: trainings that share a work folder, such as ablations, fit it on different inputs.
        stage = f"sequence-{key[:16]}"
        if work.is_finished(stage, key):
            say(f"  {name}: kept from before")
            return SequenceFit.load(work.folder / stage, config, embeddings)
        with work.writing(stage, key) as folder:
            fit = self._desk.run(
                name,
                lambda advance: fit_sequence(
                    log,
                    embeddings,
                    config,
                    seed_for(corpus.config.seed, "sequence"),
                    start=start,
                    on_progress=lambda step, total, loss: advance(step, total, f"loss {loss:.3f}"),
                ),
            )
            fit.save(folder)
        say(how_it_ended(name, fit.stopped_because, "sequence.max_train_seconds", time_was_short=fit.time_was_short))
        return fit


def uses_sequence(config: Config) -> bool:
    """Return whether anything reads the sequence model's scores."""
    wanted = "sequence" in config.features.groups or "sequence" in config.retrieval.sources
    return wanted and config.sequence.epochs > 0
