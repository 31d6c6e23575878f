"""Follows what the registry calls champion: which version is to be loaded now, and which was refused."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from recsys.errors import RecsysError, RegistryUnavailableError
from serving.engine import Engine
from serving.loading import Wanted
from serving.notices import OnEvent, unheard
from serving.slates import ModelInfo
from serving.store import EventStore

logger = logging.getLogger(__name__)

_FIRST_REST_S: Final = 30.0
_LONGEST_REST_S: Final = 600.0


class Versions(Protocol):
    """What a watcher asks; see `serving.loading.Models`."""

    def wanted(self) -> Wanted: ...

    def open(self, wanted: Wanted, store: EventStore, *, is_remembered: bool = True) -> Engine: ...


@dataclass(frozen=True)
class Seen:
    """What one look found. is_current: the served version is the wanted one. engine: a new one, to be swapped in."""

    is_current: bool = False
    engine: Engine | None = None


@dataclass
class _Refusal:
    version: str
    rest_s: float
    until_s: float


class Watcher:
    """Looks for a new version and opens it beside the one that is served. For one thread.

    A version that cannot be opened is refused and tried again after 30 s, then at doubling distances up to ten minutes,
    or as soon as the alias comes back to it. clock: seconds, rising.
    """

    def __init__(
        self,
        versions: Versions,
        store: EventStore,
        on_event: OnEvent = unheard,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions
        self._store = store
        self._on_event = on_event
        self._clock = clock
        self._is_away = False
        self._refusal: _Refusal | None = None

    def look(self, served: ModelInfo) -> Seen:
        """Return whether the served version is still the wanted one, or an engine of the one that is."""
        try:
            wanted = self._versions.wanted()
        except RecsysError as error:
            return self._away(served, error)
        if self._is_away:
            logger.info("the registry answers again")
            self._is_away = False
        version = wanted.model.version
        if self._refusal is not None and self._refusal.version != version:
            self._refusal = None
        if (version, wanted.model.name) == (served.version, served.name):
            return Seen(is_current=True)
        if self._refusal is not None and self._clock() < self._refusal.until_s:
            return Seen()
        try:
            engine = self._versions.open(wanted, self._store)
        except RegistryUnavailableError as error:  # the download failed, not the version
            return self._away(served, error)
        except RecsysError as error:
            self.refuse(version)
            logger.warning("version %s is refused, %s is served on: %s", version, served.version, error)
            return Seen()
        except Exception:
            # Whatever a bad version does while it is loaded must not end the watch over the next ones.
            self.refuse(version)
            logger.exception("version %s is refused, %s is served on", version, served.version)
            return Seen()
        self._refusal = None
        return Seen(engine=engine)

    def _away(self, served: ModelInfo, error: RecsysError) -> Seen:
        self._on_event("registry_error")
        if not self._is_away:
            logger.warning("version %s is served on without the registry: %s", served.version, error)
        self._is_away = True
        return Seen()

    def refuse(self, version: str) -> None:
        """Leave a version alone for a while, longer each time in a row."""
        rest_s = _FIRST_REST_S if self._refusal is None else min(2 * self._refusal.rest_s, _LONGEST_REST_S)
        self._refusal = _Refusal(version, rest_s, self._clock() + rest_s)
        self._on_event("model_refused", version=version)
