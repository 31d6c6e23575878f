"""Bytes that are no request, sent to a server process: they are refused or the connection ends, and the next answers.

What a well-formed request with any body gets is for tests/unit/test_serving_fuzz.py. RECSYS_FUZZ_CASES says how many
broken variants of good requests are sent.
"""

import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = min(int(os.environ.get("RECSYS_FUZZ_CASES", "300")), 10_000)
# Long enough to never be a slow machine's fault; what waits longer hangs.
HANGS_S = 60
SERVE = """
import uvicorn
from serving.app import create_app
from serving.server import _options
from serving.service import Service
from serving.settings import Settings
from serving_toys import toy_engine
settings = Settings.from_environment()
uvicorn.run(create_app(service=Service(settings, lambda _: toy_engine())), **_options(settings))
"""
GOOD = (
    b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 24\r\n"
    b'\r\n{"user_id":"ann","n": 3}'
)
CHUNKED = (
    b"POST /v1/similar HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)
HEAD = b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def with_body(body: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


BROKEN = {
    "nothing": b"",
    "noise": bytes(range(256)) * 8,
    "no version": b"GET /health/live\r\n\r\n",
    "HTTP/9": b"GET /health/live HTTP/9.9\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown method": b"BREW /v1/similar HTTP/1.1\r\nHost: x\r\n\r\n",
    "lower-case method": b"get /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "spaces in path": b"GET /a b c HTTP/1.1\r\nHost: x\r\n\r\n",
    "nul in path": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad escapes": b"GET /v1/items/%ff%fe%zz%2 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute address": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd host": b"GET /health/live HTTP/1.1\r\nHost: \xff[::]:99999\r\n\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "header without colon": b"GET /health/live HTTP/1.1\r\nHost\r\n\r\n",
    "header of bytes": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-\xff: \x00\r\n\r\n",
    "folded header": b"GET /health/live HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
    "huge header": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": b"GET /health/live HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % i for i in range(2_000)) + b"\r\n",
    "odd request id": b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Request-ID: \xf0\x9f\x93\x9a\x01\r\n\r\n",
    "odd key": b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "length and chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length in words": HEAD + b"Content-Length: two\r\n\r\n{}",
    "length in Arabic digits": HEAD + "Content-Length: ٢\r\n\r\n{}".encode(),
    "endless length": HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n{}",
    "body too short": HEAD + b"Content-Length: 500\r\n\r\n{}",
    "chunk size in words": CHUNKED + b"xyz\r\n{}\r\n0\r\n\r\n",
    "chunk negative": CHUNKED + b"-5\r\n{}\r\n",
    "chunk endless": CHUNKED + b"f" * 40 + b"\r\n{}\r\n",
    "chunk ends early": CHUNKED + b"40\r\n{}",
    "chunks without end": CHUNKED + b"2\r\n{}\r\n",
    "encoding unknown": HEAD + b"Transfer-Encoding: rot13\r\n\r\n{}",
    "expects": with_body(b"{}", b"Expect: the-impossible\r\n"),
    "wants to upgrade": with_body(b"{}", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "not UTF-8": with_body(b'{"user_id":"\xc3\x28\xff"}'),
    "UTF-16": with_body('{"user_id":"ann"}'.encode("utf-16")),
    "lone surrogate": with_body(b'{"user_id":"\\ud800"}'),
    "deep lists": with_body(b"[" * 100_000),
    "deep objects": with_body(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "deep in a field": with_body(b'{"history":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "long number": with_body(b'{"n":' + b"1" * 100_000 + b"}"),
    "tiny number": with_body(b'{"diversity":1e-999999999}'),
    "huge number": with_body(b'{"diversity":1e999999999}'),
    "media type of bytes": HEAD.replace(b"application/json", b"app\xff/\x00") + b"Content-Length: 2\r\n\r\n{}",
    "pipelined rubbish": GOOD + b"\x00\x01\x02rubbish",
    "pipelined": GOOD * 20,
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    log = tmp_path_factory.mktemp("raw") / "server.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
    environment |= {"RECSYS_PORT": str(port), "RECSYS_BODY_TIMEOUT_S": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=ROOT, env=environment, stderr=output)
        while not answers(port):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield port
        process.terminate()
        process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=HANGS_S).status_code == 200
    except httpx.ConnectError:
        return False


def statuses(port: int, raw: bytes, *, ends: bool = True) -> list[int]:
    """Return the statuses that come back for bytes, none for a connection that is closed; fails when it hangs."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=HANGS_S) as connection:
        try:
            connection.sendall(raw)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                received += part
        except TimeoutError:
            pytest.fail(f"no answer and no end for {raw[:200]!r}")
        except OSError:  # closed before all was sent
            received += b""
    lines = [line for line in received.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line[9:12]) for line in lines]


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_what_is_no_request_is_refused_and_the_next_is_answered(port: int, raw: bytes) -> None:
    assert all(status < 500 for status in statuses(port, raw))
    assert answers(port)


def test_callers_that_leave_before_their_pipelined_answers_are_no_defect(port: int) -> None:
    for place in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=HANGS_S) as connection:
            connection.sendall(GOOD * 50)
            time.sleep(0.001 * place)
            if place % 2:  # a reset in place of an orderly end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert answers(port)


def test_a_good_request_between_is_seen_as_one(port: int) -> None:
    assert statuses(port, GOOD.replace(b"Host: x", b"Host: x\r\nConnection: close"), ends=False) == [200]


def test_a_body_that_does_not_come_is_given_up(port: int) -> None:
    found = statuses(port, HEAD + b'Content-Length: 24\r\n\r\n{"user', ends=False)

    assert all(400 <= status < 500 for status in found)
    assert answers(port)


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Return a request in which bytes were changed, taken out, doubled or cut off."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(changed) or 1)
        match rng.randrange(5):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                del changed[place : place + rng.randint(1, 20)]
            case 2:
                changed[place:place] = changed[place : place + rng.randint(1, 40)]
            case 3:
                changed[place:place] = rng.choice([b"\r\n", b"\x00", b"\xff\xfe", b": ", b"\r\n\r\n", b"%", b'"', b"{"])
            case _:
                del changed[place + 1 :]
    return bytes(changed)


def test_broken_variants_of_good_requests_break_nothing(port: int) -> None:
    rng = random.Random(17)
    bases = [GOOD, CHUNKED + b'10\r\n{"item_id": "i1"}\r\n0\r\n\r\n', *list(BROKEN.values())[25:32]]
    for _ in range(CASES):
        raw = mutated(rng.choice(bases), rng)
        assert all(status < 500 for status in statuses(port, raw)), raw
    assert answers(port)
