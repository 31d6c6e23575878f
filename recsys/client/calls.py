"""Requests as values: method, path and body, made ready before anything is sent."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from recsys.errors import RequestError

MAX_EVENTS: Final = 1_000
# Below the service's default limit of 5,000,000 bytes, which long texts can reach before 1,000 events do.
_MAX_BATCH_BYTES: Final = 4_000_000
# Characters of reviews and comments that the service reads of one batch.
_MAX_BATCH_TEXT: Final = 100_000


@dataclass(frozen=True)
class Call:
    """One request. body: UTF-8 JSON, None for none. All calls may be sent again: the service sees to that."""

    method: str
    path: str
    body: bytes | None = None


@dataclass(frozen=True)
class EventsCall(Call):
    """A batch of events. first: place of its first event among all. events: with their ids."""

    first: int = 0
    events: tuple[Mapping[str, Any], ...] = ()


def recommend_call(user_id: str | None, n: int, given: Mapping[str, Any]) -> Call:
    """Return the request for a list. given: further fields of the API; those that are None are left out."""
    body = {"user_id": user_id, "n": n} | dict(given)
    return Call(
        "POST", "/v1/recommendations", encoded({name: value for name, value in body.items() if value is not None})
    )


def similar_call(item_id: str, n: int, exclude: Sequence[str]) -> Call:
    """Return the request for items like one item."""
    return Call("POST", "/v1/similar", encoded({"item_id": item_id, "n": n, "exclude": list(exclude)}))


def event_calls(events: Iterable[Mapping[str, Any]]) -> Iterator[EventsCall]:
    """Yield batches of events, each small enough for one request; an event without an `event_id` gets one, and a time.

    An event with an id of its own is left as it is: passed again, it must have the same content.
    """
    batch: list[Mapping[str, Any]] = []
    parts: list[bytes] = []
    first = size = n_characters = 0
    for event in events:
        named = event if event.get("event_id") else _named(event)
        part = encoded(named)
        n_more = len(str(event.get("text") or ""))
        is_full = (
            len(batch) == MAX_EVENTS or size + len(part) > _MAX_BATCH_BYTES or n_characters + n_more > _MAX_BATCH_TEXT
        )
        if batch and is_full:
            yield _batch(batch, parts, first)
            first, size, n_characters, batch, parts = first + len(batch), 0, 0, [], []
        batch.append(named)
        parts.append(part)
        size += len(part) + 1
        n_characters += n_more
    if batch:
        yield _batch(batch, parts, first)


def item_call(method: str, item_id: str, body: Mapping[str, Any] | None = None) -> Call:
    """Return a request about one item of the catalogue."""
    return Call(method, f"/v1/items/{path_segment(item_id, 'item_id')}", None if body is None else encoded(body))


def user_call(method: str, user_id: str) -> Call:
    """Return a request about one user."""
    return Call(method, f"/v1/users/{path_segment(user_id, 'user_id')}")


def path_segment(id_: str, field: str) -> str:
    """Return an id as one segment of a path: everything that is no letter or digit is percent-encoded.

    Raises:
        RequestError: the id is empty, or holds a lone surrogate, which no encoding takes.
    """
    if not id_:
        raise RequestError(f"{field} must not be empty", field=field)
    try:
        # Dots too: clients and proxies take a segment of one or two dots out of a path.
        return quote(id_, safe="").replace(".", "%2E")
    except UnicodeEncodeError:
        raise RequestError(f"{field} {id_!r} holds a lone surrogate; send valid Unicode", field=field) from None


def encoded(value: Any) -> bytes:
    """Return a body as JSON in UTF-8; times become ISO 8601, UTC where they name no offset.

    Raises:
        RequestError: the value holds something that JSON lacks, such as NaN, bytes or a lone surrogate.
    """
    try:
        text = json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8")
    except (TypeError, ValueError) as error:
        raise RequestError(f"the request cannot be written as JSON: {error}; send strings, numbers, lists") from None


def _named(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event with an id, and with the time unless it has one.

    An event without a time happens when it is received: a repeat of it would be news of a user deleted meanwhile.
    """
    timed = {} if event.get("timestamp") is not None else {"timestamp": datetime.now(UTC).isoformat()}
    return {**event, "event_id": str(uuid.uuid4()), **timed}


def _batch(events: Sequence[Mapping[str, Any]], parts: Sequence[bytes], first: int) -> EventsCall:
    body = b'{"events":[' + b",".join(parts) + b"]}"
    return EventsCall("POST", "/v1/events", body, first=first, events=tuple(events))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no value of JSON")
