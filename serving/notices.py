"""How the parts of the service tell what happened, without knowing who counts it."""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol


class OnEvent(Protocol):
    """Is told of something worth counting. name: see below. labels: values from short lists, but for versions.

    degraded (rung, reason), defect (kind), registry_error, model_swapped (version), model_refused (version),
    store_error (side: reads or writes), rung_rests (rung).
    """

    def __call__(self, name: str, **labels: str) -> None: ...


def unheard(name: str, **labels: str) -> None:
    """Where nobody counts."""


class Seldom:
    """Lets the first of a kind through, then one per period: for log lines that would come with every request."""

    _MOST_KINDS: Final = 1_000

    def __init__(self, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._last_s: dict[str, float] = {}

    def __call__(self, kind: str) -> bool:
        """Return whether to speak of this kind now."""
        now_s = self._clock()
        with self._lock:
            if now_s - self._last_s.get(kind, float("-inf")) < self._every_s:
                return False
            if len(self._last_s) >= self._MOST_KINDS:
                self._last_s.clear()
            self._last_s[kind] = now_s
            return True
