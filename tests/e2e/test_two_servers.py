"""Two engines over one database, as two workers or two servers have it: what one is told, the other knows."""

from pathlib import Path

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from recsys.bundle import load_bundle
from recsys.errors import EncoderError
from serving.engine import Engine
from serving.errors import UnknownItemError
from serving.follower import Follower
from serving.loading import make_engine
from serving.refusals import refusal_of
from serving.rules import Rules
from serving.schemas import RecommendationRequest
from serving.settings import Settings
from serving.slates import ModelInfo, NewEvent, Query
from serving.store import SqlEventStore, StoredItem

DAY_US = 86_400_000_000


class Clock:
    """The same moment for both engines."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def servers(tiny_bundle: Path, tmp_path: Path) -> tuple[Engine, Engine]:
    settings = Settings(live_items=20)
    engines = []
    clock = Clock(load_bundle(tiny_bundle).manifest.data_until_us + DAY_US)
    for _ in range(2):
        store = SqlEventStore(f"sqlite:///{tmp_path / 'recsys.db'}")
        engine = make_engine(settings, load_bundle(tiny_bundle), ModelInfo("recsys", "1"), store)
        engine._clock = clock
        engine.on_slate = lambda slate, store=store: store.add_slates([slate])  # type: ignore[misc]
        engines.append(engine)
    return engines[0], engines[1]


def listed(engine: Engine, **query: object) -> list[str]:
    return [item.item_id for item in engine.recommend(Query(**query)).items]  # type: ignore[arg-type]


def article(engine: Engine, row: int, **changes: object) -> StoredItem:
    """Return an item that reads like one of the catalogue."""
    values = engine.bundle.models.catalogue.table.row(row, named=True)
    item = StoredItem("new/ärticle", values["title"], values["description"], tuple(values["categories"] or ()))
    return StoredItem(**(vars(item) | changes))  # type: ignore[arg-type]


def test_an_event_is_used_by_the_next_request_at_the_other_server(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    before = other.recommend(Query(user_id="new user"))
    one.add_events([NewEvent("new user", before.items[0].item_id, "click")])

    after = other.recommend(Query(user_id="new user"))

    assert (before.user, after.user) == ("unknown", "cold")
    assert before.items[0].item_id not in [item.item_id for item in after.items]
    assert listed(one, user_id="new user") == [item.item_id for item in after.items]


def test_a_new_item_is_recommended_at_both_and_its_clicks_count_at_both(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    near = one.bundle.models.catalogue.ids.id_of(20)
    assert one.put_item(article(one, 20)) is True
    other.follower.catch_up()

    for engine in servers:
        assert engine.similar(near, 1).items[0].item_id == "new/ärticle"
        assert "new/ärticle" in listed(engine, candidates=["new/ärticle", near])
        assert engine.title_of("new/ärticle") == engine.title_of(near)
    other.add_events([NewEvent("someone", "new/ärticle", "click")])
    for engine in servers:
        engine.follower.catch_up()
        row = engine.bundle.models.catalogue.ids.get("new/ärticle")
        counters = engine.bundle.models.counters
        later_us = engine._clock() + 2 * counters.interactions.bucket_us
        assert (
            counters.count("interactions", engine._item_ids.lookup([near, "new/ärticle"], unknown="error"), later_us)[
                1, 0
            ]
            > 0.0
        ), row


class BrokenSession:
    """In place of an encoder's graph."""

    def run(self, *_: object) -> None:
        raise RuntimeException("out of memory")


def test_an_item_that_the_encoder_fails_on_is_refused_by_who_is_asked_to_put_it(
    servers: tuple[Engine, Engine],
) -> None:
    one, other = servers
    one.bundle.models.encoder._session = BrokenSession()  # type: ignore[union-attr,assignment]

    with pytest.raises(EncoderError, match=r"out of memory; try again, .*; nothing was stored") as caught:
        one.put_item(article(one, 20))
    assert (refusal_of(caught.value).status, refusal_of(caught.value).code) == (503, "encoder_failed")
    assert "new/ärticle" not in one._item_ids
    assert not other.store.item_changes(0, 1)


def test_an_item_put_elsewhere_that_the_encoder_fails_on_is_there_without_its_text_until_it_can_be_read(
    servers: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = servers
    clock = Clock(0)
    other.follower = Follower(other, other.store, clock=clock)
    encoder = other.bundle.models.encoder
    assert encoder is not None
    session, encoder._session = encoder._session, BrokenSession()  # type: ignore[assignment]
    near, gone = one.bundle.models.catalogue.ids.ids[20], one.bundle.models.catalogue.ids.ids[21]
    one.put_item(article(one, 20))
    one.put_item(article(one, 30, item_id="another"))
    one.delete_item(gone)

    other.follower.catch_up()
    assert listed(other, candidates=["new/ärticle", "another", gone]) != []
    assert gone not in listed(other, n=1_000)
    assert other.add_events([NewEvent("u", "new/ärticle", "click")]).duplicates == 0
    assert "new/ärticle" not in [item.item_id for item in other.similar(near, 5).items]
    encoder._session = session
    other.follower.catch_up()
    assert "new/ärticle" not in [item.item_id for item in other.similar(near, 5).items], "not yet again"

    one.delete_item("another")
    clock.now_us += 31
    other.follower.catch_up()
    assert other.similar(near, 1).items[0].item_id == "new/ärticle"
    assert "another" not in listed(other, n=1_000)
    assert len([record for record in caplog.records if "without their texts for now" in record.message]) == 1


def test_an_event_on_an_item_that_was_put_elsewhere_a_moment_ago_is_taken(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    one.put_item(article(one, 20))

    assert other.add_events([NewEvent("u", "new/ärticle", "click")]).duplicates == 0


def test_a_deleted_item_is_in_no_list_of_either_nor_after_a_restart(
    servers: tuple[Engine, Engine], tiny_bundle: Path
) -> None:
    one, other = servers
    best = listed(one, user_id="u0001", n=1)[0]
    one.put_item(article(one, 20))
    one.delete_item(best)
    one.delete_item("new/ärticle")
    other.follower.catch_up()
    restarted = make_engine(Settings(live_items=20), load_bundle(tiny_bundle), ModelInfo("recsys", "1"), one.store)

    for engine in (one, other, restarted):
        assert best not in listed(engine, user_id="u0001", n=1_000)
        assert listed(engine, candidates=[best, engine.bundle.models.catalogue.ids.id_of(3)]) != []
        assert best not in listed(engine, candidates=[best, engine.bundle.models.catalogue.ids.id_of(3)])
        with pytest.raises(UnknownItemError):
            engine.similar("new/ärticle")


def test_an_item_that_was_put_elsewhere_a_moment_ago_can_be_deleted(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    one.put_item(article(one, 20))

    other.delete_item("new/ärticle")
    one.follower.catch_up()

    for engine in servers:
        with pytest.raises(UnknownItemError):
            engine.similar("new/ärticle")


def test_a_deleted_user_is_unknown_to_both_at_once(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    assert other.recommend(Query(user_id="u0001")).user == "warm"
    one.add_events([NewEvent("u0001", one.bundle.models.catalogue.ids.id_of(3), "click")])

    receipt = one.delete_user("u0001")

    assert (receipt.events, receipt.slates) == (1, 1)
    for engine in servers:
        slate = engine.recommend(Query(user_id="u0001"))
        assert slate.user == "unknown"
        assert [item.item_id for item in slate.items] == listed(engine)


def test_what_was_shown_and_clicked_counts_at_both(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    slate = one.recommend(Query(user_id="u0002", n=3))
    other.add_events([NewEvent("u0002", slate.items[1].item_id, "click", recommendation_id=slate.recommendation_id)])

    for engine in servers:
        engine.follower.catch_up()
        counters, rows = (
            engine.bundle.models.counters,
            engine._item_ids.lookup([item.item_id for item in slate.items], unknown="error"),
        )
        now_us = engine._clock()
        later_us = now_us + counters.interactions.bucket_us
        for kind, expected in (("shown", [1, 1, 1]), ("clicked", [0, 1, 0]), ("interactions", [0, 1, 0])):
            before, after = (counters.count(kind, rows, at)[:, 0] for at in (now_us, later_us))
            assert (after - before > 0).astype(int).tolist() == expected, kind


def test_filters_rules_and_reasons_work_on_live_items_too(servers: tuple[Engine, Engine]) -> None:
    one, other = servers
    near = one.bundle.models.catalogue.ids.id_of(20)
    one.put_item(article(one, 20, attributes={"stock": 3.0, "shop": "north"}))
    other.follower.catch_up()
    for engine in servers:
        query = RecommendationRequest.model_validate(
            {"history": [near], "n": 5, "filter": {"shop": "north", "stock": {"min": 1}}, "explain": True}
        ).query()
        (item,) = engine.recommend(query).items
        assert item.item_id == "new/ärticle"
        assert item.explanation is not None
        assert sum(part.contribution for part in item.explanation) == pytest.approx(item.score, abs=1e-5)
        assert item.evidence is not None
        assert item.evidence.item_id == near
        pinned = RecommendationRequest.model_validate(
            {"history": [near], "n": 4, "pins": [{"item_id": "new/ärticle", "position": 2}], "caps": {"category": 2}}
        ).query()
        slate = engine.recommend(pinned)
        assert [item.rule for item in slate.items].index("pin") == 1
        assert slate.items[1].item_id == "new/ärticle"
    assert Rules() == Query().rules
