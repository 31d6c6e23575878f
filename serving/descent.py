"""The way down the ladder: what may fail on a rung, and what the answer is called then."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import lightgbm as lgb
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_state

from recsys.errors import EncoderError, RequestError
from serving.breaker import Breaker
from serving.errors import NotReadyError, StoreError
from serving.ladder import Ladder, Reason, Rung
from serving.notices import OnEvent, Seldom, unheard

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ONNX_ERRORS: Final[tuple[type[Exception], ...]] = tuple(
    getattr(onnx_state, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
                 "RuntimeException", "EPFail")
)  # fmt: skip
_REASONS: Final[tuple[tuple[tuple[type[Exception], ...], Reason], ...]] = (
    ((StoreError,), Reason.STORE_UNAVAILABLE),
    ((EncoderError, *_ONNX_ERRORS), Reason.ENCODER_FAILED),
    ((lgb.basic.LightGBMError,), Reason.RANKER_FAILED),
)
# What is wrong with the request, or with no rung in particular, is wrong on each of them.
_NOT_THE_RUNG: Final = (RequestError, NotReadyError)


@dataclass(frozen=True)
class Walked(Generic[T]):
    """An answer, the rung that it comes from, and why not from the highest; None where it does."""

    value: T
    rung: Rung
    reason: Reason | None


class Descent:
    """Answers on the rung that fits, and one lower where that fails. May be called from several threads at once.

    A rung that failed three times in a row is left alone for a moment, then one request tries it; the lowest never is.

    clock: milliseconds, rising.
    """

    def __init__(
        self,
        ladder: Ladder,
        on_event: OnEvent = unheard,
        *,
        clock: Callable[[], float] = lambda: time.perf_counter() * 1_000,
        is_worth_logging: Callable[[str], bool] | None = None,
    ) -> None:
        self._ladder = ladder
        self._on_event = on_event
        self._clock = clock
        self._is_worth_logging = is_worth_logging or Seldom()
        # How long a failure took says what was asked, not what fails: three in a row are waited for.
        self._breakers = {
            rung: Breaker(slow_s=math.inf, clock=lambda: self._clock() / 1_000) for rung in ladder.rungs[:-1]
        }

    def walk(self, answer: Callable[[Rung], T], *, waited_ms: float = 0.0) -> Walked[T]:
        """Return the answer of the highest rung that there is time for and that neither rests nor fails.

        Args:
            answer: makes the answer of a rung.
            waited_ms: part of the budget that is spent already.

        Raises:
            RequestError, NotReadyError: as `answer` does; lower rungs are not tried.
            Exception: what the lowest rung raised.
        """
        highest, reason = self._ladder.choose(self._ladder.budget_ms - waited_ms)
        rungs = self._ladder.rungs
        for rung in rungs[rungs.index(highest) :]:
            breaker = self._breakers.get(rung)
            if breaker is not None and breaker.rest_left_s() > 0:
                reason = Reason(breaker.cause)
                continue
            began_ms = self._clock()
            try:
                value = answer(rung)
            except _NOT_THE_RUNG:
                raise
            except Exception as error:
                reason = self._why(error, rung)
                if breaker is None:
                    raise
                self._failed(breaker, rung, reason)
            else:
                self._ladder.observe(rung, self._clock() - began_ms)
                if breaker is not None:
                    breaker.succeeded()
                break
        if reason is not None:
            self._on_event("degraded", rung=rung.value, reason=reason.value)
        return Walked(value, rung, reason)

    def _failed(self, breaker: Breaker, rung: Rung, reason: Reason) -> None:
        # A store that is away is left alone by itself.
        if reason != Reason.STORE_UNAVAILABLE and breaker.failed(reason.value, 0.0):
            self._on_event("rung_rests", rung=rung.value)
            logger.warning("rung %s rests for a moment: %s", rung, reason)

    def _why(self, error: Exception, rung: Rung) -> Reason:
        kind = type(error).__name__
        for kinds, reason in _REASONS:
            if isinstance(error, kinds):
                if self._is_worth_logging(f"{rung} {kind}"):
                    logger.warning("rung %s failed, one lower answers: %s", rung, error)
                return reason
        self._on_event("defect", kind=kind)
        if self._is_worth_logging(f"{rung} {kind}"):
            logger.error("rung %s failed unexpectedly, one lower answers", rung, exc_info=error)
        return Reason.INTERNAL
