"""Fields of requests and answers for rules and explanations. Strict and bounded as `serving.schemas`."""

import math
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from serving.explain import EvidenceKind
from serving.filters import AnyOf, Between, Condition, During, Filter
from serving.rules import Boost, Exploration, Freshness, Pin, Rule, Rules, SeenWindow
from serving.schemas_base import MAX_N, Body, EventKind, Id, Timestamp

MAX_FILTER_FIELDS: Final = 20
MAX_FILTER_VALUES: Final = 1_000
MAX_VALUE_LENGTH: Final = 1_000
MAX_BOOSTS: Final = 20
MAX_BOOSTED_ITEMS: Final = 1_000
MAX_PINS: Final = 100
MAX_CAPS: Final = 10
MAX_POOL: Final = 2 * MAX_N
MAX_DAYS: Final = 36_500


def _scalar(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > MAX_VALUE_LENGTH:
            raise PydanticCustomError("filter_value", f"must have at most {MAX_VALUE_LENGTH} characters")
        return value
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise PydanticCustomError("filter_value", "must be a text, a finite number, true or false")


def _alike(values: list[Any]) -> list[Any]:
    if len({type(value) for value in values}) > 1:
        raise PydanticCustomError("filter_value", "must hold values of one type")
    return values


class BoundsIn(Body):
    """Bounds of a number (`min`, `max`, themselves included) or a time (`after` included, `before` not)."""

    min: float | None = Field(None, description="The least number that passes.")
    max: float | None = Field(None, description="The largest number that passes.")
    after: Timestamp | None = Field(None, description="The first moment that passes.")
    before: Timestamp | None = Field(None, description="The first moment that passes no more.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        is_number = self.min is not None or self.max is not None
        is_time = self.after is not None or self.before is not None
        if is_number == is_time:
            raise PydanticCustomError("bounds", "must have min or max for a number, or after or before for a time")
        return self

    def condition(self) -> Condition:
        if self.after is not None or self.before is not None:
            return During(self.after, self.before)
        return Between(self.min, self.max)


Scalar = Annotated[
    Any,
    AfterValidator(_scalar),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_VALUE_LENGTH}, {"type": "number"},
                              {"type": "boolean"}]}),
]  # fmt: skip
ScalarList = Annotated[
    list[Scalar], Field(min_length=1, max_length=MAX_FILTER_VALUES, fail_fast=True), AfterValidator(_alike)
]


def _condition_tag(value: Any) -> str:
    if isinstance(value, list):
        return "<list>"
    return "<object>" if isinstance(value, dict | BoundsIn) else "<id>"


ConditionIn = Annotated[
    Annotated[Scalar, Tag("<id>")] | Annotated[ScalarList, Tag("<list>")] | Annotated[BoundsIn, Tag("<object>")],
    Discriminator(_condition_tag),
]
Conditions = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=512)], ConditionIn], Field(max_length=MAX_FILTER_FIELDS)
]


class FilterIn(BaseModel):
    """Conditions by attribute, all of which must hold; those under `not` must not, none of them.

    A value means equal, a list any of its values, an object bounds. `category` and `categories` are the categories.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, ConditionIn]

    not_: Conditions = Field(default_factory=dict, alias="not", description="Conditions that must not hold.")

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) > MAX_FILTER_FIELDS + 1:
                raise PydanticCustomError("filter_size", f"must have at most {MAX_FILTER_FIELDS} attributes")
            if any(isinstance(name, str) and not 0 < len(name) <= 512 for name in value):
                raise PydanticCustomError(
                    "filter_size", "has an attribute's name that is empty or above 512 characters"
                )
        return value

    def filter(self) -> Filter:
        """Return the filter, its conditions in one order however they were written."""
        return Filter(_conditions(self.__pydantic_extra__), _conditions(self.not_))


def _conditions(fields: dict[str, Any]) -> tuple[tuple[str, Condition], ...]:
    return tuple((name, _condition(value)) for name, value in sorted(fields.items()))


def _condition(value: Any) -> Condition:
    if isinstance(value, BoundsIn):
        return value.condition()
    return AnyOf(tuple(sorted(set(value)))) if isinstance(value, list) else AnyOf((value,))


class BoostIn(Body):
    """Items to lift or, below 0, to sink."""

    by: float = Field(ge=-10.0, le=10.0, description="Standard deviations of the request's scores to add.")
    filter: FilterIn | None = Field(None, description="Which items; or `items`.")
    items: Annotated[list[Id], Field(min_length=1, max_length=MAX_BOOSTED_ITEMS, fail_fast=True)] | None = Field(
        None, description="Which items; or `filter`."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.filter is None) == (self.items is None):
            raise PydanticCustomError("boost", "must have either filter or items")
        return self


class PinIn(Body):
    """An item that stands at a place, whatever its score."""

    item_id: Id = Field(description="The item; must be in the catalogue.")
    position: int = Field(ge=1, le=MAX_N, description="Its place in the list, from 1 to n.")


class FreshnessIn(Body):
    """A lift for new items, by `created_at`."""

    half_life_days: float = Field(gt=0.0, le=MAX_DAYS, description="Age at which half of the lift is left.")
    weight: float = Field(ge=0.0, le=10.0, description="Lift at age 0, in standard deviations of the scores.")


class ExplorationIn(Body):
    """Places for items that the ranking would not have shown."""

    slots: int = Field(1, ge=1, le=MAX_N, description="How many places.")
    pool: int = Field(100, ge=2, le=MAX_POOL, description="Rank up to which items are drawn; above n.")
    position: Literal["last", "random"] = Field(
        "last", description="`last` for the end of the list, `random` for places drawn evenly."
    )


class SeenIn(Body):
    """What counts as seen."""

    events: Annotated[list[EventKind], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Kinds of events; left out, all."
    )
    days: float | None = Field(None, gt=0.0, le=MAX_DAYS, description="How far back; left out, ever.")


def _seen_tag(value: Any) -> str:
    return "<object>" if isinstance(value, dict | SeenIn) else "<id>"


ExcludeSeen = Annotated[Annotated[bool, Tag("<id>")] | Annotated[SeenIn, Tag("<object>")], Discriminator(_seen_tag)]

Caps = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=512)], Annotated[int, Field(ge=1, le=MAX_N)]],
    Field(max_length=MAX_CAPS),
]


class RulesIn(Body):
    """The rules of a request; a base of `RecommendationRequest`."""

    filter: FilterIn | None = Field(None, description="Which items may be in the list.")
    boosts: Annotated[list[BoostIn], Field(max_length=MAX_BOOSTS, fail_fast=True)] = Field(
        default_factory=list, description="Items to lift or sink; several for one item add up."
    )
    pins: Annotated[list[PinIn], Field(max_length=MAX_PINS, fail_fast=True)] = Field(
        default_factory=list, description="Items at fixed places."
    )
    caps: Caps = Field(
        default_factory=dict, description="By attribute: at most so many items of one value, such as of one category."
    )
    freshness: FreshnessIn | None = Field(None, description="Lift new items.")
    exploration: ExplorationIn | None = Field(None, description="Show some items drawn by chance.")

    def rules(self, exclude_seen: bool | SeenIn = True) -> Rules:  # noqa: FBT001, FBT002 (a field of the request)
        """Return the rules as the engine takes them."""
        seen = (
            exclude_seen
            if isinstance(exclude_seen, bool)
            else SeenWindow(tuple(exclude_seen.events or ()), exclude_seen.days)
        )
        exploration, freshness = self.exploration, self.freshness
        return Rules(
            filter=self.filter.filter() if self.filter else None,
            exclude_seen=seen,
            boosts=tuple(
                Boost(boost.by, boost.filter.filter() if boost.filter else None, tuple(boost.items or ()))
                for boost in self.boosts
            ),
            pins=tuple(Pin(pin.item_id, pin.position) for pin in self.pins),
            caps=tuple(sorted(self.caps.items())),
            freshness=Freshness(freshness.half_life_days, freshness.weight) if freshness else None,
            exploration=Exploration(exploration.slots, exploration.pool, exploration.position == "random")
            if exploration
            else None,
        )


class ContributionOut(BaseModel):
    """What a group of features added to the score."""

    group: str = Field(description="text, collaborative, session, popularity, item, user, or base.")
    contribution: float = Field(description="In units of the score; all groups add up to it.")


class EvidenceOut(BaseModel):
    """The best single reason for an item."""

    kind: EvidenceKind = Field(description="How the items are near; popularity where the user has no history.")
    item_id: str | None = Field(description="The item of the history; null for popularity.")
    title: str | None = Field(description="Its title.")
    event: str | None = Field(description="What the user did with it; null where unknown.")
    strength: float = Field(description="0 to 1.")
    sentence: str = Field(description="The reason in English.")


class PlacementOut(BaseModel):
    """How an item came to its place; a base of `RecommendedItem`."""

    rule: Rule = Field(Rule.RANKING, description="What put the item there.")
    propensity: float = Field(1.0, description="Chance with which the item was drawn; 1 where nothing was drawn.")
    explanation: list[ContributionOut] | None = Field(None, description="With `explain`: parts of the score.")
    evidence: EvidenceOut | None = Field(None, description="With `explain`: a reason; null where nothing is near.")
