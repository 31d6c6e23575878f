"""What every request passes on its way in and out: its id, the shortest way to its endpoint, log line and figures."""

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Final

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.logs import Pseudonyms, Trace, current_trace, log_access, request_id_of
from serving.refusals import refusal_of
from serving.strict import StrictRoute
from serving.telemetry import OTHER, count_error, observe_request

logger = logging.getLogger(__name__)

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Gate:
    """Middleware around everything that answers.

    routes: those whose path has no parameters are called without the router. is_draining: whether clients shall be
        asked to close their connections.
    """

    def __init__(
        self, app: ASGIApp, routes: list[Any], pseudonyms: Pseudonyms, is_draining: Callable[[], bool]
    ) -> None:
        self._app = app
        self._handlers: Mapping[tuple[str, str], StrictRoute] = {
            (method, route.path): route
            for route in routes
            if isinstance(route, StrictRoute) and not route.param_convertors
            for method in route.methods or ()
        }
        self._pseudonyms = pseudonyms
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = _trace_of(scope)
        token = current_trace.set(trace)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", trace.request_id.encode("ascii"))]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        try:
            await self._answer(scope, receive, send_with_id, trace)
        finally:
            seconds = perf_counter() - trace.started
            observe_request(trace.route, trace.status, seconds)
            if trace.code:
                count_error(trace.code)
            log_access(trace, seconds, self._pseudonyms)
            current_trace.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, trace: Trace) -> None:
        route = self._handlers.get((scope["method"], scope["path"]))
        try:
            if route is None:
                try:
                    await self._app(scope, receive, send)
                finally:
                    trace.route = getattr(scope.get("route"), "path", OTHER)
                return
            trace.route = route.path
            response = await route.handle_request(Request(scope, receive))
        except Exception as error:
            refusal = refusal_of(error)
            if refusal.status == 500:
                logger.exception("a request failed by a defect")
                if trace.status:  # the answer has begun
                    raise
            response = refusal.response()
        await response(scope, receive, send)


def _trace_of(scope: Scope) -> Trace:
    headers = dict(scope["headers"])
    client = scope.get("client")
    return Trace(
        request_id_of(headers.get(b"x-request-id")),
        method=scope["method"] if scope["method"] in _METHODS else OTHER,
        headers=headers,
        client=client[0] if client else "",
    )
