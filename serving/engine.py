"""Answers to requests: what is asked, made into arrays, ranked, and named again. Knows nothing of HTTP."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from features.path import Ranking, RankingPath
from recsys.bundle import Bundle
from recsys.errors import RequestError
from recsys.histories import MAX_REQUEST_HISTORY, History, Request
from recsys.ids import UNKNOWN_IDX
from recsys.retrieval.diversify import check_diversity
from recsys.schema import Warmth
from serving.errors import UnknownItemError
from serving.opinions import OpinionReader
from serving.sessions import (
    SessionItem,
    Weighed,
    add_without_repeats,
    session_history,
    stored_history,
    weigh_events,
)
from serving.slates import Ignored, ModelInfo, NewEvent, Query, ServedRequest, SimilarItems, Slate, SlateItem, Stored
from serving.store import Event, EventStore

Int32 = npt.NDArray[np.int32]

MAX_CLOCK_SKEW_US: Final = 5 * 60 * 1_000_000
_N_SHOWN: Final = 3
_REPLAYED_AT_ONCE: Final = 1_000
_NO_ITEMS: Final = np.empty(0, np.int32)


@dataclass(frozen=True)
class _Known:
    """What is known of who asks. complained_idx: items that they know and did not like. user_idx: row, -1 for none."""

    history: History
    complained_idx: Int32
    warmth: Warmth
    user_idx: int


class Engine:
    """Recommends with one bundle and one store. May be called from several threads at once.

    on_served: called after every answered query, in the thread that answers; None for nobody.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: EventStore,
        *,
        model: ModelInfo | None = None,
        path: RankingPath | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
        max_user_events: int = 1_000,
    ) -> None:
        self.bundle = bundle
        self.store = store
        self.model = model or ModelInfo("bundle", bundle.manifest.bundle_id)
        self.on_served: Callable[[ServedRequest], None] | None = None
        self._models = bundle.models
        self._item_ids = bundle.models.catalogue.ids
        self._data_config = bundle.models.config.data
        self._opinions = OpinionReader(bundle.models.sentiment, bundle.models.encoder)
        self._path = path or RankingPath(bundle.models)
        self._clock = clock
        self._max_user_events = max_user_events

    def recommend(self, query: Query) -> Slate:
        """Return the best items for a query, best first; fewer than `n` when there are no more.

        Known users bring their history from training and the store. Unknown item ids are left aside and reported.

        Raises:
            RequestError: `n` is below 1, `diversity` outside 0..1, the catalogue has none of the candidates, or a time
                lies in the future.
            StoreError: the user's events cannot be read.
        """
        if query.n < 1:
            raise RequestError(f"n must be at least 1 (got {query.n})", field="n")
        check_diversity(query.diversity)
        as_of_us = self._clock()
        ignored: dict[str, Ignored] = {}
        known = self._known(query, as_of_us, ignored)
        exclude = self._rows(query.exclude, "exclude", ignored)
        candidates = self._candidates(query, exclude, ignored)
        if query.exclude_seen and candidates is None:
            exclude = np.union1d(exclude, np.union1d(known.history.item_idx, known.complained_idx))
        # The length that training's requests have; what is excluded knows the whole.
        recent = known.history.last(MAX_REQUEST_HISTORY)
        request = Request(recent, as_of_us, known.user_idx, candidates)
        slate_id = str(uuid.uuid4())
        if candidates is not None and not len(candidates):
            return Slate(slate_id, self.model, known.warmth, (), ignored)
        ranking = self._path.rank(request, exclude=exclude)
        if query.diversity > 0.0:
            ranking = self._path.diversify(ranking, query.n, query.diversity)
        if self.on_served is not None:
            self.on_served(ServedRequest(slate_id, query.user_id, request, exclude, ranking))
        return Slate(slate_id, self.model, known.warmth, self._slate_items(ranking, query.n), ignored)

    def similar(self, item_id: str, n: int = 10, exclude: Sequence[str] = ()) -> SimilarItems:
        """Return at most `n` items like one item, most similar first, never the item itself.

        Raises:
            UnknownItemError: the catalogue lacks the item.
            RequestError: `n` is below 1.
        """
        if n < 1:
            raise RequestError(f"n must be at least 1 (got {n})", field="n")
        item_idx = self._item_ids.get(item_id)
        if item_idx == UNKNOWN_IDX:
            raise UnknownItemError(
                f"item {_quoted(item_id)} is not in the catalogue of {self._model_text}; "
                "check the id, or train again with the item in the items table",
                field="item_id",
            )
        left_out = self._item_ids.lookup([*exclude, item_id], unknown="drop")
        found, score = self._path.similar(item_idx, n, exclude=np.unique(left_out))
        return SimilarItems(
            self.model,
            tuple(
                SlateItem(self._item_ids.id_of(int(idx)), float(value), place + 1)
                for place, (idx, value) in enumerate(zip(found[:n], score[:n], strict=True))
            ),
        )

    def add_events(self, events: Sequence[NewEvent]) -> Stored:
        """Store a batch whole, or nothing of it. The next request of each user knows its events.

        Texts of reviews are read here, so that a later request finds them read.

        Raises:
            RequestError: an item is unknown or a time lies more than five minutes ahead; `field` names the first.
            EventConflictError: an event id stands for different content.
            StoreError: the store cannot be written.
        """
        now_us = self._clock()
        self._check_events(events, now_us)
        batch = [
            Event(
                event.event_id or str(uuid.uuid4()),
                event.user_id,
                event.item_id,
                event.event,
                now_us if event.timestamp_us is None else event.timestamp_us,
                event.value,
                event.recommendation_id,
                event.text,
                is_timed=event.timestamp_us is not None,
            )
            for event in events
        ]
        added = self.store.add(batch, received_us=now_us)
        self._count([batch[place] for place in added.fresh])
        return Stored(tuple(event.event_id for event in batch), added.duplicates)

    def replay_events(self) -> int:
        """Count stored events that are newer than the training data, as if they came in now; return how many.

        To be called once, before the first request: popularity then is what it was before a restart.
        """
        n_events = 0
        newer = iter(self.store.since(self.bundle.manifest.data_until_us))
        while events := list(islice(newer, _REPLAYED_AT_ONCE)):
            self._count(events)
            n_events += len(events)
        return n_events

    @property
    def _model_text(self) -> str:
        return f"model {self.model.name} version {self.model.version[:12]}"

    def _known(self, query: Query, as_of_us: int, ignored: dict[str, Ignored]) -> _Known:
        """Return what the user had done, what they had complained of, how well the models know them, and their row."""
        user_idx, complained_idx = UNKNOWN_IDX, _NO_ITEMS
        trained, stored = History.empty(), History.empty()
        if query.user_id is not None:
            user_idx = self._models.user_ids.get(query.user_id)
            trained = self._models.log.history_of(user_idx, before_us=as_of_us)
            events = self.store.newest_of(query.user_id, self._max_user_events)
            self._rows([event.item_id for event in events], "events", ignored)
            weighed = self._weigh(events)
            stored = stored_history(events, weighed.weight, self._item_ids, as_of_us=as_of_us)
            complained_idx = self._complained_idx(events, weighed, user_idx)
        _check_times(query.history, as_of_us)
        self._rows([entry.item_id for entry in query.history], "history", ignored)
        session = session_history(query.history, self._item_ids, self._data_config, as_of_us=as_of_us)
        history = add_without_repeats(add_without_repeats(trained, stored), session)
        warmth = Warmth.WARM if len(trained) else Warmth.COLD if len(history) else Warmth.UNKNOWN
        return _Known(history, complained_idx, warmth, user_idx)

    def _complained_idx(self, events: Sequence[Event], weighed: Weighed, user_idx: int) -> Int32:
        """Return the items that a user complained of, in stored events or in training."""
        posted = [event.item_id for event, is_one in zip(events, weighed.is_complaint, strict=True) if is_one]
        complained_idx = self._item_ids.lookup(posted, unknown="drop")
        seen = self._models.seen
        return complained_idx if seen is None else np.union1d(complained_idx, seen.history_of(user_idx).item_idx)

    def _candidates(self, query: Query, exclude: Int32, ignored: dict[str, Ignored]) -> Int32 | None:
        if query.candidates is None:
            return None
        known = self._rows(query.candidates, "candidates", ignored)
        if not len(known):
            first = [_quoted(id_) for id_ in query.candidates[:_N_SHOWN]]
            raise RequestError(
                f"candidates: none of the {len(query.candidates)} items is in the catalogue of {self._model_text}, the "
                f"first: {', '.join(first)}; check the ids, or leave candidates out to search the whole catalogue",
                field="candidates",
            )
        return known[~np.isin(known, exclude)]

    def _rows(self, ids: Sequence[str], part: str, ignored: dict[str, Ignored]) -> Int32:
        """Return the rows of the known ids, in order; report the others."""
        if not len(ids):
            return _NO_ITEMS
        rows = self._item_ids.lookup(ids, unknown="mark")
        unknown = np.flatnonzero(rows == UNKNOWN_IDX)
        if len(unknown):
            ignored[part] = Ignored(len(unknown), tuple(ids[int(place)] for place in unknown[:_N_SHOWN]))
            rows = np.delete(rows, unknown)
        return rows

    def _slate_items(self, ranking: Ranking, n: int) -> tuple[SlateItem, ...]:
        ids = self._item_ids.ids_of(ranking.item_idx[:n])
        return tuple(
            SlateItem(item_id, score, place + 1, tuple(ranking.source_names_of(place)))
            for place, (item_id, score) in enumerate(zip(ids, ranking.score[:n].tolist(), strict=True))
        )

    def _check_events(self, events: Sequence[NewEvent], now_us: int) -> None:
        unknown = [place for place, event in enumerate(events) if event.item_id not in self._item_ids]
        if unknown:
            field_name = f"events.{unknown[0]}.item_id"
            first = ", ".join(_quoted(events[place].item_id) for place in unknown[:_N_SHOWN])
            raise RequestError(
                f"{field_name}: {len(unknown)} of {len(events)} events name items that are not in the catalogue of "
                f"{self._model_text}, the first: {first}; nothing was stored; correct or remove these events",
                field=field_name,
            )
        for place, event in enumerate(events):
            if event.timestamp_us is not None:
                _check_time(event.timestamp_us, now_us, f"events.{place}.timestamp")

    def _weigh(self, events: Sequence[Event]) -> Weighed:
        return weigh_events(events, self._opinions.signals(events), self._data_config)

    def _count(self, events: Sequence[Event]) -> None:
        """Add events to the live counters, unless training counted them or they are no positive behaviour."""
        for event, weight in zip(events, self._weigh(events).weight.tolist(), strict=True):
            item_idx = self._item_ids.get(event.item_id)
            if item_idx >= 0 and weight > 0 and event.timestamp_us > self.bundle.manifest.data_until_us:
                self._path.record(item_idx, event.timestamp_us, kind="interactions", weight=weight)


def _check_times(entries: Sequence[SessionItem], now_us: int) -> None:
    for place, entry in enumerate(entries):
        if entry.timestamp_us is not None:
            _check_time(entry.timestamp_us, now_us, f"history.{place}.timestamp")


def _check_time(timestamp_us: int, now_us: int, field_name: str) -> None:
    if timestamp_us > now_us + MAX_CLOCK_SKEW_US:
        ahead_s = (timestamp_us - now_us) // 1_000_000
        raise RequestError(
            f"{field_name} lies {ahead_s} seconds in the future; at most {MAX_CLOCK_SKEW_US // 1_000_000} are allowed; "
            "check the sender's clock and whether the number is in seconds or milliseconds",
            field=field_name,
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
