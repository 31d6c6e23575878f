"""An open-loop load generator: requests leave on a schedule, whether or not earlier ones were answered.

The time of an answer counts from when its request was due, so that waiting in front of a busy server is in it.
It speaks HTTP/1.1 over asyncio streams with bodies made beforehand by `recsys.client.calls`: what a full HTTP client
takes of the CPU for each request would, on a small machine, be taken from the server.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from recsys.client.calls import Call

_MAX_CONNECTIONS: Final = 512
_TIMEOUT_S: Final = 10.0
NO_ANSWER: Final = 0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shot:
    """A request that is ready to be sent. kind: name under which its answers are counted."""

    kind: str
    wire: bytes

    @staticmethod
    def of(kind: str, call: Call, host: str, api_key: str | None = None) -> "Shot":
        """Return a client's call as bytes."""
        body = call.body or b""
        head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n" if body else ""
        head += f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        return Shot(kind, (head + "\r\n").encode("ascii") + body)


@dataclass(frozen=True)
class Answers:
    """What became of the requests, in the order in which they were due.

    kind: place in `kinds`. latency_s: from when a request was due to the end of its answer. lag_s: from when it was due
    to when the generator sent it. status: of HTTP, 0 for none. degraded: whether the answer says so.
    """

    kinds: tuple[str, ...]
    kind: npt.NDArray[np.int64]
    latency_s: Floats
    lag_s: Floats
    status: npt.NDArray[np.int64]
    degraded: npt.NDArray[np.bool_]
    seconds: float
    generator_cpu_s: float

    def summary(self, kind: str | None = None) -> dict[str, Any]:
        """Return counts, and quantiles in milliseconds over the successful answers; of one kind, or of all."""
        chosen = np.ones(len(self.kind), np.bool_) if kind is None else self.kind == self.kinds.index(kind)
        ok = chosen & (self.status == 200)
        refused = chosen & np.isin(self.status, (429, 503))
        return {
            "requests": int(chosen.sum()),
            "answered": int(ok.sum()),
            "per_second": round(float(ok.sum()) / self.seconds, 1),
            "refused": int(refused.sum()),
            "failed": int((chosen & ~ok & ~refused).sum()),
            "degraded": int((chosen & self.degraded).sum()),
            **{f"p{q}_ms": _quantile_ms(self.latency_s[ok], q) for q in (50, 95, 99)},
            "max_ms": _quantile_ms(self.latency_s[ok], 100),
            "generator_lag_p99_ms": _quantile_ms(self.lag_s[chosen], 99),
            "generator_cpu_ms_per_request": round(1e3 * self.generator_cpu_s / max(len(self.kind), 1), 3),
        }


def arrivals(rate: float, seconds: float, rng: np.random.Generator) -> Floats:
    """Return when requests are due: a Poisson process, seconds from the start, rising, float64 `(n,)`."""
    gaps = rng.exponential(1.0 / rate, int(rate * seconds * 1.2) + 50)
    due = np.cumsum(gaps)
    return due[due < seconds]


def drive(
    address: str,
    shots: Sequence[Shot],
    rate: float,
    seconds: float,
    rng: np.random.Generator,
) -> Answers:
    """Send shots chosen at random, `rate` a second in the mean, and return what became of them."""
    due = arrivals(rate, seconds, rng)
    chosen = rng.integers(0, len(shots), len(due))
    return asyncio.run(_Driver(address).run(shots, chosen, due, seconds))


class _Driver:
    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._slots = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def run(self, shots: Sequence[Shot], chosen: npt.NDArray[np.int64], due: Floats, seconds: float) -> Answers:
        kinds = tuple(dict.fromkeys(shot.kind for shot in shots))
        latency, lag = np.zeros(len(due)), np.zeros(len(due))
        status, degraded = np.zeros(len(due), np.int64), np.zeros(len(due), np.bool_)
        cpu_before, start = time.process_time(), time.perf_counter() + 0.05

        async def fire(place: int) -> None:
            async with self._slots:
                lag[place] = time.perf_counter() - start - due[place]
                try:
                    async with asyncio.timeout(_TIMEOUT_S):
                        status[place], degraded[place] = await self._ask(shots[chosen[place]].wire)
                except (OSError, TimeoutError, EOFError, ValueError):
                    status[place] = NO_ANSWER
            latency[place] = time.perf_counter() - start - due[place]

        tasks = []
        for place in range(len(due)):
            wait = start + due[place] - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(fire(place)))
        await asyncio.gather(*tasks)
        for _, writer in self._idle:
            writer.close()
        kind = np.asarray([kinds.index(shots[shot].kind) for shot in chosen], np.int64)
        return Answers(kinds, kind, latency, lag, status, degraded, seconds, time.process_time() - cpu_before)

    async def _ask(self, wire: bytes) -> tuple[int, bool]:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
        if reader.at_eof():  # the server closed it while it was idle
            writer.close()
            reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.write(wire)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[9:12]), b'"degraded":true' in body


def _quantile_ms(seconds: Floats, q: int) -> float | None:
    return round(1e3 * float(np.percentile(seconds, q)), 2) if len(seconds) else None
