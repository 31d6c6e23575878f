"""Learns what an event of each kind says about what its user turns to next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.histories import InteractionLog
from training.logistic import fit_choice

REFERENCE: Final = "click"
# No kind is learned away altogether, nor beyond reason.
SMALLEST: Final = 0.05
LARGEST: Final = 20.0

_LATE_SHARE: Final = 0.5
_MAX_TARGETS: Final = 10_000
_MIN_TARGETS: Final = 200
_MIN_EVENTS: Final = 100
_N_OTHERS: Final = 30
_NEIGHBOURHOOD: Final = 500
_HISTORY: Final = 30
_DECAY: Final = 0.9
_REGULARIZATION: Final = 1e-4
_N_BOOTSTRAP: Final = 100

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventWeights:
    """Learned weights, relative to the reference kind, with 95 % intervals over users.

    weights: kind → weight of one event; the kinds that were too rare to learn keep the weights they had. intervals:
    the learned kinds only. reference: the kind whose weight is what it was set to. n_targets: choices learned from.
    note: why nothing was learned; empty where something was.
    """

    weights: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    reference: str
    n_targets: int
    note: str = ""


@dataclass(frozen=True)
class KindedLog:
    """A log with the kind of each event. kind: int `(len(log),)`, place in `names`. strength: float32, 1 or less."""

    log: InteractionLog
    kind: npt.NDArray[np.integer]
    names: Sequence[str]
    strength: Float32


def learn_event_weights(
    events: KindedLog, item_embeddings: Float32, set_weights: dict[str, float], rng: np.random.Generator
) -> EventWeights:
    """Return non-negative weights of the kinds of event under which histories tell best what their users turn to.

    Each first interaction with an item in the newer half of the log is a choice among that item and 30 others that
    people turned to about then (so popularity and novelty are those of the chosen ones). A history is summed up per
    kind: the text embeddings of the items with such an event among the latest 30 events, an item 0.9 times the one
    after it, over the sum of these factors, as a product with each candidate. A conditional logit with weights at
    least 0 over these sums finds how much each kind should count. Weights of events on one item add up, here as in
    the engine (a click that leads to a purchase counts as both), so the weight of a kind is what it says beyond the
    kinds that come with it.

    The weights are scaled so that a click keeps the weight it was set to, or the most frequent kind where there are
    too few clicks. Where the data show no influence of that kind, nothing is learned and the set weights stay.

    Args:
        events: what may be known; nothing of the ranker's labels.
        item_embeddings: float32 `(n_items, d)`, unit or zero rows.
        set_weights: kind → weight, of kinds not named 1.
        rng: draws choices and bootstrap samples.
    """
    counts = np.bincount(events.kind, minlength=len(events.names))
    kinds = np.flatnonzero(counts >= _MIN_EVENTS)
    kept = {name: set_weights.get(name, 1.0) for name in events.names}
    if len(kinds) < 2:
        return EventWeights(kept, {}, "", 0, f"fewer than two kinds of event occur {_MIN_EVENTS} times")
    x, users = _choices(events, kinds, item_embeddings, rng)
    if len(x) < _MIN_TARGETS:
        return EventWeights(kept, {}, "", len(x), f"only {len(x)} choices of new items, of {_MIN_TARGETS} needed")
    names = [events.names[int(kind)] for kind in kinds]
    reference = REFERENCE if REFERENCE in names else names[int(counts[kinds].argmax())]
    place = names.index(reference)
    found = fit_choice(x, _REGULARIZATION)
    drawn = np.array([fit_choice(x[rows], _REGULARIZATION) for rows in _resamples(users, rng)])  # (b, kinds)
    if np.quantile(drawn[:, place], 0.025) <= 0.0:
        return EventWeights(kept, {}, reference, len(x), f"no influence of {reference} on later choices can be shown")
    scale = kept[reference]
    bounds = np.quantile(drawn / drawn[:, [place]], [0.025, 0.975], axis=0) * scale
    learned = np.clip(found / found[place] * scale, SMALLEST * scale, LARGEST * scale)
    weights = kept | {name: round(float(weight), 3) for name, weight in zip(names, learned, strict=True)}
    intervals = {name: (float(lo), float(hi)) for name, lo, hi in zip(names, *bounds, strict=True)}
    return EventWeights(weights, intervals, reference, len(x))


def _choices(
    events: KindedLog, kinds: Int64, item_embeddings: Float32, rng: np.random.Generator
) -> tuple[Float64, npt.NDArray[np.int32]]:
    """Return the features of every choice's candidates, `(n, 1 + n_others, n_kinds)`, and whose choice each is."""
    log = events.log
    targets = _targets(log, rng)
    centred = item_embeddings - item_embeddings.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    column = np.full(len(events.names), -1)
    column[kinds] = np.arange(len(kinds))
    rows = []
    for place, target in enumerate(targets):
        start = max(int(log.indptr[log.user_idx[target]]), int(target) - _HISTORY)
        items, item = _newest_last(log.item_idx[start:target])
        decay = _DECAY ** np.arange(len(items) - 1, -1, -1)
        own = column[events.kind[start:target]]
        part = np.zeros((len(kinds), len(items)))
        np.add.at(part, (own[own >= 0], item[own >= 0]), events.strength[start:target][own >= 0])
        profiles = (part * decay) @ centred[items] / decay.sum()  # (kinds, d)
        others = _others(place, targets, log, rng)
        rows.append(centred[np.append(log.item_idx[target], others)] @ profiles.T)
    shape = (-1, 1 + _N_OTHERS, len(kinds))
    return np.asarray(rows, np.float64).reshape(shape), log.user_idx[targets]


def _newest_last(item_idx: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], Int64]:
    """Return the distinct items in order of their last event, and the place of each event's item among them."""
    items, newest_first = np.unique(item_idx[::-1], return_index=True)
    order = np.argsort(-newest_first)
    place = np.empty(len(items), np.int64)
    place[order] = np.arange(len(items))
    return items[order], place[np.searchsorted(items, item_idx)]


def _targets(log: InteractionLog, rng: np.random.Generator) -> Int64:
    """Return rows, int64 in order of time: first interactions of users with an item, in the newer half, not the first
    of all."""
    pair = log.user_idx.astype(np.int64) * log.n_items + log.item_idx
    first = np.zeros(len(log), np.bool_)
    first[np.unique(pair, return_index=True)[1]] = True
    late = log.timestamp_us >= np.quantile(log.timestamp_us, 1.0 - _LATE_SHARE) if len(log) else first
    rows = np.flatnonzero(first & late & (np.arange(len(log)) > log.indptr[log.user_idx]))
    if len(rows) > _MAX_TARGETS:
        rows = np.sort(rng.choice(rows, _MAX_TARGETS, replace=False))
    return rows[np.argsort(log.timestamp_us[rows], kind="stable")]


def _others(place: int, targets: Int64, log: InteractionLog, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return items that others turned to at about the time of a target, int32 `(n_others,)`, drawn with replacement."""
    low, high = max(place - _NEIGHBOURHOOD, 0), min(place + _NEIGHBOURHOOD, len(targets))
    return log.item_idx[targets[rng.integers(low, high, _N_OTHERS)]]


def _resamples(users: npt.NDArray[np.int32], rng: np.random.Generator) -> list[Int64]:
    """Return rows of bootstrap samples over whole users."""
    _, number = np.unique(users, return_inverse=True)
    of_user = np.split(np.argsort(number, kind="stable"), np.flatnonzero(np.diff(np.sort(number))) + 1)
    return [
        np.concatenate([of_user[user] for user in rng.integers(len(of_user), size=len(of_user))])
        for _ in range(_N_BOOTSTRAP)
    ]
