"""The service as a process of its own, asked over a real port, with a real bundle and a store on disk."""

import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import lightgbm as lgb
import numpy as np
import polars as pl
import pytest

from features.path import RankingPath
from recsys.api import load
from recsys.bundle import write_bundle
from recsys.catalogue import Catalogue
from recsys.config import Config
from recsys.counters import BucketCounts, Counters
from recsys.histories import History, InteractionLog, Request
from recsys.ids import IdMap
from recsys.models.covisitation import Covisitation
from recsys.models.factors import ItemFactors
from recsys.models.fitted import FittedModels
from recsys.models.linear_items import Ease, NextItem
from recsys.models.ranker import Ranker

ROOT = Path(__file__).resolve().parents[2]
N_ITEMS, N_USERS = 40, 9
DAY_US = 86_400_000_000
SERVE = "from serving.app import serve; from serving.settings import Settings; serve(Settings.from_environment())"
# On a busy machine lists would be degraded or refused for want of time, which is for others to test.
UNHURRIED = {"RECSYS_BUDGET_MS": "60000", "RECSYS_MAX_WAIT_MS": "60000"}
_ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two topics: even items are read by even users, odd ones by odd users."""
    rng = np.random.default_rng(5)
    topic = np.arange(N_ITEMS) % 2
    items = pl.DataFrame(
        {
            "item_id": [f"item/{i}" for i in range(N_ITEMS)],
            "title": [f"{'Sailing' if t == 0 else 'Baking'} {i}" for i, t in enumerate(topic)],
            "categories": [["sea"] if t == 0 else ["bread"] for t in topic],
        }
    )
    config = Config()
    catalogue = Catalogue.from_items(items, config.data.text_fields)
    user = np.repeat(np.arange(N_USERS), 6)
    item = np.concatenate([rng.choice(np.flatnonzero(topic == u % 2), 6, replace=False) for u in range(N_USERS)])
    log = InteractionLog.from_arrays(
        user.astype(np.int32),
        item.astype(np.int32),
        DAY_US * (100 + rng.permutation(len(user))),
        np.ones(len(user), np.float32),
        n_users=N_USERS,
        n_items=N_ITEMS,
    )
    vectors = np.eye(2, 8, dtype=np.float32)[topic] + rng.normal(0, 0.05, (N_ITEMS, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bucket_us = 3_600_000_000
    none = BucketCounts.build(np.empty(0, np.int32), np.empty(0, np.int64), None, bucket_us=bucket_us)
    models = FittedModels(
        config=config,
        catalogue=catalogue,
        user_ids=IdMap([f"user {u}" for u in range(N_USERS)]),
        user_attributes=np.empty((N_USERS, 0), np.float32),
        user_attribute_names=(),
        log=log,
        item_embeddings=vectors,
        factors=ItemFactors(vectors, vectors, np.ones(N_ITEMS, np.bool_), 0.05, 10.0),
        covisitation=Covisitation.fit(log, config.covisitation),
        ease=Ease.fit(log, config.ease),
        next_item=NextItem.fit(log, config.next_item),
        counters=Counters(
            BucketCounts.build(log.item_idx, log.timestamp_us, log.weight, bucket_us=bucket_us), none, none
        ),
    )
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(models.with_ranker(_ranker(models, topic)), None, folder, data={}, metrics={})
    return folder


def _ranker(models: FittedModels, topic: np.ndarray) -> Ranker:
    """A ranker that has learned to prefer the topic of the history."""
    path = RankingPath(models)
    everything = np.arange(N_ITEMS, dtype=np.int32)
    rows, labels = [], []
    for user in range(N_USERS):
        history: History = models.log.history_of(user)
        rows.append(path.rows(Request(history, 300 * DAY_US, user), everything))
        labels.append(topic == user % 2)
    data = lgb.Dataset(np.vstack(rows), np.concatenate(labels), feature_name=list(path.feature_names))
    parameters = {"objective": "binary", "verbose": -1, "min_data_in_leaf": 5, "num_threads": 1, "deterministic": True}
    return Ranker((lgb.train(parameters, data, num_boost_round=5),), path.feature_names)


class Server:
    """A server process and a client of it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        store_url = f"sqlite:///{folder / 'events.db'}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS_", "MLFLOW_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=ROOT,
            env=inherited | {"RECSYS_PORT": "0", "RECSYS_STORE_URL": store_url} | environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.log: list[str] = []
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.log.append(line)
                lines.put(line)
            lines.put("")

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        while not (found := _ADDRESS.search(line := lines.get())):
            if not line:
                pytest.fail("the server did not start:\n" + "".join(self.log))
        self.client = httpx.Client(base_url=found[1], timeout=60)

    def wait_until_ready(self) -> dict[str, Any]:
        while (answer := self.client.get("/health/ready")).status_code != 200:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_ready"
            assert "being loaded" in answer.text, answer.text
            time.sleep(0.05)
        ready: dict[str, Any] = answer.json()
        return ready

    def recommend(self, **body: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/recommendations", json=body)
        assert answer.status_code == 200, answer.text
        slate: dict[str, Any] = answer.json()
        return slate

    def end(self, how: signal.Signals) -> int:
        self.client.close()
        self.process.send_signal(how)
        code = self.process.wait()
        self.reader.join()
        return code


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("store"), RECSYS_BUNDLE=str(bundle), **UNHURRIED)
    server.wait_until_ready()
    yield server
    server.end(signal.SIGKILL)


def ids(slate: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in slate["items"]]


def topics(slate: dict[str, Any]) -> list[int]:
    return [int(id_.removeprefix("item/")) % 2 for id_ in ids(slate)]


def test_ready_tells_which_bundle_answers(server: Server, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())

    assert server.client.get("/health/live").json() == {"status": "live"}
    assert server.wait_until_ready() == {
        "status": "ready",
        "model": {"name": "bundle", "version": manifest["bundle_id"], "alias": None},
        "bundle_id": manifest["bundle_id"],
        "items": N_ITEMS,
        "users": N_USERS,
    }


@pytest.mark.parametrize("user", [0, 3])
def test_a_known_user_gets_unseen_items_of_their_topic_first(server: Server, user: int) -> None:
    slate = server.recommend(user_id=f"user {user}", n=8)

    assert slate["user"] == "warm"
    assert topics(slate) == [user % 2] * 8
    assert [item["rank"] for item in slate["items"]] == list(range(1, 9))
    scores = [item["score"] for item in slate["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(item["sources"] for item in slate["items"])


def test_a_session_alone_decides_the_topic(server: Server) -> None:
    slate = server.recommend(history=["item/1", {"item_id": "item/3", "event": "click"}, "no such item"], n=6)

    assert slate["user"] == "cold"
    assert topics(slate) == [1] * 6
    assert not {"item/1", "item/3"} & set(ids(slate))
    assert slate["ignored"] == {"history": {"count": 1, "first": ["no such item"]}}


def test_given_candidates_are_ordered_for_the_user(server: Server) -> None:
    candidates = [f"item/{i}" for i in (0, 1, 2, 3)]
    first = server.recommend(user_id="user 1", candidates=candidates)

    assert sorted(ids(first)) == candidates
    assert topics(first) == [1, 1, 0, 0]
    assert topics(server.recommend(user_id="user 2", candidates=candidates)) == [0, 0, 1, 1]


def test_an_unknown_user_gets_a_full_list(server: Server) -> None:
    slate = server.recommend(user_id="never seen", n=5)

    assert slate["user"] == "unknown"
    assert len(slate["items"]) == 5


def test_events_decide_the_very_next_list(server: Server) -> None:
    events = [{"user_id": "newcomer", "item_id": f"item/{i}", "event": "click"} for i in (5, 7, 9)]
    assert server.client.post("/v1/events", json={"events": events}).json()["accepted"] == 3

    slate = server.recommend(user_id="newcomer", n=6)

    assert slate["user"] == "cold"
    assert topics(slate) == [1] * 6
    assert not {"item/5", "item/7", "item/9"} & set(ids(slate))


def test_similar_items_are_of_the_same_topic(server: Server) -> None:
    found = server.client.post("/v1/similar", json={"item_id": "item/4", "n": 5}).json()

    assert topics(found) == [0] * 5
    assert "item/4" not in ids(found)
    assert server.client.post("/v1/similar", json={"item_id": "item/40"}).status_code == 404


def test_python_gives_the_list_of_the_api(server: Server, bundle: Path, tmp_path: Path) -> None:
    with load(bundle) as recommender:
        for arguments in ({"user_id": "user 4", "n": 7}, {"history": ["item/6"], "n": 7}):
            in_python = [item.item_id for item in recommender.recommend(**arguments)]
            assert in_python == ids(server.recommend(**arguments))
        assert recommender.recommend("user 4", n=1)[0].title.startswith("Sailing")


def test_many_requests_at_once_each_get_their_own_answer(server: Server) -> None:
    users = list(range(N_USERS)) * 4

    with ThreadPoolExecutor(8) as pool:
        slates = list(pool.map(lambda user: server.recommend(user_id=f"user {user}", n=6), users))

    assert [topics(slate) for slate in slates] == [[user % 2] * 6 for user in users]
    assert len({slate["recommendation_id"] for slate in slates}) == len(users)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["ends early", "negative length", "TLS", "long path"],
)
def test_broken_connections_leave_the_service_standing(server: Server, raw: bytes) -> None:
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port)) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1_000)

    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")
    assert server.client.get("/health/ready").status_code == 200
    assert "Traceback" not in "".join(server.log)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    head = (
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000000000\r\n\r\n"
    )
    with socket.create_connection((server.client.base_url.host, server.client.base_url.port)) as connection:
        connection.sendall(head)
        answer = b""
        while not answer.endswith(b"}") and (part := connection.recv(10_000)):
            answer += part

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"body_too_large"' in answer


def test_acknowledged_events_survive_a_killed_server(bundle: Path, tmp_path: Path) -> None:
    first = Server(tmp_path, RECSYS_BUNDLE=str(bundle))
    first.wait_until_ready()
    event = {"event_id": "e1", "user_id": "newcomer", "item_id": "item/5", "event": "click"}
    assert first.client.post("/v1/events", json={"events": [event]}).json()["duplicates"] == 0
    first.end(signal.SIGKILL)

    second = Server(tmp_path, RECSYS_BUNDLE=str(bundle))
    second.wait_until_ready()
    assert second.recommend(user_id="newcomer")["user"] == "cold"
    assert second.client.post("/v1/events", json={"events": [event]}).json()["duplicates"] == 1
    # SIGTERM ends the process in order; the signal itself is then its exit status.
    assert second.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert any("Application shutdown complete" in line for line in second.log)
    assert "Traceback" not in "".join(second.log)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[Server, bool], None]]:
    """Mount a small file system; what comes out fills it or makes room again."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    filler = folder / "filler"

    def switch(server: Server, is_full: bool) -> None:
        if not is_full:
            filler.unlink()
            return
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free)
        assert shutil.disk_usage(folder).free == 0

    try:
        yield switch
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def limited_files(folder: Path) -> Iterator[Callable[[Server, bool], None]]:
    """In place of a full disk, where nobody may mount one: the server may write no file beyond its first byte."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("limits of another process can be set on Linux alone")
    folder.mkdir()

    def switch(server: Server, is_full: bool) -> None:
        _, most = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1 if is_full else most, most))

    yield switch


@pytest.mark.parametrize("disk", [small_disk, limited_files])
def test_a_full_disk_refuses_events_until_there_is_room_again_and_lists_go_on(
    disk: Callable[[Path], AbstractContextManager[Callable[[Server, bool], None]]], bundle: Path, tmp_path: Path
) -> None:
    with disk(tmp_path / "disk") as switch:
        server = Server(tmp_path / "disk", RECSYS_BUNDLE=str(bundle), **UNHURRIED)
        try:
            server.wait_until_ready()
            _fill_and_free(server, switch)
        finally:
            server.end(signal.SIGKILL)
    assert "Traceback" not in "".join(server.log)


def _fill_and_free(server: Server, switch: Callable[[Server, bool], None]) -> None:
    def post(name: str) -> httpx.Response:
        # More than the room that the database has in files which are there already.
        event = {"user_id": "newcomer", "item_id": "item/5", "event": "comment", "text": "long " * 1_900}
        return server.client.post("/v1/events", json={"events": [event | {"event_id": f"{name}{i}"} for i in range(9)]})

    assert post("before").status_code == 200
    switch(server, True)
    refused: list[str] = []
    for name in map("full{}-".format, itertools.count()):  # the first may still find room
        answer = post(name)
        if answer.status_code == 503:
            refused.append(name)
            assert answer.json()["error"]["code"] == "store_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
        slate = server.recommend(user_id="newcomer", n=8)
        assert (slate["degraded"], slate["user"], len(slate["items"])) == (False, "cold", 8)
        assert server.client.get("/health/ready").status_code == 200
        if len(refused) == 8:
            break

    switch(server, False)
    while (answer := post(refused[0])).status_code == 503:  # writes rest for some seconds after they failed
        time.sleep(0.1)
    # Nothing of a refused batch was kept.
    assert (answer.status_code, answer.json()["duplicates"]) == (200, 0)
    assert post(refused[0]).json()["duplicates"] == 9
    assert server.recommend(user_id="newcomer", n=8)["degraded"] is False


def test_a_server_without_a_model_lives_says_why_and_ends_in_order(tmp_path: Path) -> None:
    server = Server(tmp_path, RECSYS_BUNDLE=str(tmp_path / "nowhere"))
    answer = server.client.get("/health/ready")
    while "being loaded" in answer.text:
        answer = server.client.get("/health/ready")

    assert answer.status_code == 503
    assert "nowhere is no bundle: manifest.json cannot be read" in answer.json()["error"]["message"]
    assert server.client.get("/health/live").status_code == 200
    assert server.client.post("/v1/recommendations", json={}).status_code == 503
    assert server.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert "Traceback" not in "".join(server.log)


@pytest.mark.slow
def test_a_model_registered_after_the_start_is_taken_up_and_served_as_champion(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.tracking import TrainingRun

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    server = Server(tmp_path, RECSYS_TRACKING_URI=uri)
    answer = server.client.get("/health/ready")
    while "being loaded" in answer.text:
        answer = server.client.get("/health/ready")
    assert answer.status_code == 503
    assert "recsys train --data FOLDER" in answer.json()["error"]["message"]

    with TrainingRun(Config().with_overrides({"tracking.uri": uri})) as run:
        assert run.log_bundle(bundle) == "1"

    while (answer := server.client.get("/health/ready")).status_code != 200:
        time.sleep(0.1)
    assert answer.json()["model"] == {"name": "recsys", "version": "1", "alias": "champion"}
    slate = server.recommend(user_id="user 1", n=6)
    assert slate["model"] == {"name": "recsys", "version": "1", "alias": "champion"}
    with load("models:/recsys@champion", tracking_uri=uri) as recommender:
        assert [item.item_id for item in recommender.recommend("user 1", n=6)] == ids(slate)
        assert repr(recommender) == "Recommender(recsys version 1: 9 users × 40 items)"
    with load("models:/recsys/1", tracking_uri=uri) as recommender:
        assert recommender.similar("item/4", n=1)[0].item_id != "item/4"
    server.end(signal.SIGKILL)
