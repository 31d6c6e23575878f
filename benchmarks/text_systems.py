"""What texts alone achieve: systems that stand beside the whole in the suites' reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.suites import Trial
from recsys.evaluation.metrics import PerRequestMetrics
from recsys.models.content_map import ContentMap
from recsys.models.factors import ItemFactors
from recsys.retrieval.asked import history_profile
from recsys.splits import Fold
from training.collaborative import fit_factors
from training.desk import seed_for
from training.evaluation import Measured, measure_scores
from training.fitting import Corpus, known_to, requests_of
from training.requests import LabelledRequest
from training.text_baseline import fit_text_baseline

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

TF_IDF: Final = "tf-idf"
TUNED_TEXT: Final = "text alone, fine-tuned"
FROZEN_TEXT: Final = "text alone, frozen"
# Penalties tried on items hidden from the training; the best one is used for the test.
PENALTIES: Final = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
_N_VALID: Final = 500


@dataclass(frozen=True)
class Embedded:
    """A catalogue's texts as embeddings `(n_items, d)`: for each part of a trial, and for its test."""

    parts: Sequence[Float32]
    test: Float32

    @staticmethod
    def of(trial: Trial) -> "Embedded":
        """Return the embeddings that a trial works with."""
        test = trial.parts[0] if trial.test is None else trial.test
        return Embedded([part.item_embeddings for part in trial.parts], test.item_embeddings)


def tf_idf(trial: Trial) -> Embedded:
    """Return the embeddings of a text model without any neural network."""
    corpus = trial.parts[0]
    rng = np.random.default_rng(seed_for(corpus.config.seed, "tf-idf"))
    texts = corpus.data.catalogue.texts
    vectors = fit_text_baseline(texts, rng=rng).encode(texts)
    return Embedded([vectors] * len(trial.parts), vectors)


def measure_profile(trial: Trial, vectors: Float32, measured: Measured) -> tuple[PerRequestMetrics, Int32]:
    """Return how the cosine to the latest items of the history does on the trial's requests."""
    corpus = trial.parts[0] if trial.test is None else trial.test
    scores = (vectors @ history_profile(vectors, labelled.request.history) for labelled in trial.requests)
    return _measure(scores, trial.requests, corpus, measured)


def measure_regression(trial: Trial, embedded: Embedded, measured: Measured) -> tuple[PerRequestMetrics, Int32, float]:
    """Return how a ridge regression from texts alone onto ALS item factors does on items without behaviour.

    No attribute takes part. The penalty is chosen on the items that the trial's parts hide, and returned as well.
    """
    metric = f"ndcg@{2 * measured.lists['full'].shape[1]}"
    tried = dict.fromkeys(PENALTIES, 0.0)
    for corpus, vectors in zip(trial.parts, embedded.parts, strict=True):
        rng = np.random.default_rng(seed_for(corpus.config.seed, "text alone"))
        requests = list(requests_of(corpus, Fold.VALID, _N_VALID, rng))
        factors = _factors(corpus, Fold.LABEL)
        for penalty in PENALTIES:
            scores = _regression_scores(corpus, Fold.LABEL, vectors, factors, penalty, requests)
            result, _ = _measure(scores, requests, corpus, measured)
            tried[penalty] += float(result.arrays()[metric].mean()) / len(trial.parts)
    best = max(tried, key=lambda penalty: tried[penalty])
    corpus = trial.parts[0] if trial.test is None else trial.test
    factors = _factors(corpus, Fold.TEST)
    scores = _regression_scores(corpus, Fold.TEST, embedded.test, factors, best, trial.requests)
    return *_measure(scores, trial.requests, corpus, measured), best


def _factors(corpus: Corpus, fold: Fold) -> ItemFactors:
    log = corpus.data.log.select(known_to(corpus, fold))
    seed = seed_for(corpus.config.seed, "factors")
    return fit_factors(log, corpus.data.catalogue, corpus.item_embeddings, corpus.config, seed)


def _regression_scores(
    corpus: Corpus, fold: Fold, vectors: Float32, factors: ItemFactors, penalty: float, requests: list[LabelledRequest]
) -> list[Float32]:
    counts = corpus.data.log.select(known_to(corpus, fold)).item_counts()
    catalogue = corpus.data.catalogue.without_attributes()
    config = corpus.config.cold.model_copy(update={"regularization": penalty})
    placed = ContentMap.fit(catalogue, vectors, factors.own, counts, config).predict(catalogue, vectors)
    return [placed @ factors.fold_in(labelled.request.history) for labelled in requests]


def _measure(
    scores: Iterable[Float32], requests: Sequence[LabelledRequest], corpus: Corpus, measured: Measured
) -> tuple[PerRequestMetrics, Int32]:
    k = measured.lists["full"].shape[1]
    result, lists = PerRequestMetrics(), np.full((len(requests), k), -1, np.int32)
    for place, (labelled, found) in enumerate(zip(requests, scores, strict=True)):
        metrics, best = measure_scores(np.array(found, np.float32), labelled, k, as_lists=measured.orders_given)
        user = labelled.request.user_idx
        result.add(corpus.data.user_ids.id_of(user) if user >= 0 else "", metrics)
        lists[place, : len(best)] = best
    return result, lists
