"""Requests that must be refused: each with its status, code, field and message, and none with a traceback."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_toys import toy_engine

from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

JSON = {"Content-Type": "application/json"}
RECOMMEND, SIMILAR, EVENTS = "/v1/recommendations", "/v1/similar", "/v1/events"
CLICK = {"user_id": "u", "item_id": "i1", "event": "click"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    service = Service(Settings(max_body_bytes=20_000), lambda _: toy_engine())
    with TestClient(create_app(service=service), raise_server_exceptions=False) as client:
        service._thread.join()
        yield client


def one_event(**changes: Any) -> dict[str, Any]:
    return {"events": [CLICK, CLICK | changes]}


# name: (path, body, field, part of the message); all 422 `invalid_request`
INVALID: dict[str, tuple[str, Any, str | None, str]] = {
    "negative n": (RECOMMEND, {"n": -5}, "n", "n must be at least 1 (got -5)"),
    "n of zero": (RECOMMEND, {"n": 0}, "n", "n must be at least 1 (got 0)"),
    "n too large": (RECOMMEND, {"n": 1001}, "n", "n must be at most 1000 (got 1001)"),
    "n beyond any integer": (RECOMMEND, {"n": 10**30}, "n", "n must be at most 1000"),
    "n in quotes": (RECOMMEND, {"n": "5"}, "n", "must be a whole number, written without quotes (got '5')"),
    "n with a fraction": (RECOMMEND, {"n": 5.0}, "n", "n must be a whole number"),
    "n as a boolean": (RECOMMEND, {"n": True}, "n", "(got True)"),
    "n of null": (RECOMMEND, {"n": None}, "n", "(got None)"),
    "n is not a number": (RECOMMEND, b'{"n": NaN}', "n", "(got nan)"),
    "n is infinite": (RECOMMEND, b'{"n": -Infinity}', "n", "(got -inf)"),
    "unknown field": (RECOMMEND, {"users": 1}, "users", "users is not a field of this request"),
    "filter on nothing there is": (
        RECOMMEND,
        {"filter": {"colour": "red"}},
        "filter.colour",
        "have no attribute 'colour'",
    ),
    "user id is a number": (RECOMMEND, {"user_id": 7}, "user_id", "must be a string (got 7)"),
    "empty user id": (RECOMMEND, {"user_id": ""}, "user_id", "user_id must not be empty"),
    "user id too long": (RECOMMEND, {"user_id": "x" * 513}, "user_id", "at most 512 characters"),
    "control character": (RECOMMEND, {"user_id": "a\x00b"}, "user_id", "holds a control character"),
    "line break in an id": (RECOMMEND, {"exclude": ["ok", "a\nb"]}, "exclude.1", "control character"),
    "C1 control character": (RECOMMEND, {"user_id": "a\x85"}, "user_id", "control character"),
    "lone surrogate": (RECOMMEND, b'{"user_id": "a\\ud800b"}', "user_id", "holds a lone surrogate"),
    "lone surrogate in a list": (RECOMMEND, b'{"candidates": ["i1", "\\udfff"]}', "candidates.1", "lone surrogate"),
    "lone surrogate as a field": (RECOMMEND, b'{"\\ud83d": 1}', None, "lone surrogate"),
    "candidates as a string": (RECOMMEND, {"candidates": "i1"}, "candidates", "must be a list (got 'i1')"),
    "no candidates": (RECOMMEND, {"candidates": []}, "candidates", "holds 0 entries; at least 1"),
    "candidate is null": (RECOMMEND, {"candidates": ["i1", None]}, "candidates.1", "must be a string"),
    "all candidates unknown": (RECOMMEND, {"candidates": ["x", "y"]}, "candidates", "none of the 2 items"),
    "history too long": (RECOMMEND, {"history": ["i1"] * 1001}, "history", "holds 1001 entries; at most 1000"),
    "history entry is a number": (RECOMMEND, {"history": ["i1", 4]}, "history.1", "must be an item id or an object"),
    "history entry without an item": (RECOMMEND, {"history": [{}]}, "history.0.item_id", "is required"),
    "history entry with a strange field": (
        RECOMMEND,
        {"history": [{"item_id": "i1", "kind": 1}]},
        "history.0.kind",
        "is not a field",
    ),
    "history from the future": (
        RECOMMEND,
        {"history": [{"item_id": "i1", "timestamp": 9e9}]},
        "history.0.timestamp",
        "in the future",
    ),
    "history time is text": (
        RECOMMEND,
        {"history": [{"item_id": "i1", "timestamp": "yesterday"}]},
        "history.0.timestamp",
        "is no ISO 8601 time",
    ),
    "diversity below 0": (RECOMMEND, {"diversity": -0.1}, "diversity", "must be at least 0.0 (got -0.1)"),
    "diversity above 1": (RECOMMEND, {"diversity": 2}, "diversity", "must be at most 1.0 (got 2"),
    "diversity is a word": (RECOMMEND, {"diversity": "0.5"}, "diversity", "must be a number, written without quotes"),
    "diversity as a boolean": (RECOMMEND, {"diversity": True}, "diversity", "must be a number"),
    "diversity of null": (RECOMMEND, {"diversity": None}, "diversity", "(got None)"),
    "diversity is not a number": (RECOMMEND, b'{"diversity": NaN}', "diversity", "(got nan)"),
    "exclude_seen is a word": (RECOMMEND, {"exclude_seen": "yes"}, "exclude_seen", "must be true or false"),
    "body is a list": (RECOMMEND, [1, 2], None, "the body must be a JSON object"),
    "body is null": (RECOMMEND, b"null", None, "the body"),
    "body is a string": (RECOMMEND, b'"{}"', None, "the body must be a JSON object"),
    "similar without an item": (SIMILAR, {"n": 3}, "item_id", "item_id is required"),
    "no events": (EVENTS, {"events": []}, "events", "holds 0 entries; at least 1"),
    "events left out": (EVENTS, {}, "events", "events is required"),
    "a bare event": (EVENTS, CLICK, "events", "events is required; 3 more fault(s) follow"),
    "event is a string": (EVENTS, {"events": ["click"]}, "events.0", "must be a JSON object"),
    "event without a user": (EVENTS, {"events": [{"item_id": "i1", "event": "x"}]}, "events.0.user_id", "is required"),
    "event on an unknown item": (EVENTS, one_event(item_id="zz"), "events.1.item_id", "1 of 2 events"),
    "event of no kind": (EVENTS, one_event(event=""), "events.1.event", "must not be empty"),
    "event of a long kind": (EVENTS, one_event(event="k" * 65), "events.1.event", "at most 64 characters"),
    "event in the future": (
        EVENTS,
        one_event(timestamp=1_700_000_301),
        "events.1.timestamp",
        "301 seconds in the future",
    ),
    "event before 1990": (
        EVENTS,
        one_event(timestamp="1989-12-31T23:59:59Z"),
        "events.1.timestamp",
        "lies before 1990; 0 often stands for",
    ),
    "event at second zero": (EVENTS, one_event(timestamp=0), "events.1.timestamp", "(got 0)"),
    "event at a boolean": (EVENTS, one_event(timestamp=True), "events.1.timestamp", "must be an ISO 8601 string"),
    "event at NaN": (
        EVENTS,
        json.dumps(one_event(timestamp=float("nan"))).encode(),
        "events.1.timestamp",
        "is no time",
    ),
    "event in nanoseconds": (
        EVENTS,
        one_event(timestamp=1.7e18),
        "events.1.timestamp",
        "is no time in seconds or milliseconds",
    ),
    "event time in quotes": (EVENTS, one_event(timestamp="1700000000"), "events.1.timestamp", "is no ISO 8601 time"),
    "value in quotes": (EVENTS, one_event(value="4"), "events.1.value", "must be a number, written without quotes"),
    "value of NaN": (
        EVENTS,
        b'{"events":[{"user_id":"u","item_id":"i1","event":"x","value":NaN}]}',
        "events.0.value",
        "must be a finite number",
    ),
    "value beyond a double": (
        EVENTS,
        b'{"events":[{"user_id":"u","item_id":"i1","event":"x","value":1e999}]}',
        "events.0.value",
        "must be a finite number",
    ),
    "null character in a text": (EVENTS, one_event(text="a\x00"), "events.1.text", "control character"),
    "text too long": (EVENTS, one_event(text="x" * 10_001), "events.1.text", "at most 10000 characters"),
    "too many events": (EVENTS, b'{"events":[' + b",".join([b"{}"] * 1_001) + b"]}", "events.0.user_id", "is required"),
}
# name: (path, body, status, code, field, part of the message)
OTHERS: dict[str, tuple[str, Any, int, str, str | None, str]] = {
    "field named twice": (RECOMMEND, b'{"n": 1, "n": 2}', 422, "duplicate_field", "n", "field 'n' stands twice"),
    "lone surrogate in a repeated field": (
        RECOMMEND,
        b'{"\\ud83d": 1, "\\ud83d": 2}',
        422,
        "duplicate_field",
        "\\ud83d",
        "stands twice",
    ),
    "empty body": (RECOMMEND, b"", 400, "invalid_json", None, "the body is empty"),
    "body of spaces": (RECOMMEND, b" \n ", 400, "invalid_json", None, "the body is empty"),
    "broken JSON": (RECOMMEND, b'{"n": 5,\n "user_id": }', 400, "invalid_json", None, "at line 2, column 13, near }"),
    "truncated JSON": (RECOMMEND, b'{"n": 5', 400, "invalid_json", None, "at line 1, column 8, near the end"),
    "text behind the JSON": (RECOMMEND, b"{} {}", 400, "invalid_json", None, "Extra data at line 1, column 4"),
    "byte order mark": (RECOMMEND, b"\xef\xbb\xbf{}", 400, "invalid_json", None, "Unexpected UTF-8 BOM"),
    "Latin-1": (RECOMMEND, b'{"user_id": "M\xfcller"}', 400, "invalid_json", None, "byte 14 of the body is not UTF-8"),
    "deep nesting": (RECOMMEND, b"[" * 9_000 + b"]" * 9_000, 400, "invalid_json", None, "nested too deeply"),
    "number of 5,000 digits": (RECOMMEND, b'{"n": ' + b"9" * 5_000 + b"}", 400, "invalid_json", None, "cannot be read"),
    "body over the limit": (
        RECOMMEND,
        {"user_id": "x" * 20_000},
        413,
        "body_too_large",
        None,
        "at most 20000 are read",
    ),
    "similar to an unknown item": (
        SIMILAR,
        {"item_id": "nope/📚"},
        404,
        "unknown_item",
        "item_id",
        "item 'nope/📚' is not in",
    ),
    "event id of two events": (
        EVENTS,
        {"events": [CLICK | {"event_id": "e"}, CLICK | {"event_id": "e", "item_id": "i2"}]},
        409,
        "event_conflict",
        "events.1.event_id",
        "stands for different content at events.0",
    ),
}
BAD_REQUESTS = OTHERS | {
    name: (path, body, 422, "invalid_request", field, message) for name, (path, body, field, message) in INVALID.items()
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_requests_are_refused_with_the_field_and_the_reason(client: TestClient, name: str) -> None:
    path, body, status, code, field, message = BAD_REQUESTS[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    response = client.post(path, content=content, headers=JSON)

    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error = response.json()["error"]
    assert list(error) == ["code", "message", "field"]
    assert (error["code"], error["field"]) == (code, field)
    assert message in error["message"]
    assert "Traceback" not in response.text
    assert len(error["message"]) < 600


def test_nothing_of_the_refused_events_was_stored(client: TestClient) -> None:
    engine = client.app.state.service.engine  # type: ignore[attr-defined]
    for path, body, *_ in BAD_REQUESTS.values():
        if path == EVENTS:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            client.post(path, content=content, headers=JSON)

    assert list(engine.store.since(0)) == []


def test_too_many_entries_are_counted(client: TestClient) -> None:
    content = b'{"candidates":[' + b",".join([b'"a"'] * 4_000) + b"]}"
    ok = client.post(RECOMMEND, content=content, headers=JSON)
    assert "none of the 4000 items" in ok.json()["error"]["message"]

    wide = TestClient(create_app(service=_service(Settings())), raise_server_exceptions=False)
    with wide:
        wide.app.state.service._thread.join()  # type: ignore[attr-defined]
        for field, limit in (("candidates", 10_000), ("exclude", 10_000)):
            response = wide.post(RECOMMEND, json={field: ["i1"] * (limit + 1)})
            assert response.status_code == 422
            assert f"{field} holds {limit + 1} entries; at most {limit}" in response.json()["error"]["message"]
        response = wide.post(EVENTS, json={"events": [CLICK] * 1_001})
        assert response.json()["error"]["message"].startswith("events holds 1001 entries; at most 1000 are allowed")
        assert wide.post(EVENTS, json={"events": [CLICK] * 1_000}).status_code == 200


def _service(settings: Settings) -> Service:
    return Service(settings, lambda _: toy_engine())


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        (None, "the body is of no stated type"),
        ("text/plain", "the body is 'text/plain'"),
        ("application/x-www-form-urlencoded", "x-www-form-urlencoded"),
        ("application/json; charset=utf-16", "charset=utf-16"),
        ("application/jsonp", "'application/jsonp'"),
    ],
)
def test_bodies_of_another_type_are_refused(client: TestClient, content_type: str | None, shown: str) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = client.post(RECOMMEND, content=b"{}", headers=headers)

    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"
    assert shown in response.json()["error"]["message"]
    assert "send Content-Type: application/json" in response.json()["error"]["message"]


def test_compressed_bodies_are_refused(client: TestClient) -> None:
    response = client.post(RECOMMEND, content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})

    assert response.status_code == 415
    assert "the body is encoded as 'gzip'; send it plain" in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=UTF-8", "Application/JSON"])
def test_json_bodies_are_taken(client: TestClient, content_type: str) -> None:
    assert client.post(RECOMMEND, content=b"{}", headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize("announced", ["12000000000", "9" * 400, "20001"])
def test_a_body_that_claims_to_be_too_large_is_refused_unread(client: TestClient, announced: str) -> None:
    response = client.post(RECOMMEND, content=b"{}", headers=JSON | {"Content-Length": announced})

    assert response.status_code == 413
    assert f"the body has {announced[:20]} bytes, at most 20000" in response.json()["error"]["message"]


def test_a_body_without_a_stated_length_is_read_up_to_the_limit(client: TestClient) -> None:
    n_sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal n_sent
        for _ in range(100):
            n_sent += 1
            yield b" " * 1_000

    response = client.post(RECOMMEND, content=chunks(), headers=JSON)

    assert response.status_code == 413
    assert "the body has more than 20000 bytes" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/v1/recommendations/", 404, "not_found"),
        ("POST", "/v2/recommendations", 404, "not_found"),
        ("GET", "/v1/recommendations", 405, "method_not_allowed"),
        ("DELETE", "/v1/events", 405, "method_not_allowed"),
        ("POST", "/health/ready", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods_that_do_not_exist_get_the_same_body(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)

    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert f"{method} {path}" in response.json()["error"]["message"]
    assert (response.headers.get("allow") is not None) == (status == 405)


def test_a_defect_answers_500_without_a_traceback() -> None:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service), raise_server_exceptions=False) as client:
        service._thread.join()

        def broken(*_: object) -> None:
            raise ZeroDivisionError("secret detail")

        service.engine.recommend = broken  # type: ignore[assignment, method-assign]
        response = client.post(RECOMMEND, json={})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text


def test_a_store_that_fails_is_a_503_that_asks_to_try_again() -> None:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service), raise_server_exceptions=False) as client:
        service._thread.join()
        store: Any = service.engine.store
        with store._database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE events")
        response = client.post(EVENTS, json={"events": [CLICK]})

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "store_unavailable"
    assert "nothing of the batch was stored" in response.json()["error"]["message"]
    assert int(response.headers["retry-after"]) >= 1
