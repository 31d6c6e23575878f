"""The client against the real application, and against answers by script for what a healthy service does not do."""

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from http_servers import running
from serving_toys import ITEM_IDS, ORDERED_IDS, toy_engine

from recsys.client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    DeadlineExceededError,
    ServiceError,
    UnexpectedAnswerError,
)
from recsys.errors import RequestError
from serving.app import create_app
from serving.service import Service
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SLATE = {
    "recommendation_id": "r1",
    "model": {"name": "m", "version": "1", "alias": None, "born": "today"},
    "degraded": False,
    "user": "warm",
    "items": [{"item_id": "i1", "score": 1.0, "rank": 1, "sources": ["als"], "explanation": [{"group": "text"}]}],
    "ignored": {},
    "experiment": "b",
}
BUSY = {"error": {"code": "overloaded", "message": "too many", "field": None}}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # The client dates events by the real time.
    service = Service(Settings(), lambda _: toy_engine(clock=lambda: time.time_ns() // 1_000))
    with running(create_app(service=service)) as address:
        service._thread.join()
        yield address


Script = list[httpx.Response | Exception]


class Answers:
    """A transport that answers by script and remembers requests and waits."""

    def __init__(self, script: Script) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **arguments: Any) -> Client:
        return Client(
            "http://service", transport=httpx.MockTransport(self), rng=random.Random(1), sleep=self.waits.append,
            **arguments,
        )  # fmt: skip


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=BUSY, headers={name.replace("_", "-"): value for name, value in headers.items()})


def good() -> httpx.Response:
    return httpx.Response(200, json=SLATE)


def test_a_list_comes_back_as_values(address: str) -> None:
    with Client(address) as client:
        slate = client.recommend("ann", n=2, history=["i2", "gone"], exclude=["i3"], exclude_seen=False)

    assert slate.item_ids == [id_ for id_ in ORDERED_IDS if id_ != "i3"][:2]
    assert (slate.model.name, slate.model.version, slate.user) == ("recsys", "12", "warm")
    assert slate.items[0].sources == ("als", "popular")
    assert (slate.ignored["history"].count, slate.ignored["history"].first) == (1, ("gone",))


def test_events_of_any_number_are_stored_once(address: str) -> None:
    events = [{"user_id": "client", "item_id": ITEM_IDS[place % 7], "event": "view"} for place in range(2_100)]
    with Client(address) as client:
        stored = client.add_events(iter(events))
        again = client.add_events([event | {"event_id": id_} for event, id_ in zip(events, stored.event_ids, strict=True)][:5])  # fmt: skip  # noqa: E501

    assert (stored.accepted, stored.duplicates, len(set(stored.event_ids))) == (2_100, 0, 2_100)
    assert stored.forgotten == 0
    # Where it names no time, a repeat is told by its id alone.
    assert (again.accepted, again.duplicates) == (5, 5)


VIEW = {"user_id": "forgetful", "item_id": "i1", "event": "view"}


def test_what_was_not_confirmed_before_a_deletion_is_not_stored_after_it(address: str) -> None:
    lost = Answers([httpx.ReadError("reset")])
    with pytest.raises(ConnectionFailedError) as caught:
        lost.client(retries=0).add_events([VIEW])
    with Client(address) as client:
        client.add_events(json.loads(lost.requests[0].content)["events"])  # it had arrived
        client.delete_user("forgetful")
        again = client.add_events(caught.value.unsent)

    assert (again.accepted, again.duplicates, again.forgotten) == (1, 0, 1)


def test_an_event_is_dated_when_it_gets_its_id_and_repeats_keep_both() -> None:
    confirmed = httpx.Response(200, json={"accepted": 3, "duplicates": 0, "forgotten": 0, "event_ids": ["a", "b", "c"]})
    answers, began = Answers([busy(), confirmed]), datetime.now(UTC)
    answers.client().add_events([VIEW, VIEW | {"timestamp": 1_700_000_000}, VIEW | {"event_id": "mine"}])
    first, second = (json.loads(request.content)["events"] for request in answers.requests)

    assert first == second
    assert began <= datetime.fromisoformat(first[0]["timestamp"]) <= datetime.now(UTC)
    assert first[1]["timestamp"] == 1_700_000_000
    assert first[2] == VIEW | {"event_id": "mine"}


def test_the_asynchronous_client_dates_events_too() -> None:
    lost = Answers([httpx.ReadError("reset")])

    async def send() -> None:
        async with AsyncClient("http://service", transport=httpx.MockTransport(lost), retries=0) as client:
            await client.add_events([VIEW])

    with pytest.raises(ConnectionFailedError) as caught:
        asyncio.run(send())

    (event,) = caught.value.unsent
    assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None


def test_a_refused_batch_names_the_event_among_all_and_gives_back_what_is_not_stored(address: str) -> None:
    events = [{"user_id": "batch", "item_id": "i1", "event": "view"} for _ in range(1_500)]
    events[1_200]["item_id"] = "no such item"
    with Client(address) as client, pytest.raises(ServiceError) as caught:
        client.add_events(events)

    assert (caught.value.status, caught.value.code, caught.value.field) == (422, "invalid_request", "events.1200.item_id")  # fmt: skip  # noqa: E501
    assert len(caught.value.unsent) == 500
    assert all(event["event_id"] for event in caught.value.unsent)


def test_long_texts_are_sent_in_batches_that_the_service_takes(address: str) -> None:
    events = [{"user_id": "t", "item_id": "i1", "event": "review", "text": "é" * 10_000} for _ in range(600)]
    with Client(address) as client:
        assert client.add_events(events).accepted == 600


def test_similar_ready_and_live(address: str) -> None:
    with Client(address) as client:
        assert client.similar("b/c 📚", n=2, exclude=["i3"]).items[0].item_id == "i1"
        assert (client.ready().status, client.ready().items) == ("ready", 7)
        assert client.live()
        with pytest.raises(ServiceError, match="404 unknown_item") as caught:
            client.similar("nothing")
    assert caught.value.field == "item_id"


def test_the_asynchronous_client_does_the_same(address: str) -> None:
    async def ask() -> None:
        async with AsyncClient(address) as client:
            slates = await asyncio.gather(*(client.recommend(n=n) for n in (1, 2, 3)))
            assert [slate.item_ids for slate in slates] == [ORDERED_IDS[:n] for n in (1, 2, 3)]
            assert (await client.similar("i1", n=1)).items[0].item_id == ORDERED_IDS[0]
            assert (await client.add_events([{"user_id": "a", "item_id": "i1", "event": "view"}])).accepted == 1
            assert (await client.ready()).items == 7
            assert await client.live()
            with pytest.raises(ServiceError) as caught:
                await client.recommend(n=0)
            assert caught.value.field == "n"

    asyncio.run(ask())


@pytest.mark.parametrize(
    "failure",
    [busy(429), busy(503), httpx.ConnectError("refused"), httpx.RemoteProtocolError("gone"), httpx.ReadError("reset")],
    ids=["429", "503", "refused", "closed", "reset"],
)
def test_what_passes_is_tried_again(failure: httpx.Response | Exception) -> None:
    answers = Answers([failure, failure, good()])

    assert answers.client().recommend("u").recommendation_id == "r1"
    assert len(answers.requests) == 3
    assert len({request.content for request in answers.requests}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 500, 502, 504])
def test_nothing_else_is_tried_again(status: int) -> None:
    answers = Answers([busy(status, x_request_id="q7")])
    with pytest.raises(ServiceError) as caught:
        answers.client().recommend("u")

    assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, "overloaded", "q7")
    assert answers.waits == []


def test_repeats_end_with_the_last_failure() -> None:
    answers = Answers([busy(), busy(), busy(429)])
    with pytest.raises(ServiceError, match="429"):
        answers.client(retries=2).recommend("u")
    with pytest.raises(ConnectionFailedError, match="http://service cannot be reached"):
        Answers([httpx.ConnectError("refused")]).client(retries=0).recommend("u")


def test_waits_are_random_below_a_bound_that_doubles() -> None:
    answers = Answers([busy() for _ in range(9)] + [good()])
    answers.client(retries=9, timeout_s=1_000).recommend("u")

    assert all(0 <= wait <= min(0.1 * 2**place, 5.0) for place, wait in enumerate(answers.waits))
    assert max(answers.waits) > 0.5
    assert len(set(answers.waits)) == 9


def test_retry_after_is_waited_for() -> None:
    answers = Answers([busy(503, retry_after="3"), good()])
    answers.client(timeout_s=60).recommend("u")

    assert 3.0 <= answers.waits[0] <= 3.1


def test_a_repeat_that_would_come_too_late_is_not_waited_for() -> None:
    answers = Answers([busy(503, retry_after="3600")])
    with pytest.raises(ServiceError) as caught:
        answers.client(timeout_s=60).recommend("u")

    assert caught.value.retry_after_s == 3_600
    assert answers.waits == []


def test_a_service_that_says_nothing_is_given_up_and_not_asked_again() -> None:
    answers = Answers([httpx.ReadTimeout("silence")])
    with pytest.raises(DeadlineExceededError, match="within 2 s"):
        answers.client(timeout_s=2).recommend("u")


def test_fields_of_a_newer_service_are_kept() -> None:
    slate = Answers([good()]).client().recommend("u")

    assert slate.extra == {"experiment": "b"}
    assert slate.model.extra == {"born": "today"}
    assert slate.items[0].extra == {"explanation": [{"group": "text"}]}


@pytest.mark.parametrize("answer", [b"<html>", b"[1]", b'{"items": []}', b'{"model": 3, "items": []}'])
def test_what_is_not_the_service_is_told(answer: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError, match=r"address|another version|service"):
        Answers([httpx.Response(200, content=answer)]).client().similar("i1")


def test_the_page_of_a_proxy_is_a_refusal_too() -> None:
    with pytest.raises(ServiceError, match="Bad gateway") as caught:
        Answers([httpx.Response(502, text="<h1>Bad gateway</h1>")]).client().recommend()

    assert caught.value.code == "http_502"


def test_options_go_through_as_they_are_and_none_is_left_out() -> None:
    answers = Answers([good()])
    answers.client(api_key="k").recommend("u", candidates=None, filter={"category": {"any": ["a"]}}, explain=True)

    assert json.loads(answers.requests[0].content) == {
        "user_id": "u", "n": 10, "filter": {"category": {"any": ["a"]}}, "explain": True,
    }  # fmt: skip
    assert answers.requests[0].headers["authorization"] == "Bearer k"


def test_times_are_sent_as_utc() -> None:
    answers = Answers([good()])
    answers.client().recommend(history=[{"item_id": "i1", "timestamp": datetime(2026, 5, 1, 12)}])

    assert json.loads(answers.requests[0].content)["history"][0]["timestamp"] == "2026-05-01T12:00:00+00:00"


@pytest.mark.parametrize("bad", [float("nan"), b"bytes", "\ud800", object()])
def test_what_no_request_can_hold_is_refused_before_it_is_sent(bad: Any) -> None:
    with pytest.raises(RequestError, match="JSON"):
        Answers([]).client().recommend("u", diversity=bad)


ODD_IDS = ["a/b", "..", ".", "a b?c#d%20", "📚", "../../v1/events", "ä;=&+", "%2F"]


@pytest.mark.parametrize("id_", ODD_IDS)
def test_ids_with_any_characters_reach_their_item(id_: str) -> None:
    app, seen = FastAPI(), []

    @app.api_route("/v1/{kind}/{id_:path}", methods=["PUT", "DELETE"])
    async def take(kind: str, id_: str, request: Request) -> dict[str, Any]:
        seen.append((request.method, kind, id_))
        return {}

    with running(app) as address, Client(address, retries=0) as client:
        client.put_item(id_, title="T")
        client.delete_item(id_)
        client.delete_user(id_)

    assert seen == [("PUT", "items", id_), ("DELETE", "items", id_), ("DELETE", "users", id_)]


@pytest.mark.parametrize(("id_", "message"), [("", "must not be empty"), ("\ud800", "lone surrogate")])
def test_ids_that_no_path_can_hold_are_refused(id_: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Answers([]).client().delete_item(id_)


def test_importing_the_client_loads_no_model_code() -> None:
    code = "import recsys.client, sys, json; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    loaded = set(json.loads(done.stdout))
    assert "httpx" in loaded
    assert not loaded & {"torch", "lightgbm", "polars", "mlflow", "numpy", "pydantic", "fastapi", "serving", "features"}


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "client.md").read_text(encoding="utf-8"), re.DOTALL)
)
def test_the_examples_of_the_page_run(block: str, address: str, run_example: Callable[[str], str]) -> None:
    assert run_example(block.replace("http://127.0.0.1:8000", address))


@pytest.fixture
def run_example(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def run(code: str) -> str:
        exec(compile(code, "docs/client.md", "exec"), {})
        return capsys.readouterr().out

    return run
