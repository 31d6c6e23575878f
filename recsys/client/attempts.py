"""When a call is tried again, and after how long."""

import random
import time
from collections.abc import Callable
from typing import Final

from recsys.client.failures import ClientError, ConnectionFailedError, DeadlineExceededError, ServiceError

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0
_RETRIED: Final = (429, 503)
_LEAST_S: Final = 0.001


class Attempts:
    """The tries of one call, under one deadline.

    Tried again are broken or refused connections, and the answers 429 and 503; every call of the API may be repeated.
    """

    def __init__(
        self, timeout_s: float, retries: int, rng: random.Random, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._deadline = clock() + timeout_s
        self._retries_left = retries
        self._rng = rng
        self._longest_s = FIRST_WAIT_S

    def remaining_s(self) -> float:
        """Return what is left of the time, above 0."""
        return max(self._deadline - self._clock(), _LEAST_S)

    def wait_s(self, failure: ClientError) -> float:
        """Return how long to wait before the next try.

        Exponential back-off with full jitter, but never less than the service asked for.

        Raises:
            ClientError: the failure itself, where another try is of no use, not allowed, or would come too late.
        """
        if self._retries_left <= 0 or not _is_passing(failure):
            raise failure
        self._retries_left -= 1
        wait_s = self._rng.uniform(0.0, self._longest_s)
        self._longest_s = min(2 * self._longest_s, LONGEST_WAIT_S)
        if isinstance(failure, ServiceError) and failure.retry_after_s is not None:
            # Callers that were sent away together shall not come back together.
            wait_s += failure.retry_after_s
        if self._clock() + wait_s >= self._deadline:
            raise failure
        return wait_s


def _is_passing(failure: ClientError) -> bool:
    if isinstance(failure, ServiceError):
        return failure.status in _RETRIED
    return isinstance(failure, ConnectionFailedError) and not isinstance(failure, DeadlineExceededError)
