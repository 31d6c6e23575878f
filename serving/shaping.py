"""From a ranking to a slate by the rules of a request: what `serving.placing` does, over the rows of one catalogue."""

import numpy as np
import numpy.typing as npt

from features.path import Ranking, RankingPath
from features.rungs import Rung
from recsys.ids import UNKNOWN_IDX, IdMap
from serving.attributes import AttributeIndex
from serving.filters import Filter, FilterMasks
from serving.placing import Cap, Placed, adjust, build_slate
from serving.slates import Ignored, Query

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_N_SHOWN = 3


class Shaper:
    """Applies rules to rankings of one path. May be called from several threads at once."""

    def __init__(self, attributes: AttributeIndex, path: RankingPath, item_ids: IdMap) -> None:
        self._attributes = attributes
        self._masks = FilterMasks(attributes)
        self._path = path
        self._item_ids = item_ids

    def mask(self, wish: Filter, place: str = "filter") -> Bool:
        """Return which rows pass a filter, bool `(n_rows,)`, read-only; see `serving.filters`."""
        return self._masks.mask(wish, place)

    def place(self, query: Query, ranking: Ranking, ignored: dict[str, Ignored], as_of_us: int, rung: Rung) -> Placed:
        """Return the slate of a request whose rules shape it; pins that cannot be shown are left aside and reported.

        Raises:
            RequestError: a rule names an attribute that the catalogue lacks, or that does not fit.
        """
        rules = query.rules
        rows = ranking.item_idx
        boosts = [
            (self._boosted(boost.filter, boost.items, f"boosts.{number}", rows), boost.by)
            for number, boost in enumerate(rules.boosts)
        ]
        created = self._path.items.created_at_us[rows] if rules.freshness is not None else None
        pins = self._pins(query, ignored)

        def diversify(places: Int64, n: int) -> Int64:
            return places[self._path.diverse_places(rows[places], n, query.diversity)]

        return build_slate(
            rows,
            ranking.score,
            query.n,
            adjustment=adjust(ranking.score, boosts, created, rules.freshness, as_of_us=as_of_us)
            if boosts or rules.freshness
            else None,
            diversify=diversify if query.diversity > 0.0 and rung == Rung.FULL else None,
            caps=[self._cap(name, limit, rows, pins) for name, limit in rules.caps],
            pins=pins,
            exploration=rules.exploration,
            rng=np.random.default_rng() if rules.exploration is not None else None,
        )

    def _boosted(self, wish: Filter | None, items: tuple[str, ...], path: str, rows: Int32) -> Bool:
        if wish is not None:
            return self._masks.mask(wish, f"{path}.filter")[rows]
        return np.isin(rows, self._item_ids.lookup(items, unknown="drop"))

    def _cap(self, name: str, limit: int, rows: Int32, pins: dict[int, int]) -> Cap:
        column = self._attributes.column(self._attributes.resolve(name, "caps"))
        pinned = np.fromiter(pins.values(), np.int32, len(pins))
        # In one call, so that the codes of both mean the same.
        places, codes = column.codes(np.concatenate([rows, pinned]).astype(np.int32))
        is_pinned = places >= len(rows)
        return Cap(limit, places[~is_pinned], codes[~is_pinned], codes[is_pinned])

    def _pins(self, query: Query, ignored: dict[str, Ignored]) -> dict[int, int]:
        """Return the row of each pinned item that can be shown, by position."""
        pins: dict[int, int] = {}
        left_aside: list[str] = []
        for pin in query.rules.pins:
            row = self._item_ids.get(pin.item_id)
            if row == UNKNOWN_IDX or not self._path.is_listed[row] or pin.item_id in query.exclude:
                left_aside.append(pin.item_id)
            else:
                pins[pin.position] = row
        if left_aside:
            ignored["pins"] = Ignored(len(left_aside), tuple(left_aside[:_N_SHOWN]))
        return pins
