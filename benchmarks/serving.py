"""Measures the running service: starts it, drives it over the loopback, prints the figures beside their goals.

    .venv/bin/python benchmarks/serving.py --bundle FOLDER
    .venv/bin/python benchmarks/serving.py --data FOLDER

With --data a bundle is trained once and kept in runs/bench/serving. Load generator and server share the machine.
"""

import argparse
import json
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.load import Shot, drive  # noqa: E402
from benchmarks.server_process import REQUEST, Server, machine_facts, serving  # noqa: E402
from benchmarks.traffic import Traffic  # noqa: E402
from features.path import RankingPath  # noqa: E402
from recsys.bundle import Bundle, load_bundle  # noqa: E402
from recsys.client import Client, ServiceError  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.histories import Request  # noqa: E402

OUT: Final = ROOT / "benchmarks" / "results" / "serving.json"
WORK: Final = ROOT / "runs" / "bench" / "serving"
SEED: Final = 11
N_SHOTS: Final = 2_000
EVENT_SHARE: Final = 0.1
LOAD_SHARE: Final = 0.8
_FIRST_RATE: Final = 20.0
_BISECTIONS: Final = 4
# Peers publish what a request takes that comes alone; that of requests that queue is reported beside it.
_RERANK_RATE: Final = 25.0
_LIMIT_P99_MS: Final = 50.0
_LIMIT_REFUSED: Final = 0.001
_FRESH_S: Final = 10.0
_SHOWN_MS: Final = 0.05

# Published by others about their own systems, not measured here. Machines differ.
PUBLISHED: Final = (
    {"system": "Metarank", "what": "re-ranking 100 items, binary format", "p50_ms": 7.0, "p99_ms": 10.0,
     "source": "doc/performance.md, doc/img/latency.png (read off the chart)"},
    {"system": "Metarank", "what": "planning claim for a request", "p50_ms": None, "p99_ms": 30.0,
     "source": "doc/performance.md: 10–30 ms"},
    {"system": "Microsoft Recommenders", "what": "LightGBM on AKS, 200 users, 104 requests/s", "p50_ms": 390.0,
     "p99_ms": 640.0, "source": "aks_locust_load_test.ipynb (2019)"},
)  # fmt: skip

# name in the report, where the figure is, the goal, and whether less is better
GOALS: Final = (
    ("re-ranking 100 items, 25/s, p99", ("rerank", "p99_ms"), 10.0, "ms", True),
    ("full list at 80 % of capacity, p50", ("full", "p50_ms"), 8.0, "ms", True),
    ("full list at 80 % of capacity, p99", ("full", "p99_ms"), 20.0, "ms", True),
    ("CPU per list against bare LightGBM", ("bare_ranker", "cpu_ratio"), 2.0, "×", True),
    ("lists per second at capacity", ("capacity", "per_second"), 300.0, "/s", False),
)


def find_capacity(
    server: Server, shots: Sequence[Shot], seconds: float, rng: np.random.Generator, *, kind: str = "list"
) -> dict[str, Any]:
    """Return the highest rate whose p99, refusals and degraded answers keep the limits, by doubling and halving.

    A rate fails that keeps them in none of two tries: other work on the machine ends one, and the search with it.
    """
    tried: list[dict[str, Any]] = []

    def holds(rate: float) -> bool:
        return any(keeps(rate) for _ in range(2))

    def keeps(rate: float) -> bool:
        answers = drive(server.address, shots, rate, seconds, rng)
        found = answers.summary(kind)
        kept = (
            found["p99_ms"] is not None
            and found["p99_ms"] <= _LIMIT_P99_MS
            and found["refused"] + found["failed"] + found["degraded"] <= _LIMIT_REFUSED * found["requests"]
        )
        tried.append({"rate": round(rate, 1), "holds": kept} | found)
        time.sleep(1.0)
        return kept

    low, high = 0.0, _FIRST_RATE
    while holds(high) and high < 20_000:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    share = sum(shot.kind == kind for shot in shots) / len(shots)
    return {
        "rate": round(low, 1),
        "per_second": round(low * share, 1),
        "limit": f"p99 ≤ {_LIMIT_P99_MS:g} ms; refused, failed and degraded together ≤ {_LIMIT_REFUSED:.1%}",
        "tried": tried,
    }


def measure_load(
    server: Server, shots: Sequence[Shot], rate: float, seconds: float, rng: np.random.Generator, *, kind: str
) -> dict[str, Any]:
    """Return latency, refusals, CPU, memory and each stage's time under a rate of requests of all kinds together."""
    drive(server.address, shots, rate, min(seconds, 5.0), rng)  # warm-up
    stages_before, cpu_before = server.stage_s(), server.cpu_s()
    answers = drive(server.address, shots, rate, seconds, rng)
    cpu_s, stages = server.cpu_s() - cpu_before, server.stage_s()
    found = answers.summary(kind)
    n = max(len(answers.kind), 1)
    return {
        "rate": round(rate, 1),
        "seconds": seconds,
        **found,
        "cpu_ms_per_request": round(1e3 * cpu_s / n, 3),
        "stage_ms": {
            name: round(1e3 * (total - stages_before.get(name, 0.0)) / n, 3) for name, total in stages.items()
        },
        "memory_mb": server.memory_mb(),
        "all_kinds": {name: answers.summary(name) for name in answers.kinds},
    }


def measure_bare_ranker(bundle: Bundle, n_requests: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return the CPU time of LightGBM alone, one thread, on the feature rows of users' own requests."""
    models = bundle.models
    path = RankingPath(models)
    now_us = time.time_ns() // 1_000
    rows = []
    for user_idx in rng.integers(0, len(models.user_ids), n_requests):
        history = models.log.history_of(int(user_idx))
        request = Request(history, now_us, int(user_idx))
        rows.append(np.ascontiguousarray(path.rank(request, exclude=np.unique(history.item_idx)).features))
    boosters = models.ranker.boosters if models.ranker is not None else ()
    for booster in boosters:
        booster.predict(rows[0], num_threads=1)
    before = time.process_time()
    for matrix in rows:
        for booster in boosters:
            booster.predict(matrix, num_threads=1)
    cpu_ms = 1e3 * (time.process_time() - before) / len(rows)
    return {
        "cpu_ms_per_request": round(cpu_ms, 3),
        "rows_per_request": round(float(np.mean([len(matrix) for matrix in rows])), 1),
        "features": int(rows[0].shape[1]),
        "trees": sum(booster.num_trees() for booster in boosters),
    }


def measure_freshness(server: Server, traffic: Traffic) -> dict[str, Any]:
    """Return seconds from an event to its use by a list, and from a new item to its first appearance."""
    found: dict[str, Any] = {}
    with Client(server.address, timeout_s=_FRESH_S) as client:
        visitor, item_id = f"visitor-{uuid.uuid4()}", traffic.item_ids[0]
        began = time.perf_counter()
        client.add_events([{"user_id": visitor, "item_id": item_id, "event": "click"}])
        while client.recommend(visitor, 1).user != "cold" and time.perf_counter() - began < _FRESH_S:
            continue
        found["event_to_use_s"] = round(time.perf_counter() - began, 4)
        twin = client.recommend(n=1).items[0].item_id
        new_id = f"new-{uuid.uuid4()}"
        began = time.perf_counter()
        try:
            client.put_item(new_id, title=f"A new item that is like {twin}")
        except ServiceError as error:
            found["item"] = f"not measured: PUT /v1/items/{{id}} answered {error.status} {error.code}"
            return found
        found["item_put_s"] = round(time.perf_counter() - began, 4)
        found["item_to_first_appearance_s"] = _first_appearance_s(client, new_id, began)
        client.delete_item(new_id)
    return found


def _first_appearance_s(client: Client, item_id: str, began: float) -> float | None:
    while time.perf_counter() - began < _FRESH_S:
        try:
            # Twenty in a row: with several workers each should know it.
            if all(item_id in client.recommend(candidates=[item_id], n=1).item_ids for _ in range(20)):
                return round(time.perf_counter() - began, 4)
        except ServiceError as error:
            if error.status != 422:
                raise
            time.sleep(0.005)
    return None


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each goal with what was measured, and by how much it is met or missed (above 1: missed)."""
    lines = []
    for name, (part, figure), goal, unit, less_is_better in GOALS:
        value = report.get(part, {}).get(figure)
        ratio = None if not value else round(value / goal if less_is_better else goal / value, 3)
        met = ratio is not None and ratio <= 1.0
        lines.append({"goal": name, "wanted": goal, "unit": unit, "measured": value, "ratio": ratio, "met": met})
    return lines


def why_missed(report: dict[str, Any]) -> list[str]:
    """Return lines that say where the time of a list goes, where a goal is missed."""
    if all(line["met"] for line in report["goals"]):
        return []
    alone, bare = report["lists_alone"], report["bare_ranker"]["cpu_ms_per_request"]
    stages = {name: ms for name, ms in alone["stage_ms"].items() if name != REQUEST and ms >= _SHOWN_MS}
    named = " · ".join(f"{name} {ms:g}" for name, ms in sorted(stages.items(), key=lambda pair: -pair[1]))
    whole = alone["stage_ms"].get(REQUEST, 0.0)
    around = max(0.0, whole - sum(ms for name, ms in alone["stage_ms"].items() if name != REQUEST))
    cpu = alone["cpu_ms_per_request"]
    return [
        f"why: of a list's {cpu:g} ms of CPU the bare ranker would take {bare:g}; {cpu - bare:.1f} go into finding",
        "  candidates, features, rules, HTTP, log and store, and the load generator needs "
        f"{alone['generator_cpu_ms_per_request']:g} of the same cores.",
        f"  mean time of a list in the server, {whole:g} ms: {named} · between stages {around:.2f}",
    ]


def table(report: dict[str, Any]) -> str:
    """Return the figures as lines for people."""
    lines = [f"{'goal':<40}{'wanted':>12}{'measured':>12}"]
    for line in report["goals"]:
        value = "–" if line["measured"] is None else f"{line['measured']:g} {line['unit']}"
        far = "" if line["ratio"] is None else f", {line['ratio']:.2f} × the goal"
        verdict = "met" if line["met"] else f"MISSED{far}"
        lines.append(f"{line['goal']:<40}{line['wanted']:>9g} {line['unit']:<3}{value:>11}  {verdict}")
    full = report["full"]
    lines += ["", *why_missed(report)]
    lines += [
        "",
        f"at {full['rate']:g} requests/s: p50 {full['p50_ms']} · p95 {full['p95_ms']} · p99 {full['p99_ms']} ms, "
        f"{full['refused']} refused, {full['failed']} failed, {full['degraded']} degraded",
        f"CPU {report['lists_alone']['cpu_ms_per_request']} ms per list, LightGBM alone "
        f"{report['bare_ranker']['cpu_ms_per_request']} ms; memory {full['memory_mb']} MB",
        f"freshness: {report['freshness']}",
        "published by others, on other machines:",
        *(f"  {p['system']}, {p['what']}: p50 {p['p50_ms']}, p99 {p['p99_ms']} ms ({p['source']})" for p in PUBLISHED),
    ]
    return "\n".join(lines)


def measure(folder: Path, *, workers: int, seconds: float, probe_s: float) -> dict[str, Any]:
    """Return the whole report for a bundle."""
    machine = machine_facts()
    bundle = load_bundle(folder)
    rng = np.random.default_rng(SEED)
    report: dict[str, Any] = {
        "bundle": {"bundle_id": bundle.manifest.bundle_id, "data": bundle.manifest.data},
        "machine": machine,
        "workers": workers,
    }
    with serving(folder, workers=workers) as server:
        traffic = Traffic.of(bundle, server.address)
        lists = traffic.lists(N_SHOTS, rng)
        shots = lists + traffic.events(int(N_SHOTS * EVENT_SHARE / (1 - EVENT_SHARE)), rng)
        drive(server.address, shots, _FIRST_RATE, probe_s, rng)
        report["capacity"] = find_capacity(server, shots, probe_s, rng)
        rate = max(LOAD_SHARE * report["capacity"]["rate"], 1.0)
        report["full"] = measure_load(server, shots, rate, seconds, rng, kind="list")
        # Events cost less than lists: the CPU of a list is measured without them.
        report["lists_alone"] = measure_load(server, lists, rate, seconds / 2, rng, kind="list")
        reranks = traffic.lists(N_SHOTS, rng, n_candidates=100)
        report["rerank"] = measure_load(server, reranks, _RERANK_RATE, seconds, rng, kind="rerank")
        report["rerank_under_load"] = measure_load(server, reranks, rate, seconds / 2, rng, kind="rerank")
        report["freshness"] = measure_freshness(server, traffic)
    bare = measure_bare_ranker(bundle, 200, rng)
    bare["cpu_ratio"] = round(report["lists_alone"]["cpu_ms_per_request"] / bare["cpu_ms_per_request"], 2)
    report |= {"bare_ranker": bare, "published_by_others": PUBLISHED}
    report["goals"] = verdicts(report)
    return report


def bundle_of(data: Path, work: Path = WORK) -> Path:
    """Return the bundle that was trained on a data folder, training it where there is none yet."""
    from recsys import train
    from recsys.registry import Registry

    folder = work / data.resolve().name
    pointer = folder / "bundle.txt"
    if not pointer.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        result = train(data, overrides={"tracking.uri": uri}, runs_folder=folder / "runs")
        registry = Registry(result.tracking_uri, result.model_name)
        found = registry.fetch(registry.resolve(result.version), folder / "bundles")
        pointer.write_text(str(found), encoding="utf-8")
    return Path(pointer.read_text(encoding="utf-8"))


def parser_of(description: str | None, *, seconds: float, out: Path) -> argparse.ArgumentParser:
    """Return what the measurements of a running service have in common on the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--bundle", type=Path, help="folder of a bundle")
    source.add_argument("--data", type=Path, help="folder of a data set to train on")
    parser.add_argument("--workers", type=int, default=2, help="processes of the server")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of a measurement")
    parser.add_argument("--out", type=Path, default=out, help="report")
    return parser


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON to a file, whose folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns 2 for input that cannot be used."""
    parser = parser_of(__doc__, seconds=60.0, out=OUT)
    parser.add_argument("--probe-seconds", type=float, default=8.0, help="length of a try of the capacity search")
    args = parser.parse_args(arguments)
    try:
        folder = args.bundle or bundle_of(args.data)
        report = measure(folder, workers=args.workers, seconds=args.seconds, probe_s=args.probe_seconds)
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(report, args.out)
    print(table(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
