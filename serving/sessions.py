"""What a user had done by the time of a request, put together from training, the store and the request itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.config import DataConfig
from recsys.histories import History
from recsys.ids import IdMap
from recsys.models.sentiment import REVIEW_KINDS, RatingScale, signed_weight
from serving.store import Event

_DEFAULT_WEIGHT = 1.0
_RATING = "rating"


@dataclass(frozen=True)
class SessionItem:
    """One entry of a history that a caller passes. timestamp_us: None for just before the entry that follows."""

    item_id: str
    timestamp_us: int | None = None
    event: str | None = None


def event_weight(event: str | None, value: float | None, config: DataConfig) -> float:
    """Return the preference that one event expresses, as in training; 0 when it is no positive behaviour.

    Training leaves out ratings below `min_rating` and kinds that weigh nothing, so serving does too. Where training
    weighed reviews by what they say, a rating scales the weight here as it did there; a text is not read.
    """
    if event is None:
        return _DEFAULT_WEIGHT
    if event == _RATING and value is not None and config.min_rating is not None and value < config.min_rating:
        return 0.0
    weight = max(config.event_weights.get(event, _DEFAULT_WEIGHT), 0.0)
    if event in REVIEW_KINDS and value is not None and config.sentiment != "off" and config.rating_scale is not None:
        signal = RatingScale(*config.rating_scale).signal(np.array([value]))
        return float(signed_weight(np.array([weight]), signal)[0])
    return weight


def stored_history(events: Sequence[Event], item_ids: IdMap, config: DataConfig, *, as_of_us: int) -> History:
    """Return stored events of one user, oldest first, as a history; events on unknown items are left out.

    What has arrived has happened: a time at or after `as_of_us`, from a clock ahead of ours, becomes the moment before.
    """
    rows = [
        (idx, min(event.timestamp_us, as_of_us - 1), weight)
        for event in events
        if (idx := item_ids.get(event.item_id)) >= 0 and (weight := event_weight(event.event, event.value, config)) > 0
    ]
    return _history(rows)


def session_history(entries: Sequence[SessionItem], item_ids: IdMap, config: DataConfig, *, as_of_us: int) -> History:
    """Return the entries that a caller passed, oldest first, as a history; unknown items are left out.

    An entry without a time is put 1 µs before the entry that follows it, the last one 1 µs before `as_of_us`.
    """
    rows: list[tuple[int, int, float]] = []
    next_us = as_of_us
    for entry in reversed(entries):
        next_us = next_us - 1 if entry.timestamp_us is None else min(entry.timestamp_us, as_of_us - 1)
        idx = item_ids.get(entry.item_id)
        weight = event_weight(entry.event, None, config)
        if idx >= 0 and weight > 0:
            rows.append((idx, next_us, weight))
    return _history(rows[::-1])


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
