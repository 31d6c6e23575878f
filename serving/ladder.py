"""The ladder below the full answer: which rung there is time for."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from features.rungs import Rung

_STEP: Final = 0.1
_RECOVERY_S: Final = 1.0
_CLIMB_MARGIN: Final = 0.8
_FIRST_TRIAL_S: Final = 1.0
_LONGEST_TRIAL_S: Final = 30.0


class Reason(StrEnum):
    """Why an answer is degraded."""

    BUDGET = "budget"
    STORE_UNAVAILABLE = "store_unavailable"
    REGISTRY_UNAVAILABLE = "registry_unavailable"
    MODEL_REFUSED = "model_refused"
    NO_MODEL = "no_model"
    ENCODER_FAILED = "encoder_failed"
    RANKER_FAILED = "ranker_failed"
    INTERNAL = "internal"


@dataclass
class _Cost:
    """Running mean and mean deviation of what a rung costs, both milliseconds."""

    mean_ms: float = 0.0
    deviation_ms: float = 0.0
    observed_s: float = -math.inf

    @property
    def estimate_ms(self) -> float:
        return self.mean_ms + self.deviation_ms

    def add(self, ms: float, now_s: float) -> None:
        step = _STEP
        if ms < self.mean_ms:
            # Good news about a rung that was left alone counts for more, the longer it was; one slow answer never does.
            step = max(step, 1.0 - math.exp(-(now_s - self.observed_s) / _RECOVERY_S))
        self.deviation_ms += step * (abs(ms - self.mean_ms) - self.deviation_ms)
        self.mean_ms += step * (ms - self.mean_ms)
        if step > 2 * _STEP:  # the deviation from a mean that is out of date says nothing
            self.deviation_ms = min(self.deviation_ms, self.mean_ms)
        self.observed_s = now_s


class Ladder:
    """Chooses the highest rung that fits the time that is left. May be called from several threads; costs microseconds.

    rungs: those that there are, highest first. budget_ms: time that a whole request may take. clock: seconds, rising.

    A rung nobody has measured is taken to fit. After a descent, a higher rung must fit with a fifth to spare, and from
    time to time (after 1 s, then at doubling distances up to 30 s) one request tries it, so that a slowness that has
    passed does not keep the service low.
    """

    def __init__(
        self,
        budget_ms: float,
        rungs: tuple[Rung, ...] = tuple(Rung),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not rungs:
            raise ValueError("a ladder needs at least one rung")
        self.budget_ms = budget_ms
        self.rungs = rungs
        self._clock = clock
        self._lock = threading.Lock()
        self._costs = {rung: _Cost() for rung in rungs}
        self._level = 0
        self._trial_s = _FIRST_TRIAL_S
        self._next_trial_s = -math.inf

    def observe(self, rung: Rung, ms: float) -> None:
        """Take note of what a rung's work cost."""
        # What lies far beyond the budget is one and the same: it does not fit.
        with self._lock:
            self._costs[rung].add(min(ms, 2 * self.budget_ms), self._clock())

    def estimate_ms(self, rung: Rung) -> float:
        """Return what a rung is expected to cost, on the safe side; 0 for one that was never observed."""
        return self._costs[rung].estimate_ms

    def choose(self, remaining_ms: float) -> tuple[Rung, Reason | None]:
        """Return the rung for a request with so much time left, and why it is not the highest one."""
        with self._lock:
            level = self._fitting(remaining_ms)
            if level < self._level:
                self._trial_s = _FIRST_TRIAL_S
            elif level > self._level:
                self._next_trial_s = self._clock() + self._trial_s
            self._level = level
            if level > 0 and self._is_trial_due(remaining_ms):
                level -= 1
        return self.rungs[level], Reason.BUDGET if level > 0 else None

    def _fitting(self, remaining_ms: float) -> int:
        for level, rung in enumerate(self.rungs[:-1]):
            room_ms = remaining_ms * (_CLIMB_MARGIN if level < self._level else 1.0)
            if remaining_ms > 0 and self._costs[rung].estimate_ms <= room_ms:
                return level
        return len(self.rungs) - 1

    def _is_trial_due(self, remaining_ms: float) -> bool:
        now_s = self._clock()
        if remaining_ms < _CLIMB_MARGIN * self.budget_ms or now_s < self._next_trial_s:
            return False
        self._trial_s = min(2 * self._trial_s, _LONGEST_TRIAL_S)
        self._next_trial_s = now_s + self._trial_s
        return True
