"""Deleted users and items stay deleted: without the store, in the next model, and wherever it was done."""

from collections.abc import Iterator

import pytest
from serving_toys import ToyPath, toy_engine

from recsys.errors import CatalogueFullError
from recsys.schema import Warmth
from serving.engine import Engine
from serving.errors import StoreError, UnknownItemError
from serving.service import Service
from serving.settings import Settings
from serving.slates import Query
from serving.store import NoStore, SqlEventStore, StoredItem
from serving.stored_items import StoredItems


class AbsentableStore(SqlEventStore):
    """A store in memory whose reads for a request fail while it is away."""

    is_away = False

    def last_seq_of(self, user_id: str) -> int:
        if self.is_away:
            raise StoreError("the database does not answer")
        return super().last_seq_of(user_id)


@pytest.fixture
def store() -> Iterator[AbsentableStore]:
    store = AbsentableStore("sqlite://")
    yield store
    store.close()


def used_of(engine: Engine, path: ToyPath, user_id: str) -> tuple[Warmth, int, list[int]]:
    """Return what a list for a user is made from: how well they are known, their row, the items of their history."""
    slate = engine.recommend(Query(user_id=user_id))
    request = path.requests[-1]
    return slate.user, request.user_idx, request.history.item_idx.tolist()


NOTHING = (Warmth.UNKNOWN, -1, [])


def test_without_the_store_nothing_is_used_of_a_user_whom_this_process_deleted(store: AbsentableStore) -> None:
    path = ToyPath()
    engine = toy_engine(store, path=path)
    assert used_of(engine, path, "ann") == (Warmth.WARM, 0, [0, 4])

    engine.delete_user("ann")
    store.is_away = True

    assert used_of(engine, path, "ann") == NOTHING
    assert used_of(engine, path, "bob")[0] == Warmth.WARM


def test_without_the_store_nothing_is_used_of_a_user_whom_another_process_deleted(
    store: AbsentableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.follower._PAGE", 2)
    path = ToyPath()
    engine, other = toy_engine(store, path=path), toy_engine(store)
    engine.follower.catch_up()
    for user_id in ("nobody's", "stranger", "ann"):
        other.delete_user(user_id)
    engine.follower.catch_up()
    other.delete_user("bob")
    engine.follower.catch_up()
    store.is_away = True

    assert used_of(engine, path, "ann") == used_of(engine, path, "bob") == NOTHING
    assert sorted(engine.follower.forgotten()) == ["ann", "bob"]


def test_a_deletion_from_before_the_start_is_known_without_the_store(store: AbsentableStore) -> None:
    toy_engine(store).delete_user("ann")
    path = ToyPath()
    engine = toy_engine(store, path=path)
    engine.follower.catch_up()
    store.is_away = True

    assert used_of(engine, path, "ann") == NOTHING


def test_a_model_that_takes_over_while_the_store_is_away_knows_who_was_deleted(store: AbsentableStore) -> None:
    service = Service(Settings())
    before, path = toy_engine(store), ToyPath()
    before.delete_user("ann")
    service._take(before, None)

    service._take(toy_engine(NoStore(), path=path), None)

    assert used_of(service.engine, path, "ann") == NOTHING


def test_an_item_that_the_store_has_and_the_model_has_no_room_for_is_deleted(
    store: AbsentableStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: StoredItems, items: list[StoredItem], **_: bool) -> None:
        if items:
            raise CatalogueFullError("no room")

    monkeypatch.setattr(StoredItems, "_apply", refuse)
    store.put_item(StoredItem("left out"), updated_us=1)
    engine = toy_engine(store)

    engine.delete_item("left out")

    assert store.known_items(["left out"]) == {"left out": False}
    assert "left out of model" in caplog.text
    engine.delete_item("left out")  # a repeat, whose first answer was lost


def test_an_item_that_neither_the_model_nor_the_store_knows_cannot_be_deleted(store: AbsentableStore) -> None:
    with pytest.raises(UnknownItemError, match="'never' is not in the catalogue; nothing was deleted"):
        toy_engine(store).delete_item("never")

    assert store.item_changes(0, 10) == []
