"""Bodies of requests and responses. Strict: no unknown fields, no conversions, everything bounded."""

from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from features.rungs import Rung
from recsys.schema import Warmth
from serving.schemas_base import MAX_N, Body, EventKind, Id, Timestamp
from serving.schemas_rules import ExcludeSeen, PlacementOut, RulesIn
from serving.sessions import SessionItem
from serving.slates import NewEvent, Query
from serving.store import StoredItem

MAX_CANDIDATES: Final = 10_000
MAX_HISTORY: Final = 1_000
MAX_EXCLUDE: Final = 10_000
MAX_EVENTS: Final = 1_000
MAX_TEXT_LENGTH: Final = 10_000
MAX_DESCRIPTION_LENGTH: Final = 100_000
MAX_LABELS: Final = 1_000
MAX_ATTRIBUTES: Final = 100
MAX_BATCH_TEXT: Final = 100_000

Label = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
AttributeName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def _attribute_tag(value: Any) -> str:
    if isinstance(value, bool):
        return "<flag>"
    if isinstance(value, int | float):
        return "<number>"
    return "<list>" if isinstance(value, list) else "<id>"


AttributeIn = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_TEXT_LENGTH, pattern=r"^[^\x00]*$")], Tag("<id>")]
    | Annotated[bool, Tag("<flag>")]
    | Annotated[float, Tag("<number>")]
    | Annotated[Annotated[list[Label], Field(max_length=MAX_LABELS, fail_fast=True)], Tag("<list>")],
    Discriminator(_attribute_tag),
]


class HistoryEntry(Body):
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


class RecommendationRequest(RulesIn):
    """For whom a list is wanted, out of what, how long, and by which rules."""

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
    exclude_seen: ExcludeSeen = Field(
        True,
        description="Leave out what is in the user's history or what they complained of; an object says which kinds of "
        "events count, and how far back. Candidates that are given stay in.",
    )
    diversity: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="How far alike items give way to others, by text and categories: 0 is the ranker's order, 1 lets "
        "rank only break ties.",
    )
    explain: bool = Field(
        False,
        description="Say what each group of features added to a score, and which item of the history is near.",
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
            diversity=self.diversity,
            rules=self.rules(self.exclude_seen),
            explain=self.explain,
        )


class SimilarRequest(Body):
    """An item, and how many like it are wanted."""

    item_id: Id = Field(description="The item to compare with.")
    n: int = Field(10, ge=1, le=MAX_N, description="Length of the list at most.")
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDE, fail_fast=True)] = Field(
        default_factory=list, description="Items that must not be in the list."
    )


class EventIn(Body):
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


class EventBatch(Body):
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


class RecommendedItem(ScoredItem, PlacementOut):
    """An item of a slate."""

    sources: list[str] = Field(description="Candidate sources that proposed it; empty where the caller did.")


class IgnoredOut(BaseModel):
    """What was left aside: ids that the catalogue lacks, or wishes about the order that no model was there to meet."""

    count: int
    first: list[str] = Field(description="The first three of the ids; empty for wishes.")


class RecommendationResponse(BaseModel):
    """A slate."""

    recommendation_id: str = Field(description="Send it back with the events that this list leads to.")
    model: ModelOut
    degraded: bool = Field(description="Whether something was missing and the list is poorer for it.")
    rung: Rung = Field(description="How much of the way the request went.")
    degraded_reason: str | None = Field(description="Why the list is degraded; null where it is not.")
    user: Warmth = Field(
        description="warm: the model was trained on this user's behaviour; cold: only later behaviour or the "
        "history given is known; unknown: nothing is."
    )
    items: list[RecommendedItem]
    ignored: dict[str, IgnoredOut] = Field(
        description="Unknown item ids by the field they came in (`history`, `candidates`, `exclude`; `events` for "
        "stored events), and, while there is no model, wishes about the order (`boosts`, `freshness`, `exploration`, "
        "`diversity`); empty when nothing was left aside."
    )


class ItemIn(Body):
    """An item of the catalogue: what it is, in words and attributes."""

    title: Annotated[str, Field(max_length=MAX_TEXT_LENGTH, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="Its title."
    )
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_LENGTH, pattern=r"^[^\x00]*$")] | None = Field(
        None, description="Its text; the encoder reads about the first hundred words."
    )
    categories: Annotated[list[Label], Field(max_length=MAX_LABELS, fail_fast=True)] = Field(
        default_factory=list, description="Its categories."
    )
    created_at: Timestamp | None = Field(None, description="Since when there is the item.")
    attributes: Annotated[dict[AttributeName, AttributeIn], Field(max_length=MAX_ATTRIBUTES)] = Field(
        default_factory=dict, description="Further attributes: text, numbers, true or false, or lists of text."
    )

    def stored_item(self, item_id: str) -> StoredItem:
        """Return the item as the store takes it."""
        return StoredItem(
            item_id, self.title, self.description, tuple(self.categories), self.created_at, dict(self.attributes)
        )


class ItemResponse(BaseModel):
    """An item that can be recommended from now on."""

    item_id: str
    is_new: bool = Field(description="Whether the catalogue lacked it.")


class DeletedItemResponse(BaseModel):
    """An item that is in no list any more."""

    item_id: str


class DeletedUserResponse(BaseModel):
    """What was deleted of a user, and whether a model that nobody asks about them any more still knows them."""

    user_id: str
    events: int = Field(description="Stored events that are gone.")
    slates: int = Field(description="Stored slates that are gone.")
    in_model: bool = Field(
        description="Whether the model was trained on this user's behaviour: their factors go with the next training."
    )


class SimilarResponse(BaseModel):
    """Items like one item, most similar first."""

    model: ModelOut
    items: list[ScoredItem]


class EventsResponse(BaseModel):
    """What became of a batch: all of it is stored, but for what deleted users did before their deletion."""

    accepted: int = Field(description="Events of the batch, those counted below included.")
    duplicates: int = Field(description="How many of them were known already.")
    forgotten: int = Field(
        description="How many of them deleted users did before their deletion: they are left out for good."
    )
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
