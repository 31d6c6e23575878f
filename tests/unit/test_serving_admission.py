"""A bounded queue in front of few threads: what is taken, what is refused, and how long anything waits."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from serving.admission import Lane
from serving.errors import ClientGoneError, OverloadedError


def with_lane(test: Callable[[Lane], Any], **arguments: Any) -> None:
    """Run a test in an event loop with a lane, whose thread is free at the end."""

    async def run() -> None:
        lane = Lane("reads", **({"threads": 1, "max_waiting": 1, "max_wait_ms": 60_000} | arguments))
        try:
            await test(lane)
        finally:
            lane.close()

    asyncio.run(run())


class Busy:
    """Work that runs until it is let go."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, waited_ms: float) -> str:
        self.begun.set()
        self.may_end.wait()
        return "done"


async def occupied(lane: Lane) -> tuple[Busy, asyncio.Task[str]]:
    busy = Busy()
    task = asyncio.create_task(lane.run(busy))
    while not busy.begun.is_set():
        await asyncio.sleep(0)
    return busy, task


def test_work_is_done_in_another_thread_and_its_error_comes_back() -> None:
    async def test(lane: Lane) -> None:
        assert await lane.run(lambda waited_ms: threading.current_thread().name) == "reads-0"
        assert await lane.run(lambda waited_ms: waited_ms) >= 0
        for error in (ValueError("mine"), StopIteration()):

            def fail(waited_ms: float, error: Exception = error) -> None:
                raise error

            with pytest.raises((ValueError, RuntimeError)):
                await lane.run(fail)

    with_lane(test)


def test_work_beyond_the_queue_is_refused_at_once_and_the_rest_is_done_in_order() -> None:
    async def test(lane: Lane) -> None:
        busy, first = await occupied(lane)
        done: list[int] = []
        second = asyncio.create_task(lane.run(lambda waited_ms: done.append(2)))
        await asyncio.sleep(0)
        assert lane.n_waiting == 1
        with pytest.raises(OverloadedError, match="1 requests wait already, more are not taken; try again later"):
            await lane.run(lambda waited_ms: done.append(3))
        with pytest.raises(OverloadedError):
            lane.refuse_if_full()
        busy.may_end.set()
        await asyncio.gather(first, second)
        assert done == [2]
        lane.refuse_if_full()

    with_lane(test)


def test_work_that_is_not_begun_in_time_is_refused_while_the_thread_is_still_busy() -> None:
    async def test(lane: Lane) -> None:
        busy, first = await occupied(lane)
        for _ in range(3):  # a place that was given up is free again
            with pytest.raises(OverloadedError, match="was not begun within 5 ms"):
                await lane.run(lambda waited_ms: pytest.fail("was begun"))
        assert lane.n_waiting == 0
        busy.may_end.set()
        assert await first == "done"

    with_lane(test, max_wait_ms=5)


def test_work_of_a_caller_who_left_is_dropped_before_it_is_begun() -> None:
    async def test(lane: Lane) -> None:
        busy, first = await occupied(lane)

        async def gone() -> None:
            """The caller left at once."""

        with pytest.raises(ClientGoneError, match="closed the connection"):
            await lane.run(lambda waited_ms: pytest.fail("was begun"), gone=gone)
        busy.may_end.set()
        await first

    with_lane(test)


def test_work_that_waited_knows_how_long() -> None:
    async def test(lane: Lane) -> None:
        busy, first = await occupied(lane)
        second = asyncio.create_task(lane.run(lambda waited_ms: waited_ms))
        await asyncio.sleep(0.02)
        busy.may_end.set()
        await first
        assert await second >= 20

    with_lane(test)


def test_a_lane_that_is_closed_drops_what_waits_and_takes_nothing_more() -> None:
    async def test(lane: Lane) -> None:
        busy, first = await occupied(lane)
        second = asyncio.create_task(lane.run(lambda waited_ms: None))
        await asyncio.sleep(0)
        lane.close()
        with pytest.raises(OverloadedError, match="the service is ending"):
            await second
        busy.may_end.set()
        assert await first == "done"
        with pytest.raises(OverloadedError, match="the service is ending"):
            await lane.run(lambda waited_ms: None)

    with_lane(test)
