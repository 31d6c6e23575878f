"""Answers without a model: what the store's recent events say is popular."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from features.rungs import Rung
from recsys.config import DataConfig
from recsys.errors import RequestError
from recsys.schema import Warmth
from serving.errors import NotReadyError, StoreError
from serving.ladder import Reason
from serving.sessions import kind_weight
from serving.slates import Ignored, ModelInfo, Query, Slate, SlateItem
from serving.store import Event, EventStore

_HOUR_US: Final = 3_600_000_000
# The shortest of these that holds enough events is counted: a busy store is not read for a week each time.
_WINDOWS_US: Final = (_HOUR_US, 24 * _HOUR_US, 7 * 24 * _HOUR_US)
_ENOUGH: Final = 2_000
_MOST: Final = 20_000
_PAGE: Final = 250
_HALF_LIFE_US: Final = 24 * _HOUR_US
_FRESH_S: Final = 10.0
_EMPTY_FRESH_S: Final = 1.0


class PopularFallback:
    """Recommends what is popular among the events that the store holds. May be called from several threads at once.

    model: what the answers name. max_user_events: newest events of a user that are left out as seen. clock:
    microseconds UTC.
    """

    def __init__(
        self,
        store: EventStore,
        model: ModelInfo,
        *,
        max_user_events: int = 1_000,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.model = model
        self._store = store
        self._max_user_events = max_user_events
        self._clock = clock
        self._config = DataConfig()
        self._lock = threading.Lock()
        self._score: dict[str, float] = {}  # by item, best first
        self._read_us: int | None = None

    def recommend(self, query: Query) -> Slate:
        """Return popular items, best first, without those excluded, seen or deleted; `degraded`, for want of a model.

        Given candidates are all ordered, those that nobody touched behind the others, as they were given. Wishes about
        the order are left aside and reported.

        Raises:
            RequestError: `n` is below 1.
            NotReadyError: the store is away, or holds no recent events; or a rule says what must or must not be in the
                list by what items are, which nothing here knows.
        """
        if query.n < 1:
            raise RequestError(f"n must be at least 1 (got {query.n})", field="n")
        rules = query.rules
        if rules.filter is not None or rules.pins or rules.caps:
            raise NotReadyError(
                "no model is loaded, and without one nothing is known of items that filter, pins or caps could ask"
            )
        try:
            score = self._popular()
            events = [] if query.user_id is None else self._store.newest_of(query.user_id, self._max_user_events)
            seen = {event.item_id for event in events} | {entry.item_id for entry in query.history}
            left_out = set(query.exclude)
            if query.candidates is None:
                left_out |= seen if rules.exclude_seen else set()
                ordered = [id_ for id_ in score if id_ not in left_out]
            else:
                given = [id_ for id_ in dict.fromkeys(query.candidates) if id_ not in left_out]
                ordered = sorted(given, key=lambda id_: -score.get(id_, 0.0))
            chosen = self._first_there(ordered, query.n)
        except StoreError as error:
            raise NotReadyError(f"no model is loaded, and the event store is away: {error}") from error
        if not score:
            raise NotReadyError("no model is loaded, and the event store holds no recent events to go by")
        return Slate(
            str(uuid.uuid4()),
            self.model,
            Warmth.COLD if seen else Warmth.UNKNOWN,
            tuple(
                SlateItem(id_, score.get(id_, 0.0), place + 1, () if query.candidates is not None else ("popular",))
                for place, id_ in enumerate(chosen)
            ),
            _left_aside(query),
            degraded=True,
            rung=Rung.POPULAR,
            degraded_reason=Reason.NO_MODEL.value,
        )

    def _first_there(self, item_ids: Sequence[str], n: int) -> list[str]:
        """Return the first `n` items that were not deleted. Events outlive their items, so each request asks anew."""
        there: list[str] = []
        for start in range(0, len(item_ids), _PAGE):
            page = item_ids[start : start + _PAGE]
            known = self._store.known_items(page)
            there += [id_ for id_ in page if known.get(id_, True)]
            if len(there) >= n:
                break
        return there[:n]

    def _popular(self) -> dict[str, float]:
        """Return the score of each item, best first, at most some seconds old."""
        now_us = self._clock()
        read_us = self._read_us
        if read_us is not None and now_us - read_us < (_FRESH_S if self._score else _EMPTY_FRESH_S) * 1e6:
            return self._score
        # One thread reads; where there is an older list, the others go on with it.
        if not self._lock.acquire(blocking=read_us is None):
            return self._score
        try:
            if self._read_us == read_us:
                self._score = self._count(self._recent(now_us), now_us)
                self._read_us = now_us
        finally:
            self._lock.release()
        return self._score

    def _recent(self, now_us: int) -> list[Event]:
        events: list[Event] = []
        for window_us in _WINDOWS_US:
            events = self._store.newest(_MOST, after_us=now_us - window_us)
            if len(events) >= _ENOUGH:
                break
        return events

    def _count(self, events: Iterable[Event], now_us: int) -> dict[str, float]:
        """Return each item's weight, halved per day of age; a user counts once for an item, by their best event."""
        best: dict[tuple[str, str], float] = {}
        for event in events:
            age_us = max(now_us - event.timestamp_us, 0)
            weight = kind_weight(event.event, event.value, self._config) * 0.5 ** (age_us / _HALF_LIFE_US)
            if weight > best.get((event.user_id, event.item_id), 0.0):
                best[event.user_id, event.item_id] = weight
        total: dict[str, float] = defaultdict(float)
        for (_, item_id), weight in best.items():
            total[item_id] += weight
        return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0])))


def _left_aside(query: Query) -> dict[str, Ignored]:
    """Return how many wishes about the order a query has, by field: none can be met without a model."""
    rules = query.rules
    counts = {
        "boosts": len(rules.boosts),
        "freshness": int(rules.freshness is not None),
        "exploration": int(rules.exploration is not None),
        "diversity": int(query.diversity > 0.0),
    }
    return {field: Ignored(count, ()) for field, count in counts.items() if count}
