"""The ladder: which rung is chosen, what fails on it, and how it is climbed again."""

import logging
from collections.abc import Callable
from itertools import pairwise

import lightgbm as lgb
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from recsys.errors import EncoderError, RequestError
from serving.descent import Descent
from serving.errors import NotReadyError, StoreError
from serving.ladder import Ladder, Reason, Rung
from serving.notices import Seldom

BUDGET_MS = 50.0


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ladder(clock: FakeClock) -> Ladder:
    return Ladder(BUDGET_MS, clock=clock)


def serve(ladder: Ladder, clock: FakeClock, cost_ms: dict[Rung, float], seconds: float, every_s: float = 0.1) -> list:
    """Ask and observe for a time; return the rungs that were chosen."""
    chosen = []
    for _ in range(round(seconds / every_s)):
        clock.now += every_s
        rung, _reason = ladder.choose(BUDGET_MS)
        ladder.observe(rung, cost_ms[rung])
        chosen.append(rung)
    return chosen


FAST = {Rung.FULL: 10.0, Rung.WITHOUT_ENCODER: 8.0, Rung.COLLABORATIVE: 4.0, Rung.POPULAR: 1.0}
SLOW_FULL = FAST | {Rung.FULL: 90.0}


def test_what_fits_is_answered_in_full(ladder: Ladder, clock: FakeClock) -> None:
    assert set(serve(ladder, clock, FAST, 10)) == {Rung.FULL}
    assert ladder.choose(BUDGET_MS) == (Rung.FULL, None)
    assert 10.0 <= ladder.estimate_ms(Rung.FULL) < 15.0


def test_a_single_slow_answer_changes_nothing(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, FAST, 10)
    ladder.observe(Rung.FULL, 5_000.0)

    assert ladder.choose(BUDGET_MS) == (Rung.FULL, None)


def test_lasting_slowness_leads_one_rung_down(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, FAST, 5)
    chosen = serve(ladder, clock, SLOW_FULL, 60)

    assert chosen[-1] is Rung.WITHOUT_ENCODER
    assert set(chosen) == {Rung.FULL, Rung.WITHOUT_ENCODER}
    # Down within few requests, and tried again ever less often.
    assert chosen[:12].count(Rung.FULL) < 12
    assert 3 <= chosen[12:].count(Rung.FULL) <= 8


def test_what_was_spent_waiting_leads_further_down(ladder: Ladder, clock: FakeClock) -> None:
    for rung, cost_ms in FAST.items():
        for _ in range(100):
            ladder.observe(rung, cost_ms)

    assert ladder.choose(6.0) == (Rung.COLLABORATIVE, Reason.BUDGET)
    assert ladder.choose(2.0) == (Rung.POPULAR, Reason.BUDGET)
    assert ladder.choose(-40.0) == (Rung.POPULAR, Reason.BUDGET)
    assert ladder.choose(BUDGET_MS) == (Rung.FULL, None)


def test_without_time_even_what_was_never_measured_is_left_out(ladder: Ladder) -> None:
    assert ladder.choose(0.0) == (Rung.POPULAR, Reason.BUDGET)


def test_it_climbs_again_once_slowness_has_passed(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, SLOW_FULL, 20)
    chosen = serve(ladder, clock, FAST, 90)

    assert chosen[0] is Rung.WITHOUT_ENCODER
    assert set(chosen[-100:]) == {Rung.FULL}


def test_it_climbs_from_the_lowest_rung_too(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, dict.fromkeys(Rung, 200.0), 60)
    assert ladder.choose(BUDGET_MS)[0] is Rung.POPULAR

    assert set(serve(ladder, clock, FAST, 240)[-100:]) == {Rung.FULL}


def test_near_the_budget_it_does_not_flap(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, SLOW_FULL, 20)
    chosen = serve(ladder, clock, FAST | {Rung.FULL: 48.0}, 60)

    changes = sum(first is not second for first, second in pairwise(chosen))
    assert changes <= 16, "one request every few seconds tries the higher rung; the others stay"


def test_a_request_that_has_waited_is_not_the_one_that_tries(ladder: Ladder, clock: FakeClock) -> None:
    serve(ladder, clock, SLOW_FULL, 20)
    clock.now += 100.0

    assert ladder.choose(BUDGET_MS / 2)[0] is Rung.WITHOUT_ENCODER
    assert ladder.choose(BUDGET_MS) == (Rung.FULL, None)


def test_a_ladder_without_rungs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one rung"):
        Ladder(BUDGET_MS, ())


class Counted:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str]]] = []

    def __call__(self, name: str, **labels: str) -> None:
        self.events.append((name, labels))


def failing(*errors: Exception) -> Callable[[Rung], str]:
    """An answer whose first rungs fail one after the other."""
    left = list(errors)

    def answer(rung: Rung) -> str:
        if left:
            raise left.pop(0)
        return rung.value

    return answer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoreError("away"), Reason.STORE_UNAVAILABLE),
        (EncoderError("bad"), Reason.ENCODER_FAILED),
        (RuntimeException("onnx"), Reason.ENCODER_FAILED),
        (lgb.basic.LightGBMError("trees"), Reason.RANKER_FAILED),
        (ZeroDivisionError("defect"), Reason.INTERNAL),
    ],
)
def test_a_rung_that_fails_is_answered_one_lower_and_counted(ladder: Ladder, error: Exception, reason: Reason) -> None:
    counted = Counted()
    walked = Descent(ladder, counted).walk(failing(error))

    assert (walked.value, walked.rung, walked.reason) == ("without_encoder", Rung.WITHOUT_ENCODER, reason)
    assert ("degraded", {"rung": "without_encoder", "reason": reason.value}) in counted.events
    assert (("defect", {"kind": "ZeroDivisionError"}) in counted.events) == (reason is Reason.INTERNAL)


def test_a_full_answer_is_no_degraded_one(ladder: Ladder) -> None:
    counted = Counted()
    walked = Descent(ladder, counted).walk(failing())

    assert (walked.rung, walked.reason, counted.events) == (Rung.FULL, None, [])


@pytest.mark.parametrize("error", [RequestError("n must be at least 1", field="n"), NotReadyError("no model")])
def test_what_is_wrong_with_the_request_is_not_blamed_on_the_rung(ladder: Ladder, error: Exception) -> None:
    counted = Counted()
    with pytest.raises(type(error)):
        Descent(ladder, counted).walk(failing(error))

    assert counted.events == []


def test_what_the_lowest_rung_raises_is_raised(ladder: Ladder) -> None:
    errors = [EncoderError("1"), lgb.basic.LightGBMError("2"), ValueError("3"), KeyError("last")]
    with pytest.raises(KeyError, match="last"):
        Descent(ladder).walk(failing(*errors))


def test_a_defect_is_logged_with_its_traceback_once_a_minute(
    ladder: Ladder, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    descent = Descent(ladder, clock=lambda: clock.now * 1_000, is_worth_logging=Seldom(60.0, clock))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            descent.walk(failing(ZeroDivisionError("defect")))
        clock.now += 61.0
        descent.walk(failing(ZeroDivisionError("defect")))

    full = [record for record in caplog.records if "rung full failed" in record.getMessage()]
    assert [record.exc_info is not None for record in full] == [True, True]


class Broken:
    """An answer that fails on the highest rung while it is told to, and counts how often each rung was tried."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.tried: list[Rung] = []

    def __call__(self, rung: Rung) -> str:
        self.tried.append(rung)
        if rung is Rung.FULL and self.error is not None:
            raise self.error
        return rung.value


@pytest.fixture
def descent(ladder: Ladder, clock: FakeClock) -> Descent:
    counted = Counted()
    descent = Descent(ladder, counted, clock=lambda: clock.now * 1_000)
    descent.counted = counted  # type: ignore[attr-defined]
    return descent


def test_a_rung_that_fails_three_times_in_a_row_rests_and_then_one_request_tries_it(
    descent: Descent, clock: FakeClock
) -> None:
    answer = Broken(EncoderError("bad"))
    walked = [descent.walk(answer) for _ in range(10)]

    assert answer.tried.count(Rung.FULL) == 3
    assert {(one.rung, one.reason) for one in walked} == {(Rung.WITHOUT_ENCODER, Reason.ENCODER_FAILED)}
    clock.now += 3.1
    for _ in range(10):
        descent.walk(answer)
    assert answer.tried.count(Rung.FULL) == 4
    rests = [labels for name, labels in descent.counted.events if name == "rung_rests"]  # type: ignore[attr-defined]
    assert rests == [{"rung": "full"}]


def test_a_rung_that_answers_again_is_taken_by_all(descent: Descent, clock: FakeClock) -> None:
    answer = Broken(ZeroDivisionError("defect"))
    for _ in range(5):
        descent.walk(answer)
    answer.error = None
    assert descent.walk(answer).rung is Rung.WITHOUT_ENCODER, "it still rests"

    clock.now += 3.1
    assert [descent.walk(answer).rung for _ in range(5)] == [Rung.FULL] * 5


def test_failures_with_answers_between_them_are_the_requests_fault(descent: Descent) -> None:
    answer = Broken(None)
    for place in range(20):
        answer.error = ZeroDivisionError("defect") if place % 3 else None
        descent.walk(answer)

    assert answer.tried.count(Rung.FULL) == 20


def test_a_store_that_is_away_lets_no_rung_rest(descent: Descent) -> None:
    answer = Broken(StoreError("away"))
    for _ in range(10):
        descent.walk(answer)

    assert answer.tried.count(Rung.FULL) == 10


def test_the_lowest_rung_never_rests(descent: Descent) -> None:
    def fail(rung: Rung) -> str:
        raise KeyError(rung)

    for _ in range(10):
        with pytest.raises(KeyError, match="popular"):
            descent.walk(fail)


def test_only_what_was_answered_is_measured(ladder: Ladder) -> None:
    now_ms = iter(range(0, 1_000, 7))
    Descent(ladder, clock=lambda: next(now_ms)).walk(failing(EncoderError("bad")))

    assert ladder.estimate_ms(Rung.FULL) == 0.0
    assert ladder.estimate_ms(Rung.WITHOUT_ENCODER) > 0.0
