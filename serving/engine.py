"""Answers to requests: what is asked, made into arrays, ranked, and named again. Knows nothing of HTTP."""

import copy
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from functools import cached_property
from time import perf_counter
from typing import Final

import numpy as np
import numpy.typing as npt

from features.live import LiveItems
from features.path import RankingPath
from features.rungs import Rung
from recsys.bundle import Bundle
from recsys.errors import DataError, EncoderError, RequestError
from recsys.histories import MAX_REQUEST_HISTORY, History, Request
from recsys.ids import UNKNOWN_IDX
from recsys.retrieval.asked import Asked
from recsys.retrieval.diversify import check_diversity
from recsys.schema import Warmth
from serving.attributes import AttributeIndex
from serving.clicks import FirstClicks
from serving.errors import StoreError, UnknownItemError
from serving.follower import Follower, columns_of, listed
from serving.known import Known, as_of
from serving.opinions import OpinionReader
from serving.presenting import Presenter
from serving.sessions import (
    Session,
    add_without_repeats,
    stored_history,
    weigh_events,
)
from serving.shaping import Shaper
from serving.slates import (
    Ignored,
    ModelInfo,
    NewEvent,
    Query,
    ServedRequest,
    SimilarItems,
    Slate,
    SlateItem,
    Stored,
)
from serving.store import Deletion, Event, EventStore, ItemChange, NoStore, StoredItem, StoredSlate
from serving.stored_items import StoredItems
from serving.telemetry import observe_stage
from serving.times import check_time, check_times
from serving.users import StoredUser, Users, interned

logger = logging.getLogger(__name__)

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

STORE_UNAVAILABLE: Final = "store_unavailable"
_N_SHOWN: Final = 3
_NO_ITEMS: Final = np.empty(0, np.int32)


class Engine:
    """Recommends with one bundle and one store. May be called from several threads at once.

    on_served: called after every ranked query, in the thread that answers; None for nobody.
    on_slate: called with every slate as it is to be kept; None for nobody.
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
        max_users: int = 10_000,
    ) -> None:
        self.bundle = bundle
        self.store = store
        self.model = model or ModelInfo("bundle", bundle.manifest.bundle_id)
        self.on_served: Callable[[ServedRequest], None] | None = None
        self.on_slate: Callable[[StoredSlate], None] | None = None
        self.follower = Follower(self, store)
        self._models = bundle.models
        self._item_ids = bundle.models.catalogue.ids
        self._data_config = bundle.models.config.data
        self._opinions = OpinionReader(bundle.models.sentiment, bundle.models.encoder)
        self._path = path or RankingPath(bundle.models)
        self._clock = clock
        self._first_clicks = FirstClicks()
        self._limits = max_user_events, max_users
        self._users = self._reading_users()

    def recommend(self, query: Query, *, rung: Rung = Rung.FULL) -> Slate:
        """Return the best items for a query, best first; fewer than `n` when there are no more.

        Known users bring their history from training and the store; where the store is away, from training alone, and
        the slate is marked as degraded. Unknown item ids are left aside and reported.

        rung: how much of the way to go.

        Raises:
            RequestError: `n` is below 1, `diversity` outside 0..1, a rule does not fit the catalogue or the others, the
                catalogue has none of the candidates, or a time lies in the future.
        """
        began = perf_counter()
        if query.n < 1:
            raise RequestError(f"n must be at least 1 (got {query.n})", field="n")
        check_diversity(query.diversity)
        query.rules.check(query.n)
        as_of_us = self._clock()
        ignored: dict[str, Ignored] = {}
        known = self._known(query, as_of_us, ignored)
        exclude = self._rows(query.exclude, "exclude", ignored)
        allowed = None if query.rules.filter is None else self._shaper.mask(query.rules.filter)
        candidates = self._candidates(query, exclude, allowed, ignored)
        if candidates is None:
            exclude = np.union1d(exclude, known.seen(query.rules.exclude_seen, as_of_us))
        # The length that training's requests have; what is excluded knows the whole.
        recent = known.history.last(MAX_REQUEST_HISTORY)
        request = Request(recent, as_of_us, known.user_idx, candidates)
        slate_id = str(uuid.uuid4())
        observe_stage("history", perf_counter() - began)
        items: tuple[SlateItem, ...] = ()
        if candidates is None or len(candidates) or query.rules.pins:
            asked = Asked.of(self._models, request, known.computed)
            depth = query.rules.depth(query.n)
            ranking = self._path.rank(
                asked, exclude=exclude, allowed=allowed, rung=rung, at_least=depth, on_stage=observe_stage
            )
            if query.diversity > 0.0 and rung == Rung.FULL and not query.rules.shapes_slate:
                ranking = self._path.diversify(ranking, query.n, query.diversity)
            items = self._presenter.items(query, ranking, asked, ignored, known.history, lambda: known.kinds, rung)
            if self.on_served is not None:
                self.on_served(ServedRequest(slate_id, query.user_id, request, exclude, ranking))
        slate = Slate(
            slate_id, self.model, known.warmth, items, ignored, degraded=rung != Rung.FULL or not known.is_whole,
            rung=rung, degraded_reason=None if known.is_whole else STORE_UNAVAILABLE,
        )  # fmt: skip
        if self.on_slate is not None:
            self.on_slate(slate.stored(query.user_id, as_of_us))
        return slate

    def similar(self, item_id: str, n: int = 10, exclude: Sequence[str] = ()) -> SimilarItems:
        """Return at most `n` items like one item, most similar first, never the item itself.

        Raises:
            UnknownItemError: the catalogue lacks the item.
            RequestError: `n` is below 1.
        """
        if n < 1:
            raise RequestError(f"n must be at least 1 (got {n})", field="n")
        item_idx = self._item_ids.get(item_id)
        if item_idx == UNKNOWN_IDX or not self._path.is_listed[item_idx]:
            raise UnknownItemError(
                f"item {_quoted(item_id)} is not in the catalogue of {self._model_text}; "
                "check the id, or put the item (PUT /v1/items/ID)",
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

        Texts of reviews are read here, so that a later request finds them read; what cannot be is stored unread.

        Raises:
            RequestError: an item is unknown or a time lies more than five minutes ahead; `field` names the first.
            EventConflictError: an event id stands for different content.
            StoreError: the store cannot be written.
        """
        now_us = self._clock()
        if any(event.item_id not in self._item_ids for event in events):
            self.follower.catch_up()  # it may have been put a moment ago, elsewhere
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
        self._opinions.signals(batch)
        began = perf_counter()
        added = self.store.add(batch, received_us=now_us)
        observe_stage("store", perf_counter() - began)
        return Stored(tuple(event.event_id for event in batch), added.duplicates, added.forgotten)

    def put_item(self, item: StoredItem) -> bool:
        """Store an item durably and make it recommendable, by its text and attributes; return whether it is new.

        Raises:
            RequestError: an attribute does not fit the catalogue.
            CatalogueFullError: the model has no room for another item; nothing was stored.
            EncoderError: its text cannot be embedded; nothing was stored.
            StoreError: the store cannot be written.
        """
        try:
            prepared = self._live.prepare([columns_of(item)])
        except DataError as error:
            raise RequestError(f"{error}; nothing was stored", field="attributes") from None
        except EncoderError as error:
            raise EncoderError(f"{error}; nothing was stored") from error
        is_new = item.item_id not in self._item_ids
        if is_new and not self._live.n_free:
            self._live.apply(prepared)  # says that there is no room, and what to do
        self._attributes.check(columns_of(item))
        self.store.put_item(item, updated_us=self._clock())
        row = int(self._live.apply(prepared)[0])
        self._attributes.set_row(row, columns_of(item))
        return is_new

    def delete_item(self, item_id: str) -> None:
        """Take an item out of every list, now and after a restart. Its behaviour stays with those who showed it.

        Raises:
            UnknownItemError: neither the catalogue nor the store has ever had the item.
            StoreError: the store cannot be read or written.
        """
        if item_id not in self._item_ids:
            self.follower.catch_up()  # it may have been put a moment ago, elsewhere
            # The store may also have what this model has no room for, or what does not fit it.
            if not self.store.known_items([item_id]):
                raise UnknownItemError(f"item {_quoted(item_id)} is not in the catalogue; nothing was deleted")
        self.store.delete_item(item_id, updated_us=self._clock())
        self._live.remove([item_id])

    def delete_user(self, user_id: str) -> Deletion:
        """Delete all that is stored of a user and use nothing of theirs from now on, the training's part neither.

        Raises:
            StoreError: the store cannot be written.
        """
        deletion = self.store.delete_user(user_id, deleted_us=self._clock())
        self.follower.forget([user_id])
        return deletion

    def without_store(self) -> "Engine":
        """Return an engine that shares everything with this one but its store and who is told of its answers."""
        alone = copy.copy(self)
        alone.store, alone.on_served, alone.on_slate = NoStore(), None, None
        alone._users = alone._reading_users()
        return alone

    def title_of(self, item_id: str) -> str:
        """Return an item's title; its id where it has none, or is not known."""
        row = self._item_ids.get(item_id)
        return item_id if row == UNKNOWN_IDX else self._live.title_of(row)

    def apply_items(self, changes: Sequence[ItemChange]) -> list[ItemChange]:
        """Take in changes of items that the store has already. What does not fit this model is logged and left out.

        Returns those that are to be applied again later, since the encoder failed: they are here without their text.
        """
        self._live.remove([change.item_id for change in changes if change.item is None])
        items = listed(changes)
        unread_ids = {item.item_id for item in self._stored_items.apply(items)} if items else set()
        return [change for change in changes if change.item_id in unread_ids]

    def count_events(self, events: Sequence[Event]) -> None:
        """Count events in the popularity of their items, unless training counted them or they are no liking.

        An item of a slate is counted as clicked once. To be called from one thread at a time.
        """
        weighed = weigh_events(events, self._opinions.signals(events), self._data_config)
        for event, weight in zip(events, weighed.weight.tolist(), strict=True):
            item_idx, slate = self._item_ids.get(event.item_id), event.recommendation_id
            if item_idx < 0 or weight <= 0:
                continue
            is_click = slate is not None and self._first_clicks.is_first(slate, item_idx)
            if event.timestamp_us > self.bundle.manifest.data_until_us:
                self._path.record(item_idx, event.timestamp_us, kind="interactions", weight=weight)
                if is_click:
                    self._path.record(item_idx, event.timestamp_us, kind="clicked")

    def count_slate(self, slate: StoredSlate) -> None:
        """Count the items of a slate as shown."""
        for item in slate.items:
            item_idx = self._item_ids.get(item.item_id)
            if item_idx >= 0:
                self._path.record(item_idx, slate.timestamp_us, kind="shown")

    def _reading_users(self) -> Users:
        max_events, max_users = self._limits
        return Users(
            self.store, self._read_user, lambda: len(self._item_ids), max_events=max_events, max_users=max_users
        )

    @cached_property
    def _live(self) -> LiveItems:
        return LiveItems(self._path)

    @cached_property
    def _attributes(self) -> AttributeIndex:
        return AttributeIndex.from_table(self._models.catalogue.table, self._models.n_rows)

    @cached_property
    def _stored_items(self) -> StoredItems:
        return StoredItems(self._live, self._attributes, self._model_text)

    @cached_property
    def _shaper(self) -> Shaper:
        return Shaper(self._attributes, self._path, self._item_ids)

    @cached_property
    def _presenter(self) -> Presenter:
        return Presenter(self._models, self._path, lambda: self._shaper, self.title_of)

    @property
    def _model_text(self) -> str:
        return f"model {self.model.name} version {self.model.version[:12]}"

    def _known(self, query: Query, as_of_us: int, ignored: dict[str, Ignored]) -> Known:
        """Return what the user had done, what they had complained of, how well the models know them, and their row."""
        user_idx, complained_idx, is_whole = UNKNOWN_IDX, _NO_ITEMS, True
        trained = History.empty()
        stored = StoredUser()
        if query.user_id is not None:
            try:
                stored = self._users.of(query.user_id)
            except StoreError as error:
                is_whole = False
                logger.debug("a list is made without what the store knows: %s", error)
            if stored.unknown_ids:
                ignored["events"] = Ignored(len(stored.unknown_ids), stored.unknown_ids[:_N_SHOWN])
            if not (stored.is_forgotten or self.follower.has_forgotten(query.user_id)):
                user_idx = self._models.user_ids.get(query.user_id)
                trained = self._models.log.history_of(user_idx, before_us=as_of_us)
                complained_idx = self._trained_complaints(user_idx)
            complained_idx = np.union1d(complained_idx, stored.complained_idx)
        check_times(query.history, as_of_us)
        self._rows([entry.item_id for entry in query.history], "history", ignored)
        passed = Session.of(query.history, self._item_ids, as_of_us=as_of_us)
        session = passed.history(self._data_config)
        history = add_without_repeats(trained, as_of(stored.history, as_of_us))
        is_kept = not len(session) and is_whole and query.user_id is not None and bool(len(history))
        history = add_without_repeats(history, session)
        warmth = Warmth.WARM if len(trained) else Warmth.COLD if len(history) else Warmth.UNKNOWN
        # Of a clock that ran back or an event ahead of it, nothing is taken over: the history is another one then.
        key = (len(history), int(history.timestamp_us[-1]) if len(history) else 0)
        computed = stored.computed.setdefault(key, {}) if is_kept else {}
        return Known(history, complained_idx, warmth, user_idx, computed, is_whole, trained, stored, passed)

    def _read_user(self, events: Sequence[Event], is_forgotten: bool) -> StoredUser:  # noqa: FBT001
        """Return events of one user, oldest first, as arrays."""
        signal, is_read = self._opinions.read(events)
        weighed = weigh_events(events, signal, self._data_config)
        rows = self._item_ids.lookup([event.item_id for event in events], unknown="mark")
        known = rows != UNKNOWN_IDX
        return StoredUser(
            history=stored_history(events, weighed.weight, self._item_ids),
            complained_idx=np.unique(rows[known & weighed.is_complaint]),
            event_idx=rows[known],
            event_us=np.array([event.timestamp_us for event in events], np.int64)[known],
            event_kinds=interned([event.event for event, is_known in zip(events, known, strict=True) if is_known]),
            unknown_ids=tuple(event.item_id for event, is_known in zip(events, known, strict=True) if not is_known),
            is_forgotten=is_forgotten,
            is_read=is_read,
        )

    def _trained_complaints(self, user_idx: int) -> Int32:
        seen = self._models.seen
        return _NO_ITEMS if seen is None else seen.history_of(user_idx).item_idx

    def _candidates(
        self, query: Query, exclude: Int32, allowed: Bool | None, ignored: dict[str, Ignored]
    ) -> Int32 | None:
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
        keep = ~np.isin(known, exclude) & self._path.is_listed[known]
        return known[keep if allowed is None else keep & allowed[known]]

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

    def _check_events(self, events: Sequence[NewEvent], now_us: int) -> None:
        unknown = [place for place, event in enumerate(events) if event.item_id not in self._item_ids]
        if unknown:
            field_name = f"events.{unknown[0]}.item_id"
            first = ", ".join(_quoted(events[place].item_id) for place in unknown[:_N_SHOWN])
            raise RequestError(
                f"{field_name}: {len(unknown)} of {len(events)} events name items that are not in the catalogue of "
                f"{self._model_text}, the first: {first}; nothing was stored; put the items (PUT /v1/items/ID) or "
                "remove these events",
                field=field_name,
            )
        for place, event in enumerate(events):
            if event.timestamp_us is not None:
                check_time(event.timestamp_us, now_us, f"events.{place}.timestamp")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")
