"""Writes served slates to the store beside the requests, which never wait for it."""

import logging
import threading
import time
from collections import deque
from itertools import islice
from typing import Final

from serving.errors import StoreError
from serving.store import EventStore, StoredSlate

logger = logging.getLogger(__name__)

_MAX_WAITING: Final = 10_000
_BATCH: Final = 200
_FIRST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 5.0
_CLOSING_S: Final = 5.0
_LINGER_S: Final = 0.2


class SlateLog:
    """Keeps slates until a thread of its own has stored them, at most `max_waiting`; those beyond are dropped.

    Slates are no promise to anybody, unlike events: losing some of them in an outage costs training a little.

    written: slates that the store has taken. dropped: slates that were given up. failed: tries that the store refused.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        max_waiting: int = _MAX_WAITING,
        batch: int = _BATCH,
        first_retry_s: float = _FIRST_RETRY_S,
        linger_s: float = _LINGER_S,
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self._store = store
        self._max_waiting = max_waiting
        self._batch = batch
        self._first_retry_s = first_retry_s
        self._linger_s = linger_s
        self._waiting: deque[StoredSlate] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._give_up_at_s = float("inf")  # of the monotonic clock
        self._thread = threading.Thread(target=self._write_all, name="write-slates", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many slates are not stored yet."""
        return len(self._waiting)

    def add(self, slate: StoredSlate) -> None:
        """Take a slate, or drop and count it where too many wait or the log is closed; returns at once."""
        with self._changed:
            if self._is_closing or len(self._waiting) >= self._max_waiting:
                self.dropped += 1
                return
            self._waiting.append(slate)
            # Not at every slate: the writer lingers after the first, and would only be woken to go on waiting.
            if len(self._waiting) in (1, self._batch):
                self._changed.notify()

    def close(self, timeout_s: float = _CLOSING_S) -> None:
        """Store what waits and end the thread; what is not stored after `timeout_s` is dropped and counted."""
        with self._changed:
            self._is_closing = True
            self._give_up_at_s = time.monotonic() + timeout_s
            self._changed.notify()
        self._thread.join(timeout_s)
        with self._changed:
            if self._waiting:
                logger.warning("%d slates were not stored before the end", len(self._waiting))
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _write_all(self) -> None:
        retry_s = self._first_retry_s
        while batch := self._next_batch():
            try:
                self._store.add_slates(batch)
            except StoreError as error:
                if self.failed == 0 or retry_s == self._first_retry_s:
                    logger.warning("slates wait to be stored: %s", error)
                self.failed += 1
                if not self._pause(retry_s):
                    return
                retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
                continue
            retry_s = self._first_retry_s
            self._done(len(batch))

    def _next_batch(self) -> list[StoredSlate]:
        """Return the next slates, which stay in the queue until they are stored; none at the end."""
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            # A moment more, so that a batch is not a single slate: each is a transaction of its own.
            if len(self._waiting) < self._batch and not self._is_closing:
                self._changed.wait_for(lambda: self._is_closing or len(self._waiting) >= self._batch, self._linger_s)
            return list(islice(self._waiting, self._batch))

    def _done(self, count: int) -> None:
        with self._changed:
            for _ in range(min(count, len(self._waiting))):  # none where the end came in between
                self._waiting.popleft()
                self.written += 1

    def _pause(self, retry_s: float) -> bool:
        """Wait before another try; return False when there shall be none."""
        until_s = time.monotonic() + retry_s
        with self._changed:
            while (left_s := min(until_s, self._give_up_at_s) - time.monotonic()) > 0:
                self._changed.wait(left_s)
            return time.monotonic() < self._give_up_at_s
