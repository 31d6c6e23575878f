"""Measures a fitted system, and each of its parts alone, on the same labelled requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from features.path import RankingPath
from recsys.config import EvaluationConfig
from recsys.evaluation.beyond import ItemFacts, compare_lists, joined
from recsys.evaluation.intervals import Interval
from recsys.evaluation.metrics import (
    PerRequestMetrics,
    graded_ndcg,
    list_metrics,
    pessimistic_ranks,
    ranking_metrics,
)
from recsys.evaluation.report import compare_systems
from recsys.evaluation.slices import slice_masks, summarise
from recsys.histories import Request
from recsys.retrieval.diversify import category_matrix
from recsys.retrieval.index import top_n
from recsys.schema import Warmth
from training.requests import LabelledRequest
from training.side_by_side import in_blocks

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Table = dict[str, dict[str, Interval]]

FULL: Final = "full"
RANDOM: Final = "random"


@dataclass(frozen=True)
class Evaluation:
    """What was measured, system by system.

    differences: full minus another system, paired. slices: system → slice → metric. lists: system → int32
    `(n_requests, k)` best items, -1 as padding; None where the requests only order given items.
    """

    systems: Table
    differences: Table
    slices: dict[str, Table]
    lists: dict[str, Int32] | None
    n_requests: int


@dataclass(frozen=True)
class Measured:
    """Systems on the same requests, before anything is averaged.

    results: per system, one row per request. lists: system → int32 `(n_requests, k)`. histories: item rows per
    request. items: what lists are judged by, and for how many requests. masks: slice → bool `(n_requests,)`.
    orders_given: whether the requests only order given items.
    """

    results: dict[str, PerRequestMetrics]
    lists: dict[str, Int32]
    histories: list[Int32]
    items: list[tuple[int, ItemFacts]]
    masks: dict[str, npt.NDArray[np.bool_]]
    orders_given: bool

    def beside(self, name: str, metrics: PerRequestMetrics, lists: Int32) -> "Measured":
        """Return the same with one more system, measured on the same requests in the same order."""
        return replace(self, results=self.results | {name: metrics}, lists=self.lists | {name: lists})

    def only(self, names: Sequence[str]) -> "Measured":
        """Return some of the systems."""
        kept = {name: self.results[name] for name in names}
        return replace(self, results=kept, lists={name: self.lists[name] for name in names})

    @staticmethod
    def join(parts: Sequence["Measured"]) -> "Measured":
        """Return the requests of all parts one after the other, for the systems that every part has."""
        names = [name for name in parts[0].results if all(name in part.results for part in parts)]
        return replace(
            parts[0],
            results={name: PerRequestMetrics.join([part.results[name] for part in parts]) for name in names},
            lists={name: np.concatenate([part.lists[name] for part in parts]) for name in names},
            histories=[history for part in parts for history in part.histories],
            items=[facts for part in parts for facts in part.items],
            masks={name: np.concatenate([part.masks[name] for part in parts]) for name in parts[0].masks},
        )

    def summarised(self, config: EvaluationConfig, seed: np.random.SeedSequence) -> Evaluation:
        """Return means with intervals over users, paired differences to the full system, and slices."""
        bootstrap_seed, lists_seed = seed.spawn(2)
        bootstrap = np.random.default_rng(bootstrap_seed)
        systems, differences = compare_systems(self.results, n_bootstrap=config.n_bootstrap, rng=bootstrap)
        beyond = compare_lists(
            self.lists,
            self.histories,
            self.items,
            clusters=self.results[FULL].clusters(),
            n_bootstrap=config.n_bootstrap,
            rng=np.random.default_rng(lists_seed),
        )
        slices = {
            name: summarise(
                result.arrays(), self.masks, clusters=result.clusters(), n_bootstrap=config.n_bootstrap, rng=bootstrap
            )
            for name, result in self.results.items()
        }
        return Evaluation(
            joined(systems, beyond[0]),
            joined(differences, beyond[1]),
            slices,
            None if self.orders_given else self.lists,
            len(self.histories),
        )


def measure_systems(
    path: RankingPath,
    requests: Sequence[LabelledRequest],
    config: EvaluationConfig,
    seed: np.random.SeedSequence,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    as_lists: bool,
    only_full: bool = False,
) -> Measured:
    """Return the metrics of the full system and, unless `only_full`, of every source alone and of random order.

    as_lists: measure the order of each request's own candidates (`auc`, `mrr`, `ndcg@5`, `ndcg@10`). Otherwise the
    rank of the relevant items is measured at k and 2k, in the whole catalogue without the history or among the
    request's own candidates; an item that the full system did not retrieve ranks last. Every system's best k items
    are kept, to be judged beyond accuracy, see `recsys.evaluation.beyond`. Where what was wanted differs in worth,
    `graded_ndcg@k` says how much of it came first.
    """
    graded = _differ_in_worth(requests)
    state = int(seed.generate_state(1)[0])

    def measure(number: int, block: Sequence[LabelledRequest]) -> tuple[dict[str, PerRequestMetrics], dict[str, Int32]]:
        rng = np.random.default_rng([state, number])
        results = {name: PerRequestMetrics() for name in names}
        lists = {name: np.full((len(block), config.k), -1, np.int32) for name in names}
        for place, labelled in enumerate(block):
            user_id = _user_key(path, labelled.request)
            scored = [(FULL, _full_scores(path, labelled))] if only_full else _scores_of_all(path, labelled, rng)
            for name, scores in scored:
                metrics, best = measure_scores(scores, labelled, config.k, as_lists=as_lists, graded=graded)
                results[name].add(user_id, metrics)
                lists[name][place, : len(best)] = best
        return results, lists

    names = (FULL,) if only_full else (FULL, RANDOM, *(source.name for source in path.sources))
    report = on_progress or (lambda done, total: None)
    blocks = in_blocks(requests, measure, on_progress=lambda done: report(done, len(requests)))
    nothing = np.empty((0, config.k), np.int32)
    lists = {name: np.concatenate([nothing, *(block[1][name] for block in blocks)]) for name in names}
    results = {name: PerRequestMetrics.join([block[0][name] for block in blocks]) for name in names}
    histories = [labelled.request.history.item_idx for labelled in requests]
    items = [(len(requests), item_facts(path))]
    return Measured(results, lists, histories, items, _masks(path, requests), as_lists)


def evaluate(
    path: RankingPath,
    requests: Sequence[LabelledRequest],
    config: EvaluationConfig,
    seed: np.random.SeedSequence,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    as_lists: bool,
) -> Evaluation:
    """Return what `measure_systems` measures, summarised."""
    measure_seed, summary_seed = seed.spawn(2)
    measured = measure_systems(path, requests, config, measure_seed, on_progress, as_lists=as_lists)
    return measured.summarised(config, summary_seed)


def item_facts(path: RankingPath) -> ItemFacts:
    """Return what lists are judged by beyond accuracy: training's counts, the text embeddings and the categories."""
    models = path.models
    return ItemFacts(models.item_counts, models.item_embeddings, category_matrix(models.catalogue))


def _full_scores(path: RankingPath, labelled: LabelledRequest) -> Float32:
    ranking = path.rank(labelled.request, exclude=labelled.exclude)
    full = np.full(len(path.models.catalogue), -np.inf, np.float32)
    full[ranking.item_idx] = ranking.score
    return full


def _scores_of_all(path: RankingPath, labelled: LabelledRequest, rng: np.random.Generator) -> list[tuple[str, Float32]]:
    """Return every system's score of every item, `(n_items,)`; -inf for what a system leaves out."""
    scores = [(FULL, _full_scores(path, labelled)), (RANDOM, rng.random(len(path.models.catalogue), dtype=np.float32))]
    scores.extend((source.name, source.score_all(labelled.request).copy()) for source in path.sources)
    return scores


def _differ_in_worth(requests: Sequence[LabelledRequest]) -> bool:
    worth = [labelled.worth for labelled in requests if labelled.worth is not None]
    return len(worth) == len(requests) and len(np.unique(np.concatenate(worth))) > 1 if worth else False


def measure_scores(
    scores: Float32, labelled: LabelledRequest, k: int, *, as_lists: bool, graded: bool = False
) -> tuple[dict[str, float], Int32]:
    """Return a system's metrics on one request and its best k items; `scores`, float32 `(n_items,)`, is changed.

    graded: also `graded_ndcg@k`, by what the request's relevant items are worth.
    """
    given = labelled.request.candidates
    worth = np.zeros(len(scores) if graded else 0, np.float32)
    if graded:
        worth[labelled.relevant_idx] = labelled.worth
    if as_lists and given is not None:
        metrics = list_metrics(scores[given], np.isin(given, labelled.relevant_idx))
        if graded:
            metrics[f"graded_ndcg@{k}"] = graded_ndcg(scores[given], worth[given], k)
        return metrics, given[top_n(scores[given], k)]
    allowed = np.ones(len(scores), np.bool_)
    if given is not None:
        allowed[:] = False
        allowed[given] = True
    allowed[labelled.exclude] = False
    scores[~allowed] = -np.inf
    relevant = np.zeros(len(scores), np.bool_)
    relevant[labelled.relevant_idx] = True
    n_found = int(np.isfinite(scores[labelled.relevant_idx]).sum())
    ranks = pessimistic_ranks(scores, relevant)[:n_found]
    metrics = ranking_metrics(ranks, len(labelled.relevant_idx), (k, 2 * k))
    if graded:
        metrics[f"graded_ndcg@{k}"] = graded_ndcg(scores, worth, k)
    return metrics, top_n(scores, k)


def user_warmth(path: RankingPath, request: Request) -> Warmth:
    """Return what is known of a request's user: fitted on, only a session, or nothing."""
    log = path.models.log
    if 0 <= request.user_idx < log.n_users and log.indptr[request.user_idx + 1] > log.indptr[request.user_idx]:
        return Warmth.WARM
    return Warmth.COLD if len(request.history) else Warmth.UNKNOWN


def item_warmth(path: RankingPath, item_idx: int) -> Warmth:
    """Return what is known of an item: its own behaviour, only its text, or nothing."""
    if path.models.factors.is_warm[item_idx]:
        return Warmth.WARM
    return Warmth.COLD if path.models.item_embeddings[item_idx].any() else Warmth.UNKNOWN


def _masks(path: RankingPath, requests: Sequence[LabelledRequest]) -> dict[str, npt.NDArray[np.bool_]]:
    first = np.array([labelled.relevant_idx[0] for labelled in requests], np.int64)
    return slice_masks(
        user_warmth=[user_warmth(path, labelled.request).value for labelled in requests],
        item_warmth=[item_warmth(path, int(item)).value for item in first],
        relevant_item_idx=first,
        item_counts=path.models.item_counts,
        history_length=np.array([len(labelled.request.history) for labelled in requests], np.int64),
    )


def _user_key(path: RankingPath, request: Request) -> str:
    return path.models.user_ids.id_of(request.user_idx) if request.user_idx >= 0 else ""
