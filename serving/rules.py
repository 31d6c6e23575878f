"""What a request wants done to its ranking."""

from dataclasses import dataclass
from enum import StrEnum

from recsys.errors import RequestError
from serving.filters import Filter


class Rule(StrEnum):
    """What put an item on its place."""

    RANKING = "ranking"
    BOOST = "boost"  # by its score, which a boost had changed
    PIN = "pin"
    EXPLORATION = "exploration"


@dataclass(frozen=True)
class Boost:
    """Items that pass the filter, or are named, get `by` standard deviations of the ranking's scores."""

    by: float
    filter: Filter | None = None
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pin:
    """An item and its 1-based place in the slate."""

    item_id: str
    position: int


@dataclass(frozen=True)
class Freshness:
    """A new item gets `weight` standard deviations of the ranking's scores, half of that after each half-life."""

    half_life_days: float
    weight: float


@dataclass(frozen=True)
class Exploration:
    """`slots` places for items drawn from those up to rank `pool`; at the end, or anywhere with `is_shuffled`."""

    slots: int
    pool: int
    is_shuffled: bool = False


@dataclass(frozen=True)
class SeenWindow:
    """Which of a user's events count as seen: kinds (none: all), and how many days back (None: ever)."""

    events: tuple[str, ...] = ()
    days: float | None = None


@dataclass(frozen=True)
class Rules:
    """What a request wants done to its ranking. exclude_seen: yes, no, or what counts as seen. caps: by attribute."""

    filter: Filter | None = None
    exclude_seen: bool | SeenWindow = True
    boosts: tuple[Boost, ...] = ()
    pins: tuple[Pin, ...] = ()
    caps: tuple[tuple[str, int], ...] = ()
    freshness: Freshness | None = None
    exploration: Exploration | None = None

    @property
    def shapes_slate(self) -> bool:
        """Whether a slate is anything but the first items of the ranking."""
        return bool(self.boosts or self.pins or self.caps or self.freshness or self.exploration)

    def depth(self, n: int) -> int:
        """Return how long a ranking must be to fill a slate of `n` items, the pool of exploration among it.

        Pins want no more of it: each takes a place, and at most one item of the ranking.
        """
        return n if self.exploration is None else max(n, self.exploration.pool)

    def check(self, n: int) -> None:
        """Refuse what does not fit into a slate of `n` items.

        Raises:
            RequestError: a pin lies behind the end or two share an item or a place, exploration and pins need more
                places than there are, or the pool ends within the slate.
        """
        places: set[int] = set()
        items: set[str] = set()
        for number, pin in enumerate(self.pins):
            if not 1 <= pin.position <= n:
                _refuse(f"pins.{number}.position", f"must be 1 to n, which is {n} (got {pin.position})")
            if pin.position in places:
                _refuse(f"pins.{number}.position", f"{pin.position} is taken by an earlier pin; give each its own")
            if pin.item_id in items:
                _refuse(f"pins.{number}.item_id", "is pinned already; pin an item once")
            places.add(pin.position)
            items.add(pin.item_id)
        if self.exploration is not None:
            free = n - len(self.pins)
            if self.exploration.slots > free:
                _refuse("exploration.slots", f"must be at most {free}: n is {n}, less {len(self.pins)} pins")
            if self.exploration.pool <= n:
                _refuse("exploration.pool", f"must be above n, which is {n} (got {self.exploration.pool})")


def _refuse(field: str, problem: str) -> None:
    raise RequestError(f"{field} {problem}", field=field)
