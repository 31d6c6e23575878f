"""The state of one server process: which engine answers, or why none does yet."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from recsys.errors import RecsysError
from serving.engine import Engine
from serving.errors import NotReadyError
from serving.loading import open_engine
from serving.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 15.0


class Service:
    """Loads an engine in a thread of its own and keeps trying until there is one."""

    def __init__(
        self,
        settings: Settings,
        open_engine: Callable[[Settings], Engine] = open_engine,
        *,
        first_retry_s: float = _FIRST_RETRY_S,
    ) -> None:
        self.settings = settings
        self._open_engine = open_engine
        self._first_retry_s = first_retry_s
        self._engine: Engine | None = None
        self._problem = "the model is being loaded"
        self._stop = threading.Event()
        # A daemon: a load that hangs on the network does not keep the process from ending.
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)

    @property
    def engine(self) -> Engine:
        """The engine that answers.

        Raises:
            NotReadyError: none is loaded; the text says why.
        """
        if self._engine is None:
            raise NotReadyError(f"no model is loaded: {self._problem}")
        return self._engine

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop loading and release the store."""
        self._stop.set()
        if self._engine is not None:
            self._engine.store.close()

    def _load(self) -> None:
        retry_s = self._first_retry_s
        reported = ""
        try:
            while not self._stop.is_set() and self._engine is None:
                try:
                    self._engine = self._open_engine(self.settings)
                except RecsysError as error:
                    self._problem = str(error)
                    if self._problem != reported:
                        logger.warning("no model is loaded: %s", self._problem)
                        reported = self._problem
                    self._stop.wait(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
        finally:
            if self._engine is None and not self._stop.is_set():
                self._problem = "loading it failed unexpectedly; the log of the service says why"
        if self._engine is not None:
            model = self._engine.model
            logger.info("model %s version %s is loaded", model.name, model.version)
