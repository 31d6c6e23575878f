"""What texts alone achieve: systems that stand beside the whole in the suites' reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.suites import Trial
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.evaluation.metrics import PerRequestMetrics
from recsys.models.content_map import ContentMap
from recsys.models.factors import ItemFactors
from recsys.retrieval.asked import history_profile
from recsys.schema import Col
from recsys.splits import Fold
from training.collaborative import fit_factors
from training.desk import Desk, seed_for
from training.evaluation import Measured, measure_scores
from training.fitting import Corpus, known_to, requests_of
from training.requests import LabelledRequest
from training.text import run_text_stage
from training.text_baseline import fit_text_baseline
from training.work import WorkFolder, stage_key

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

TF_IDF: Final = "tf-idf"
TUNED_TEXT: Final = "text alone, fine-tuned"
FROZEN_TEXT: Final = "text alone, frozen"
# The same fine-tuned embedding and the letters of the text side by side, for what the encoder has forgotten.
TUNED_WITH_TF_IDF: Final = "text alone, fine-tuned with tf-idf"
TUNED_FIELDS: Final = "all text fields, fine-tuned"
FROZEN_FIELDS: Final = "all text fields, frozen"
# What the protocol calls the text of an item: title, genres and plot. MovieLens writes the year into the title, from
# where the reader takes it into a field. A preset may name more fields to the encoder, people and rating class.
_ONE_TEXT: Final = (Col.TITLE, "year", Col.CATEGORIES, Col.DESCRIPTION)
# Tokens of it that the encoder reads: title, year, genres and how the plot begins. More of the plot is worse, on films
# whose behaviour was hidden: docs/results.md has the figures. TF-IDF reads all of it.
ONE_TEXT_TOKENS: Final = 24
# Penalties tried on items hidden from the training; the best one is used for the test.
PENALTIES: Final = (30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
_N_VALID: Final = 500


@dataclass(frozen=True)
class Embedded:
    """A catalogue's texts as embeddings `(n_items, d)`: for the first part of a trial, and for its test."""

    part: Float32
    test: Float32

    @staticmethod
    def of(trial: Trial) -> "Embedded":
        """Return the embeddings that a trial works with."""
        return Embedded(trial.parts[0].item_embeddings, _asked(trial).item_embeddings)

    def beside(self, other: "Embedded") -> "Embedded":
        """Return both embeddings of each item side by side."""
        return Embedded(np.hstack([self.part, other.part]), np.hstack([self.test, other.test]))


def tf_idf(trial: Trial, texts: Sequence[str]) -> Embedded:
    """Return the embeddings of a text model without any neural network."""
    rng = np.random.default_rng(seed_for(trial.parts[0].config.seed, "tf-idf"))
    vectors = fit_text_baseline(texts, rng=rng).encode(texts)
    return Embedded(vectors, vectors)


def one_text(dataset: Dataset, config: Config) -> EncodedData:
    """Return a data set of which items have title, year, categories and description as their text, and no more."""
    fields = [name for name in _ONE_TEXT if name in dataset.items.columns]
    return encode_dataset(dataset, config.with_overrides({"data.text_fields": fields}).data)


def encoded_texts(
    trial: Trial, data: EncodedData, desk: Desk, *, frozen: bool, n_tokens: int | None = None
) -> Embedded:
    """Return the embeddings of an encoder that reads the texts of `data`, the trial's own data with other texts.

    frozen: the encoder as it was found; else tuned for the part and for the test, each on what it may know.
    n_tokens: of a text that are read; None for as many as the trial reads.
    """

    def embeddings(corpus: Corpus, name: str) -> Float32:
        settings: dict[str, object] = {"encoder.max_length": n_tokens or corpus.config.encoder.max_length}
        config = corpus.config.with_overrides(settings | ({"encoder.tune": "none"} if frozen else {}))
        at = replace(desk, work=WorkFolder(desk.work.folder / name))
        key = stage_key(trial.key, name, list(data.catalogue.texts))
        return run_text_stage(data, corpus.split, config, at, key, hidden_idx=corpus.pseudo_cold_idx).embeddings

    if frozen:
        vectors = embeddings(_asked(trial), "frozen")
        return Embedded(vectors, vectors)
    return Embedded(embeddings(trial.parts[0], "tuned-part"), embeddings(_asked(trial), "tuned"))


def measure_profile(trial: Trial, vectors: Float32, measured: Measured) -> tuple[PerRequestMetrics, Int32]:
    """Return how the cosine to the latest items of the history does on the trial's requests."""
    corpus = _asked(trial)
    scores = (vectors @ history_profile(vectors, labelled.request.history) for labelled in trial.requests)
    return _measure(scores, trial.requests, corpus, measured)


def measure_regression(trial: Trial, embedded: Embedded, measured: Measured) -> tuple[PerRequestMetrics, Int32, float]:
    """Return how a ridge regression from texts alone onto ALS item factors does on items without behaviour.

    No attribute takes part. The penalty is chosen on the items that the trial's first part hides, and returned as well.
    """
    metric = f"ndcg@{2 * measured.lists['full'].shape[1]}"
    corpus = trial.parts[0]
    rng = np.random.default_rng(seed_for(corpus.config.seed, "text alone"))
    requests = list(requests_of(corpus, Fold.VALID, _N_VALID, rng))
    factors = _factors(corpus, Fold.LABEL, embedded.part)
    tried = {}
    for penalty in PENALTIES:
        scores = _regression_scores(corpus, Fold.LABEL, embedded.part, factors, penalty, requests)
        result, _ = _measure(scores, requests, corpus, measured)
        tried[penalty] = float(result.arrays()[metric].mean())
    best = max(tried, key=lambda penalty: tried[penalty])
    corpus = _asked(trial)
    factors = _factors(corpus, Fold.TEST, embedded.test)
    scores = _regression_scores(corpus, Fold.TEST, embedded.test, factors, best, trial.requests)
    return *_measure(scores, trial.requests, corpus, measured), best


def _asked(trial: Trial) -> Corpus:
    """Return what is fitted on when the trial's requests are answered."""
    return trial.parts[0] if trial.test is None else trial.test


def _factors(corpus: Corpus, fold: Fold, vectors: Float32) -> ItemFactors:
    """Return ALS factors; items of too little behaviour to have their own are placed by the same texts."""
    log = corpus.data.log.select(known_to(corpus, fold))
    seed = seed_for(corpus.config.seed, "factors")
    return fit_factors(log, corpus.data.catalogue.without_attributes(), vectors, corpus.config, seed)


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
