"""Reading of requests before anything else looks at them: key, load, media type, size, time, Unicode, JSON."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from email.message import Message
from time import perf_counter
from typing import Any, Final, TypeVar, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect

from serving.admission import Admission, Lane
from serving.faults import first_fault, printable, shown
from serving.logs import current_trace
from serving.refusals import Refusal
from serving.service import Service
from serving.slates import ModelInfo
from serving.telemetry import observe_stage, set_model

T = TypeVar("T")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Coroutine[Any, Any, Any]])

_MAX_PLACE: Final = 60
_LARGE_BODY: Final = 32_768


class _DuplicateKeyError(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON document in UTF-8. NaN and Infinity come back as floats, for the schema to refuse.

    Raises:
        Refusal: 400 `invalid_json`, with the place; 422 `duplicate_field`, when an object names a field twice.
    """
    if not body.strip():
        raise Refusal(400, "invalid_json", "the body is empty; send a JSON object")
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        message = f"byte {error.start} of the body is not UTF-8 ({error.reason}); send JSON in UTF-8"
    except json.JSONDecodeError as error:
        near = printable(error.doc[error.pos : error.pos + _MAX_PLACE]) or "the end"
        message = f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}, near {near}"
    except _DuplicateKeyError as error:
        key = shown(error.key)
        raise Refusal(
            422, "duplicate_field", f"field {key} stands twice in one object; send it once", field=printable(error.key)
        ) from None
    except RecursionError:
        message = "the body is nested too deeply to be any request of this service"
    except ValueError as error:  # a number with thousands of digits
        message = f"the body holds a value that cannot be read: {printable(str(error))[:_MAX_PLACE]}"
    raise Refusal(400, "invalid_json", message)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)
    return values


class StrictRequest(Request):
    """A request whose body is read up to a limit of size and time, and what an endpoint needs to answer it."""

    @property
    def service(self) -> Service:
        """The service that the app runs."""
        service: Service = self.app.state.service
        return service

    @property
    def lanes(self) -> Admission:
        """Where work is done."""
        lanes: Admission = self.app.state.admission
        return lanes

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            Refusal: 413 `body_too_large`, as soon as the announced or received size passes the limit; 408
                `body_timeout`, when it does not come in within the time allowed; 400 `incomplete_body`.
        """
        if not hasattr(self, "_body"):
            settings = self.service.settings
            limit = settings.max_body_bytes
            announced = self.headers.get("content-length", "")
            if announced.isdecimal() and (len(announced) > len(str(limit)) or int(announced) > limit):
                raise _too_large(f"{announced[:20]} bytes", limit)
            try:
                async with asyncio.timeout(settings.body_timeout_s):
                    self._body = await self._received(limit)
            except TimeoutError:
                raise Refusal(
                    408,
                    "body_timeout",
                    f"the body did not come in within {settings.body_timeout_s:g} seconds; send it faster, or less",
                    headers={"Connection": "close"},
                ) from None
            except ClientDisconnect:
                raise Refusal(400, "incomplete_body", "the connection ended before the body did") from None
        return self._body

    async def _received(self, limit: int) -> bytes:
        received = bytearray()
        async for chunk in self.stream():
            received += chunk
            if len(received) > limit:
                raise _too_large(f"more than {limit} bytes", limit)
        return bytes(received)

    async def left(self) -> None:
        """Return when the caller has closed the connection; only once the body is read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def work(self, lane: Lane, work: Callable[[float], T]) -> T:
        """Return what `work` returns, called in a thread of a lane with the milliseconds that it has waited.

        Raises:
            OverloadedError, ClientGoneError: see `Lane.run`.
        """
        return await lane.run(work, gone=self.left)

    def tell(self, *, user_id: str | None = None, model: ModelInfo | None = None, degraded: bool | None = None) -> None:
        """Note for the log whom the request is about, which model answers, and how well."""
        trace = current_trace.get()
        if trace is not None:
            trace.user_id, trace.degraded = user_id, degraded
            trace.model_version = None if model is None else model.version
        if model is not None:
            set_model(model.name, model.version, model.alias)


def needs(*scopes: str, lane: str = "reads") -> Callable[[Endpoint], Endpoint]:
    """Say which scopes open an endpoint, one of which suffices, and in which lane it works.

    It stands below the decorator of the route.
    """

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__.update(scopes=scopes, lane=lane)
        return endpoint

    return mark


class StrictRoute(APIRoute):
    """A route that checks key, load, media type, body and schema in this order, and answers plain values as JSON.

    FastAPI documents it and finds it, but does not handle it: solving dependencies and validating what the service
    itself has made takes longer than ranking small lists. An endpoint is a coroutine function marked by `needs`. It
    takes `request: StrictRequest`, the parameters of its path, `body` where it has one, and returns what orjson writes.
    """

    handle_request: Callable[[Request], Coroutine[Any, Any, Response]]

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Any = self.endpoint
        scopes: tuple[str, ...] = endpoint.scopes  # an endpoint without them shall not start
        lane_name: str = endpoint.lane
        hints = get_type_hints(endpoint, include_extras=True)
        path_adapters = {name: TypeAdapter(hints[name]) for name in self.param_convertors}
        body_adapter: TypeAdapter[Any] | None = TypeAdapter(hints["body"]) if "body" in hints else None

        async def handle(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            state = strict.app.state
            state.access.check(scopes)
            lane: Lane = getattr(state.admission, lane_name)
            lane.refuse_if_full()
            given = {name: _valid(adapter, strict.path_params[name], name) for name, adapter in path_adapters.items()}
            if body_adapter is not None:
                given["body"] = await _body_of(strict, body_adapter, lane)
            answer = await endpoint(request=strict, **given)
            return Response(orjson.dumps(answer), self.status_code or 200, media_type="application/json")

        self.handle_request = handle
        return handle


async def _body_of(request: StrictRequest, adapter: TypeAdapter[Any], lane: Lane) -> Any:
    _check_media_type(request)
    started = perf_counter()
    raw = await request.body()
    read = perf_counter()
    observe_stage("body", read - started)
    if len(raw) > _LARGE_BODY:
        # Milliseconds of work, which neither health nor the reading of other requests shall wait for.
        return await request.work(lane, lambda _: _valid(adapter, parse_json(raw)))
    body = _valid(adapter, parse_json(raw))
    observe_stage("validation", perf_counter() - read)
    return body


def _valid(adapter: TypeAdapter[Any], value: Any, *place: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        faults = [fault | {"loc": (*place, *fault["loc"])} for fault in error.errors(include_url=False)]
        fault = first_fault(faults)
        raise Refusal(422, "invalid_request", fault.message, field=fault.field) from None


def _check_media_type(request: Request) -> None:
    headers = request.headers
    if headers.get("content-type") == "application/json" and "content-encoding" not in headers:
        return
    message = Message()
    message["content-type"] = given = request.headers.get("content-type", "")
    charset = str(message.get_param("charset", "utf-8")).lower()
    if not given or message.get_content_type() != "application/json" or charset not in ("utf-8", "utf8", "us-ascii"):
        raise Refusal(
            415,
            "unsupported_media_type",
            f"the body is {shown(given) if given else 'of no stated type'}; send Content-Type: application/json",
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(415, "unsupported_media_type", f"the body is encoded as {shown(encoding)}; send it plain")


def _too_large(size: str, limit: int) -> Refusal:
    return Refusal(
        413, "body_too_large", f"the body has {size}, at most {limit} are read; send fewer or shorter entries per call"
    )
