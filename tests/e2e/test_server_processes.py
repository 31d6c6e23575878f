"""The real server: overload, slow callers, large heads, keys, several workers, and an orderly end."""

import json
import os
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving_process import KeyFile, ToyServer

from serving.keys import new_key

RECOMMEND = "/v1/recommendations"


def raw_answer(server: ToyServer, sent: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    answer = b""
    with socket.create_connection(server.address) as connection:
        connection.sendall(sent)
        while part := connection.recv(65_536):
            answer += part
    return answer


def test_overload_is_refused_at_once_while_health_and_metrics_answer() -> None:
    with ToyServer(toy_ms=150, RECSYS_MAX_WAITING="2", RECSYS_MAX_WAIT_MS="5000") as server:

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{server.url}{RECOMMEND}", json={}, timeout=60)

        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(ask, place) for place in range(12)]
            while '_total{lane="reads",reason="full"}' not in server.client.get("/metrics").text:
                assert server.client.get("/health/live").status_code == 200
            answers = [future.result() for future in asked]

        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 3
        for answer in answers:
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "overloaded"
                assert answer.headers["retry-after"] == "1"
        assert server.client.post(RECOMMEND, json={}).status_code == 200


def test_slow_bodies_and_large_heads_are_refused() -> None:
    with ToyServer(RECSYS_BODY_TIMEOUT_S="0.2") as server:
        head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        answer = raw_answer(server, head)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"body_timeout"' in answer

        for large in (b"X: " + b"a" * 40_000, b"\r\n".join(b"X-%d: a" % place for place in range(101))):
            answer = raw_answer(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + large + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == "head_too_large"
        assert b'"invalid_http"' in raw_answer(server, b"\x16\x03\x01\x02\x00")
        assert server.client.get("/health/live").status_code == 200


def test_what_is_refused_before_its_head_is_read_has_an_id_a_log_line_and_figures() -> None:
    with ToyServer() as server:
        large = b"GET /health/live HTTP/1.1\r\nX-Request-Id: mine\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"
        heads = [raw_answer(server, sent).split(b"\r\n\r\n")[0] for sent in (b"\x16\x03\x01\x02\x00", large)]
        metrics = server.client.get("/metrics").text

    found = [re.findall(rb"(?i)^x-request-id: (.+)$", head.replace(b"\r", b""), re.MULTILINE) for head in heads]
    ids = [only.decode("ascii") for (only,) in found]
    assert all(re.fullmatch(r"[0-9a-f]{32}", id_) for id_ in ids)
    assert ids[0] != ids[1]
    lines = {line.get("request_id"): line for line in map(json.loads, server.log)}
    seen = [tuple(lines[id_][name] for name in ("method", "route", "status", "code")) for id_ in ids]
    assert seen == [("other", "other", 400, "invalid_http"), ("other", "other", 431, "head_too_large")]
    for status, code in ((400, "invalid_http"), (431, "head_too_large")):
        assert f'recsys_requests_total{{route="other",status="{status}"}} 1.0' in metrics
        assert f'recsys_errors_total{{code="{code}"}} 1.0' in metrics


def test_a_revoked_key_stops_working_in_a_running_server(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.jsonl")
    key, kept = new_key("shop", ["read"])
    keys.add_key(kept)
    with ToyServer(keys=tmp_path / "keys.jsonl", RECSYS_AUTH="on", RECSYS_KEY_CACHE_S="0.1") as server:
        headers = {"X-API-Key": key}
        while (status := server.client.post(RECOMMEND, json={}, headers=headers).status_code) == 503:
            time.sleep(0.02)
        assert status == 200
        assert server.client.post(RECOMMEND, json={}).status_code == 401

        keys.revoke_key(kept.key_id, 1)
        while server.client.post(RECOMMEND, json={}, headers=headers).status_code == 200:
            time.sleep(0.02)
        assert server.client.post(RECOMMEND, json={}, headers=headers).status_code == 401
    assert key not in "".join(server.log)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_ended_server_answers_what_was_begun_and_exits_with_0(workers: str) -> None:
    """Callers behave as behind a balancer: they send nothing more once the service is no longer ready."""
    with ToyServer(toy_ms=20, RECSYS_WORKERS=workers, RECSYS_DRAIN_DELAY_S="1") as server:
        statuses: list[int] = []
        failures: list[str] = []

        def keep_asking() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                try:
                    while client.get("/health/ready").status_code == 200:
                        statuses.append(client.post(RECOMMEND, json={"user_id": "ann"}).status_code)
                except httpx.HTTPError as error:
                    failures.append(repr(error))

        callers = [threading.Thread(target=keep_asking) for _ in range(4)]
        for caller in callers:
            caller.start()
        while len(statuses) < 20:
            time.sleep(0.01)
        code = server.end(signal.SIGTERM)
        for caller in callers:
            caller.join()

    assert code == 0
    assert failures == []
    assert set(statuses) == {200}
    assert "Traceback" not in "".join(server.log)


def test_workers_share_a_port_their_figures_and_their_pseudonyms_and_end_with_their_parent() -> None:
    with ToyServer(RECSYS_WORKERS="2") as server:
        for _ in range(30):
            assert httpx.post(f"{server.url}{RECOMMEND}", json={"user_id": "ann"}).status_code == 200
        counted = {line.rsplit(" ", 1)[1] for line in _scraped(server) if line.startswith(_COUNTER)}
        assert counted == {"30.0"}
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        while _is_listening(server):
            time.sleep(0.05)
    users = {json.loads(line)["user"] for line in server.log if '"user":' in line}
    assert len(users) == 1


def test_a_worker_takes_no_calls_before_its_model_is_loaded(tmp_path: Path) -> None:
    """At the start, and when a worker that has died is replaced."""
    slowly = {"SERVING_TOY_FIRST": str(tmp_path / "first"), "SERVING_TOY_LATER_MS": "700", "RECSYS_LOG_LEVEL": "INFO"}
    with ToyServer(RECSYS_WORKERS="2", **slowly) as server:

        def ask_until_loaded(n_loaded: int) -> set[int]:
            statuses = set()
            while sum("is loaded" in line for line in server.log) < n_loaded:
                statuses.add(httpx.post(f"{server.url}{RECOMMEND}", json={}).status_code)
            return statuses

        assert ask_until_loaded(2) == {200}
        os.kill(_children(server.process.pid)[-1], signal.SIGKILL)
        assert ask_until_loaded(3) == {200}


_COUNTER = 'recsys_requests_total{route="/v1/recommendations",status="200"}'


def _scraped(server: ToyServer) -> list[str]:
    return [line for _ in range(6) for line in httpx.get(f"{server.url}/metrics").text.splitlines()]


def _children(pid: int) -> list[int]:
    """Return the server processes among the children of a process; the other is multiprocessing's resource tracker."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _is_listening(server: ToyServer) -> bool:
    try:
        socket.create_connection(server.address).close()
    except ConnectionError:
        return False
    return True
