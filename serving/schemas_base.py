"""Kinds of fields that bodies of requests are made of."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from recsys.datasets.check_times import EARLIEST

MAX_N: Final = 1_000
MAX_ID_LENGTH: Final = 512
MAX_EVENT_KIND_LENGTH: Final = 64

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US: Final = (EARLIEST - _EPOCH) // timedelta(microseconds=1)
_SECOND_US: Final = 1_000_000
# Numbers below are seconds, from there on milliseconds: seconds reach the year 5138, milliseconds start in 1973.
_FIRST_MILLISECONDS: Final = 1e11
_LAST_MILLISECONDS: Final = 253_402_300_800_000  # the year 10000
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"


def timestamp_us_of(value: Any) -> int:
    """Return a time of the wire as microseconds UTC.

    Strings are ISO 8601, UTC where no offset is given; numbers are seconds since 1970, or milliseconds from 1e11 on.

    Raises:
        PydanticCustomError: the value is neither, or lies before 1990 or after the year 9999.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
            time_us: float = (moment - _EPOCH) // timedelta(microseconds=1)
        except (ValueError, OverflowError):
            raise PydanticCustomError("timestamp", "is no ISO 8601 time such as 2026-05-01T12:30:00Z") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not -_LAST_MILLISECONDS < value < _LAST_MILLISECONDS:  # also refuses NaN and infinities
            raise PydanticCustomError("timestamp", "is no time in seconds or milliseconds since 1970")
        time_us = value * _SECOND_US if value < _FIRST_MILLISECONDS else value * 1_000
    else:
        raise PydanticCustomError(
            "timestamp", "must be an ISO 8601 string or a number of seconds or milliseconds since 1970"
        )
    if time_us < _EARLIEST_US:
        raise PydanticCustomError(
            "timestamp", "lies before 1990; 0 often stands for an unknown time: leave it out then"
        )
    return round(time_us)


class Body(BaseModel):
    """A body, or a part of one: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=_NO_CONTROL)]
EventKind = Annotated[str, Field(min_length=1, max_length=MAX_EVENT_KIND_LENGTH, pattern=_NO_CONTROL)]
Timestamp = Annotated[
    int,
    BeforeValidator(timestamp_us_of),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}),
]
