"""Requests are served and logged while events come in; offline, from one log of everything, the same rows come out."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from features.assemble import feature_rows
from features.context import ItemTable
from features.path import RankingPath
from recsys.bundle import load_bundle
from recsys.counters import BucketCounts, Counters
from recsys.histories import MAX_REQUEST_HISTORY, InteractionLog, Request
from recsys.ids import UNKNOWN_IDX, IdMap
from recsys.models.fitted import FittedModels
from serving.engine import Engine
from serving.sessions import weigh_events
from serving.slates import NewEvent, Query, ServedRequest
from serving.store import SqlEventStore

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


@dataclass
class Service:
    """An engine over a bundle, a clock that is set by hand, and everything that was served."""

    engine: Engine
    now_us: int
    served: list[ServedRequest] = field(default_factory=list)

    @staticmethod
    def start(folder: Path, now_us: int, store: SqlEventStore | None = None) -> "Service":
        service = Service.__new__(Service)
        engine = Engine(load_bundle(folder), store or SqlEventStore("sqlite://"), clock=lambda: service.now_us)
        Service.__init__(service, engine, now_us)
        engine.on_served = service.served.append
        return service

    @property
    def models(self) -> FittedModels:
        return self.engine.bundle.models

    def wait(self, minutes: float) -> None:
        self.now_us += int(minutes * MINUTE_US)

    def act(self, user_id: str, *item_ids: str, event: str = "click", seconds_ago: int = 0) -> None:
        """Store an event per item, the first of them longest ago."""
        when = self.now_us - seconds_ago * 1_000_000
        self.engine.add_events(
            [
                NewEvent(user_id, item_id, event, timestamp_us=when - len(item_ids) + place)
                for place, item_id in enumerate(item_ids)
            ]
        )
        self.engine.follower.catch_up()

    def ask(self, user_id: str | None, candidates: list[str] | None = None, exclude: tuple[str, ...] = ()) -> None:
        self.engine.recommend(Query(user_id=user_id, candidates=candidates, exclude=exclude, n=5))


@pytest.fixture
def service(tiny_bundle: Path, tiny_models: FittedModels) -> Service:
    end = int(tiny_models.log.timestamp_us.max())
    return Service.start(tiny_bundle, end // HOUR_US * HOUR_US + HOUR_US + 7 * MINUTE_US)


def _play(service: Service) -> None:
    """A few hours of a service: known and new users, every kind of event, lists to find and lists to order.

    No event is older than the request before it: what arrives late was unknown to that request, and the log that the
    rows are made from again does not tell when an event arrived.
    """
    for hour in range(4):
        service.ask("u0003")
        service.wait(1)
        service.act("u0003", "i0100", "i0149", event="view", seconds_ago=40)
        service.act("u0003", "i0149", event="purchase")
        service.ask("u0003")
        service.ask("u0003", candidates=["i0149", "i0001", "i0033", "i0001"])
        service.wait(11)
        service.act("stranger", f"i000{hour}", "i0012")
        service.ask("stranger")
        service.wait(1)
        service.act("stranger", "i0012", event="like", seconds_ago=3)
        service.ask("nobody")
        service.ask(None, candidates=["i0007", "i0149"])
        service.wait(30)
        service.act("u0041", f"i01{hour}0", "i0149", "i0007", event="comment")
        service.act("u0041", "i0050", event="something else")
        service.ask("u0041", exclude=("i0100", "i0002"))
        service.wait(25)
    service.wait(26 * 60)
    service.ask("u0003")
    service.ask("stranger")


@dataclass
class Offline:
    """Training data and stored events as one log, counted from scratch."""

    models: FittedModels
    user_ids: IdMap
    log: InteractionLog

    @staticmethod
    def build(service: Service) -> "Offline":
        fitted, config = service.models, service.models.config
        events = list(service.engine.store.since(0))
        known = fitted.user_ids
        user_ids = known.extended(sorted({event.user_id for event in events} - set(known.ids)))
        weight = weigh_events(events, np.full(len(events), np.nan), config.data).weight
        log = InteractionLog.from_arrays(
            np.append(fitted.log.user_idx, user_ids.lookup([event.user_id for event in events], unknown="error")),
            np.append(
                fitted.log.item_idx,
                fitted.catalogue.ids.lookup([event.item_id for event in events], unknown="error"),
            ),
            np.append(fitted.log.timestamp_us, np.array([event.timestamp_us for event in events], np.int64)),
            np.append(fitted.log.weight, weight.astype(np.float32)),
            n_users=len(user_ids),
            n_items=len(fitted.catalogue),
        )
        bucket_us = fitted.counters.interactions.bucket_us
        interactions = BucketCounts.build(log.item_idx, log.timestamp_us, log.weight, bucket_us=bucket_us)
        counters = Counters(interactions, fitted.counters.shown, fitted.counters.clicked)
        return Offline(replace(fitted, counters=counters), user_ids, log)

    def request(self, served: ServedRequest) -> Request:
        """Make the request again from who asked, when, and for what; its history comes from the log."""
        as_of, given = served.request.as_of_us, served.request.candidates
        row = UNKNOWN_IDX if served.user_id is None else self.user_ids.get(served.user_id)
        history = self.log.history_of(row, as_of).last(MAX_REQUEST_HISTORY)
        is_known = row < len(self.models.user_ids)
        return Request(history, as_of, row if is_known else UNKNOWN_IDX, given)


def _compare(service: Service) -> Iterator[tuple[ServedRequest, Request]]:
    """Assert that every served request has the same candidates, rows and scores offline, bit for bit."""
    offline = Offline.build(service)
    path, items = RankingPath(offline.models), ItemTable.build(offline.models)
    ranker = offline.models.ranker
    assert ranker is not None
    for served in service.served:
        request = offline.request(served)
        found = path.candidates(request, exclude=served.exclude)
        rows = feature_rows(offline.models, items, request, found.item_idx)
        order = np.argsort(-ranker.score(rows), kind="stable")

        assert served.ranking.item_idx.tolist() == found.item_idx[order].tolist()
        assert served.ranking.feature_names == path.feature_names == ranker.feature_names
        different = np.flatnonzero((served.ranking.features != rows[order]).any(axis=0) & ~np.isnan(rows).all(axis=0))
        assert served.ranking.features.tobytes() == rows[order].tobytes(), [path.feature_names[c] for c in different]
        assert served.ranking.score.tobytes() == ranker.score(rows)[order].tobytes()
        yield served, request


def test_served_rows_come_out_of_the_log_bit_for_bit(service: Service) -> None:
    _play(service)

    compared = list(_compare(service))
    assert len(compared) == len(service.served) == 4 * 7 + 2
    # The comparison is of something: histories with live events, empty ones, counts that live events moved.
    lengths = {served.user_id: len(request.history) for served, request in compared}
    trained = len(service.models.log.history_of(service.models.user_ids.get("u0003")))
    assert lengths["u0003"] == trained + 4 * 3
    assert (lengths["stranger"], lengths["nobody"], lengths[None]) == (4 * 3, 0, 0)
    place = service.served[0].ranking.feature_names.index("popularity_24h")
    item = service.models.catalogue.ids.get("i0149")
    counts = [
        float(served.ranking.features[row, place])
        for served in service.served
        for row in np.flatnonzero(served.ranking.item_idx == item)
        if served.request.candidates is not None
    ]
    assert len(set(counts)) >= 4


def test_threads_of_the_algebra_do_not_change_a_bit(service: Service) -> None:
    _play(service)

    with threadpool_limits(limits=1):
        assert len(list(_compare(service))) == len(service.served)


def test_rows_are_the_same_after_a_restart(service: Service, tiny_bundle: Path) -> None:
    store = service.engine.store
    assert isinstance(store, SqlEventStore)
    _play(service)
    restarted = Service.start(tiny_bundle, service.now_us, store)
    restarted.engine.follower.catch_up()

    for asked in (service, restarted):
        asked.ask("u0003")
        asked.ask("stranger", candidates=["i0149", "i0012", "i0003"])
    before, after = service.served[-2:], restarted.served[-2:]
    for one, other in zip(before, after, strict=True):
        assert one.ranking.features.tobytes() == other.ranking.features.tobytes()
        assert one.ranking.item_idx.tolist() == other.ranking.item_idx.tolist()
    assert len(list(_compare(restarted))) == 2


def test_users_with_long_histories_are_served_as_they_are_trained_on(service: Service) -> None:
    longest = service.models.config.features.max_history
    items = service.models.catalogue.ids.ids
    for start in range(0, 2 * longest, 10):
        service.act("u0003", *items[start : start + 10])
        service.wait(50)
    service.ask("u0003")

    ((_, request),) = _compare(service)
    assert len(request.history) > 2 * longest


def test_the_comparison_notices_an_event_that_was_not_logged(service: Service) -> None:
    service.act("u0003", "i0100", "i0149")
    service.wait(90)
    service.ask("u0003")
    service.engine.store = SqlEventStore("sqlite://")

    with pytest.raises(AssertionError):
        list(_compare(service))
