"""Reading of request bodies before anything else looks at them: media type, size, Unicode, JSON."""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from serving.faults import printable, shown
from serving.refusals import Refusal

_MAX_PLACE: Final = 60


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
    """A request whose body is read up to a limit and parsed by `parse_json`."""

    async def body(self) -> bytes:
        """Return the body.

        Raises:
            Refusal: 413 `body_too_large`, as soon as the announced or received size passes the limit.
        """
        if not hasattr(self, "_body"):
            limit: int = self.app.state.service.settings.max_body_bytes
            announced = self.headers.get("content-length", "")
            if announced.isdecimal() and (len(announced) > len(str(limit)) or int(announced) > limit):
                raise _too_large(f"{announced[:20]} bytes", limit)
            received = bytearray()
            async for chunk in self.stream():
                received += chunk
                if len(received) > limit:
                    raise _too_large(f"more than {limit} bytes", limit)
            self._body = bytes(received)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route whose JSON body is checked before the schema sees it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            _check_media_type(strict)
            try:
                await strict.json()
            except ClientDisconnect:
                raise Refusal(400, "incomplete_body", "the connection ended before the body did") from None
            return await handle(strict)

        return handle_strictly


def _check_media_type(request: Request) -> None:
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
