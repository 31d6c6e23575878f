"""Bodies of requests and responses. Strict: no unknown fields, no conversions, everything bounded."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from recsys.datasets.check_times import EARLIEST
from recsys.schema import Warmth
from serving.sessions import SessionItem
from serving.slates import NewEvent, Query

MAX_N: Final = 1_000
MAX_CANDIDATES: Final = 10_000
MAX_HISTORY: Final = 1_000
MAX_EXCLUDE: Final = 10_000
MAX_EVENTS: Final = 1_000
MAX_ID_LENGTH: Final = 512
MAX_EVENT_KIND_LENGTH: Final = 64
MAX_TEXT_LENGTH: Final = 10_000
MAX_BATCH_TEXT: Final = 100_000

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


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=_NO_CONTROL)]
EventKind = Annotated[str, Field(min_length=1, max_length=MAX_EVENT_KIND_LENGTH, pattern=_NO_CONTROL)]
Timestamp = Annotated[
    int,
    BeforeValidator(timestamp_us_of),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}),
]


class HistoryEntry(_Body):
    """One interaction of a session, with more than its item."""

    item_id: Id = Field(description="The item.")
    timestamp: Timestamp | None = Field(
        None, description="When it happened; left out, just before the entry that follows, the last one just now."
    )
    event: EventKind | None = Field(None, description="Kind of behaviour; left out, it weighs like a click.")


def _entry_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<id>"
    return "<object>" if isinstance(value, dict | HistoryEntry) else None


SessionEntry = Annotated[
    Annotated[Id, Tag("<id>")] | Annotated[HistoryEntry, Tag("<object>")], Discriminator(_entry_tag)
]


class RecommendationRequest(_Body):
    """For whom a list is wanted, out of what, and how long."""

    user_id: Id | None = Field(None, description="The user; left out for someone without an id.")
    n: int = Field(10, ge=1, le=MAX_N, description="Length of the list at most.")
    history: Annotated[list[SessionEntry], Field(max_length=MAX_HISTORY, fail_fast=True)] = Field(
        default_factory=list,
        description="What the user did beyond what the service knows, oldest first: item ids, or objects.",
    )
    candidates: Annotated[list[Id], Field(min_length=1, max_length=MAX_CANDIDATES, fail_fast=True)] | None = Field(
        None, description="The only items to order; left out, the whole catalogue is searched."
    )
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDE, fail_fast=True)] = Field(
        default_factory=list, description="Items that must not be in the list."
    )
    exclude_seen: bool = Field(
        True,
        description="Leave out what is in the user's history or what they complained of; candidates that are given "
        "stay in.",
    )
    diversity: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="How far alike items give way to others, by text and categories: 0 is the ranker's order, 1 lets "
        "rank only break ties.",
    )

    def query(self) -> Query:
        """Return the request as the engine takes it."""
        return Query(
            user_id=self.user_id,
            n=self.n,
            history=[
                SessionItem(entry)
                if isinstance(entry, str)
                else SessionItem(entry.item_id, entry.timestamp, entry.event)
                for entry in self.history
            ],
            candidates=self.candidates,
            exclude=self.exclude,
            exclude_seen=self.exclude_seen,
            diversity=self.diversity,
        )


class SimilarRequest(_Body):
    """An item, and how many like it are wanted."""

    item_id: Id = Field(description="The item to compare with.")
    n: int = Field(10, ge=1, le=MAX_N, description="Length of the list at most.")
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDE, fail_fast=True)] = Field(
        default_factory=list, description="Items that must not be in the list."
    )


class EventIn(_Body):
    """One thing that a user did."""

    event_id: Id | None = Field(
        None, description="Makes the event safe to send again: a repeat is counted, not stored. Made up when left out."
    )
    user_id: Id = Field(description="Who did it.")
    item_id: Id = Field(description="The item it was done to; must be in the catalogue.")
    event: EventKind = Field(description="Kind of behaviour, such as view, click, purchase or rating.")
    timestamp: Timestamp | None = Field(None, description="When it happened; left out, now.")
    value: float | None = Field(None, description="Size of the event: a rating, a price, seconds watched.")
    recommendation_id: Id | None = Field(None, description="The answer that the item was shown in.")
    text: Annotated[str, Field(max_length=MAX_TEXT_LENGTH, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="Text of a comment or review; read as for or against the item where the model can."
    )

    def new_event(self) -> NewEvent:
        """Return the event as the engine takes it."""
        return NewEvent(
            user_id=self.user_id,
            item_id=self.item_id,
            event=self.event,
            event_id=self.event_id,
            timestamp_us=self.timestamp,
            value=self.value,
            recommendation_id=self.recommendation_id,
            text=self.text,
        )


def _check_text_of(events: list[EventIn]) -> list[EventIn]:
    """Texts are read by the encoder while the caller waits: a batch shall not keep it busy for long."""
    n_characters = sum(len(event.text) for event in events if event.text)
    if n_characters > MAX_BATCH_TEXT:
        raise PydanticCustomError(
            "too_much_text",
            "hold {n} characters of text; at most {most} are allowed in one batch: send it in parts",
            {"n": n_characters, "most": MAX_BATCH_TEXT},
        )
    return events


class EventBatch(_Body):
    """Events, taken whole or refused whole."""

    events: Annotated[
        list[EventIn],
        Field(min_length=1, max_length=MAX_EVENTS, fail_fast=True),
        AfterValidator(_check_text_of),
    ]


class ModelOut(BaseModel):
    """The model that answered."""

    name: str
    version: str
    alias: str | None = Field(description="Alias it was loaded by; null for a bundle from a folder.")


class ScoredItem(BaseModel):
    """An item of a list. Scores are no probabilities and are not comparable between lists.

    They fall from the first to the last item, unless diversity was asked for: they are the ranker's then, too.
    """

    item_id: str
    score: float
    rank: int = Field(description="Place in the list, from 1.")


class RecommendedItem(ScoredItem):
    """An item of a slate."""

    sources: list[str] = Field(description="Candidate sources that proposed it; empty where the caller did.")


class IgnoredOut(BaseModel):
    """Ids that the catalogue lacks and that were left aside."""

    count: int
    first: list[str] = Field(description="The first three of them.")


class RecommendationResponse(BaseModel):
    """A slate."""

    recommendation_id: str = Field(description="Send it back with the events that this list leads to.")
    model: ModelOut
    degraded: bool = Field(description="Whether something was missing and the list is poorer for it.")
    user: Warmth = Field(
        description="warm: the model was trained on this user's behaviour; cold: only later behaviour or the "
        "history given is known; unknown: nothing is."
    )
    items: list[RecommendedItem]
    ignored: dict[str, IgnoredOut] = Field(
        description="Unknown item ids by the field they came in (`history`, `candidates`, `exclude`; `events` for "
        "stored events); empty when there were none."
    )


class SimilarResponse(BaseModel):
    """Items like one item, most similar first."""

    model: ModelOut
    items: list[ScoredItem]


class EventsResponse(BaseModel):
    """What became of a batch: all of it is stored."""

    accepted: int = Field(description="Events of the batch, repeats included.")
    duplicates: int = Field(description="How many of them were known already.")
    event_ids: list[str] = Field(description="Ids of the events in the order of the batch.")


class LiveResponse(BaseModel):
    """The process answers."""

    status: str


class ReadyResponse(BaseModel):
    """The service answers with this model."""

    status: str
    model: ModelOut
    bundle_id: str
    items: int
    users: int


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="For people: what, which value, what to do.")
    field: str | None = Field(description="Dotted path of the field, such as `events.3.item_id`; null for the whole.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail
