"""Asks peers about a suite: writes the task, runs each peer in its own environment, measures what comes back.

Peers never see an outcome of a test request, and none of their code works a figure of ours out.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.peers.exchange import (
    ExchangeError,
    Float32,
    Interactions,
    Kind,
    Meta,
    PeerTask,
    Ragged,
    Requests,
    read_result,
)
from benchmarks.peers.items import describe_items
from benchmarks.peers.registry import PEERS
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData
from recsys.errors import DataError, LeakageError, RecsysError
from recsys.evaluation.metrics import PerRequestMetrics
from recsys.histories import InteractionLog
from recsys.ids import IdMap
from recsys.schema import Col
from recsys.splits import Fold, Split
from training.evaluation import measure_scores
from training.fitting import MAX_REQUEST_HISTORY
from training.progress import Reporter
from training.requests import LabelledRequest, shown_requests
from training.work import WorkFolder, code_fingerprint, stage_key

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv-peers" / "bin" / "python"
SCRIPT: Final = ROOT / "benchmarks" / "peers" / "run.py"
# What a peer's result depends on beside its task and its library.
_SOURCES: Final = (Path(__file__).parent, ROOT / "training" / "sequence_loss.py")
_VALID_SHARE: Final = 0.1
_SHOWN_LINES: Final = 5
_SIDE_BY_SIDE: Final = 2
_THREAD_SETTINGS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class PeerError(RecsysError):
    """A peer failed, or its environment is not there."""


@dataclass(frozen=True)
class PeerResult:
    """What a peer reached on every request, in the order of the requests, and its own report.

    lists: int32 `(n_requests, k)`, its best items, -1 as padding.
    """

    metrics: PerRequestMetrics
    lists: Int32
    report: dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How a suite is measured, as far as a peer must know.

    metric: what a search on validation data looks at: `ndcg@K`, or `auc` where shown lists are ordered. hide_items:
    search on items whose behaviour is hidden, for suites that rank such items only.
    """

    suite: str
    metric: str
    k: int
    seed: int = 42
    hide_items: bool = False


def peer_task(
    data: EncodedData,
    split: Split,
    requests: Sequence[LabelledRequest],
    protocol: Protocol,
    *,
    values: Float32 | None = None,
) -> PeerTask:
    """Return what peers are told: everything known before the test, and the test requests without their outcomes.

    The part to hold out while settings are searched is the split's VALID fold; where there is none, a tenth of each
    user's interactions, or with `hide_items` those of as many items as the test ranks, drawn at random. Shown lists of
    the VALID fold are what settings are judged by, where there are any; else each user's held-out interactions.

    values: float32 `(len(data.log),)`, such as the stars of a rating, NaN where there is none; see `values_of`.

    Raises:
        LeakageError: what peers would be told holds an outcome of a test request.
        DataError: there is nothing to fit on, to validate on or to measure.
    """
    known = split.known_before(Fold.TEST)
    log, fold = data.log.select(known), split.interaction_fold[known]
    value = np.full(len(log), np.nan, np.float32) if values is None else values[known].astype(np.float32)
    train = Interactions(log.user_idx, log.item_idx, log.timestamp_us, log.weight, value)
    asked = _asked(requests)
    candidates = asked.candidates[0] if len(asked) else np.empty(0, np.int32)
    rng = np.random.default_rng(protocol.seed)
    is_valid, hidden = _held_out(train, fold, len(candidates) if protocol.hide_items else 0, rng)
    shown = [] if protocol.hide_items else _shown_before_test(data, split)
    if shown:
        valid, relevant = _asked(shown), Ragged.of([labelled.relevant_idx for labelled in shown])
    else:
        valid, relevant = _moments(train, is_valid, hidden)
    if not len(train) or not len(asked) or not len(valid):
        raise DataError(
            f"suite {protocol.suite} has {len(train)} interactions, {len(asked)} requests and {len(valid)} requests "
            "to validate on; peers need some of each, so widen the split"
        )
    kind: Kind = "given" if len(asked.candidates.values) else "whole"
    meta = Meta(
        protocol.suite, len(data.user_ids), len(data.catalogue), kind, protocol.metric, protocol.k, protocol.seed
    )
    items = describe_items(data.catalogue)
    task = PeerTask(meta, train, is_valid, valid, relevant, asked.take(_order(asked)), items)
    check_no_leak(task, requests)
    return task


def values_of(dataset: Dataset, log: InteractionLog) -> Float32 | None:
    """Return the value of each row of the log, such as the stars of a rating, float32 `(len(log),)`; None without."""
    if Col.VALUE not in dataset.interactions.columns:
        return None
    values = dataset.interactions[Col.VALUE].cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return np.asarray(values[log.row], np.float32)


def check_no_leak(task: PeerTask, requests: Sequence[LabelledRequest]) -> None:
    """Raise `LeakageError` when a task tells which items a test request turned out to want.

    That is a wanted item among what the same user did in `train`, unless it was done before the moment and the request
    itself says so in its history.
    """
    n = np.int64(task.meta.n_items)
    pairs = task.train.user_idx * n + task.train.item_idx
    order = np.argsort(pairs, kind="stable")
    pairs, times = pairs[order], task.train.timestamp_us[order]
    leaks: list[str] = []
    for labelled in requests:
        request = labelled.request
        for item in labelled.relevant_idx:
            start, stop = np.searchsorted(pairs, request.user_idx * n + item + np.array([0, 1]), side="left")
            told = stop > start and (item not in request.history.item_idx or times[stop - 1] >= request.as_of_us)
            if told or item in labelled.exclude:
                leaks.append(f"user row {request.user_idx}, item row {item}")
    if leaks:
        raise LeakageError(
            f"{len(leaks)} wanted items of test requests are in what peers would be told, the first: {leaks[:3]}; "
            "mend the split, or the requests' histories"
        )


def run_peers(
    task: PeerTask,
    requests: Sequence[LabelledRequest],
    user_ids: IdMap,
    names: Sequence[str],
    work: Path,
    reporter: Reporter,
    *,
    chosen: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    python: Path = PYTHON,
    script: Path = SCRIPT,
) -> tuple[dict[str, PeerResult], dict[str, PeerError]]:
    """Return what each named peer reaches on the requests that the task was made from, and the errors of the others.

    An error says that the peers' environment is not there, that the peer failed, or that what it returned does not fit
    the task; the other peers go on.

    A peer that finished on the same task before is not run again: its scores are kept in `work`. One that needs the
    values of interactions is left out where there are none. Two run side by side, each on half of the processors.

    chosen: settings by peer that a search on another split of the same data found; the others search theirs.
    """
    place = WorkFolder(work / f"{task.meta.name}-{task.meta.seed}", code=code_fingerprint(*_SOURCES))
    keys = {}
    for name in names:
        if name in PEERS and PEERS[name].reads_values and np.isnan(task.train.value).all():
            reporter.say(f"  {name}: left out, it needs ratings")
            continue
        settings = chosen.get(name)
        keys[name] = stage_key(name, _task_key(task, name), *(() if settings is None else (settings,)))
    missing = [name for name, key in keys.items() if not place.is_finished(name, key)]
    for name in keys:
        if name not in missing:
            reporter.say(f"  {name}: kept from before")

    def ask(name: str) -> None:
        started = time.perf_counter()
        with place.writing(name, keys[name]) as folder:
            _run(task, name, folder, python, script, chosen.get(name))
        reporter.say(f"  peer {name}: {time.perf_counter() - started:.1f} s")

    failed: dict[str, PeerError] = {}
    with reporter.stage("peers") as advance, ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        asked = {pool.submit(ask, name): name for name in missing}
        try:
            for done, future in enumerate(as_completed(asked), start=1):
                name = asked[future]
                try:
                    future.result()
                except PeerError as error:
                    failed[name] = error
                    reporter.say(f"  {error}")
                advance(done, len(asked), name)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those that run are waited for, and kept
            raise
    results: dict[str, PeerResult] = {}
    for name in (name for name in keys if name not in failed):
        try:
            scores, report = read_result(place.folder / name, task.meta, task.requests)
        except (OSError, ExchangeError) as error:
            failed[name] = PeerError(f"peer {name} left no usable result: {error}")
            continue
        results[name] = PeerResult(*measure(task, scores, requests, user_ids), report)
    return results, failed


def measure(
    task: PeerTask, scores: Float32, requests: Sequence[LabelledRequest], user_ids: IdMap
) -> tuple[PerRequestMetrics, Int32]:
    """Return the metrics of a peer's scores and its best k items per request, both in the order of `requests`.

    Worked out by the code that measures our own systems: ties are broken against the peer, and an item with a score
    of -inf is not ranked.
    """
    rows = np.empty(len(requests), np.int64)
    rows[_order(_asked(requests))] = np.arange(len(requests))
    metrics, lists = PerRequestMetrics(), np.full((len(requests), task.meta.k), -1, np.int32)
    for place, (labelled, row) in enumerate(zip(requests, rows, strict=True)):
        values = _scores_of_all(task, scores, int(row))
        found, best = measure_scores(values, labelled, task.meta.k, as_lists=task.meta.metric == "auc")
        user = labelled.request.user_idx
        metrics.add(user_ids.id_of(user) if user >= 0 else "", found)
        lists[place, : len(best)] = best
    return metrics, lists


def _scores_of_all(task: PeerTask, scores: Float32, row: int) -> Float32:
    """Return the scores of all items at one request, float32 `(n_items,)`, -inf where none was asked for."""
    if task.meta.kind == "whole":
        return np.array(scores[row])
    candidates = task.requests.candidates
    values = np.full(task.meta.n_items, -np.inf, np.float32)
    values[candidates[row]] = scores[candidates.indptr[row] : candidates.indptr[row + 1]]
    return values


def _task_key(task: PeerTask, name: str) -> str:
    """Return a hash of what a peer reads of a task."""
    spec = PEERS.get(name)
    if spec is None:
        return task.key()
    return task.key(with_items=spec.reads_items, with_values=spec.reads_values)


def _run(task: PeerTask, name: str, folder: Path, python: Path, script: Path, settings: dict[str, Any] | None) -> None:
    if not python.exists():
        raise PeerError(f"{python} does not exist; run `make bench-peers` to set up the peers' environment")
    told = folder / "task"
    task.write(told)
    command = [str(python), str(script), "--task", str(told), "--peer", name, "--out", str(folder)]
    if settings is not None:
        command += ["--settings", json.dumps(settings)]
    log = folder / "log.txt"
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=_environment(), check=False)
    if done.returncode:
        kept = folder.with_suffix(".log")
        shutil.copy(log, kept)
        end = " | ".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_SHOWN_LINES:])
        raise PeerError(f"peer {name} ended with exit code {done.returncode}: {end}; all it said is in {kept}")
    shutil.rmtree(told)


def _environment() -> dict[str, str]:
    """Return the caller's environment without what would lead the peers into ours, and with a peer's share of cores."""
    left_out = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    threads = str(max(1, (os.cpu_count() or 1) // _SIDE_BY_SIDE))
    return {name: value for name, value in os.environ.items() if name not in left_out} | dict.fromkeys(
        _THREAD_SETTINGS, threads
    )


def _asked(requests: Sequence[LabelledRequest]) -> Requests:
    """Return requests without their outcomes."""
    asked = [labelled.request for labelled in requests]
    nothing = np.empty(0, np.int32)
    return Requests(
        np.array([request.user_idx for request in asked], np.int32),
        np.array([request.as_of_us for request in asked], np.int64),
        Ragged.of([request.history.item_idx for request in asked]),
        Ragged.of([labelled.exclude for labelled in requests]),
        Ragged.of([nothing if request.candidates is None else request.candidates for request in asked]),
    )


def _order(asked: Requests) -> Int64:
    """Return the order in which peers get requests: one that does not depend on how the caller drew them."""
    return np.lexsort((np.arange(len(asked)), asked.as_of_us, asked.user_idx))


def _held_out(
    train: Interactions, fold: npt.NDArray[np.int8], n_hidden: int, rng: np.random.Generator
) -> tuple[Bool, Int32]:
    """Return the rows to hold out while settings are searched, and the items that are hidden, if any."""
    if n_hidden:
        seen = np.unique(train.item_idx)
        hidden = np.sort(rng.choice(seen, min(n_hidden, len(seen) // 2), replace=False)).astype(np.int32)
        return np.isin(train.item_idx, hidden), hidden
    if (fold == Fold.VALID).any():
        return fold == Fold.VALID, np.empty(0, np.int32)
    return rng.random(len(train)) < _VALID_SHARE, np.empty(0, np.int32)


def _moments(train: Interactions, is_valid: Bool, hidden: Int32) -> tuple[Requests, Ragged]:
    """Return one request per user who has something held out and something left, and what was held out."""
    n_users = int(train.user_idx.max(initial=-1)) + 1
    indptr = np.searchsorted(train.user_idx, np.arange(n_users + 1))
    users, moments, histories, wanted = [], [], [], []
    for user in range(n_users):
        rows = slice(int(indptr[user]), int(indptr[user + 1]))
        held = is_valid[rows]
        history = train.item_idx[rows][~held]
        relevant = np.setdiff1d(train.item_idx[rows][held], history)
        if not len(history) or not len(relevant):
            continue
        users.append(user)
        moments.append(int(train.timestamp_us[rows][held].min()))
        histories.append(history)
        wanted.append(relevant)
    requests = Requests(
        np.array(users, np.int32),
        np.array(moments, np.int64),
        Ragged.of(histories),
        Ragged.of([np.unique(history) for history in histories]),
        Ragged.of([hidden] * len(users)),
    )
    return requests, Ragged.of(wanted)


def _shown_before_test(data: EncodedData, split: Split) -> list[LabelledRequest]:
    if data.impressions is None or split.request_fold is None:
        return []
    chosen = np.flatnonzero(split.request_fold == Fold.VALID)
    return list(shown_requests(data.impressions, data.log, chosen, max_history=MAX_REQUEST_HISTORY))
