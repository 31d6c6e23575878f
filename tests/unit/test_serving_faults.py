"""Faults in words."""

from typing import Any

import pytest
from pydantic import ValidationError

from recsys.errors import RequestError
from serving.faults import as_request_error, field_of, first_fault, printable, shown
from serving.schemas import RecommendationRequest, SimilarRequest


def errors_of(kind: type[RecommendationRequest] | type[SimilarRequest], **values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        kind(**values)
    return caught.value


def test_lone_surrogates_and_control_characters_are_escaped() -> None:
    assert printable("a\ud800b\n\x00ü📚") == "a\\ud800b\\n\\x00ü📚"
    printable("\ud800").encode("utf-8")


@pytest.mark.parametrize("value", ["x" * 100_000, ["y"] * 100_000, {"k": ["z" * 100_000]}, 10**2_000, [[[[[]]]]]])
def test_large_values_are_shown_short(value: Any) -> None:
    assert len(shown(value)) <= 81


def test_values_are_shown_as_they_came() -> None:
    assert shown("5") == "'5'"
    assert shown(None) == "None"
    assert shown("a\ud800") == "'a\\ud800'"


@pytest.mark.parametrize(
    ("loc", "field"),
    [
        (("events", 3, "item_id"), "events.3.item_id"),
        (("history", 0, "<object>", "item_id"), "history.0.item_id"),
        (("history", 2, "<id>"), "history.2"),
        ((), None),
        (("x" * 1_000,), "x" * 200 + "…"),
    ],
)
def test_a_place_is_a_dotted_path(loc: tuple[int | str, ...], field: str | None) -> None:
    assert field_of(loc) == field


def test_the_first_fault_is_told_and_the_others_are_counted() -> None:
    fault = first_fault(errors_of(RecommendationRequest, n=0, user_id=3, candidate="x").errors())

    assert fault.field == "user_id"
    assert fault.message == "user_id must be a string (got 3); 2 more fault(s) follow"


def test_leading_parts_of_the_place_can_be_left_out() -> None:
    error = errors_of(SimilarRequest).errors()[0] | {"loc": ("body", "item_id")}

    assert first_fault([error], skip=1).message == "item_id is required"


def test_a_fault_unknown_to_us_is_told_in_pydantics_words() -> None:
    error = {"type": "brand_new", "loc": ("n",), "msg": "Input is wrong\x00", "input": 3}

    assert first_fault([error]).message == "n Input is wrong\\x00 (got 3)"


def test_callers_of_the_engine_get_an_error_they_can_read() -> None:
    error = as_request_error(errors_of(SimilarRequest, item_id=""))

    assert isinstance(error, RequestError)
    assert (str(error), error.field) == ("item_id must not be empty (got '')", "item_id")
