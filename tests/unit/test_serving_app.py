"""The application around the engine: readiness, answers, OpenAPI."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving_toys import NOW_US, ORDERED_IDS, toy_engine

from recsys.errors import RegistryError
from serving.app import create_app
from serving.engine import Engine
from serving.service import Service
from serving.settings import Settings

# What an item says that no rule has touched and nobody asked to explain.
PLACED = {"rule": "ranking", "propensity": 1.0, "explanation": None, "evidence": None}
RECOMMEND, SIMILAR, EVENTS = "/v1/recommendations", "/v1/similar", "/v1/events"
ITEM, USER = "/v1/items/{item_id}", "/v1/users/{user_id}"


@pytest.fixture
def client() -> Iterator[TestClient]:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service)) as client:
        service._thread.join()
        yield client


def test_until_the_model_is_loaded_only_live_answers() -> None:
    may_load = threading.Event()

    def open_engine(_: Settings) -> Engine:
        may_load.wait()
        return toy_engine()

    service = Service(Settings(), open_engine)
    with TestClient(create_app(service=service)) as client:
        assert client.get("/health/live").json() == {"status": "live"}
        for method, path, body in (
            ("GET", "/health/ready", None),
            ("POST", RECOMMEND, {}),
            ("POST", SIMILAR, {"item_id": "i1"}),
            ("POST", EVENTS, {"events": [{"user_id": "u", "item_id": "i1", "event": "x"}]}),
        ):
            response = client.request(method, path, json=body)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"] == {
                "code": "not_ready",
                "message": "no model is loaded: the model is being loaded",
                "field": None,
            }

        may_load.set()
        service._thread.join()

        assert client.get("/health/ready").json() == {
            "status": "ready",
            "model": {"name": "recsys", "version": "12", "alias": "champion"},
            "bundle_id": "f00d" * 16,
            "items": 7,
            "users": 3,
        }
        assert client.post(RECOMMEND, json={}).status_code == 200


def test_a_model_that_is_missing_is_named_and_taken_up_once_it_is_there() -> None:
    may_succeed = threading.Event()
    failed = threading.Event()

    def open_engine(_: Settings) -> Engine:
        if may_succeed.is_set():
            return toy_engine()
        failed.set()
        raise RegistryError("no model 'recsys' is registered; train one (recsys train --data FOLDER)")

    service = Service(Settings(), open_engine, first_retry_s=0.01)
    with TestClient(create_app(service=service)) as client:
        failed.wait()
        response = client.get("/health/ready")
        while "being loaded" in response.text:  # the thread has raised, but not yet told
            response = client.get("/health/ready")
        assert response.status_code == 503
        assert "(recsys train --data FOLDER)" in response.json()["error"]["message"]
        assert client.get("/health/live").status_code == 200

        may_succeed.set()
        service._thread.join()
        assert client.get("/health/ready").status_code == 200


def test_a_defect_while_loading_is_told_traced_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    may_succeed = threading.Event()
    n_tried = 0

    def open_engine(_: Settings) -> Engine:
        nonlocal n_tried
        n_tried += 1
        if may_succeed.is_set():
            return toy_engine()
        raise ZeroDivisionError("a secret of the caller")

    service = Service(Settings(), open_engine, first_retry_s=0.001)
    with TestClient(create_app(service=service)) as client:
        while n_tried < 3:
            time.sleep(0.001)
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["error"]["message"] == (
            "no model is loaded: loading it failed unexpectedly (ZeroDivisionError) and is tried again; "
            "the service's log says why"
        )
        may_succeed.set()
        service._thread.join()
        assert client.get("/health/ready").status_code == 200

    (told,) = [record for record in caplog.records if "no model is loaded" in record.message]
    assert "secret" not in told.message
    assert told.exc_info is not None
    assert told.exc_info[0] is ZeroDivisionError


def test_the_service_without_a_registry_says_which_command_makes_one(tmp_path: Path) -> None:
    settings = Settings(tracking_uri=f"sqlite:///{tmp_path / 'none.db'}", store_url="sqlite://")
    service = Service(settings, first_retry_s=60)
    with TestClient(create_app(service=service)) as client:
        response = client.get("/health/ready")
        while "being loaded" in response.text:
            response = client.get("/health/ready")

    assert "recsys train --data FOLDER" in response.json()["error"]["message"]
    assert not (tmp_path / "none.db").exists()


def test_a_recommendation_has_the_documented_shape(client: TestClient) -> None:
    response = client.post(RECOMMEND, json={"user_id": "ann", "n": 2, "history": ["no-such-item", "i6"]})

    body = response.json()
    assert response.status_code == 200
    assert body.pop("recommendation_id").count("-") == 4
    assert body == {
        "model": {"name": "recsys", "version": "12", "alias": "champion"},
        "degraded": False,
        "rung": "full",
        "degraded_reason": None,
        "user": "warm",
        "items": [
            {"item_id": "i3", "score": 7.0, "rank": 1, "sources": ["als", "popular"]} | PLACED,
            {"item_id": "i1", "score": 6.0, "rank": 2, "sources": ["als", "popular"]} | PLACED,
        ],
        "ignored": {"history": {"count": 1, "first": ["no-such-item"]}},
    }


def test_ids_with_slashes_and_emoji_go_in_and_out(client: TestClient) -> None:
    response = client.post(RECOMMEND, json={"candidates": ["b/c 📚", "i0"]})
    assert [item["item_id"] for item in response.json()["items"]] == ["i0", "b/c 📚"]

    escaped = client.post(
        RECOMMEND, content=rb'{"candidates": ["b/c \ud83d\udcda"]}', headers={"Content-Type": "application/json"}
    )
    assert [item["item_id"] for item in escaped.json()["items"]] == ["b/c 📚"]


def test_similar_items_have_the_documented_shape(client: TestClient) -> None:
    assert client.post(SIMILAR, json={"item_id": "i3", "n": 1}).json() == {
        "model": {"name": "recsys", "version": "12", "alias": "champion"},
        "items": [{"item_id": "i1", "score": pytest.approx(0.9), "rank": 1}],
    }


def test_an_event_is_used_by_the_very_next_request(client: TestClient) -> None:
    stored = client.post(EVENTS, json={"events": [{"user_id": "new", "item_id": "i3", "event": "click"}]}).json()
    again = client.post(RECOMMEND, json={"user_id": "new", "n": 1_000}).json()

    assert stored == {"accepted": 1, "duplicates": 0, "forgotten": 0, "event_ids": [stored["event_ids"][0]]}
    assert [item["item_id"] for item in again["items"]] == [id_ for id_ in ORDERED_IDS if id_ != "i3"]
    assert again["user"] == "cold"


def test_a_repeated_batch_is_accepted_and_counted(client: TestClient) -> None:
    batch = {"events": [{"event_id": "e1", "user_id": "new", "item_id": "i3", "event": "click"}]}
    client.post(EVENTS, json=batch)

    expected = {"accepted": 1, "duplicates": 1, "forgotten": 0, "event_ids": ["e1"]}
    assert client.post(EVENTS, json=batch).json() == expected


def test_late_events_of_a_deleted_user_are_told_apart_and_not_stored(client: TestClient) -> None:
    before = exposed(client, 'recsys_events_total{outcome="forgotten"}')
    client.delete("/v1/users/new")
    late = {"user_id": "new", "item_id": "i3", "event": "click", "timestamp": "2020-01-01T00:00:00Z"}
    batch = [late | {"event_id": "e1"}, late | {"event_id": "e2", "user_id": "ann"}, late | {"event_id": "e2", "user_id": "ann"}]  # fmt: skip  # noqa: E501

    expected = {"accepted": 3, "duplicates": 1, "forgotten": 1, "event_ids": ["e1", "e2", "e2"]}
    assert client.post(EVENTS, json={"events": batch}).json() == expected
    assert client.post(RECOMMEND, json={"user_id": "new"}).json()["user"] == "unknown"
    assert exposed(client, 'recsys_events_total{outcome="forgotten"}') == before + 1


def exposed(client: TestClient, figure: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(figure)]
    return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


@pytest.mark.parametrize(
    "timestamp",
    ["2020-09-13T12:26:40.250Z", "2020-09-13T14:26:40.25+02:00", "2020-09-13 12:26:40.250", 1_600_000_000.25],
)
def test_times_may_be_iso_or_seconds(client: TestClient, timestamp: Any) -> None:
    event = {"user_id": "new", "item_id": "i3", "event": "click", "timestamp": timestamp}
    assert client.post(EVENTS, json={"events": [event]}).status_code == 200

    engine: Engine = client.app.state.service.engine  # type: ignore[attr-defined]
    assert [e.timestamp_us for e in engine.store.newest_of("new", 9)] == [1_600_000_000_250_000]


def test_large_numbers_are_milliseconds(client: TestClient) -> None:
    engine: Engine = client.app.state.service.engine  # type: ignore[attr-defined]
    moment = datetime(2026, 5, 1, 12, 30, 0, 123_000, tzinfo=UTC)
    engine._clock.now_us = round(moment.timestamp() * 1_000) * 1_000  # type: ignore[attr-defined]
    event = {"user_id": "new", "item_id": "i3", "event": "click"}
    batch = [event | {"timestamp": "2026-05-01T12:30:00.123Z"}, event | {"timestamp": 1_777_638_600_123}]
    assert client.post(EVENTS, json={"events": batch}).status_code == 200

    assert {e.timestamp_us for e in engine.store.newest_of("new", 9)} == {1_777_638_600_123_000}
    assert engine._clock() != NOW_US


def test_stopping_releases_the_store() -> None:
    service = Service(Settings(), lambda _: toy_engine())
    closed: list[bool] = []
    with TestClient(create_app(service=service)):
        service._thread.join()
        service.engine.store.close = lambda: closed.append(True)  # type: ignore[method-assign]

    assert closed == [True]


@pytest.fixture
def openapi(client: TestClient) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def test_every_endpoint_is_documented_with_an_example_of_its_answer(openapi: dict[str, Any]) -> None:
    assert set(openapi["paths"]) == {
        RECOMMEND,
        SIMILAR,
        EVENTS,
        ITEM,
        USER,
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert operation["description"], path
            (content,) = operation["responses"]["200"]["content"].values()
            assert content["example"], path


def test_every_example_request_is_a_valid_request(client: TestClient, openapi: dict[str, Any]) -> None:
    n_examples = 0
    for path, operations in openapi["paths"].items():
        for example in (
            operations.get("post", {})
            .get("requestBody", {})
            .get("content", {})
            .get("application/json", {})
            .get("examples", {})
            .values()
        ):
            n_examples += 1
            response = client.post(path, json=example["value"])
            # Times of the examples lie ahead of the toy clock and i9 is in no toy catalogue; the shape is what counts.
            if response.status_code != 200:
                assert "in the future" in response.text or "catalogue" in response.text, response.text
    assert n_examples == 5


def test_example_answers_fit_their_schemas(openapi: dict[str, Any]) -> None:
    from serving import schemas

    for path, operations in openapi["paths"].items():
        for operation in operations.values() if path != "/metrics" else ():
            answer = operation["responses"]["200"]["content"]["application/json"]
            kind = getattr(schemas, answer["schema"]["$ref"].rsplit("/", 1)[1])
            assert json.loads(kind.model_validate(answer["example"]).model_dump_json()) == answer["example"]


def test_refusals_are_documented_with_the_one_body_shape(openapi: dict[str, Any]) -> None:
    for path in (RECOMMEND, SIMILAR, EVENTS):
        responses = openapi["paths"][path]["post"]["responses"]
        assert {"400", "401", "403", "408", "413", "415", "422", "503"} <= set(responses)
        for status, response in responses.items():
            if status != "200":
                assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
    assert "HTTPValidationError" not in openapi["components"]["schemas"]


def test_every_field_of_a_request_says_what_it_means(openapi: dict[str, Any]) -> None:
    for name in ("RecommendationRequest", "SimilarRequest", "EventIn", "HistoryEntry"):
        for field, schema in openapi["components"]["schemas"][name]["properties"].items():
            assert schema.get("description"), f"{name}.{field}"
