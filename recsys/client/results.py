"""Answers of the service as values. Fields that a newer service adds are kept in `extra`, and break nothing."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from recsys.client.failures import UnexpectedAnswerError

T = TypeVar("T")
Extra = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """The model that answered. alias: None for a bundle from a folder."""

    name: str
    version: str
    alias: str | None = None
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """An item of a list. rank: from 1. sources: candidate sources that proposed it."""

    item_id: str
    score: float
    rank: int
    sources: tuple[str, ...] = ()
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class Ignored:
    """Unknown ids of one field of the request that were left aside; `first` holds up to three."""

    count: int
    first: tuple[str, ...]
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class Slate:
    """A recommended list, best first. user: `warm`, `cold` or `unknown`. ignored: by field of the request."""

    recommendation_id: str
    model: Model
    degraded: bool
    user: str
    items: tuple[Item, ...]
    ignored: Mapping[str, Ignored] = field(default_factory=dict)
    extra: Extra = field(default_factory=dict)

    @property
    def item_ids(self) -> list[str]:
        """The ids in their order."""
        return [item.item_id for item in self.items]


@dataclass(frozen=True)
class SimilarItems:
    """Items like one item, most similar first."""

    model: Model
    items: tuple[Item, ...]
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class EventsStored:
    """What became of events. duplicates: how many had been stored before.

    forgotten: how many deleted users did before their deletion; these alone are not stored.
    """

    accepted: int
    duplicates: int
    event_ids: tuple[str, ...]
    forgotten: int = 0
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """The service answers, with this model."""

    status: str
    model: Model
    bundle_id: str = ""
    items: int = 0
    users: int = 0
    extra: Extra = field(default_factory=dict)


def slate_of(values: Mapping[str, Any]) -> Slate:
    """Return the answer to a recommendation; raises `UnexpectedAnswerError` where a field is missing."""
    ignored = {part: _of(Ignored, ids, first=tuple) for part, ids in values.get("ignored", {}).items()}
    return _of(Slate, {**values, "ignored": ignored}, model=_model_of, items=_items_of)


def similar_of(values: Mapping[str, Any]) -> SimilarItems:
    """Return the answer to `similar`; raises as `slate_of`."""
    return _of(SimilarItems, values, model=_model_of, items=_items_of)


def stored_of(values: Mapping[str, Any]) -> EventsStored:
    """Return the answer to one batch of events; raises as `slate_of`."""
    return _of(EventsStored, values, event_ids=tuple)


def ready_of(values: Mapping[str, Any]) -> Ready:
    """Return the answer to `ready`; raises as `slate_of`."""
    return _of(Ready, values, model=_model_of)


def _model_of(values: Mapping[str, Any]) -> Model:
    return _of(Model, values)


def _items_of(values: list[Mapping[str, Any]]) -> tuple[Item, ...]:
    return tuple(_of(Item, item, sources=tuple) for item in values)


def _of(kind: type[T], values: Any, **convert: Any) -> T:
    if not isinstance(values, Mapping):
        raise UnexpectedAnswerError(f"{kind.__name__.lower()} is {values!r}, not a JSON object; is this the service?")
    known = {f.name: f for f in fields(kind) if f.name != "extra"}  # type: ignore[arg-type]
    missing = [
        name
        for name, f in known.items()
        if name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise UnexpectedAnswerError(
            f"the answer lacks {missing[0]!r} (it has {sorted(values)[:5]}); the service is of another version"
        )
    given = {name: convert.get(name, _same)(values[name]) for name in known if name in values}
    given["extra"] = {name: value for name, value in values.items() if name not in known}
    return kind(**given)


def _same(value: Any) -> Any:
    return value
