"""How errors become HTTP answers: one body shape, a stable code, never a traceback."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from recsys.errors import RecsysError, RequestError
from serving.errors import (
    ClientGoneError,
    EventConflictError,
    NotReadyError,
    OverloadedError,
    StoreError,
    UnknownItemError,
)
from serving.faults import first_fault, printable
from serving.logs import current_trace
from serving.schemas import ErrorBody, ErrorDetail

RETRY_AFTER_S: Final = 5
# A queue is worked off in less than its longest wait; a model or a store takes longer to come back.
_OVERLOADED_RETRY_AFTER_S: Final = 1

_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
# The most specific class first.
_STATUS_AND_CODE: Final[tuple[tuple[type[RecsysError], int, str], ...]] = (
    (UnknownItemError, 404, "unknown_item"),
    (EventConflictError, 409, "event_conflict"),
    (RequestError, 422, "invalid_request"),
    (NotReadyError, 503, "not_ready"),
    (StoreError, 503, "store_unavailable"),
    (OverloadedError, 503, "overloaded"),
    (ClientGoneError, 499, "client_gone"),
)


class Refusal(Exception):
    """An answer that is not a success, as it goes over the wire."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the response, and note the code for the log and the metrics; 503 asks to be tried again."""
        trace = current_trace.get()
        if trace is not None:
            trace.code = self.code
        body = ErrorBody(error=ErrorDetail(code=self.code, message=self.message, field=self.field))
        if self.status == 503:
            retry_after_s = _OVERLOADED_RETRY_AFTER_S if self.code == "overloaded" else RETRY_AFTER_S
            self.headers.setdefault("Retry-After", str(retry_after_s))
        return JSONResponse(body.model_dump(), status_code=self.status, headers=self.headers or None)


def refusal_of(error: Exception) -> Refusal:
    """Return what a caller is told about an error; anything that is no error of this service is a defect."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        fault = first_fault(error.errors(), skip=1)
        return Refusal(422, "invalid_request", fault.message, field=fault.field)
    for kind, status, code in _STATUS_AND_CODE:
        if isinstance(error, kind):
            return Refusal(status, code, str(error), field=getattr(error, "field", "") or None)
    if isinstance(error, RecsysError):
        return Refusal(500, "internal", str(error))
    return Refusal(500, "internal", "the service failed on this request; its log says why")


async def _answer_error(_: Request, error: Exception) -> Response:
    return refusal_of(error).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    asked = f"{request.method} {printable(request.url.path)}"
    message = f"{asked}: {error.detail}; /docs shows what this service answers"
    response = Refusal(error.status_code, _HTTP_CODES.get(error.status_code, "http_error"), message).response()
    response.headers.update(error.headers or {})
    return response


def install_refusals(app: FastAPI) -> None:
    """Make every error of the app answer with the one body shape."""
    for kind in (Refusal, RecsysError, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of refusals with these statuses."""
    meanings = {
        400: "The body is no JSON, or not UTF-8.",
        401: "No API key, or none that opens.",
        403: "The API key lacks the scope.",
        404: "The catalogue lacks the item.",
        408: "The body did not come in within the time allowed.",
        409: "An event id is already taken by an event with different content.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "A field is missing, unknown, of the wrong type or out of bounds.",
        503: "No model is loaded yet, the event store is away, or too much waits; try again after Retry-After seconds.",
    }
    return {status: {"model": ErrorBody, "description": meanings[status]} for status in statuses}
