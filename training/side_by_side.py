"""Work on many requests, a block at a time, on all processors.

What is done to a request is many small steps of which threads would wait for one another, so that processes share it:
forked from this one, they have its models at hand without a copy. Where nothing can be forked, one does it all.
"""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any, Final, TypeVar

from threadpoolctl import threadpool_limits

from recsys.errors import RecsysError

T = TypeVar("T")
R = TypeVar("R")

# Items of a block. What comes out must not depend on how many processes there are, so neither does this.
BLOCK: Final = 250
_MAX_WORKERS: Final = 8


class WorkerError(RecsysError):
    """A process that shared the work ended before its time."""


def in_blocks(
    items: Iterable[T],
    work: Callable[[int, Sequence[T]], R],
    *,
    n_workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[R]:
    """Return `work(number, block)` of every block of `BLOCK` items, in their order.

    Each worker draws all items and works on every n-th block, so that they need not fit into memory at once. Unless
    there is one block only, `work` runs in other processes: what it changes there is lost, what it returns is pickled,
    and what it raises is raised here.

    n_workers: at most; by default as many as there are processors, or as OMP_NUM_THREADS says.
    on_progress: called with the number of items done.

    Raises:
        WorkerError: a process was killed, most likely for want of memory.
    """
    stream = iter(items)
    beginning = list(islice(stream, BLOCK + 1))
    stream = chain(beginning, stream)
    n_workers = 1 if len(beginning) <= BLOCK else _n_workers() if n_workers is None else n_workers
    done, report = 0, on_progress or (lambda n: None)
    results: dict[int, R] = {}
    blocks = _worked_here(stream, work) if n_workers == 1 else _worked_apart(stream, work, n_workers)
    for number, n, result in blocks:
        results[number] = result
        done += n
        report(done)
    return [results[number] for number in sorted(results)]


def _n_workers() -> int:
    if sys.platform != "linux":  # elsewhere the system's own libraries do not stand a fork
        return 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    n = int(asked) if asked.isdigit() else len(os.sched_getaffinity(0))
    return max(1, min(n, _MAX_WORKERS))


def _blocks(stream: Iterator[T]) -> Iterator[tuple[int, list[T]]]:
    number = 0
    while block := list(islice(stream, BLOCK)):
        yield number, block
        number += 1


def _worked_here(stream: Iterator[T], work: Callable[[int, Sequence[T]], R]) -> Iterator[tuple[int, int, R]]:
    for number, block in _blocks(stream):
        yield number, len(block), work(number, block)


def _worked_apart(
    stream: Iterator[T], work: Callable[[int, Sequence[T]], R], n_workers: int
) -> Iterator[tuple[int, int, R]]:
    """Yield number, length and result of each block, as they come."""
    context = multiprocessing.get_context("fork")
    pairs = [context.Pipe(duplex=False) for _ in range(n_workers)]
    workers = [
        context.Process(target=_work, args=(stream, work, place, [*pairs]), daemon=True) for place in range(n_workers)
    ]
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of forks beside threads. A worker takes up none of them: it computes, and ends.
            warnings.simplefilter("ignore", DeprecationWarning)
            for worker in workers:
                worker.start()
        for _, writer in pairs:
            writer.close()
        open_ends = [reader for reader, _ in pairs]
        while open_ends:
            for reader in wait(open_ends):
                told = _told(reader)  # type: ignore[arg-type]
                if told is None:
                    open_ends.remove(reader)  # type: ignore[arg-type]
                elif isinstance(told, BaseException):
                    raise told
                else:
                    yield told
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for reader, _ in pairs:
            reader.close()


def _told(reader: "Connection[Any, Any]") -> Any:
    """Return what a worker says next: a block's result, an error, or None at its end."""
    try:
        return reader.recv()
    except EOFError:
        return WorkerError(
            "a process that shared the work was killed, most likely for want of memory; set OMP_NUM_THREADS=1 to do "
            "with one, or give the training more memory"
        )


def _work(
    stream: Iterator[T],
    work: Callable[[int, Sequence[T]], R],
    place: int,
    pairs: "Sequence[tuple[Connection[Any, Any], Connection[Any, Any]]]",
) -> None:
    """Work on the blocks of one worker, the one at a place, and send what comes of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the parent, which ends its workers
    for at, (reader, writer) in enumerate(pairs):
        reader.close()
        if at != place:
            writer.close()
    mine = pairs[place][1]
    # One thread each; and a pool of threads, once forked, has lost them and would wait for them for ever.
    threadpool_limits(limits=1)
    try:
        for number, block in _blocks(stream):
            if number % len(pairs) == place:
                mine.send((number, len(block), work(number, block)))
        mine.send(None)
    except BrokenPipeError:  # the parent is gone, or has had an error from another worker
        return
    except Exception as error:  # noqa: BLE001, it is raised again in the parent
        try:
            mine.send(error)
        except Exception:  # noqa: BLE001, an error that cannot travel, for one reason or another
            mine.send(WorkerError(f"{type(error).__name__}: {error}"))
