"""A toy catalogue, three users and a ranking whose right answers are known, for the tests of the service."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import polars as pl

from features.path import Ranking, RankingPath
from features.rungs import Rung
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.histories import InteractionLog, Request
from recsys.ids import IdMap
from serving.engine import Engine
from serving.slates import ModelInfo
from serving.store import EventStore, SqlEventStore

SECOND_US = 1_000_000
NOW_US = 1_700_000_000 * SECOND_US  # 2023-11-14T22:13:20Z
DATA_UNTIL_US = 3_000 * SECOND_US

ITEM_IDS = ["i0", "i1", "i2", "i3", "i4", "b/c 📚", "i6"]
# The toy ranking puts items in this order, whoever asks.
ORDER = [3, 1, 6, 0, 5, 2, 4]
ORDERED_IDS = [ITEM_IDS[idx] for idx in ORDER]
USER_IDS = ["ann", "bob", "shown-only"]
# (user, item, seconds, weight): ann did i0, then i4; bob did i2 three times.
_LOG = [(0, 0, 1_000, 1.0), (0, 4, 2_000, 4.0), (1, 2, 1_500, 1.0), (1, 2, 2_500, 1.0), (1, 2, 3_000, 1.0)]


@dataclass
class ToyPath:
    """Ranks by `ORDER`, the first item scoring 7, and remembers what it was asked."""

    n_items: int = len(ITEM_IDS)
    requests: list[Request] = field(default_factory=list)
    excluded: list[list[int]] = field(default_factory=list)
    recorded: list[tuple[int, int, str, float]] = field(default_factory=list)
    diversified: list[tuple[int, float]] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)

    models: Any = None
    is_listed: Any = field(default_factory=lambda: np.ones(len(ITEM_IDS), np.bool_))

    def rank(
        self, request: Request, *, exclude: Any, allowed: Any, rung: Rung, at_least: int, on_stage: Any
    ) -> Ranking:
        self.requests.append(request)
        self.rungs.append(rung)
        self.wanted.append(at_least)
        self.excluded.append(exclude.tolist())
        if request.candidates is None:
            chosen = [idx for idx in ORDER if idx not in exclude and (allowed is None or allowed[idx])]
        else:
            chosen = sorted(set(request.candidates.tolist()), key=ORDER.index)
        return Ranking(
            np.asarray(chosen, np.int32),
            np.asarray([7.0 - ORDER.index(idx) for idx in chosen], np.float32),
            np.full(len(chosen), 0 if request.candidates is not None else 0b101, np.uint8),
            ("als", "text", "popular"),
            np.arange(len(chosen) * 2, dtype=np.float32).reshape(-1, 2),
            ("first", "second"),
        )

    def rows(self, request: Request, candidate_idx: Any, *, rung: Rung) -> Any:
        return np.zeros((len(candidate_idx), 2), np.float32)

    def diversify(self, ranking: Ranking, n: int, diversity: float) -> Ranking:
        self.diversified.append((n, diversity))
        return replace(ranking, item_idx=ranking.item_idx[::-1], score=ranking.score[::-1])

    def similar(self, item_idx: int, n: int, *, exclude: Any) -> tuple[Any, Any]:
        near = [idx for idx in ORDER if idx not in exclude][:n]
        return np.asarray(near, np.int32), np.linspace(0.9, 0.3, len(near), dtype=np.float32)

    def record(self, item_idx: int, timestamp_us: int, *, kind: str, weight: float = 1.0) -> None:
        self.recorded.append((item_idx, timestamp_us, kind, weight))


@dataclass
class ToyClock:
    """A clock that stands still until it is set."""

    now_us: int = NOW_US

    def __call__(self) -> int:
        return self.now_us


def toy_bundle(overrides: dict[str, Any] | None = None) -> Bundle:
    """Return a bundle without fitted parts: catalogue, users, log and configuration are real."""
    config = Config().with_overrides({"features.max_history": 4} | (overrides or {}))
    users, items, seconds, weights = (np.asarray(column) for column in zip(*_LOG, strict=True))
    log = InteractionLog.from_arrays(
        users.astype(np.int32),
        items.astype(np.int32),
        seconds.astype(np.int64) * SECOND_US,
        weights.astype(np.float32),
        n_users=len(USER_IDS),
        n_items=len(ITEM_IDS),
    )
    table = pl.DataFrame({"item_id": ITEM_IDS, "title": [None, *(f"Title of {id_}" for id_ in ITEM_IDS[1:])]})
    models = SimpleNamespace(
        config=config,
        catalogue=Catalogue.from_items(table, ("title",)),
        user_ids=IdMap(USER_IDS),
        log=log,
        encoder=None,
        sentiment=None,
        ranker=None,
        seen=None,
        n_rows=len(ITEM_IDS),
    )
    manifest = SimpleNamespace(bundle_id="f00d" * 16, data_until_us=DATA_UNTIL_US)
    return cast(Bundle, SimpleNamespace(manifest=manifest, models=models))


def toy_engine(
    store: EventStore | None = None,
    *,
    path: ToyPath | None = None,
    clock: Callable[[], int] | None = None,
    overrides: dict[str, Any] | None = None,
    max_user_events: int = 1_000,
) -> Engine:
    """Return an engine over the toy bundle, whose store is in memory unless one is given."""
    bundle, path = toy_bundle(overrides), path or ToyPath()
    path.models = bundle.models
    return Engine(
        bundle,
        store or SqlEventStore("sqlite://"),
        model=ModelInfo("recsys", "12", "champion"),
        path=cast(RankingPath, path),
        clock=clock or ToyClock(),
        max_user_events=max_user_events,
    )
