"""What the log says of a request, and what it never says."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_toys import toy_engine

from serving.app import create_app
from serving.keys import new_key
from serving.logs import Pseudonyms, configure_logging, request_id_of
from serving.service import Service
from serving.settings import Settings

RECOMMEND, SIMILAR, EVENTS = "/v1/recommendations", "/v1/similar", "/v1/events"
MARK = "MARKED"
USER, ITEM, TEXT = f"user-{MARK}", f"item-{MARK}", f"text {MARK}"
KEY = new_key("k", ["read"])[0]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, down to DEBUG, by any library."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("json", "DEBUG", stream)
    root.setLevel(logging.DEBUG)
    yield stream
    root.handlers[:], root.level = before[0], before[1]
    logging.captureWarnings(capture=False)


@pytest.fixture
def client(log: io.StringIO) -> Iterator[TestClient]:
    service = Service(Settings(log_secret="pepper"), lambda _: toy_engine())
    with TestClient(create_app(service=service), raise_server_exceptions=False) as client:
        service._thread.join()
        yield client


def lines_of(log: io.StringIO, logger: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["logger"] == logger]


def test_the_line_of_a_request_has_all_that_is_known_of_it(client: TestClient, log: io.StringIO) -> None:
    response = client.post(RECOMMEND, json={"user_id": "ann"}, headers={"X-Request-Id": "shop:42"})

    assert response.headers["x-request-id"] == "shop:42"
    (line,) = lines_of(log, "serving.access")
    assert line.pop("ms") > 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "serving.access",
        "message": "POST /v1/recommendations 200",
        "request_id": "shop:42",
        "method": "POST",
        "route": RECOMMEND,
        "status": 200,
        "model_version": "12",
        "degraded": False,
        "user": Pseudonyms("pepper")("ann"),
    }


def test_a_pseudonym_depends_on_the_secret_and_is_stable() -> None:
    assert Pseudonyms("a")("ann") == Pseudonyms("a")("ann")
    assert len({Pseudonyms(secret)(user) for secret in "ab" for user in ("ann", "bob", "\ud800")}) == 6
    assert len(Pseudonyms("a")("ann")) == 12


@pytest.mark.parametrize("given", [b"", b"a b", b"a\nb", b"x" * 65, "ü".encode(), b'{"a"'])
def test_ids_of_requests_that_could_forge_a_line_are_replaced(given: bytes) -> None:
    assert len(request_id_of(given)) == 32
    assert request_id_of(None) != request_id_of(None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", RECOMMEND, b"no json", 400),
        ("POST", RECOMMEND, b'{"n": 0}', 422),
        ("GET", "/nowhere", b"", 404),
        ("GET", EVENTS, b"", 405),
    ],
)
def test_refusals_carry_the_id_and_are_logged_with_their_code(
    client: TestClient, log: io.StringIO, method: str, path: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json", "X-Request-Id": "r1"}
    response = client.request(method, path, content=body, headers=headers)

    assert (response.status_code, response.headers["x-request-id"]) == (status, "r1")
    line = lines_of(log, "serving.access")[-1]
    assert (line["status"], line["code"]) == (status, response.json()["error"]["code"])
    assert line["route"] in (RECOMMEND, EVENTS, "other")


def test_no_id_text_or_key_is_logged_on_any_route_whatever_goes_wrong(client: TestClient, log: io.StringIO) -> None:
    event = {"user_id": USER, "item_id": "i1", "event": "review", "text": TEXT, "event_id": f"e-{MARK}"}
    headers = {"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY, "Cookie": MARK, "User-Agent": MARK}
    requests: list[tuple[str, str, Any]] = [
        ("POST", RECOMMEND, {"user_id": USER, "history": [ITEM], "exclude": [ITEM]}),
        ("POST", RECOMMEND, {"user_id": USER, "candidates": [ITEM]}),
        ("POST", RECOMMEND, {"user_id": USER, MARK: 1}),
        ("POST", SIMILAR, {"item_id": ITEM}),
        ("POST", EVENTS, {"events": [event]}),
        ("POST", EVENTS, {"events": [event | {"value": 1}]}),
        ("POST", EVENTS, {"events": [event | {"item_id": ITEM, "event_id": None}]}),
        ("GET", f"/v1/{MARK}?user={MARK}", None),
        ("DELETE", f"/v1/users/{MARK}", None),
        (MARK, RECOMMEND, {}),
    ]
    statuses = [client.request(method, path, json=body, headers=headers).status_code for method, path, body in requests]
    assert statuses == [200, 422, 422, 404, 200, 409, 422, 404, 200, 405]

    engine = client.app.state.service.engine  # type: ignore[attr-defined]

    def broken(query: Any, **_: Any) -> None:
        try:
            raise KeyError(query.user_id)
        except KeyError as error:
            raise ValueError(f"cannot rank for {query.user_id}") from error

    engine.recommend = broken
    assert client.post(RECOMMEND, json={"user_id": USER}, headers=headers).status_code == 500
    with engine.store._database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE events")
    assert client.post(EVENTS, json={"events": [event]}, headers=headers).status_code == 503
    logging.getLogger("other").warning("connecting to %s", f"postgresql://user:{MARK}@host/db")

    text = log.getvalue()
    assert "connecting to postgresql://***@host/db" in text
    (defect,) = lines_of(log, "serving.gate")
    assert "builtins.KeyError" in defect["exception"]
    assert "in broken: raise ValueError" in defect["exception"]
    # httpx is the caller in this test; its lines are not the service's.
    own = [line for line in text.splitlines() if json.loads(line)["logger"].split(".")[0] not in ("httpx", "httpx2")]
    assert len(own) > len(requests)
    assert [line for line in own if MARK in line or KEY.split("_", 2)[2] in line] == []


def test_probes_and_scrapes_are_logged_for_debugging_only(client: TestClient, log: io.StringIO) -> None:
    client.get("/health/live")
    client.get("/metrics")

    assert {line["level"] for line in lines_of(log, "serving.access")} == {"DEBUG"}


def test_plain_lines_are_for_people() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure_logging("plain", "INFO", stream)
        logging.getLogger("serving").info("it is %d", 7, extra={"fields": {"a": 1}})
    finally:
        root.handlers[:], root.level = before[0], before[1]
        logging.captureWarnings(capture=False)

    assert stream.getvalue() == "INFO: serving: it is 7 a=1\n"
