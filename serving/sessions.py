"""What a user had done by the time of a request, put together from training, the store and the request itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.config import DataConfig
from recsys.histories import History
from recsys.ids import IdMap
from recsys.models.sentiment import REVIEW_KINDS, RatingScale, review_signal, signed_weight
from serving.store import Event

_DEFAULT_WEIGHT = 1.0
_RATING = "rating"


@dataclass(frozen=True)
class SessionItem:
    """One entry of a history that a caller passes. timestamp_us: None for just before the entry that follows."""

    item_id: str
    timestamp_us: int | None = None
    event: str | None = None


@dataclass(frozen=True)
class Session:
    """Entries that a caller passed, on known items, oldest first. Arrays `(n,)`.

    item_idx: int32. timestamp_us: int64. kinds: kind of event of each, None where the caller gave none.
    """

    item_idx: npt.NDArray[np.int32]
    timestamp_us: npt.NDArray[np.int64]
    kinds: tuple[str | None, ...]

    @staticmethod
    def of(entries: Sequence[SessionItem], item_ids: IdMap, *, as_of_us: int) -> "Session":
        """Return the entries whose items are known.

        An entry without a time is put 1 µs before the entry that follows it, the last one 1 µs before `as_of_us`.
        """
        rows: list[tuple[int, int, str | None]] = []
        next_us = as_of_us
        for entry in reversed(entries):
            next_us = next_us - 1 if entry.timestamp_us is None else min(entry.timestamp_us, as_of_us - 1)
            if (idx := item_ids.get(entry.item_id)) >= 0:
                rows.append((idx, next_us, entry.event))
        rows.reverse()
        return Session(
            np.array([idx for idx, _, _ in rows], np.int32),
            np.array([us for _, us, _ in rows], np.int64),
            tuple(kind for _, _, kind in rows),
        )

    def history(self, config: DataConfig) -> History:
        """Return what of it is positive behaviour."""
        weighed = zip(self.item_idx.tolist(), self.timestamp_us.tolist(), self.kinds, strict=True)
        rows = [(idx, us, kind_weight(kind, None, config)) for idx, us, kind in weighed]
        return _history([row for row in rows if row[2] > 0])


@dataclass(frozen=True)
class Weighed:
    """What events express, in their order. Arrays `(n,)`.

    weight: float64, the preference for the item, 0 where there is none. is_complaint: bool, whether the event is a
    review that speaks against its item.
    """

    weight: npt.NDArray[np.float64]
    is_complaint: npt.NDArray[np.bool_]


def kind_weight(event: str | None, value: float | None, config: DataConfig) -> float:
    """Return the preference that an event of a kind expresses, as in training; 0 when it is no positive behaviour.

    Training leaves out ratings below `min_rating` and kinds that weigh nothing, so serving does too.
    """
    if event is None:
        return _DEFAULT_WEIGHT
    if event == _RATING and value is not None and config.min_rating is not None and value < config.min_rating:
        return 0.0
    return max(config.event_weights.get(event, _DEFAULT_WEIGHT), 0.0)


def weigh_events(events: Sequence[Event], text_signal: npt.NDArray[np.float64], config: DataConfig) -> Weighed:
    """Return what events express: where training weighed reviews by what they say, they weigh so here too.

    text_signal: float64 `(n,)`, what the text of each event says, NaN where none was read; see
        `serving.opinions.OpinionReader`.
    """
    weight = np.array([kind_weight(event.event, event.value, config) for event in events], np.float64)
    if config.sentiment == "off" or config.rating_scale is None:
        return Weighed(weight, np.zeros(len(events), np.bool_))
    is_review = np.array([event.event in REVIEW_KINDS for event in events], np.bool_)
    rating = np.array([np.nan if event.value is None else event.value for event in events], np.float64)
    signal = review_signal(RatingScale(*config.rating_scale).signal(rating), text_signal)
    signal = np.where(is_review, signal, np.nan)
    is_complaint = (weight > 0) & (signal <= 0)
    return Weighed(np.where(np.isnan(signal), weight, signed_weight(weight, signal)), is_complaint)


def stored_history(events: Sequence[Event], weight: npt.NDArray[np.float64], item_ids: IdMap) -> History:
    """Return stored events of one user, oldest first, as a history, less those on unknown items or of weight 0."""
    rows = [
        (idx, event.timestamp_us, each)
        for event, each in zip(events, weight.tolist(), strict=True)
        if each > 0 and (idx := item_ids.get(event.item_id)) >= 0
    ]
    return _history(rows)


def add_without_repeats(known: History, newer: History) -> History:
    """Return both in order of time, leaving out of `newer` what `known` holds too: the same item at the same time."""
    if not len(newer):
        return known
    overlapping = known.timestamp_us >= newer.timestamp_us.min()
    pairs = set(zip(known.item_idx[overlapping].tolist(), known.timestamp_us[overlapping].tolist(), strict=True))
    is_new = np.asarray(
        [pair not in pairs for pair in zip(newer.item_idx.tolist(), newer.timestamp_us.tolist(), strict=True)],
        dtype=np.bool_,
    )
    return History.join(known, History(newer.item_idx[is_new], newer.timestamp_us[is_new], newer.weight[is_new]))


def _history(rows: Sequence[tuple[int, int, float]]) -> History:
    if not rows:
        return History.empty()
    item_idx, timestamp_us, weight = zip(*rows, strict=True)
    return History(np.asarray(item_idx, np.int32), np.asarray(timestamp_us, np.int64), np.asarray(weight, np.float32))
