"""Answers without a model: what the store's recent events say is popular."""

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from features.rungs import Rung
from recsys.config import DataConfig
from recsys.errors import RequestError
from recsys.schema import Warmth
from serving.errors import NotReadyError, StoreError
from serving.ladder import Reason
from serving.sessions import kind_weight
from serving.slates import ModelInfo, Query, Slate, SlateItem
from serving.store import Event, EventStore

_HOUR_US: Final = 3_600_000_000
# The shortest of these that holds enough events is counted: a busy store is not read for a week each time.
_WINDOWS_US: Final = (_HOUR_US, 24 * _HOUR_US, 7 * 24 * _HOUR_US)
_ENOUGH: Final = 2_000
_MOST: Final = 20_000
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
        """Return popular items, best first, without those excluded or seen; `degraded`, for want of a model.

        Given candidates are all ordered, those that nobody touched behind the others, as they were given.

        Raises:
            RequestError: `n` is below 1.
            NotReadyError: the store is away, or holds no recent events.
        """
        if query.n < 1:
            raise RequestError(f"n must be at least 1 (got {query.n})", field="n")
        try:
            score = self._popular()
            events = [] if query.user_id is None else self._store.newest_of(query.user_id, self._max_user_events)
        except StoreError as error:
            raise NotReadyError(f"no model is loaded, and the event store is away: {error}") from error
        if query.rules.filter is not None or query.rules.pins:
            raise NotReadyError("no model is loaded, and without one nothing is known of items that a filter could ask")
        if not score:
            raise NotReadyError("no model is loaded, and the event store holds no recent events to go by")
        seen = {event.item_id for event in events} | {entry.item_id for entry in query.history}
        left_out = set(query.exclude)
        if query.candidates is None:
            leaves_seen = bool(query.rules.exclude_seen)
            chosen = [id_ for id_ in score if id_ not in left_out and not (leaves_seen and id_ in seen)]
        else:
            given = [id_ for id_ in dict.fromkeys(query.candidates) if id_ not in left_out]
            chosen = sorted(given, key=lambda id_: -score.get(id_, 0.0))
        return Slate(
            str(uuid.uuid4()),
            self.model,
            Warmth.COLD if seen else Warmth.UNKNOWN,
            tuple(
                SlateItem(id_, score.get(id_, 0.0), place + 1, () if query.candidates is not None else ("popular",))
                for place, id_ in enumerate(chosen[: query.n])
            ),
            degraded=True,
            rung=Rung.POPULAR,
            degraded_reason=Reason.NO_MODEL.value,
        )

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
            events = list(islice(self._store.since(now_us - window_us), _MOST))
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
