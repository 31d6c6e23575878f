"""Whatever is sent, the answer is a success or a refusal in the one shape, never a failure of the service."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_toys import ITEM_IDS, toy_engine

from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

PATHS = ["/v1/recommendations", "/v1/similar", "/v1/events"]
FIELDS = [
    "user_id", "n", "history", "candidates", "exclude", "exclude_seen", "diversity", "item_id", "events", "event",
    "event_id", "timestamp", "value", "recommendation_id", "text",
]  # fmt: skip
ANY_TEXT = st.text(st.characters(codec=None), max_size=20)  # lone surrogates and control characters included
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(ITEM_IDS)
    | st.sampled_from(["2020-09-13T12:26:40Z", 1_600_000_000, "ann"])
)
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | ANY_TEXT, inner, max_size=5),
    max_leaves=15,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service), raise_server_exceptions=False) as client:
        service._thread.join()
        yield client


def assert_answered(client: TestClient, path: str, content: bytes) -> None:
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code < 500, (content, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"code", "message", "field"}
        assert error["message"].isprintable()


@quick
@given(path=st.sampled_from(PATHS), body=ANY_JSON)
def test_any_json_gets_an_answer(client: TestClient, path: str, body: Any) -> None:
    assert_answered(client, path, json.dumps(body).encode())


@quick
@given(
    user_id=st.none() | ANY_TEXT,
    history=st.lists(st.sampled_from(ITEM_IDS) | ANY_JSON, max_size=3),
    candidates=st.none() | st.lists(st.sampled_from(ITEM_IDS) | ANY_TEXT, max_size=3),
    more=st.dictionaries(st.sampled_from(FIELDS), ANY_JSON, max_size=1),
)
def test_nearly_valid_requests_get_an_answer(
    client: TestClient, user_id: str | None, history: list[Any], candidates: list[str] | None, more: dict[str, Any]
) -> None:
    body = {"user_id": user_id, "history": history, "candidates": candidates} | more
    assert_answered(client, "/v1/recommendations", json.dumps(body).encode())


@quick
@given(
    events=st.lists(
        st.fixed_dictionaries(
            {"user_id": ANY_TEXT, "item_id": st.sampled_from(ITEM_IDS) | ANY_TEXT, "event": ANY_TEXT},
            optional={"event_id": ANY_TEXT, "timestamp": LEAVES, "value": LEAVES, "text": ANY_TEXT},
        ),
        max_size=3,
    )
)
def test_nearly_valid_events_get_an_answer(client: TestClient, events: list[dict[str, Any]]) -> None:
    assert_answered(client, "/v1/events", json.dumps({"events": events}).encode())


@quick
@given(path=st.sampled_from(PATHS), body=st.binary(max_size=60))
def test_any_bytes_get_an_answer(client: TestClient, path: str, body: bytes) -> None:
    assert_answered(client, path, body)
    assert_answered(client, path, b'{"user_id": "' + body + b'", "events": []}')
