"""How errors become HTTP answers: one body shape, a stable code, never a traceback."""

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from recsys.errors import RecsysError, RequestError
from serving.errors import EventConflictError, NotReadyError, StoreError, UnknownItemError
from serving.faults import first_fault, printable
from serving.schemas import ErrorBody, ErrorDetail

RETRY_AFTER_S: Final = 5

_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
# The most specific class first.
_STATUS_AND_CODE: Final[tuple[tuple[type[RecsysError], int, str], ...]] = (
    (UnknownItemError, 404, "unknown_item"),
    (EventConflictError, 409, "event_conflict"),
    (RequestError, 422, "invalid_request"),
    (NotReadyError, 503, "not_ready"),
    (StoreError, 503, "store_unavailable"),
)


class Refusal(Exception):
    """An answer that is not a success, as it goes over the wire."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field

    def response(self) -> JSONResponse:
        """Return the response; 503 asks to be tried again."""
        body = ErrorBody(error=ErrorDetail(code=self.code, message=self.message, field=self.field))
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else None
        return JSONResponse(body.model_dump(), status_code=self.status, headers=headers)


def refusal_of(error: RecsysError) -> Refusal:
    """Return what a caller is told about an error of the engine."""
    for kind, status, code in _STATUS_AND_CODE:
        if isinstance(error, kind):
            return Refusal(status, code, str(error), field=getattr(error, "field", "") or None)
    return Refusal(500, "internal", str(error))


async def _answer_refusal(_: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return error.response()


async def _answer_engine_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RecsysError):
        raise error
    return refusal_of(error).response()


async def _answer_validation_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    fault = first_fault(error.errors(), skip=1)
    return Refusal(422, "invalid_request", fault.message, field=fault.field).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    asked = f"{request.method} {printable(request.url.path)}"
    message = f"{asked}: {error.detail}; /docs shows what this service answers"
    response = Refusal(error.status_code, _HTTP_CODES.get(error.status_code, "http_error"), message).response()
    response.headers.update(error.headers or {})
    return response


async def _answer_defect(_: Request, __: Exception) -> Response:
    # The server logs the traceback; the caller learns only that it is not their fault.
    return Refusal(500, "internal", "the service failed on this request; its log says why").response()


def install_refusals(app: FastAPI) -> None:
    """Make every error of the app answer with the one body shape."""
    handlers: dict[Any, Any] = {
        Refusal: _answer_refusal,
        RecsysError: _answer_engine_error,
        RequestValidationError: _answer_validation_error,
        HTTPException: _answer_http_error,
        Exception: _answer_defect,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of refusals with these statuses."""
    meanings = {
        400: "The body is no JSON, or not UTF-8.",
        404: "The catalogue lacks the item.",
        409: "An event id is already taken by an event with different content.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        422: "A field is missing, unknown, of the wrong type or out of bounds.",
        503: "No model is loaded yet, or the event store is away; try again after Retry-After seconds.",
    }
    return {status: {"model": ErrorBody, "description": meanings[status]} for status in statuses}
