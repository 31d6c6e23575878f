"""What the store keeps, as values. Times are microseconds UTC."""

from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

# Above every number that a feed gives out.
LAST_SEQ: Final = 2**63 - 1

Attribute = str | float | bool | list[str]


@dataclass(frozen=True)
class Event:
    """One thing that a user did. timestamp_us: microseconds UTC.

    is_timed: whether the caller said when; where not, the time is the service's own and no part of the content that a
    repeat is compared by. Not stored.
    """

    event_id: str
    user_id: str
    item_id: str
    event: str
    timestamp_us: int
    value: float | None = None
    recommendation_id: str | None = None
    text: str | None = None
    is_timed: bool = True

    def same_content(self, stored: "Event") -> bool:
        """Return whether this is a repeat of an event that is stored already."""
        names = [name for name in EVENT_COLUMNS if name != "timestamp_us" or self.is_timed]
        return all(getattr(self, name) == getattr(stored, name) for name in names)


EVENT_COLUMNS: Final = tuple(field.name for field in fields(Event) if field.name != "is_timed")


@dataclass(frozen=True)
class Added:
    """What became of a batch. fresh: places in the batch of the events that were not known before, ascending.

    forgotten: events of deleted users from before their deletion, which were not stored.
    """

    fresh: tuple[int, ...]
    duplicates: int
    forgotten: int = 0


@dataclass(frozen=True)
class Positions:
    """The newest number of each feed: all that was written up to it can be read."""

    events: int = 0
    items: int = 0
    slates: int = 0


@dataclass(frozen=True)
class StoredItem:
    """An item of the catalogue as it was put. attributes: by name, each text, a number, a truth value or texts."""

    item_id: str
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    created_at_us: int | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemChange:
    """The newest change of an item. change: its number, which rises with every change. item: None when deleted."""

    change: int
    item_id: str
    item: StoredItem | None
    updated_us: int


class Place(NamedTuple):
    """A place in the order of time and number. Without a number it is behind all that happened at its moment."""

    timestamp_us: int
    seq: int = LAST_SEQ


class ShownItem(NamedTuple):
    """An item of a slate. position: 1-based. propensity: probability with which it was shown there; None: not known."""

    item_id: str
    position: int
    propensity: float | None = None


@dataclass(frozen=True)
class StoredSlate:
    """A list that was served. rung: what answered in place of the whole model; None where nothing was degraded."""

    recommendation_id: str
    user_id: str | None
    timestamp_us: int
    model_version: str
    items: tuple[ShownItem, ...]
    rung: str | None = None


@dataclass(frozen=True)
class Deletion:
    """The receipt of a user's deletion. events, slates: how many rows are gone.

    deleted_us: up to this moment what the user did is forgotten; may lie ahead where the clock of an event did.
    """

    user_id: str
    deleted_us: int
    events: int
    slates: int


@dataclass(frozen=True)
class DeletedUser:
    """A user who was deleted. seq: number in the feed of events."""

    seq: int
    user_id: str
    deleted_us: int


@dataclass(frozen=True)
class StoredKey:
    """An API key, of which only a salted hash is kept. revoked_us: None while it opens."""

    key_id: str
    name: str
    scopes: tuple[str, ...]
    salt: bytes
    hash: bytes
    created_us: int
    revoked_us: int | None = None
