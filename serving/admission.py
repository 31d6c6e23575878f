"""How much work one process takes on: few threads, a short queue, and a plain no beyond it."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from time import perf_counter
from typing import Any, Final, TypeVar

from serving.errors import ClientGoneError, OverloadedError
from serving.settings import Settings
from serving.telemetry import count_refused, observe_stage, waiting

T = TypeVar("T")

# Writing waits for the disk and the database more than it computes; a second thread fills these gaps.
_WRITERS: Final = 2


class _Ticket:
    """One piece of work on its way through a lane."""

    __slots__ = ("context", "future", "loop", "since", "work")

    def __init__(self, work: Callable[[float], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.context = copy_context()
        self.future: asyncio.Future[Any] = loop.create_future()
        self.since = perf_counter()

    def settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if isinstance(error, StopIteration):  # which a future does not take
            error = RuntimeError("work ended by StopIteration")
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Lane:
    """Does blocking work of requests in threads of its own, first come first served.

    Of the work that is not begun, at most `max_waiting` pieces are kept, and none for longer than `max_wait_ms`.
    The threads are daemons: work that hangs does not keep the process from ending. Belongs to one event loop.
    """

    def __init__(self, name: str, *, threads: int, max_waiting: int, max_wait_ms: float) -> None:
        self.name = name
        self._limit = threads + max_waiting
        self._n_threads = threads
        self._max_wait_s = max_wait_ms / 1_000
        self._changed = threading.Condition(threading.Lock())
        self._tickets: deque[_Ticket] = deque()
        self._n_taken = 0  # waiting or running
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work_off, name=f"{name}-{place}", daemon=True) for place in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_waiting(self) -> int:
        """How many pieces of work are not begun."""
        return len(self._tickets)

    def refuse_if_full(self) -> None:
        """Tell before any work is put into a request that the lane would refuse it.

        Raises:
            OverloadedError: as many pieces wait as may.
        """
        if self._n_taken >= self._limit:
            count_refused(self.name, "full")
            raise OverloadedError(
                f"{self._limit - self._n_threads} requests wait already, more are not taken; try again later, "
                "send fewer at once, or run more workers"
            )

    async def run(
        self, work: Callable[[float], T], *, gone: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> T:
        """Return what `work` returns; it is called in a thread with the milliseconds that it has waited.

        gone: returns when the caller has left; work that is not begun by then is dropped.

        Raises:
            OverloadedError: the queue is full, or the work was not begun in time.
            ClientGoneError: the caller left before the work was begun.
        """
        ticket = _Ticket(work, asyncio.get_running_loop())
        with self._changed:
            self.refuse_if_full()
            if self._is_closed:
                raise OverloadedError("the service is ending; ask another one")
            self._n_taken += 1
            must_wait = self._n_taken > self._n_threads
            self._tickets.append(ticket)
            self._changed.notify()
        try:
            result: T = await (self._wait(ticket, gone) if must_wait else ticket.future)
        except asyncio.CancelledError:
            self._withdraw(ticket)
            raise
        return result

    def close(self, timeout_s: float = 0.0) -> None:
        """Take no more work, drop what is not begun, and wait for the rest for a while."""
        with self._changed:
            self._is_closed = True
            dropped = list(self._tickets)
            self._changed.notify_all()
        for ticket in dropped:
            self._give_up(ticket, OverloadedError("the service is ending; ask another one"))
        for thread in self._threads:
            thread.join(timeout_s)

    async def _wait(self, ticket: _Ticket, gone: Callable[[], Coroutine[Any, Any, None]] | None) -> Any:
        late = OverloadedError(
            f"the request was not begun within {self._max_wait_s * 1_000:g} ms; try again later, send fewer at once, "
            "or run more workers"
        )
        timer = ticket.loop.call_later(self._max_wait_s, self._give_up, ticket, late)
        watcher = None if gone is None else ticket.loop.create_task(gone())
        if watcher is not None:
            left = ClientGoneError("the caller closed the connection before its request was begun")

            def drop(task: asyncio.Task[None]) -> None:
                if not task.cancelled():
                    self._give_up(ticket, left)

            watcher.add_done_callback(drop)
        waiting(self.name).inc()
        try:
            return await ticket.future
        finally:
            waiting(self.name).dec()
            timer.cancel()
            if watcher is not None:
                watcher.cancel()

    def _give_up(self, ticket: _Ticket, error: OverloadedError | ClientGoneError) -> None:
        if self._withdraw(ticket):
            count_refused(self.name, "gone" if isinstance(error, ClientGoneError) else "late")
            ticket.settle(None, error)

    def _withdraw(self, ticket: _Ticket) -> bool:
        """Take work back; return whether it was not begun."""
        with self._changed:
            try:
                self._tickets.remove(ticket)
            except ValueError:
                return False
            self._n_taken -= 1
            return True

    def _work_off(self) -> None:
        while True:
            with self._changed:
                while not self._tickets:
                    if self._is_closed:
                        return
                    self._changed.wait()
                ticket = self._tickets.popleft()
            waited_s = perf_counter() - ticket.since
            observe_stage("queue", waited_s)
            result, error = None, None
            try:
                result = ticket.context.run(ticket.work, waited_s * 1_000)
            except BaseException as raised:  # noqa: BLE001 - whatever it is belongs to the caller
                error = raised
            with self._changed:
                self._n_taken -= 1
            if not ticket.loop.is_closed():
                ticket.loop.call_soon_threadsafe(ticket.settle, result, error)


class Admission:
    """The lanes of one process: `reads` for lists, `writes` for events and items, which then delay no list."""

    def __init__(self, settings: Settings) -> None:
        self.reads = Lane(
            "reads", threads=settings.threads, max_waiting=settings.max_waiting, max_wait_ms=settings.max_wait_ms
        )
        self.writes = Lane(
            "writes", threads=_WRITERS, max_waiting=settings.max_waiting, max_wait_ms=settings.max_write_wait_ms
        )

    def close(self, timeout_s: float = 0.0) -> None:
        """End both lanes; see `Lane.close`."""
        self.reads.close(timeout_s)
        self.writes.close(timeout_s)
