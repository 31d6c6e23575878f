"""Log lines as JSON, each with the request it belongs to, and none with anything that identifies a person."""

import hashlib
import hmac
import json
import logging
import re
import sys
import threading
import traceback
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, TextIO

import orjson

_PSEUDONYM_LENGTH: Final = 12
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_access: Final = logging.getLogger("serving.access")

# A password in a URL: whatever stands between the scheme and the last @ before the path.
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s]*@")


@dataclass(slots=True)
class Trace:
    """What is known of one request, from its head to the end of its answer, for logs, metrics and headers.

    headers: names in lower case, the last of each; never logged. client: address, empty for a Unix socket's. route: the
    path as it is declared; `other` where there is none. code: of the refusal, if it is one.
    """

    request_id: str
    method: str = ""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    client: str = ""
    route: str = "other"
    status: int = 0
    code: str = ""
    user_id: str | None = None
    model_version: str | None = None
    degraded: bool | None = None
    key_id: str | None = None
    started: float = field(default_factory=perf_counter)


current_trace: Final[ContextVar[Trace | None]] = ContextVar("current_trace", default=None)


def request_id_of(given: bytes | None) -> str:
    """Return the id that a caller gave, if it is 1 to 64 letters, digits, `.`, `_`, `:` or `-`; else a new one."""
    if given is not None:
        text = given.decode("latin-1")
        if _REQUEST_ID.fullmatch(text):
            return text
    return uuid.uuid4().hex


class Pseudonyms:
    """Names for users that cannot be led back to their ids without the secret, and are the same in every line."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("utf-8", "surrogatepass")

    def __call__(self, user_id: str) -> str:
        """Return 12 hexadecimal digits of the HMAC-SHA256 of an id."""
        return hmac.digest(self._secret, user_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[
            :_PSEUDONYM_LENGTH
        ]


def log_access(trace: Trace, seconds: float, pseudonyms: Pseudonyms) -> None:
    """Write the line of an answered request; at level DEBUG where nothing but a probe or Prometheus asked."""
    level = logging.DEBUG if trace.status < 400 and trace.route.startswith(("/health", "/metrics")) else logging.INFO
    if not _access.isEnabledFor(level):
        return
    extra: dict[str, Any] = {
        "request_id": trace.request_id,
        "method": trace.method,
        "route": trace.route,
        "status": trace.status,
        "ms": round(seconds * 1_000, 3),
    }
    if trace.code:
        extra["code"] = trace.code
    if trace.model_version is not None:
        extra["model_version"] = trace.model_version
    if trace.degraded is not None:
        extra["degraded"] = trace.degraded
    if trace.user_id is not None:
        extra["user"] = pseudonyms(trace.user_id)
    if trace.key_id is not None:
        extra["key"] = trace.key_id
    # Made here because a logger would look up who called it, which takes as long as the rest of the line.
    record = logging.LogRecord(_access.name, level, "", 0, "%s %s %d", (trace.method, trace.route, trace.status), None)
    record.fields = extra
    _access.handle(record)


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    trace = current_trace.get()
    if trace is not None:
        fields.setdefault("request_id", trace.request_id)
    return fields


def _failure(error: BaseException) -> str:
    """Return where an error came from, without its message: that may repeat what a caller sent."""
    lines = [f"{type(error).__module__}.{type(error).__qualname__}"]
    frames = traceback.extract_tb(error.__traceback__)
    lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in frames]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines if cause is None else [_failure(cause), *lines])


def _message(record: logging.LogRecord) -> str:
    return _CREDENTIALS.sub("***@", record.getMessage())


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        line |= _fields_of(record)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _failure(record.exc_info[1])
        try:
            return orjson.dumps(line).decode("utf-8")
        except orjson.JSONEncodeError:  # a lone surrogate in a text of a library
            return json.dumps(line, default=repr)


class PlainFormatter(logging.Formatter):
    """The same for people: level, logger, message, then the fields as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{record.levelname}: {record.name}: {_message(record)}"
        line += "".join(f" {name}={value}" for name, value in _fields_of(record).items())
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + _failure(record.exc_info[1])
        return line


def configure_logging(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to one stream, standard error unless another is given.

    log_format: `json` or `plain`. level: of the service and the server, such as `INFO`; other libraries write warnings.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("serving", "uvicorn"):
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)
    # What no formatter here prints need not be looked up for every line: callers, threads, processes (a third of the
    # time of a line; see "Optimization" in Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    threading.excepthook = _log_ended_thread


def _log_ended_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = "unknown" if args.thread is None else args.thread.name
        logging.getLogger("serving").error("thread %s ended by an error", name, exc_info=args.exc_value)
