"""What can go wrong between a caller and the service."""

import json
from collections.abc import Mapping
from typing import Any

import httpx

from recsys.errors import RecsysError

_MAX_SHOWN = 200


class ClientError(RecsysError):
    """Base of every error of the client.

    unsent: after `add_events`, the events that the service has not confirmed, with their ids: sending exactly these
    again stores none twice.
    """

    unsent: tuple[Mapping[str, Any], ...] = ()


class ConnectionFailedError(ClientError):
    """The service cannot be reached, or the connection broke before it had answered."""


class DeadlineExceededError(ClientError):
    """No answer came within the time that the caller gave."""


class UnexpectedAnswerError(ClientError):
    """What came back is not what this service answers; the address may be that of something else."""


class ServiceError(ClientError):
    """The service refused.

    status: of HTTP. code: stable, for programs, such as `invalid_request`; docs/api.md lists them. message: for people.
    field: dotted path of what is wrong, None for the request as a whole. request_id: to be found in the service's log.
    retry_after_s: when to come back, where the service said so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s


def failure_of(response: httpx.Response) -> ServiceError | None:
    """Return the error that an answer stands for, None for a success. A body of a proxy gets the code `http_STATUS`."""
    if response.is_success:
        return None
    try:
        error = response.json()["error"]
        code, message, field = str(error["code"]), str(error["message"]), error.get("field")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, field = f"http_{response.status_code}", None
        message = f"{response.request.url} answered without the service's error body: {response.text[:_MAX_SHOWN]!r}"
    return ServiceError(
        response.status_code,
        code,
        message,
        field=field if isinstance(field, str) else None,
        request_id=response.headers.get("x-request-id"),
        retry_after_s=_seconds(response.headers.get("retry-after")),
    )


def transport_failure(error: httpx.TransportError, base_url: str, timeout_s: float) -> ClientError:
    """Return what a caller is told when no answer came."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return DeadlineExceededError(
            f"{base_url} did not answer within {timeout_s:g} s; give more time with timeout_s, or look at its load"
        )
    return ConnectionFailedError(
        f"{base_url} cannot be reached ({type(error).__name__}: {error}); check the address and that the service runs"
    )


def json_of(response: httpx.Response) -> dict[str, Any]:
    """Return the object of a successful answer; an empty body is an empty object.

    Raises:
        UnexpectedAnswerError: the body is no JSON object.
    """
    if not response.content:
        return {}
    try:
        values = json.loads(response.content)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UnexpectedAnswerError(
            f"{response.request.url} answered {response.status_code} with {response.text[:_MAX_SHOWN]!r}, which is no "
            "JSON object; check that the address is that of the recommendation service"
        )
    return values


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdecimal() else None
