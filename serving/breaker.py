"""What fails is left alone for a moment; and a store that may be away, opened when it can be."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from recsys.errors import RequestError
from serving.errors import StoreError
from serving.notices import OnEvent, unheard
from serving.store import Added, Event, EventStore

logger = logging.getLogger(__name__)

REST_S: Final = 3.0
_SLOW_S: Final = 0.1
_FAST_FAILURES: Final = 3
_WRITES: Final = ("add", "put", "delete", "revoke")


class Breaker:
    """Says whether to call what may be failing: not for a while after three failures in a row, or one slow one.

    Then one call is let through to try. A single fast failure stops nobody: it may be the fault of what was asked.

    cause: what the failure said that stopped calls last. slow_s: from how long on a failure is slow. clock: seconds,
    rising.
    """

    def __init__(
        self, rest_s: float = REST_S, *, slow_s: float = _SLOW_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.cause = ""
        self._rest_s = rest_s
        self._slow_s = slow_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until_s: float | None = None

    def rest_left_s(self) -> float:
        """Return for how many seconds no call must be made; 0 where one may, after a rest by who asks first alone."""
        if self._until_s is None:
            return 0.0
        now_s = self._clock()
        with self._lock:
            if self._until_s is None:
                return 0.0
            if now_s < self._until_s:
                return self._until_s - now_s
            self._until_s = now_s + self._rest_s  # for all but this call
        return 0.0

    def succeeded(self) -> None:
        """Let everybody through again."""
        if self._failures or self._until_s is not None:
            with self._lock:
                self._failures, self._until_s = 0, None

    def failed(self, cause: str, took_s: float) -> bool:
        """Take note of a failure; return whether it is the one that stops further calls."""
        now_s = self._clock()
        with self._lock:
            self._failures += 1
            was_open = self._until_s is not None
            if was_open or self._failures >= _FAST_FAILURES or took_s >= self._slow_s:
                self._until_s, self.cause = now_s + self._rest_s, cause
            return self._until_s is not None and not was_open


class GuardedStore:
    """An event store behind breakers, one for reads and one for writes: a full disk leaves reading alone.

    open_store: opens the store itself; called by `try_open` alone, so that no request waits for a connection that is
    yet to be made. Every method of the store is here too and raises `StoreError` at once while the store is away.
    """

    def __init__(
        self,
        open_store: Callable[[], EventStore],
        on_event: OnEvent = unheard,
        *,
        rest_s: float = REST_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_store = open_store
        self._on_event = on_event
        self._store: EventStore | None = None
        self._problem = "the event store is not open yet; try again in a moment"
        self._clock = clock
        self._opening = Breaker(rest_s, clock=clock)
        self._sides = {side: Breaker(rest_s, clock=clock) for side in ("reads", "writes")}

    @property
    def is_open(self) -> bool:
        """Whether the store was reached once; it may be away since."""
        return self._store is not None

    def try_open(self) -> bool:
        """Open the store unless it is open; return whether it is. To be called from one thread at a time.

        Tries that fail rest as calls do: a slow one, or three in a row, are followed by none for `rest_s`.
        """
        if self._store is None:
            if self._opening.rest_left_s() > 0:
                return False
            began_s = self._clock()
            try:
                self._store = self._open_store()
            except StoreError as error:
                self._opening.failed(str(error), self._clock() - began_s)
                self._on_event("store_error", side="open")
                if str(error) != self._problem:
                    logger.warning("served without the event store, which is tried again: %s", error)
                self._problem = str(error)
                return False
            logger.info("the event store is open")
        return True

    def add(self, events: Sequence[Event], *, received_us: int) -> Added:
        added: Added = self._call("add", events, received_us=received_us)
        return added

    def newest_of(self, user_id: str, limit: int) -> list[Event]:
        events: list[Event] = self._call("newest_of", user_id, limit)
        return events

    def since(self, timestamp_us: int) -> Iterator[Event]:
        store, breaker = self._store, self._sides["reads"]
        if store is None:
            raise StoreError(self._problem)
        began_s = self._begin(breaker)
        try:
            yield from store.since(timestamp_us)  # each page is read only as it is reached
        except StoreError as error:
            self._failed("reads", began_s, error)
            raise
        breaker.succeeded()

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def __getattr__(self, name: str) -> Any:
        """Return a further method of the store, guarded alike."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **options: self._call(name, *arguments, **options)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        store = self._store
        if store is None:
            raise StoreError(self._problem)
        side = "writes" if name.startswith(_WRITES) else "reads"
        breaker = self._sides[side]
        began_s = self._begin(breaker)
        try:
            result = getattr(store, name)(*arguments, **options)
        except StoreError as error:
            self._failed(side, began_s, error)
            raise
        except RequestError:  # the store has answered
            breaker.succeeded()
            raise
        breaker.succeeded()
        return result

    def _begin(self, breaker: Breaker) -> float:
        """Return when a call begins, unless it must not."""
        left_s = breaker.rest_left_s()
        if left_s > 0:
            raise StoreError(f"{breaker.cause} (not asked again for {left_s:.1f} s)")
        return self._clock()

    def _failed(self, side: str, began_s: float, error: StoreError) -> None:
        self._on_event("store_error", side=side)
        if self._sides[side].failed(str(error), self._clock() - began_s):
            logger.warning("%s of the event store rest for a moment: %s", side, error)
