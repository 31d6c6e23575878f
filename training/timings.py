"""How long each stage of a training took and how much memory it held, stages within stages."""

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import psutil

_SAMPLE_EVERY_S: Final = 0.1
_MIB: Final = 1024.0 * 1024.0


@dataclass
class Stage:
    """One stage. seconds: wall clock. peak_rss_mb: most memory the process held meanwhile, MiB.

    resumed: set by the caller where the result of an earlier training was taken; the seconds are then of loading it.
    """

    name: str
    seconds: float = 0.0
    peak_rss_mb: float = 0.0
    resumed: bool = False
    failed: bool = False
    stages: list["Stage"] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the stage and those within it as JSON values."""
        return {
            "stage": self.name,
            "seconds": round(self.seconds, 3),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "resumed": self.resumed,
            "failed": self.failed,
            "stages": [stage.to_dict() for stage in self.stages],
        }


class StageClock:
    """Times stages while it is open; `root` spans all of them.

    Memory is that of this process alone, sampled ten times a second; a spike between two samples is seen where it is
    the highest so far. Stages are opened by one thread at a time.
    """

    def __init__(self) -> None:
        self.root = Stage("total")
        self.failed_in: str | None = None  # path of the innermost stage that the latest exception left
        self._failure: BaseException | None = None
        self._open: list[Stage] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._sampler = threading.Thread(target=self._sample_until_stopped, name="peak-memory", daemon=True)
        self._total = self._timed(self.root)

    def __enter__(self) -> "StageClock":
        self._total.__enter__()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._sampler.join()
        self._total.__exit__(kind, error, trace)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time what is done within, as part of the stage that is open."""
        stage = Stage(name)
        self._open[-1].stages.append(stage)
        with self._timed(stage):
            yield stage

    def by_path(self) -> dict[str, Stage]:
        """Return stages by path, such as `encoder/pairs`; one that ran several times has its seconds added up."""
        merged: dict[str, Stage] = {}
        waiting = [(stage.name, stage) for stage in self.root.stages]
        while waiting:
            path, stage = waiting.pop(0)
            known = merged.setdefault(path, Stage(path))
            known.seconds += stage.seconds
            known.peak_rss_mb = max(known.peak_rss_mb, stage.peak_rss_mb)
            waiting += [(f"{path}/{inner.name}", inner) for inner in stage.stages]
        return merged

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        highest_before = _highest_rss_mb()
        begin = time.perf_counter()
        with self._lock:
            self._open.append(stage)
        self._sample()
        try:
            yield
        except BaseException as error:
            stage.failed = True
            if error is not self._failure:  # on its way out of the outer stages it is the same one
                self._failure = error
                self.failed_in = "/".join(open_.name for open_ in self._open[1:]) or None
            raise
        finally:
            self._sample()
            stage.seconds = time.perf_counter() - begin
            if (highest := _highest_rss_mb()) > highest_before:
                stage.peak_rss_mb = max(stage.peak_rss_mb, highest)
            with self._lock:
                self._open.pop()

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            self._sample()

    def _sample(self) -> None:
        rss_mb = self._process.memory_info().rss / _MIB
        with self._lock:
            for stage in self._open:
                stage.peak_rss_mb = max(stage.peak_rss_mb, rss_mb)


def _highest_rss_mb() -> float:
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest / _MIB if sys.platform == "darwin" else highest / 1024.0
