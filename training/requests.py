"""Past moments at which a list was wanted, with what turned out to be relevant."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.histories import History, ImpressionLog, InteractionLog, Request
from recsys.splits import Fold, Split

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# What follows a click within this time, such as a purchase, is put down to the list that was clicked on.
ATTRIBUTION_US: Final = 24 * 3_600 * 1_000_000
_CLICK: Final = 1.0


@dataclass(frozen=True)
class LabelledRequest:
    """A request and its outcome.

    relevant_idx: int32, the items that were wanted. positions: int32 `(n_candidates,)`, screen positions of the
    request's own candidates, 0 where not recorded; None when candidates are to be retrieved. exclude: int32, the items
    that must not be recommended again. worth: float32, of each relevant item the weight of the strongest event that
    says so, such as a purchase after a click; None where all count alike.
    """

    request: Request
    relevant_idx: Int32
    exclude: Int32
    positions: Int32 | None = None
    worth: Float32 | None = None

    @property
    def key(self) -> tuple[int, int]:
        """User row and moment, for clustering by user and for joining runs."""
        return self.request.user_idx, self.request.as_of_us


def shown_requests(
    impressions: ImpressionLog,
    log: InteractionLog,
    requests: Int64,
    *,
    max_history: int,
    outcomes: InteractionLog | None = None,
) -> Iterator[LabelledRequest]:
    """Yield requests whose candidates are what was shown; those without both a click and a non-click are left out.

    The history is what the user did strictly before the request.

    outcomes: the events that may tell what a click was worth, those of the requests' own fold; None counts all clicks
    alike. They are read from a request on, for `ATTRIBUTION_US`; a click without any is worth that of a click, 1.
    """
    for r in requests:
        rows = impressions.rows(int(r))
        clicked = impressions.clicked[rows]
        if clicked.all() or not clicked.any():
            continue
        user, time = int(impressions.user_idx[r]), int(impressions.timestamp_us[r])
        items = impressions.item_idx[rows]
        history = log.history_of(user, time).last(max_history)
        request = Request(history, time, user, items)
        worth = None if outcomes is None else _worth(items[clicked], _following(outcomes, user, time), at_least=_CLICK)
        yield LabelledRequest(request, items[clicked], np.empty(0, np.int32), impressions.position[rows], worth)


def next_item_requests(
    log: InteractionLog,
    targets: Int64,
    *,
    horizon: int,
    max_history: int,
    last_of_fold: Int64,
    seen: InteractionLog | None = None,
) -> Iterator[LabelledRequest]:
    """Yield a request just before each target row of the log; relevant is what the user did next.

    Args:
        targets: rows of the log, the first relevant interaction of each request.
        horizon: interactions from the target on that count as relevant.
        last_of_fold: int64 `(len(log),)`, row behind the last one of the same user and fold: relevance never reaches
            into a later fold.
        seen: what users know and did not like, complaints. What of it lies before a request is not to be recommended.

    The history is every earlier row of the user, in the log's order. Items of the history are neither relevant nor
    to be recommended; a request with nothing else relevant is left out.
    """
    for row in targets:
        user = int(log.user_idx[row])
        start = int(log.indptr[user])
        full = log.history_at(start, int(row))
        wanted = log.history_at(int(row), min(int(row) + horizon, int(last_of_fold[row])))
        ahead = wanted.item_idx
        known = np.unique(full.item_idx)
        if seen is not None:
            known = np.union1d(known, seen.history_of(user, int(log.timestamp_us[row])).item_idx)
        relevant = np.unique(ahead[~np.isin(ahead, known)])
        if len(relevant):
            request = Request(full.last(max_history), int(log.timestamp_us[row]), user)
            yield LabelledRequest(request, relevant, known, worth=_worth(relevant, wanted))


def held_out_requests(
    log: InteractionLog, held_out: Bool, known: Bool, users: Int64, *, max_history: int
) -> Iterator[LabelledRequest]:
    """Yield one request per user: relevant are all held-out interactions, the history is all that is known.

    For splits at random, in which what is held out lies among what is known. held_out, known: bool `(len(log),)`. The
    moment is just after the user's last known interaction. Items of the history are neither relevant nor to be
    recommended; users without a relevant item are left out.
    """
    for user in users:
        rows = np.arange(log.indptr[user], log.indptr[user + 1])
        kept = rows[known[rows]]
        full = History(log.item_idx[kept], log.timestamp_us[kept], log.weight[kept])
        seen = np.unique(full.item_idx)
        held = rows[held_out[rows]]
        wanted = History(log.item_idx[held], log.timestamp_us[held], log.weight[held])
        relevant = np.setdiff1d(wanted.item_idx, seen)
        if len(relevant) and len(full):
            request = Request(full.last(max_history), int(full.timestamp_us[-1]) + 1, int(user))
            yield LabelledRequest(request, relevant, seen, worth=_worth(relevant, wanted))


def cold_requests(log: InteractionLog, cold_idx: Int32, users: Int64, *, max_history: int) -> Iterator[LabelledRequest]:
    """Yield one request per user in which all cold items are candidates and those the user chose are relevant.

    cold_idx: int32, items whose behaviour is hidden; the history is what the user did with all the others. Users
    without either are left out. The moment is just after the user's last interaction.
    """
    is_cold = np.zeros(log.n_items, np.bool_)
    is_cold[cold_idx] = True
    for user in users:
        everything = log.history_of(int(user))
        cold = is_cold[everything.item_idx]
        if not cold.any() or cold.all():
            continue
        history = History(everything.item_idx[~cold], everything.timestamp_us[~cold], everything.weight[~cold])
        request = Request(history.last(max_history), int(everything.timestamp_us[-1]) + 1, int(user), cold_idx)
        wanted = History(everything.item_idx[cold], everything.timestamp_us[cold], everything.weight[cold])
        relevant = np.unique(wanted.item_idx)
        yield LabelledRequest(request, relevant, np.empty(0, np.int32), worth=_worth(relevant, wanted))


def _following(outcomes: InteractionLog, user: int, time_us: int) -> History:
    """Return what a user did from a request on, as far as it is put down to it."""
    later = outcomes.history_of(user)
    start, stop = np.searchsorted(later.timestamp_us, [time_us, time_us + ATTRIBUTION_US])
    return History(later.item_idx[start:stop], later.timestamp_us[start:stop], later.weight[start:stop])


def _worth(item_idx: Int32, events: History, *, at_least: float = 0.0) -> Float32:
    """Return the weight of the strongest event on each item, float32 `(len(item_idx),)`."""
    worth = np.full(len(item_idx), at_least, np.float32)
    order = np.argsort(item_idx)
    place = np.searchsorted(item_idx, events.item_idx, sorter=order)
    place = order[np.minimum(place, len(order) - 1)]
    meant = item_idx[place] == events.item_idx
    np.maximum.at(worth, place[meant], events.weight[meant])
    return worth


def fold_ends(log: InteractionLog, split: Split) -> Int64:
    """Return for each row of the log the row behind the last one of the same user and fold, int64 `(len(log),)`."""
    n = len(log)
    change = np.flatnonzero(
        (log.user_idx[1:] != log.user_idx[:-1]) | (split.interaction_fold[1:] != split.interaction_fold[:-1])
    )
    ends = np.append(change + 1, n)
    return ends[np.searchsorted(ends, np.arange(n), side="right")]


def sample_targets(
    log: InteractionLog, fold_mask: Bool, n: int, rng: np.random.Generator, *, eligible: Bool | None = None
) -> Int64:
    """Return at most `n` rows of the masked log, int64, in time order; users count alike.

    Every user's rows are put in random order, then all users' firsts are taken before any second, so that a few heavy
    users do not speak for all.
    """
    rows = np.flatnonzero(fold_mask if eligible is None else fold_mask & eligible)
    shuffled = rows[rng.permutation(len(rows))]
    by_user = shuffled[np.argsort(log.user_idx[shuffled], kind="stable")]
    users = log.user_idx[by_user]
    first = np.searchsorted(users, users, side="left")
    turn = np.arange(len(users)) - first
    order = np.lexsort((rng.random(len(users)), turn))
    chosen = by_user[order[:n]]
    return chosen[np.argsort(log.timestamp_us[chosen], kind="stable")]


def sample_requests(split: Split, fold: Fold, n: int, *, newest: bool, rng: np.random.Generator) -> Int64:
    """Return at most `n` impression requests of a fold, int64, in time order: the newest or a random draw."""
    if split.request_fold is None:
        return np.empty(0, np.int64)
    requests = np.flatnonzero(split.request_fold == fold)
    if len(requests) <= n:
        return requests
    return requests[-n:] if newest else np.sort(rng.choice(requests, n, replace=False))
