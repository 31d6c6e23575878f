"""What is counted and timed, for Prometheus. Labels take values from short, closed lists: never ids or texts."""

import os
import re
from pathlib import Path
from typing import Final

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "METRICS"]

# Where the library keeps the figures of several processes; it reads the variable itself, once, when it is imported.
SHARED_FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

OTHER: Final = "other"
STAGES: Final = (
    "body", "validation", "queue", "history", "retrieval", "features", "ranking", "rules", "explanation", "store",
    "response",
)  # fmt: skip
LANES: Final = ("reads", "writes")
REFUSED: Final = ("full", "late", "gone")
RUNGS: Final = ("full", "without_encoder", "collaborative", "popular")
REASONS: Final = (
    "budget", "store_unavailable", "registry_unavailable", "model_refused", "no_model", "encoder_failed",
    "ranker_failed", "internal",
)  # fmt: skip
NOTICES: Final = ("defect", "registry_error", "model_swapped", "model_refused", "store_error", "rung_rests")
CACHES: Final = ("histories", "texts", "keys", "similar")
OUTCOMES: Final = ("hit", "miss")
SLATES: Final = ("written", "dropped")
EVENTS: Final = ("stored", "duplicate", "forgotten")

_SECONDS: Final = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0,
)  # fmt: skip
_MOST_ROUTES: Final = 64

_registry: Final = CollectorRegistry()
_requests: Final = Counter(
    "recsys_requests", "Requests answered, by route and status.", ["route", "status"], registry=_registry
)
_latency: Final = Histogram(
    "recsys_request_seconds",
    "Time from the end of a request's head to the end of its answer.",
    ["route"],
    buckets=_SECONDS,
    registry=_registry,
)
_stages: Final = Histogram(
    "recsys_stage_seconds", "Time that one stage of a request took.", ["stage"], buckets=_SECONDS, registry=_registry
)
_errors: Final = Counter("recsys_errors", "Answers that are no success, by code.", ["code"], registry=_registry)
_degraded: Final = Counter(
    "recsys_degraded",
    "Lists made on a lower rung of the ladder, by rung and reason.",
    ["rung", "reason"],
    registry=_registry,
)
_refused: Final = Counter(
    "recsys_refused",
    "Work that was not begun: the queue was full, it came too late in it, or its caller was gone.",
    ["lane", "reason"],
    registry=_registry,
)
_waiting: Final = Gauge(
    "recsys_waiting",
    "Requests that wait for a thread now.",
    ["lane"],
    registry=_registry,
    multiprocess_mode="livesum",
)
_cache: Final = Counter("recsys_cache", "Look-ups in caches.", ["cache", "outcome"], registry=_registry)
_slates: Final = Counter(
    "recsys_slates", "Slates kept as impressions, or lost because writing was behind.", ["outcome"], registry=_registry
)
_events: Final = Counter("recsys_events", "Events accepted, by what became of them.", ["outcome"], registry=_registry)
_model: Final = Gauge(
    "recsys_model_info",
    "1 for a model that some process answers with, 0 once none does any more.",
    ["name", "version", "alias"],
    registry=_registry,
    multiprocess_mode="livemax",
)
_memory: Final = Gauge(
    "recsys_resident_memory_bytes",
    "Resident memory, summed over the processes; pages that they share count once for each.",
    registry=_registry,
    multiprocess_mode="livesum",
)
_notices: Final = Counter(
    "recsys_notices",
    "What happened beside the requests: swaps, refused versions, failures of registry, store and rungs, defects.",
    ["notice"],
    registry=_registry,
)
METRICS: Final = (
    _requests, _latency, _stages, _errors, _degraded, _refused, _waiting, _cache, _slates, _events, _model, _memory,
    _notices,
)  # fmt: skip

_process: Final = psutil.Process()
_CODE: Final = re.compile(r"[a-z_]{1,40}")

_request_children: Final[dict[tuple[str, int], Counter]] = {}
_latency_children: Final[dict[str, Histogram]] = {}
_stage_children: Final = {stage: _stages.labels(stage) for stage in (*STAGES, OTHER)}
_waiting_children: Final = {lane: _waiting.labels(lane) for lane in (*LANES, OTHER)}
_models: Final[list[tuple[str, str, str]]] = []


def observe_request(route: str, status: int, seconds: float) -> None:
    """Count an answered request. route: the path as it is declared, such as `/v1/items/{item_id}`, never as it came."""
    if route not in _latency_children:
        if len(_latency_children) >= _MOST_ROUTES:
            route = OTHER
        _latency_children[route] = _latency.labels(route)
    child = _request_children.get((route, status))
    if child is None:
        child = _request_children[route, status] = _requests.labels(route, str(status))
    child.inc()
    _latency_children[route].observe(seconds)


def observe_stage(stage: str, seconds: float) -> None:
    """Add the time that a stage of a request took; see `STAGES`."""
    _stage_children.get(stage, _stage_children[OTHER]).observe(seconds)


def count_error(code: str) -> None:
    """Count an answer that is no success. code: one of those in docs/api.md."""
    _errors.labels(code if _CODE.fullmatch(code) else OTHER).inc()


def count_degraded(rung: str, reason: str) -> None:
    """Count a list made on a lower rung; see `RUNGS` and `REASONS`."""
    _degraded.labels(_closed(rung, RUNGS), _closed(reason, REASONS)).inc()


def hear(name: str, **labels: str) -> None:
    """Count what parts of the service give notice of; see `serving.notices`."""
    if name == "degraded":
        count_degraded(labels["rung"], labels["reason"])
    else:
        _notices.labels(_closed(name, NOTICES)).inc()


def count_refused(lane: str, reason: str) -> None:
    """Count work that was not begun; see `LANES` and `REFUSED`."""
    _refused.labels(_closed(lane, LANES), _closed(reason, REFUSED)).inc()


def waiting(lane: str) -> Gauge:
    """Return the gauge of requests that wait in a lane."""
    return _waiting_children.get(lane, _waiting_children[OTHER])


def count_cache(cache: str, *, is_hit: bool) -> None:
    """Count a look-up in a cache; see `CACHES`."""
    _cache.labels(_closed(cache, CACHES), "hit" if is_hit else "miss").inc()


def count_slates(outcome: str, n: int = 1) -> None:
    """Count slates that were written or dropped; see `SLATES`."""
    _slates.labels(_closed(outcome, SLATES)).inc(n)


def count_events(accepted: int, *, duplicates: int, forgotten: int) -> None:
    """Count the events of a batch: all that were accepted, and what of them was not stored."""
    for outcome, n in zip(EVENTS, (accepted - duplicates - forgotten, duplicates, forgotten), strict=True):
        _events.labels(outcome).inc(n)


def set_model(name: str, version: str, alias: str | None) -> None:
    """Tell which model this process answers with from now on."""
    labels = (name, version, alias or "")
    if _models and _models[-1] == labels:
        return
    for earlier in _models:
        _model.labels(*earlier).set(0)
    _models[:] = [labels]
    _model.labels(*labels).set(1)


def observe_memory() -> None:
    """Take down how much memory this process holds."""
    _memory.set(_process.memory_info().rss)


def exposition() -> bytes:
    """Return all figures in the text format of Prometheus, of every process of this service where there are several."""
    observe_memory()
    if not os.environ.get(SHARED_FOLDER_VARIABLE):
        return generate_latest(_registry)
    shared = CollectorRegistry()
    multiprocess.MultiProcessCollector(shared)
    return generate_latest(shared)


def forget_ended_processes() -> None:
    """Drop the gauges of processes that have ended; their counters stay. Does nothing where there is one process."""
    folder = os.environ.get(SHARED_FOLDER_VARIABLE)
    for file in sorted(Path(folder).glob("gauge_live*_*.db")) if folder else ():
        pid = int(file.stem.rsplit("_", 1)[1])
        if not psutil.pid_exists(pid):
            file.unlink(missing_ok=True)


def _closed(value: str, allowed: tuple[str, ...]) -> str:
    return value if value in allowed else OTHER
