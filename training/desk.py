"""What every stage of a training works with: where results are kept, who is told, the clock, and seeds."""

import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from training.progress import Advance, Reporter
from training.timings import Stage
from training.work import WorkFolder

T = TypeVar("T")


def seed_for(seed: int, name: str) -> np.random.SeedSequence:
    """Return the seed of one random thing, so that a change in one leaves the others as they are."""
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))


class Clock(Protocol):
    """Times stages; a `StageClock` or a `TrainingRun`."""

    def stage(self, name: str) -> AbstractContextManager[Stage]: ...


@dataclass(frozen=True)
class Desk:
    """What every stage works with: where results are kept, who is told, and the clock.

    embeddings: where item embeddings are kept by what they are made of, for trainings that read the same texts with the
    same encoder; None keeps those of one training in `work`.
    """

    work: WorkFolder
    reporter: Reporter
    clock: Clock
    embeddings: WorkFolder | None = None

    def run(self, name: str, task: Callable[[Advance], T]) -> T:
        """Run a stage, announced and timed."""
        with self.clock.stage(name), self.reporter.stage(name) as advance:
            return task(advance)
