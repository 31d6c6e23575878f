"""The figures at /metrics, and their document."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from serving_toys import toy_engine

from serving import telemetry
from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
CLICK = {"user_id": "u", "item_id": "i1", "event": "click", "event_id": "e1"}


@pytest.fixture
def client() -> Iterator[TestClient]:
    service = Service(Settings(), lambda _: toy_engine())
    with TestClient(create_app(service=service)) as client:
        service._thread.join()
        yield client


def figure(client: TestClient, name: str) -> float:
    """Return the value of one line of /metrics, 0 where it is not there."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_code_and_document_name_the_same_figures_and_labels() -> None:
    rows = dict(re.findall(r"^\| `(recsys_\w+)` \| (.*?) \|", DOCUMENT, re.MULTILINE))
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows.items()}
    suffix = {"counter": "_total"}

    assert documented == {
        metric._name + suffix.get(metric._type, ""): metric._labelnames for metric in telemetry.METRICS
    }
    assert all(f" {stage}," in DOCUMENT or f" {stage}." in DOCUMENT for stage in telemetry.STAGES)


@pytest.mark.parametrize(
    ("name", "path", "body", "status"),
    [
        ('recsys_requests_total{route="/v1/recommendations",status="200"}', "/v1/recommendations", {}, 200),
        ('recsys_request_seconds_count{route="/v1/similar"}', "/v1/similar", {"item_id": "i1"}, 200),
        ('recsys_stage_seconds_count{stage="queue"}', "/v1/recommendations", {}, 200),
        ('recsys_errors_total{code="unknown_item"}', "/v1/similar", {"item_id": "none"}, 404),
        ('recsys_requests_total{route="other",status="404"}', "/v1/nothing", {}, 404),
        ('recsys_events_total{outcome="stored"}', "/v1/events", {"events": [CLICK]}, 200),
        ('recsys_events_total{outcome="duplicate"}', "/v1/events", {"events": [CLICK, CLICK]}, 200),
    ],
)
def test_a_request_is_counted_where_it_belongs(
    client: TestClient, name: str, path: str, body: dict[str, object], status: int
) -> None:
    before = figure(client, name)

    assert client.post(path, json=body).status_code == status

    assert figure(client, name) == before + 1


def test_the_model_that_answers_is_named_and_the_one_before_no_more(client: TestClient) -> None:
    client.post("/v1/recommendations", json={})
    assert figure(client, 'recsys_model_info{alias="champion",name="recsys",version="12"}') == 1

    telemetry.set_model("recsys", "13", None)

    assert figure(client, 'recsys_model_info{alias="champion",name="recsys",version="12"}') == 0
    assert figure(client, 'recsys_model_info{alias="",name="recsys",version="13"}') == 1


def test_memory_is_measured_when_it_is_asked_for(client: TestClient) -> None:
    assert figure(client, "recsys_resident_memory_bytes") > 1e7


def test_labels_outside_the_lists_become_other(client: TestClient) -> None:
    telemetry.count_degraded("user-7", "ann")
    telemetry.count_error("No Code!")
    telemetry.count_cache("user-7", is_hit=True)
    telemetry.observe_stage("user-7", 0.1)

    assert figure(client, 'recsys_degraded_total{reason="other",rung="other"}') >= 1
    assert figure(client, 'recsys_errors_total{code="other"}') >= 1
    assert "user-7" not in client.get("/metrics").text


def test_routes_are_bounded(client: TestClient) -> None:
    for place in range(200):
        telemetry.observe_request(f"/made/up/{place}", 200, 0.1)

    assert len(telemetry._latency_children) <= 65
