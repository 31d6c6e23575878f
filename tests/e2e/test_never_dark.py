"""Faults and swaps with real bundles, a real registry and real databases: what is answered, and why it is degraded."""

import gc
import shutil
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from recsys.bundle import load_bundle, write_bundle
from recsys.mlflow_store import mlflow
from recsys.models.fitted import FittedModels
from recsys.registry import Registry
from serving.errors import NotReadyError, StoreError
from serving.loading import Wanted
from serving.service import Service, _give_memory_back
from serving.settings import Settings
from serving.slates import ModelInfo, NewEvent, Query

MLMODEL = "flavors:\n  python_function:\n    artifacts:\n      bundle:\n        path: artifacts/bundle\n"


@pytest.fixture(scope="module")
def bundles(
    tiny_bundle: Path, tiny_models: FittedModels, tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two bundles with different ids, both with an encoder."""
    other = tmp_path_factory.mktemp("other") / "bundle"
    write_bundle(tiny_models, tiny_encoder, other, data={"name": "other"}, metrics={"auc": 0.5})
    return tiny_bundle, other


@pytest.fixture
def registry(bundles: tuple[Path, Path], tmp_path: Path) -> Registry:
    """A registry with two versions, the first of which is champion."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    registry = Registry(uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "mlartifacts").as_uri())
    for place, bundle in enumerate(bundles):
        model = tmp_path / f"model{place}"
        shutil.copytree(bundle, model / "artifacts" / "bundle")
        (model / "MLmodel").write_text(MLMODEL)
        registry.register(client.create_run(experiment).info.run_id, model.as_uri())
    return registry


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service; settings that are not given name files of this test."""
    started: list[Service] = []

    def begin(**values: object) -> Service:
        counted: list[tuple[str, dict[str, str]]] = []
        defaults = {"cache": tmp_path / "cache", "store_url": f"sqlite:///{tmp_path / 'events.db'}", "poll_s": 0.05}
        service = Service(
            Settings(**(defaults | values)),  # type: ignore[arg-type]
            first_retry_s=0.05,
            on_event=lambda name, **labels: counted.append((name, labels)),
        )
        service.counted = counted  # type: ignore[attr-defined]
        service.start()
        started.append(service)
        return service

    yield begin
    for service in started:
        service.stop()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def ready(service: Service) -> Service:
    wait_for(lambda: service._engine is not None)
    return service


def reason(service: Service, **query: object) -> str | None:
    return service.recommend(Query(**query)).degraded_reason  # type: ignore[arg-type]


def test_a_new_champion_takes_over_without_a_gap_and_a_rollback_too(registry: Registry, start: Start) -> None:
    service = ready(start(tracking_uri=registry.uri))
    assert service.recommend(Query()).model.version == "1"

    registry.promote("2")
    wait_for(lambda: service.recommend(Query()).model.version == "2")
    registry.rollback()
    wait_for(lambda: service.recommend(Query()).model.version == "1")

    assert reason(service) is None
    assert [name for name, _ in service.counted] == ["model_swapped"] * 2  # type: ignore[attr-defined]


def test_a_damaged_champion_is_refused_and_the_old_one_serves_on(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    service = ready(start(tracking_uri=registry.uri))
    ranker = tmp_path / "model1" / "artifacts" / "bundle" / "ranker.txt"
    ranker.write_text(ranker.read_text() + " ")

    registry.promote("2")
    wait_for(lambda: ("model_refused", {"version": "2"}) in service.counted)  # type: ignore[attr-defined]

    assert service.recommend(Query()).model.version == "1"
    assert reason(service) is None


def test_without_a_registry_the_version_served_last_is_served(registry: Registry, start: Start, tmp_path: Path) -> None:
    ready(start(tracking_uri=registry.uri)).stop()
    database = tmp_path / "mlflow.db"
    database.rename(tmp_path / "away.db")

    service = ready(start(tracking_uri=registry.uri))
    slate = service.recommend(Query())
    assert (slate.model.version, slate.degraded, slate.degraded_reason) == ("1", True, "registry_unavailable")
    assert len(slate.items) == 10

    (tmp_path / "away.db").rename(database)
    wait_for(lambda: reason(service) is None)


def test_a_registry_that_goes_away_while_serving_degrades_nothing(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    service = ready(start(tracking_uri=registry.uri))
    (tmp_path / "mlflow.db").rename(tmp_path / "away.db")
    wait_for(lambda: ("registry_error", {}) in service.counted)  # type: ignore[attr-defined]

    assert reason(service) is None


def test_a_damaged_champion_at_the_start_gives_way_to_the_version_served_last(
    registry: Registry, start: Start, tmp_path: Path
) -> None:
    ready(start(tracking_uri=registry.uri)).stop()
    registry.promote("2")
    (tmp_path / "model1" / "artifacts" / "bundle" / "ranker.txt").unlink()

    slate = ready(start(tracking_uri=registry.uri)).recommend(Query())

    assert (slate.model.version, slate.degraded_reason) == ("1", "model_refused")


def test_a_tracking_server_that_is_down_leaves_popular_items(start: Start) -> None:
    service = start(tracking_uri=f"http://127.0.0.1:{closed_port()}")
    wait_for(lambda: service.store.is_open)
    wait_for(lambda: "does not answer" in service._problem)
    with pytest.raises(NotReadyError, match="does not answer"):
        service.recommend(Query())

    from serving.store import Event

    now_us = time.time_ns() // 1_000
    service.store.add([Event("e", "u", "anything", "click", now_us)], received_us=now_us)
    wait_for(lambda: not _is_dark(service))  # the empty list is kept for some seconds
    slate = service.recommend(Query())

    assert [item.item_id for item in slate.items] == ["anything"]
    assert (slate.degraded_reason, slate.rung, slate.model.version) == ("no_model", "popular", "none")
    off = start(tracking_uri=f"http://127.0.0.1:{closed_port()}", fallback="off")
    with pytest.raises(NotReadyError):
        off.recommend(Query())


def _is_dark(service: Service) -> bool:
    try:
        service.recommend(Query())
    except NotReadyError:
        return True
    return False


def test_a_database_that_is_down_costs_the_events_alone(bundles: tuple[Path, Path], start: Start) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{closed_port()}/none"
    service = ready(start(bundle=bundles[0], store_url=url))
    models = service.engine.bundle.models
    known, item = models.user_ids.id_of(int(models.log.user_idx[0])), models.catalogue.ids.ids[0]

    slate = service.recommend(Query(user_id=known))
    assert (slate.degraded_reason, slate.rung, slate.user.value) == ("store_unavailable", "full", "warm")
    with pytest.raises(StoreError, match="cannot be opened"):
        service.engine.add_events([NewEvent(known, item, "click")])
    assert reason(service) is None, "who has no id misses nothing"


def test_a_store_that_comes_late_is_taken_up_with_its_events(
    bundles: tuple[Path, Path], start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "volume"
    service = ready(start(bundle=bundles[0], store_url=f"sqlite:///{folder / 'events.db'}"))
    assert reason(service, user_id="u") == "store_unavailable"

    folder.mkdir()
    wait_for(lambda: service.store.is_open)

    assert reason(service, user_id="u") is None


def test_a_database_that_breaks_while_serving_is_done_without(
    bundles: tuple[Path, Path], start: Start, tmp_path: Path
) -> None:
    service = ready(start(bundle=bundles[0]))
    assert reason(service, user_id="u") is None
    for file in tmp_path.glob("events.db*"):
        file.write_bytes(b"no database at all" * 500)

    assert reason(service, user_id="u") == "store_unavailable"
    assert ("degraded", {"rung": "full", "reason": "store_unavailable"}) in service.counted  # type: ignore[attr-defined]


def test_a_full_disk_refuses_events_and_nothing_else(bundles: tuple[Path, Path], start: Start) -> None:
    service = ready(start(bundle=bundles[0]))
    engine = service.engine
    item = engine.bundle.models.catalogue.ids.ids[0]
    database = _sqlalchemy_engine(service)

    @sa.event.listens_for(database, "checkout")
    def allow_no_more_pages(connection: object, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]

    def post() -> None:
        engine.add_events([NewEvent("u", item, "click", text="long " * 1_000) for _ in range(50)])

    for _ in range(8):
        with pytest.raises(StoreError, match="disk is full"):
            post()
    assert reason(service, user_id="u") is None


def _sqlalchemy_engine(service: Service) -> sa.Engine:
    store = service.store._store
    found: sa.Engine = store._database.engine  # type: ignore[union-attr]
    return found


class _TwoVersions:
    """In place of the registry: each look wants the other of two bundles."""

    def __init__(self, service: Service, folders: tuple[Path, Path]) -> None:
        self._open = service._models.open
        self._folders = folders
        self.n = 0

    def wanted(self) -> Wanted:
        self.n += 1
        folder = self._folders[self.n % 2]
        return Wanted(ModelInfo("recsys", str(self.n)), lambda: folder)

    def open(self, *arguments: object, **options: object) -> object:
        return self._open(*arguments, **options)  # type: ignore[arg-type]


def _swap_under_requests(service: Service, bundles: tuple[Path, Path], n_swaps: int, warm_swaps: int) -> None:
    """Swap many times while two threads ask; check that no request fails, no engine stays and memory does not grow."""
    service._watcher._versions = _TwoVersions(service, bundles)  # type: ignore[assignment]
    stop, failures, n_answers = threading.Event(), list[Exception](), [0]
    users = service.engine.bundle.models.user_ids.ids

    def ask() -> None:
        while not stop.is_set():
            try:
                slate = service.recommend(Query(user_id=users[n_answers[0] % len(users)]))
                if slate.degraded or len(slate.items) != 10:
                    raise AssertionError(slate)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
                return
            n_answers[0] += 1

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    old: list[weakref.ref[object]] = []
    resident: list[int] = []
    for _ in range(n_swaps):
        old += [weakref.ref(service.engine), weakref.ref(service.engine.bundle.models)]
        service._look()
        resident.append(psutil.Process().memory_info().rss)
    stop.set()
    for asker in askers:
        asker.join()
    _give_memory_back()
    gc.collect()
    assert failures == []
    assert n_answers[0] > n_swaps
    assert [ref for ref in old if ref() is not None] == []
    early, late = max(resident[warm_swaps - 5 : warm_swaps]), min(resident[-5:])
    assert late < early * 1.03 + 5e6, [round(value / 1e6) for value in resident]


@pytest.mark.slow
def test_memory_does_not_grow_over_thirty_swaps(bundles: tuple[Path, Path], start: Start) -> None:
    service = ready(start(bundle=bundles[0], budget_ms=60_000))
    _swap_under_requests(service, bundles, 30, 12)


@pytest.mark.soak
def test_memory_does_not_grow_over_a_hundred_swaps(bundles: tuple[Path, Path], start: Start) -> None:
    service = ready(start(bundle=bundles[0], budget_ms=60_000))
    _swap_under_requests(service, bundles, 100, 20)


def test_the_two_bundles_of_these_tests_differ(bundles: tuple[Path, Path]) -> None:
    first, second = (load_bundle(folder).manifest.bundle_id for folder in bundles)
    assert first != second
