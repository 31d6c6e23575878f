"""The small search that every peer gets: settings are tried on validation data, the best are fitted on everything.

Runs in the peers' environment; needs only NumPy and SciPy of it.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from benchmarks.peers.exchange import Float32, Interactions, PeerTask, Ragged, Requests

Settings = dict[str, Any]
Scorer = Callable[[Requests], Float32]  # requests → scores of every item, (n_requests, n_items)

_CHUNK: Final = 128  # requests whose scores of all items are held at once


class SearchError(ValueError):
    """None of a peer's settings can be fitted."""


@dataclass(frozen=True)
class FitData:
    """What a model is fitted on.

    stop_on: moments with what was wanted, for models that stop early; none of it is in `train`.
    """

    train: Interactions
    n_users: int
    n_items: int
    items: Sequence[dict[str, Any]]
    metric: str
    seed: int
    stop_on: tuple[Requests, Ragged] | None = None

    def matrix(self) -> sp.csr_matrix:
        """Return 1 for every pair of user and item that met, float32 CSR `(n_users, n_items)`."""
        return binary_matrix(self.train.user_idx, self.train.item_idx, (self.n_users, self.n_items))


@dataclass
class Outcome:
    """What a peer brings back.

    scorer: fitted on everything. tried: each setting with its validation figure and seconds, see `attempt`.
    """

    scorer: Scorer
    settings: Settings
    tried: list[dict[str, Any]]
    search_seconds: float
    train_seconds: float
    notes: dict[str, Any] = field(default_factory=dict)


Fit = Callable[[FitData, Settings], Scorer]
Run = Callable[[PeerTask, Settings | None], Outcome]  # with settings there is nothing to search


def grid(**choices: Iterable[Any]) -> list[Settings]:
    """Return every combination of the named choices."""
    names = list(choices)
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*choices.values())]


def attempt(settings: Settings, metric: str, figure_of: Callable[[Settings], float]) -> dict[str, Any]:
    """Return the settings with the figure they reach and the seconds it took.

    One setting must not cost the peer its others: where it raises, or its figure is NaN, the figure is None and `error`
    says why.
    """
    begun = time.perf_counter()
    found: dict[str, Any]
    try:
        figure = figure_of(settings)
        found = {metric: None, "error": f"its {metric} is NaN"} if math.isnan(figure) else {metric: figure}
    except Exception as error:  # noqa: BLE001, whatever a library raises
        found = {metric: None, "error": f"{type(error).__name__}: {error}"}
    say(f"{settings}: {found.get('error') or f'{metric} {found[metric]:.4f}'}")
    return {**settings, **found, "seconds": round(time.perf_counter() - begun, 2)}


def best_place(tried: Sequence[Mapping[str, Any]], metric: str) -> int:
    """Return the place of the row with the highest figure, the first of equals.

    Raises:
        SearchError: all of them failed.
    """
    figures = [-math.inf if row[metric] is None else row[metric] for row in tried]
    if all(row[metric] is None for row in tried):
        raise SearchError(
            f"all {len(tried)} settings failed, the first with: {tried[0]['error']}; mend the peer, or its grid"
        )
    return int(np.argmax(figures))


def by_search(fit: Fit, tries: Sequence[Settings]) -> Run:
    """Return a peer that fits each setting without the held-out part, and the best one on everything.

    What it runs raises `SearchError` where every setting fails.
    """

    def run(task: PeerTask, settings: Settings | None = None) -> Outcome:
        asked = tries if settings is None else [settings]
        past = fit_data(task, held_out=True)

        def figure_of(one: Settings) -> float:
            return mean_figure(fit(past, one), task.valid_requests, task.valid_relevant, task.meta.metric)

        started = time.perf_counter()
        tried = [attempt(one, task.meta.metric, figure_of) for one in asked] if len(asked) > 1 else []
        search_seconds = time.perf_counter() - started
        best = asked[best_place(tried, task.meta.metric) if tried else 0]
        begun = time.perf_counter()
        scorer = fit(fit_data(task, held_out=False), best)
        return Outcome(scorer, best, tried, search_seconds, time.perf_counter() - begun)

    return run


def fit_data(task: PeerTask, *, held_out: bool) -> FitData:
    """Return what a model may be fitted on: all of it, or what is left when the validation part is held out."""
    train = task.train.select(~task.is_valid) if held_out else task.train
    stop_on = (task.valid_requests, task.valid_relevant) if held_out else None
    meta = task.meta
    return FitData(train, meta.n_users, meta.n_items, task.items, meta.metric, meta.seed, stop_on)


def mean_figure(scorer: Scorer, requests: Requests, relevant: Ragged, metric: str) -> float:
    """Return the mean of `ndcg@K` or `auc` over requests, ties broken against the system."""
    figures: list[float] = []
    for start, scores in scored_chunks(scorer, requests):
        for row, values in enumerate(scores):
            place = start + row
            wanted = np.zeros(len(values), np.bool_)
            wanted[relevant[place]] = True
            candidates = requests.candidates[place]
            values[requests.exclude[place]] = -np.inf
            if len(candidates):
                wanted, values = wanted[candidates], values[candidates]
            figures.append(_figure(values, wanted, metric))
    defined = [figure for figure in figures if not math.isnan(figure)]
    return float(np.mean(defined)) if defined else math.nan


def _figure(values: Float32, wanted: npt.NDArray[np.bool_], metric: str) -> float:
    order = np.lexsort((wanted, -values))
    hits = wanted[order] & (values[order] > -np.inf)
    places = np.flatnonzero(hits)
    n_wanted = int(wanted.sum())
    if metric == "auc":
        n_pairs = n_wanted * (len(values) - n_wanted)
        lost = (np.flatnonzero(wanted[order]) - np.arange(n_wanted)).sum()
        return 1.0 - float(lost) / n_pairs if n_pairs else math.nan
    k = int(metric.removeprefix("ndcg@"))
    ideal = (1.0 / np.log2(np.arange(2, min(k, n_wanted) + 2))).sum()
    return float((1.0 / np.log2(places[places < k] + 2.0)).sum() / ideal) if n_wanted else math.nan


def scored_chunks(scorer: Scorer, requests: Requests) -> Iterator[tuple[int, Float32]]:
    """Yield the first request of each chunk with the scores of all items, float32 `(n, n_items)`, free to change."""
    for start in range(0, len(requests), _CHUNK):
        places = np.arange(start, min(start + _CHUNK, len(requests)))
        yield start, np.array(scorer(requests.take(places)), np.float32)


def answers(scorer: Scorer, requests: Requests, kind: str) -> Float32:
    """Return what a task wants back: scores of all items, or of each request's candidates in their order."""
    rows = []
    for start, scores in scored_chunks(scorer, requests):
        if kind == "whole":
            rows.append(scores)
            continue
        rows.extend(values[requests.candidates[start + row]] for row, values in enumerate(scores))
    return np.concatenate(rows)


def binary_matrix(
    rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer], shape: tuple[int, int]
) -> sp.csr_matrix:
    """Return 1 where a pair occurs, however often, float32 CSR."""
    matrix = sp.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def history_matrix(requests: Requests, n_items: int) -> sp.csr_matrix:
    """Return 1 for every item in a request's history, float32 CSR `(n_requests, n_items)`."""
    return binary_matrix(requests.history.owner, requests.history.values, (len(requests), n_items))


def feature_matrix(items: Sequence[Mapping[str, Any]], *, min_count: int = 1) -> tuple[sp.csr_matrix, list[str]]:
    """Return 1 where an item has a feature, float32 CSR `(n_items, n_features)`, and the features' names."""
    counts: dict[str, int] = {}
    for item in items:
        for name in set(item["features"]):
            counts[name] = counts.get(name, 0) + 1
    names = sorted(name for name, count in counts.items() if count >= min_count)
    column = {name: place for place, name in enumerate(names)}
    pairs = [(row, column[name]) for row, item in enumerate(items) for name in item["features"] if name in column]
    rows, columns = (
        (np.array(side, np.int64) for side in zip(*pairs, strict=True)) if pairs else (np.empty(0, int),) * 2
    )
    return binary_matrix(rows, columns, (len(items), len(names))), names


def say(text: str) -> None:
    """Print one line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)
