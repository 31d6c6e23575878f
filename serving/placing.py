"""From a ranking to a slate: boosts, freshness, diversity, caps, pins and exploration, in this order, over arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.catalogue import NO_TIME
from serving.rules import Exploration, Freshness, Rule

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_DAY_US: Final = 86_400 * 1_000_000
_MIN_POOL: Final = 200  # as that of `recsys.retrieval.diversify`


@dataclass(frozen=True)
class Adjustment:
    """What boosts and freshness add to scores. by: float64 `(n,)`, score units. is_boosted: bool `(n,)`."""

    by: Float64
    is_boosted: Bool


@dataclass(frozen=True)
class Placed:
    """A slate, first place first. Arrays `(m,)`, m at most n.

    item_idx: int32. places: int64, row in the ranking, -1 for a pinned item that it lacks. propensity: float64, the
    chance with which the item was drawn, given what stood in the slate before; 1 for items not drawn. The place
    within the slate is no part of it. rules: what put each there.
    """

    item_idx: Int32
    places: Int64
    propensity: Float64
    rules: tuple[Rule, ...]


def score_unit(score: Float32) -> float:
    """Return the standard deviation of a ranking's scores, the unit of boosts; 1 where all scores are equal.

    Scores mean nothing beyond their order within one request: their spread differs from user to user and from model
    to model. In units of the spread, one knob moves an item over the same share of its rivals in each.
    """
    spread = float(np.std(score.astype(np.float64))) if len(score) else 0.0
    return spread if spread > 0.0 else 1.0


def adjust(
    score: Float32,
    boosts: Sequence[tuple[Bool, float]],
    created_at_us: Int64 | None = None,
    freshness: Freshness | None = None,
    *,
    as_of_us: int = 0,
) -> Adjustment:
    """Return what is added to each score of a ranking.

    Each boost adds its `by` times `score_unit` where its mask, bool `(n,)`, holds; several add up. Freshness adds
    `weight * 2 ** (-age / half life)` times that unit, where age runs from `created_at_us`, int64 `(n,)`, to
    `as_of_us`; what is made later than that is of age 0, what has no time gets nothing.
    """
    total = np.zeros(len(score))
    is_boosted = np.zeros(len(score), np.bool_)
    for mask, by in boosts:
        total[mask] += by
        is_boosted |= mask
    if freshness is not None and created_at_us is not None:
        # float64: NO_TIME would overflow integers
        age_days = np.maximum(as_of_us - created_at_us.astype(np.float64), 0.0) / _DAY_US
        with np.errstate(over="ignore"):  # half lives may be tiny: nothing is left then
            fresh = freshness.weight * np.exp2(-age_days / freshness.half_life_days)
        total += np.where(created_at_us == NO_TIME, 0.0, fresh)
    return Adjustment(total * score_unit(score), is_boosted)


@dataclass(frozen=True)
class Cap:
    """At most `limit` items with one value of an attribute.

    places, codes: int64 `(n_pairs,)`, which row of the ranking has which value, as `Column.codes` gives them; an item
    with several values counts for each, one without for none. pinned_codes: int64, the values of the pinned items, in
    the same codes.
    """

    limit: int
    places: Int64
    codes: Int64
    pinned_codes: Int64


Diversify = Callable[[Int64, int], Int64]


def build_slate(
    item_idx: Int32,
    score: Float32,
    n: int,
    *,
    adjustment: Adjustment | None = None,
    diversify: Diversify | None = None,
    caps: Sequence[Cap] = (),
    pins: Mapping[int, int] | None = None,
    exploration: Exploration | None = None,
    rng: np.random.Generator | None = None,
) -> Placed:
    """Return at most `n` items of a ranking.

    Scores are adjusted and the ranking ordered anew, ties in the old order; `diversify` reorders its head; pinned items
    leave it, and their values count towards the caps, which never hold a pin back; the best items that the caps allow
    fill the other places, from as far down as it takes; the slots of exploration are filled by even draws from what is
    left of the first `pool` and allowed by the caps, or like the others where nothing is left. Where items run out
    the slate is shorter and pins move up.

    Args:
        item_idx, score: the ranking, `(m,)`, best first.
        n: length of the slate; `Rules.check` has passed.
        diversify: from places in the ranking in order, and a length, to that many of them, the best first.
        pins: row of the catalogue by 1-based position.
        rng: draws for exploration; required with it.
    """
    pins = pins or {}
    order = _order(score, adjustment, diversify, n, is_capped=bool(caps))
    free_places = order[~np.isin(item_idx[order], np.fromiter(pins.values(), np.int64, len(pins)))]
    quota = _Quota(len(item_idx), caps)
    n_slots = exploration.slots if exploration is not None else 0
    chosen = _take(free_places, max(n - len(pins) - n_slots, 0), quota)
    explored: list[int] = []
    propensity: list[float] = []
    if exploration is not None and rng is not None:
        head = order[: exploration.pool]
        left = head[np.isin(head, free_places) & ~np.isin(head, chosen)]
        explored, propensity = _draw(left, n_slots, quota, rng)
    if len(explored) < n_slots:
        taken = np.asarray([*chosen, *explored], np.int64)
        chosen += _take(free_places[~np.isin(free_places, taken)], n_slots - len(explored), quota)
    kinds = [_rule_of(place, adjustment) for place in chosen]
    free = [(int(item_idx[place]), place, 1.0, kind) for place, kind in zip(chosen, kinds, strict=True)]
    drawn = [
        (int(item_idx[place]), place, chance, Rule.EXPLORATION)
        for place, chance in zip(explored, propensity, strict=True)
    ]
    if exploration is not None and exploration.is_shuffled and rng is not None:
        free = _scattered(free, drawn, rng)
    else:
        free += drawn
    place_of = {int(idx): place for place, idx in enumerate(item_idx.tolist())} if pins else {}
    for position, row in sorted(pins.items()):
        free.insert(position - 1, (row, place_of.get(row, -1), 1.0, Rule.PIN))
    return Placed(
        np.asarray([entry[0] for entry in free], np.int32),
        np.asarray([entry[1] for entry in free], np.int64),
        np.asarray([entry[2] for entry in free], np.float64),
        tuple(entry[3] for entry in free),
    )


_Entry = tuple[int, int, float, Rule]


class _Quota:
    """How many more items of each value a slate may take, and which rows of the ranking are therefore out."""

    def __init__(self, n_rows: int, caps: Sequence[Cap]) -> None:
        self.is_open = np.ones(n_rows, np.bool_)
        self._fields = [_CapState(cap, n_rows) for cap in caps]
        for field in self._fields:
            field.close_full(self.is_open)

    def take(self, place: int) -> None:
        """Count an item of the slate."""
        self.is_open[place] = False
        for field in self._fields:
            field.take(place, self.is_open)


class _CapState:
    def __init__(self, cap: Cap, n_rows: int) -> None:
        values, codes = np.unique(cap.codes, return_inverse=True)
        self._left = np.full(len(values), cap.limit, np.int64)
        known = cap.pinned_codes[np.isin(cap.pinned_codes, values)]
        np.subtract.at(self._left, np.searchsorted(values, known), 1)
        self._codes = codes.reshape(-1)  # by place, which rises
        self._starts = np.searchsorted(cap.places, np.arange(n_rows + 1))
        by_code = np.argsort(self._codes, kind="stable")
        self._rows = cap.places[by_code]
        self._row_starts = np.searchsorted(self._codes[by_code], np.arange(len(values) + 1))

    def close_full(self, is_open: Bool) -> None:
        for code in np.flatnonzero(self._left <= 0):
            is_open[self._rows[self._row_starts[code] : self._row_starts[code + 1]]] = False

    def take(self, place: int, is_open: Bool) -> None:
        for code in self._codes[self._starts[place] : self._starts[place + 1]]:
            self._left[code] -= 1
            if self._left[code] <= 0:
                is_open[self._rows[self._row_starts[code] : self._row_starts[code + 1]]] = False


def _order(
    score: Float32, adjustment: Adjustment | None, diversify: Diversify | None, n: int, *, is_capped: bool
) -> Int64:
    """Return all places of a ranking as adjusted and, at the head, diversified."""
    order = np.arange(len(score), dtype=np.int64)
    if adjustment is not None:
        order = np.argsort(-(score.astype(np.float64) + adjustment.by), kind="stable")
    if diversify is None or not len(order):
        return order
    # Caps leave some of the head out: more of it is diversified then, so that others as unlike follow.
    wanted = min(2 * n, _MIN_POOL) if is_capped else n
    head = diversify(order, max(wanted, n))
    return np.concatenate([head, order[~np.isin(order, head)]])


def _take(order: Int64, n: int, quota: _Quota) -> list[int]:
    """Return the first `n` places that the quota allows, each of which uses it up."""
    taken: list[int] = []
    start = 0
    while len(taken) < n and start < len(order):
        # What is closed stays closed, so the search goes on where it stopped.
        ahead = quota.is_open[order[start:]]
        step = int(np.argmax(ahead))
        if not ahead[step]:
            break
        start += step
        taken.append(int(order[start]))
        quota.take(taken[-1])
        start += 1
    return taken


def _draw(left: Int64, n: int, quota: _Quota, rng: np.random.Generator) -> tuple[list[int], list[float]]:
    drawn: list[int] = []
    chances: list[float] = []
    for _ in range(n):
        allowed = left[quota.is_open[left]]
        if not len(allowed):
            break
        drawn.append(int(allowed[rng.integers(len(allowed))]))
        chances.append(1.0 / len(allowed))
        quota.take(drawn[-1])
    return drawn, chances


def _scattered(free: list[_Entry], drawn: list[_Entry], rng: np.random.Generator) -> list[_Entry]:
    """Return both, the drawn ones on places drawn evenly, the others around them in their order."""
    n = len(free) + len(drawn)
    at = set(rng.choice(n, len(drawn), replace=False).tolist())
    others, explored = iter(free), iter(drawn)
    return [next(explored) if place in at else next(others) for place in range(n)]


def _rule_of(place: int, adjustment: Adjustment | None) -> Rule:
    return Rule.BOOST if adjustment is not None and adjustment.is_boosted[place] else Rule.RANKING
