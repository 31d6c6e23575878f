"""Work that is divided among processes gives what one process would have given."""

import os
import signal
from collections.abc import Iterator, Sequence

import pytest

from recsys.errors import DataError
from training.side_by_side import BLOCK, WorkerError, in_blocks


def _numbered(number: int, block: Sequence[int]) -> tuple[int, int, int]:
    return number, len(block), sum(block)


@pytest.mark.parametrize("n", [0, 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_blocks_come_in_order_whoever_worked_on_them(n: int, n_workers: int) -> None:
    expected = [
        (number, len(block), sum(block))
        for number, block in enumerate(range(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))
    ]

    assert in_blocks(iter(range(n)), _numbered, n_workers=n_workers) == expected


def test_blocks_are_worked_on_in_other_processes_and_progress_is_told_in_this_one() -> None:
    seen: list[int] = []
    processes = in_blocks(range(4 * BLOCK), lambda _, __: os.getpid(), n_workers=2, on_progress=seen.append)

    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert seen == [BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK]


def test_one_block_needs_no_other_process() -> None:
    assert in_blocks(range(BLOCK), lambda _, __: os.getpid(), n_workers=2) == [os.getpid()]


def test_how_many_work_is_what_omp_num_threads_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert set(in_blocks(range(3 * BLOCK), lambda _, __: os.getpid())) == {os.getpid()}


def test_an_error_is_raised_as_it_was() -> None:
    def fails(number: int, _: Sequence[int]) -> int:
        if number == 3:
            raise DataError("row 7 has no item; take it out")
        return number

    with pytest.raises(DataError, match="row 7 has no item"):
        in_blocks(range(10 * BLOCK), fails, n_workers=2)


def test_an_error_that_cannot_be_pickled_is_told_by_its_words() -> None:
    class LocalError(Exception):
        pass

    def fails(number: int, _: Sequence[int]) -> int:
        raise LocalError("what happened here")

    with pytest.raises(WorkerError, match="LocalError: what happened here"):
        in_blocks(range(10 * BLOCK), fails, n_workers=2)


def test_a_killed_process_is_reported_and_what_to_do() -> None:
    def dies(number: int, _: Sequence[int]) -> int:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with pytest.raises(WorkerError, match="want of memory; set OMP_NUM_THREADS=1"):
        in_blocks(range(10 * BLOCK), dies, n_workers=2)


def test_an_error_of_the_items_themselves_is_raised() -> None:
    def broken() -> Iterator[int]:
        yield from range(3 * BLOCK)
        raise DataError("the log ends in the middle of a row")

    with pytest.raises(DataError, match="middle of a row"):
        in_blocks(broken(), _numbered, n_workers=2)
