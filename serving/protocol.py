"""Limits on what comes before a body: the size of a request's head, and the time it may take."""

import asyncio
import json
from collections import deque
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.logs import Pseudonyms, Trace, log_access, request_id_of
from serving.telemetry import OTHER, count_error, observe_request

MAX_HEADERS: Final = 100
MAX_HEAD_BYTES: Final = 32_768
HEAD_TIMEOUT_S: Final = 10.0

_REFUSALS: Final = {
    400: ("invalid_http", "this is no HTTP/1.1 request"),
    408: ("head_timeout", f"the request's head did not come in within {HEAD_TIMEOUT_S:g} seconds"),
    431: ("head_too_large", f"the request's head has more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes"),
}

_NOBODY: Final = Pseudonyms("")  # no user is known yet


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 whose heads are bounded; the service bounds what follows them, and uvicorn idle connections.

    What is refused here never reaches the application, but has an id, a log line and its figures all the same.

    When a connection ends, all its requests learn of it, also those that others were pipelined behind.
    """

    _n_headers = 0
    _n_bytes = 0
    _is_in_head = True
    _is_too_large = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unanswered: deque[RequestResponseCycle] = deque()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._end_slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        # uvicorn tells the request that was read last; of pipelined ones an earlier one is being answered.
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            self._n_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and not self.transport.is_closing():
            if self._n_bytes > MAX_HEAD_BYTES:
                self._refuse(431)
            elif self._n_bytes and self._timer is None:
                self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._end_slow_head)

    def on_message_begin(self) -> None:
        self._n_headers = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._n_headers += 1
        self._check(self._n_headers <= MAX_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unset_timer()
        self._is_in_head = False
        head = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        self._check(head <= MAX_HEAD_BYTES)
        super().on_headers_complete()
        # Answers come in the order of the requests.
        while self._unanswered and self._unanswered[0].response_complete:
            self._unanswered.popleft()
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        self._is_in_head, self._n_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser does not take. msg: uvicorn's own words, which are no JSON."""
        self._refuse(431 if self._is_too_large else 400)

    def _check(self, is_within: bool) -> None:  # noqa: FBT001 - a condition
        if not is_within:
            self._is_too_large = True
            # The parser stops at any error of a callback, and uvicorn then calls `send_400_response`.
            raise ValueError("the head is too large")

    def _end_slow_head(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._end_slow_head)
        elif self._n_bytes:
            self._refuse(408)
        else:
            self.transport.close()

    def _refuse(self, status: int) -> None:
        code, message = _REFUSALS[status]
        body = json.dumps({"error": {"code": code, "message": message, "field": None}}).encode("ascii")
        # A new id: what the caller may have sent as one is not read.
        trace = Trace(request_id_of(None), method=OTHER, status=status, code=code)
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n"
        ) % (len(body), trace.request_id.encode("ascii"))
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
        # Time counts from the end of a head, which this one has none of.
        observe_request(OTHER, status, 0.0)
        count_error(code)
        log_access(trace, 0.0, _NOBODY)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
