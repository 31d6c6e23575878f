"""The two clients: one that waits, one for asyncio. Their methods are the same."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

from recsys.client.attempts import Attempts
from recsys.client.calls import Call, EventsCall, event_calls, item_call, recommend_call, similar_call, user_call
from recsys.client.failures import ClientError, ServiceError, failure_of, json_of, transport_failure
from recsys.client.results import (
    EventsStored,
    Ready,
    SimilarItems,
    Slate,
    ready_of,
    similar_of,
    slate_of,
    stored_of,
)

TIMEOUT_S: Final = 10.0
RETRIES: Final = 3
_READY: Final = Call("GET", "/health/ready")
_LIVE: Final = Call("GET", "/health/live")
_METRICS: Final = Call("GET", "/metrics")
_EVENT_FIELD: Final = re.compile(r"events\.(\d+)")


class Client:
    """Asks the service and waits for its answers. May be used from several threads; close it, or use `with`.

    Every method raises `ServiceError` for a refusal, `ConnectionFailedError`, `DeadlineExceededError`, or
    `UnexpectedAnswerError`; all are `ClientError`. What cannot be sent at all raises `RequestError`.

    base_url: address of the service, with a path where a proxy adds one. api_key: sent as a bearer token. timeout_s:
    for one call, its repeats and waits included; an answer that drips in may take longer. retries: repeats at most.
    transport, rng, sleep: for tests and special networks.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url, self.timeout_s, self.retries = base_url, timeout_s, retries
        self._rng, self._sleep = rng or random.Random(), sleep
        self._http = httpx.Client(base_url=base_url, headers=_headers(api_key), transport=transport)

    def recommend(self, user_id: str | None = None, n: int = 10, **options: Any) -> Slate:
        """Return at most `n` items for a user. options: every further field that docs/api.md lists for
        `/v1/recommendations`, by its name (`history`, `candidates`, `exclude`, `diversity`, …); None is left out."""
        return slate_of(json_of(self._send(recommend_call(user_id, n, options))))

    def similar(self, item_id: str, n: int = 10, *, exclude: Sequence[str] = ()) -> SimilarItems:
        """Return at most `n` items like one item."""
        return similar_of(json_of(self._send(similar_call(item_id, n, exclude))))

    def add_events(self, events: Iterable[Mapping[str, Any]]) -> EventsStored:
        """Store any number of events, in batches. Each gets an `event_id` unless it has one, so repeats are safe; with
        the id it gets the time by this machine's clock as its `timestamp`, unless it has one.

        A batch is stored whole or refused whole; on an error its `unsent` holds what was not confirmed, and `field`
        counts from the first of all events.
        """
        calls, stored = list(event_calls(events)), []
        for place, call in enumerate(calls):
            try:
                stored.append(stored_of(json_of(self._send(call))))
            except ClientError as error:
                raise _in_batches(error, calls[place:]) from error.__cause__
        return _together(stored)

    def put_item(self, item_id: str, **fields: Any) -> dict[str, Any]:
        """Add an item to the catalogue or change it; fields as docs/api.md lists them (`title`, `categories`, …)."""
        return json_of(self._send(item_call("PUT", item_id, fields)))

    def delete_item(self, item_id: str) -> dict[str, Any]:
        """Take an item out of every list."""
        return json_of(self._send(item_call("DELETE", item_id)))

    def delete_user(self, user_id: str) -> dict[str, Any]:
        """Forget a user's behaviour."""
        return json_of(self._send(user_call("DELETE", user_id)))

    def ready(self) -> Ready:
        """Return what answers; raises `ServiceError` with status 503 and the reason while nothing does."""
        return ready_of(json_of(self._send(_READY, retries=0)))

    def live(self) -> bool:
        """Return whether the process answers; False where it cannot be reached."""
        try:
            return self._send(_LIVE, retries=0).is_success
        except ClientError:
            return False

    def metrics(self) -> str:
        """Return the figures for Prometheus, as text."""
        return self._send(_METRICS).text

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _send(self, call: Call, *, retries: int | None = None) -> httpx.Response:
        attempts = Attempts(self.timeout_s, self.retries if retries is None else retries, self._rng)
        while True:
            try:
                response = self._http.request(**_arguments(call), timeout=attempts.remaining_s())
            except httpx.TransportError as error:
                failure: ClientError | None = transport_failure(error, self.base_url, self.timeout_s)
            else:
                failure = failure_of(response)
            if failure is None:
                return response
            self._sleep(attempts.wait_s(failure))


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors; `async with`, or `await close()`."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.base_url, self.timeout_s, self.retries = base_url, timeout_s, retries
        self._rng, self._sleep = rng or random.Random(), sleep
        self._http = httpx.AsyncClient(base_url=base_url, headers=_headers(api_key), transport=transport)

    async def recommend(self, user_id: str | None = None, n: int = 10, **options: Any) -> Slate:
        """See `Client.recommend`."""
        return slate_of(json_of(await self._send(recommend_call(user_id, n, options))))

    async def similar(self, item_id: str, n: int = 10, *, exclude: Sequence[str] = ()) -> SimilarItems:
        """See `Client.similar`."""
        return similar_of(json_of(await self._send(similar_call(item_id, n, exclude))))

    async def add_events(self, events: Iterable[Mapping[str, Any]]) -> EventsStored:
        """See `Client.add_events`."""
        calls, stored = list(event_calls(events)), []
        for place, call in enumerate(calls):
            try:
                stored.append(stored_of(json_of(await self._send(call))))
            except ClientError as error:
                raise _in_batches(error, calls[place:]) from error.__cause__
        return _together(stored)

    async def put_item(self, item_id: str, **fields: Any) -> dict[str, Any]:
        """See `Client.put_item`."""
        return json_of(await self._send(item_call("PUT", item_id, fields)))

    async def delete_item(self, item_id: str) -> dict[str, Any]:
        """See `Client.delete_item`."""
        return json_of(await self._send(item_call("DELETE", item_id)))

    async def delete_user(self, user_id: str) -> dict[str, Any]:
        """See `Client.delete_user`."""
        return json_of(await self._send(user_call("DELETE", user_id)))

    async def ready(self) -> Ready:
        """See `Client.ready`."""
        return ready_of(json_of(await self._send(_READY, retries=0)))

    async def live(self) -> bool:
        """See `Client.live`."""
        try:
            return (await self._send(_LIVE, retries=0)).is_success
        except ClientError:
            return False

    async def metrics(self) -> str:
        """See `Client.metrics`."""
        return (await self._send(_METRICS)).text

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()

    async def _send(self, call: Call, *, retries: int | None = None) -> httpx.Response:
        attempts = Attempts(self.timeout_s, self.retries if retries is None else retries, self._rng)
        while True:
            try:
                response = await self._http.request(**_arguments(call), timeout=attempts.remaining_s())
            except httpx.TransportError as error:
                failure: ClientError | None = transport_failure(error, self.base_url, self.timeout_s)
            else:
                failure = failure_of(response)
            if failure is None:
                return response
            await self._sleep(attempts.wait_s(failure))


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Accept": "application/json, text/plain"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})


def _arguments(call: Call) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} if call.body is not None else {}
    return {"method": call.method, "url": call.path, "content": call.body, "headers": headers}


def _in_batches(error: ClientError, left: Sequence[EventsCall]) -> ClientError:
    """Return the error of a batch with what is not stored, its field counted over all batches."""
    error.unsent = tuple(event for call in left for event in call.events)
    if isinstance(error, ServiceError) and error.field is not None:
        error.field = _EVENT_FIELD.sub(lambda found: f"events.{int(found[1]) + left[0].first}", error.field, count=1)
    return error


def _together(stored: Sequence[EventsStored]) -> EventsStored:
    return EventsStored(
        sum(part.accepted for part in stored),
        sum(part.duplicates for part in stored),
        tuple(id_ for part in stored for id_ in part.event_ids),
        sum(part.forgotten for part in stored),
    )
