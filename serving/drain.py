"""The end of a process: first no longer ready, then no longer listening, then done with what was begun."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


class Drain:
    """Delays what the server does about SIGTERM, so that balancers and clients turn away before it stops to listen."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._ending = threading.Event()

    @property
    def has_begun(self) -> bool:
        """Whether the process is about to end."""
        return self._ending.is_set()

    def install(self) -> None:
        """Put this before the server's own handler of SIGTERM; does nothing where signals cannot be handled."""
        if threading.current_thread() is not threading.main_thread():
            return
        stop: Any = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return
        loop = asyncio.get_running_loop()

        def begin(signum: int, frame: FrameType | None) -> None:
            if self.has_begun:
                stop(signum, frame)
                return
            self._ending.set()
            loop.call_soon_threadsafe(self._stop_later, loop, lambda: stop(signum, frame))

        signal.signal(signal.SIGTERM, begin)

    def _stop_later(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        logger.info("the service is ending: it takes requests for another %g seconds", self._delay_s)
        loop.call_later(self._delay_s, stop)
