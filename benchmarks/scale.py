"""Measures the service on a large simulated catalogue: latency, memory of all processes, recall of the retrieval.

.venv/bin/python benchmarks/scale.py --items 1000000

Embeddings are a mixture of topics, so that neighbours mean something; nothing is trained but a small ranker.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.server_process import machine_facts, serving  # noqa: E402
from benchmarks.serving import N_SHOTS, SEED, measure_load, write_report  # noqa: E402
from benchmarks.traffic import Traffic  # noqa: E402
from features.path import RankingPath  # noqa: E402
from recsys.bundle import load_bundle, write_bundle  # noqa: E402
from recsys.catalogue import Catalogue  # noqa: E402
from recsys.config import Config  # noqa: E402
from recsys.counters import BucketCounts, Counters  # noqa: E402
from recsys.errors import RecsysError  # noqa: E402
from recsys.histories import InteractionLog, Request  # noqa: E402
from recsys.ids import IdMap  # noqa: E402
from recsys.models.covisitation import Covisitation  # noqa: E402
from recsys.models.factors import ItemFactors  # noqa: E402
from recsys.models.fitted import FittedModels  # noqa: E402
from recsys.models.kept_files import KeptFiles  # noqa: E402
from recsys.models.linear_items import Ease, NextItem  # noqa: E402
from recsys.models.ranker import Ranker  # noqa: E402
from recsys.retrieval.index import Indexes, top_n  # noqa: E402

Float32 = npt.NDArray[np.float32]

OUT: Final = ROOT / "benchmarks" / "results" / "scale.json"
WORK: Final = ROOT / "runs" / "bench" / "scale"
K: Final = 100
GOAL_P99_MS: Final = 30.0
GOAL_PSS_MB: Final = 4_000.0
GOAL_RECALL: Final = 0.95
_TEXT_SIZE: Final = 384
_FACTORS: Final = 64
_N_CATEGORIES: Final = 20
_N_USERS: Final = 2_000
_EVENTS_PER_USER: Final = 20
_RANKER_ITEMS: Final = 3_000
_DAY_US: Final = 86_400_000_000
_NOW_US: Final = 1_750_000_000_000_000
_CHUNK: Final = 100_000
_SPREAD: Final = 0.8


@dataclass(frozen=True)
class World:
    """Items of topics. vectors: unit rows near their topic's direction."""

    topic: npt.NDArray[np.int64]
    embeddings: Float32
    factors: Float32


def simulate_world(n_items: int, n_topics: int, rng: np.random.Generator) -> World:
    """Return items whose text and factors are those of their topic, with noise of 0.8 times its length."""
    topic = rng.integers(0, n_topics, n_items)
    return World(topic, _clustered(topic, n_topics, _TEXT_SIZE, rng), _clustered(topic, n_topics, _FACTORS, rng))


def simulate_models(world: World, rng: np.random.Generator) -> FittedModels:
    """Return models over a world without a ranker: users stay with three topics each."""
    n_items = len(world.topic)
    config = Config()
    log = _simulate_log(world, rng)
    category = world.topic % _N_CATEGORIES
    items = pl.DataFrame(
        {
            "item_id": [f"item-{i}" for i in range(n_items)],
            "title": [f"Title {i} of topic {t}" for i, t in enumerate(world.topic.tolist())],
            "categories": [[f"category {c}"] for c in category.tolist()],
        }
    )
    bucket_us = int(config.features.bucket_minutes * 60_000_000)
    none = BucketCounts.build(np.empty(0, np.int32), np.empty(0, np.int64), None, bucket_us=bucket_us)
    return FittedModels(
        config=config,
        catalogue=Catalogue.from_items(items, config.data.text_fields),
        user_ids=IdMap([f"user-{user}" for user in range(_N_USERS)]),
        user_attributes=np.empty((_N_USERS, 0), np.float32),
        user_attribute_names=(),
        log=log,
        item_embeddings=world.embeddings,
        factors=ItemFactors(world.factors, world.factors, np.ones(n_items, np.bool_), 0.05, 10.0),
        covisitation=Covisitation.fit(log, config.covisitation),
        ease=Ease.fit(log, config.ease),
        next_item=NextItem.fit(log, config.next_item),
        counters=Counters(
            BucketCounts.build(log.item_idx, log.timestamp_us, log.weight, bucket_us=bucket_us), none, none
        ),
    )


def train_small_ranker(rng: np.random.Generator, *, n_trees: int = 200) -> Ranker:
    """Return a ranker that tells the topics of a user on a small world; its features are those of any size."""
    world = simulate_world(_RANKER_ITEMS, 100, rng)
    models = simulate_models(world, rng)
    path = RankingPath(models)
    rows, labels = [], []
    for user in range(200):
        history = models.log.history_of(user)
        candidates = path.candidates(Request(history, _NOW_US, user)).item_idx
        rows.append(path.rows(Request(history, _NOW_US, user), candidates))
        labels.append(np.isin(world.topic[candidates], world.topic[history.item_idx]))
    data = lgb.Dataset(np.vstack(rows), np.concatenate(labels), feature_name=list(path.feature_names))
    parameters = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1, "deterministic": True}
    return Ranker((lgb.train(parameters, data, num_boost_round=n_trees),), tuple(path.feature_names))


def scale_bundle(n_items: int, n_topics: int, work: Path = WORK) -> Path:
    """Return the folder of the bundle of this size, made once."""
    folder = work / f"bundle-{n_items}-{n_topics}"
    if not folder.exists():
        rng = np.random.default_rng(SEED)
        ranker = train_small_ranker(rng)
        models = simulate_models(simulate_world(n_items, n_topics, rng), rng).with_ranker(ranker)
        write_bundle(models, None, folder, data={"name": f"simulated-{n_items}", "items": n_items}, metrics={})
    return folder


def measure_recall(path: RankingPath, n_requests: int, rng: np.random.Generator) -> dict[str, float]:
    """Return recall@100 of the text and factor sources against their own exact scores, mean over users."""
    models = path.models
    found: dict[str, list[float]] = {"text": [], "als": []}
    for user in rng.choice(len(models.user_ids), n_requests, replace=False):
        request = Request(models.log.history_of(int(user)), _NOW_US, int(user))
        for source in path.sources:
            if source.name in found:
                exact = top_n(source.score_all(request), K)
                found[source.name].append(len(np.intersect1d(exact, source.retrieve(request, K))) / len(exact))
    return {name: round(float(np.mean(recalls)), 4) for name, recalls in found.items()}


def measure(folder: Path, *, rate: float, seconds: float, workers: int, is_kept: bool = False) -> dict[str, Any]:
    """Return latency and memory under a fixed rate, and recall, with what of the goals is met.

    is_kept: whether the files that processes share may be those of an earlier run.
    """
    machine = machine_facts()
    rng = np.random.default_rng(SEED)
    bundle = load_bundle(folder)
    cache = folder.parent / "cache"
    if not is_kept:
        shutil.rmtree(cache, ignore_errors=True)
    first_s = None
    if not cache.exists():
        began = time.monotonic()
        with serving(folder, workers=workers, cache=cache):
            first_s = round(time.monotonic() - began, 1)
    began = time.monotonic()
    with serving(folder, workers=workers, cache=cache) as server:
        again_s = round(time.monotonic() - began, 1)
        shots = Traffic.of(bundle, server.address).lists(N_SHOTS // 4, rng)
        load = measure_load(server, shots, rate, seconds, rng, kind="list")
    # The lists that were served are those that are measured.
    kept = KeptFiles(next(path for path in (cache / "shared").iterdir() if path.is_dir()))
    models = bundle.models
    indexes = Indexes(models.config.retrieval.exact_below, len(models.catalogue), kept)
    recall = measure_recall(RankingPath(models, indexes), 100, rng)
    goals = {
        f"p99 ≤ {GOAL_P99_MS:g} ms": load["p99_ms"] is not None and load["p99_ms"] <= GOAL_P99_MS,
        f"PSS ≤ {GOAL_PSS_MB:g} MB": load["memory_mb"]["pss"] <= GOAL_PSS_MB,
        f"recall@{K} ≥ {GOAL_RECALL:g}": min(recall.values()) >= GOAL_RECALL,
    }
    return {
        "machine": machine, "workers": workers, "items": len(bundle.models.catalogue), "seconds_to_ready": first_s,
        "seconds_to_ready_again": again_s,
        "load": load, f"recall@{K}": recall, "goals": goals,
    }  # fmt: skip


def _clustered(topic: npt.NDArray[np.int64], n_topics: int, size: int, rng: np.random.Generator) -> Float32:
    centres = rng.standard_normal((n_topics, size), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = np.empty((len(topic), size), np.float32)
    for start in range(0, len(topic), _CHUNK):
        part = centres[topic[start : start + _CHUNK]]
        part = part + rng.standard_normal(part.shape, np.float32) * np.float32(_SPREAD / np.sqrt(size))
        vectors[start : start + _CHUNK] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _simulate_log(world: World, rng: np.random.Generator) -> InteractionLog:
    n_items = len(world.topic)
    order = np.argsort(world.topic, kind="stable")
    starts = np.searchsorted(world.topic[order], np.arange(world.topic.max() + 2))
    item = np.empty((_N_USERS, _EVENTS_PER_USER), np.int32)
    for user in range(_N_USERS):
        for place, topic in enumerate(rng.choice(world.topic[rng.integers(0, n_items, 3)], _EVENTS_PER_USER)):
            # Low numbers of a topic are its popular items.
            within = int((starts[topic + 1] - starts[topic]) * rng.random() ** 3)
            item[user, place] = order[starts[topic] + within]
    time_us = _NOW_US - rng.integers(0, 60 * _DAY_US, item.size)
    users = np.repeat(np.arange(_N_USERS, dtype=np.int32), _EVENTS_PER_USER)
    weights = np.ones(item.size, np.float32)
    return InteractionLog.from_arrays(users, item.ravel(), time_us, weights, n_users=_N_USERS, n_items=n_items)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns 2 for input that cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="size of the catalogue")
    parser.add_argument("--topics", type=int, default=5_000, help="topics of its items")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the measurement")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--keep", action="store_true", help="go on with the shared files of an earlier run")
    parser.add_argument("--work", type=Path, default=WORK, help="where the bundle is kept")
    parser.add_argument("--out", type=Path, default=OUT, help="report")
    args = parser.parse_args(arguments)
    try:
        folder = scale_bundle(args.items, args.topics, args.work)
        report = measure(folder, rate=args.rate, seconds=args.seconds, workers=args.workers, is_kept=args.keep)
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_report(report, args.out)
    print(
        f"{report['items']} items, ready at first after {report['seconds_to_ready'] or '—'} s, then after "
        f"{report['seconds_to_ready_again']} s"
    )
    load = report["load"]
    print(f"p50 {load['p50_ms']} · p99 {load['p99_ms']} ms at {load['rate']}/s; memory {load['memory_mb']} MB")
    print(f"recall@{K}: {report[f'recall@{K}']}")
    for goal, met in report["goals"].items():
        print(f"  {goal:<20}{'met' if met else 'MISSED'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
