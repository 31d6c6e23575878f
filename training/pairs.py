"""Pairs of items that the text encoder learns from: what the same people turned to one after the other."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.config import EncoderConfig
from recsys.histories import ImpressionLog, InteractionLog

NO_ITEM: Final = -1
# How far back in a user's history the anchor of a click may lie.
_RECENT: Final = 20

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EncoderPairs:
    """Items whose texts should come to lie close together, in random order.

    anchor, positive: int32 `(n,)`, rows of the catalogue; the anchor came first. hard_negative: int32 `(n,)`, an item
    shown beside the positive and not clicked, or -1.
    log_frequency: float32 `(n_items,)`, log of an item's share of all positives and hard negatives, from counts with
    one added. anchor_log_frequency: the same of the anchors.
    """

    anchor: Int32
    positive: Int32
    hard_negative: Int32
    log_frequency: Float32
    anchor_log_frequency: Float32

    def __len__(self) -> int:
        return len(self.anchor)

    @staticmethod
    def from_items(anchor: Int32, positive: Int32, hard_negative: Int32, n_items: int) -> "EncoderPairs":
        """Make pairs of given items and count how often each occurs."""
        shown = np.concatenate([positive, hard_negative[hard_negative != NO_ITEM]])
        return EncoderPairs(
            anchor, positive, hard_negative, _log_frequency(shown, n_items), _log_frequency(anchor, n_items)
        )

    def select(self, rows: Bool | Int64) -> "EncoderPairs":
        """Return some of the pairs; the frequencies stay those of all."""
        return EncoderPairs(
            self.anchor[rows],
            self.positive[rows],
            self.hard_negative[rows],
            self.log_frequency,
            self.anchor_log_frequency,
        )


def build_pairs(
    log: InteractionLog,
    impressions: ImpressionLog | None,
    config: EncoderConfig,
    rng: np.random.Generator,
    *,
    positive_rows: Bool | None = None,
    positive_requests: Bool | None = None,
) -> EncoderPairs:
    """Return at most `config.max_pairs` pairs, drawn at random.

    Two kinds of pair share the number equally, and what one cannot fill goes to the other:

    - the item of an interaction and one of the same user's items before it, at most `config.pair_window`
      interactions between the two;
    - a clicked item and one of the user's latest 20 items before the request, with an item that was shown in the
      same request and not clicked as hard negative.

    A user is drawn in proportion to the square root of how many positives they have, so that a few heavy users do
    not speak for all.

    Args:
        log: what may be known; nothing later reaches the encoder.
        impressions: what was shown, over the same users and items.
        config: `max_pairs` and `pair_window` are read.
        rng: draws the pairs.
        positive_rows: bool `(len(log),)`, which interactions may be positives; all by default. Items before them
            still serve as anchors, so a held-out window is asked about with the history that leads up to it.
        positive_requests: bool `(len(impressions),)`, the same for requests.
    """
    rows = _next_rows(log, positive_rows)
    clicks = _click_rows(log, impressions, positive_requests)
    room_rows = int(np.minimum(_place(log)[rows], config.pair_window + 1).sum())
    room_clicks = len(clicks) * _RECENT
    n_clicks = min(room_clicks, max(config.max_pairs // 2, config.max_pairs - room_rows))
    n_rows = min(room_rows, config.max_pairs - n_clicks)
    parts = [_next_pairs(log, rows, config.pair_window, n_rows, rng)]
    if impressions is not None:
        parts.append(_click_pairs(log, impressions, clicks, n_clicks, rng))
    anchor, positive, hard_negative = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = rng.permutation(len(anchor))
    return EncoderPairs.from_items(anchor[order], positive[order], hard_negative[order], log.n_items)


def _place(log: InteractionLog) -> Int64:
    """Return each interaction's place in its user's history, from 0."""
    return np.arange(len(log)) - log.indptr[log.user_idx]


def _next_rows(log: InteractionLog, allowed: Bool | None) -> Int64:
    """Return the interactions that may be positives: allowed, and not a user's first."""
    usable = _place(log) > 0
    return np.flatnonzero(usable if allowed is None else usable & allowed)


def _click_rows(log: InteractionLog, impressions: ImpressionLog | None, allowed: Bool | None) -> Int64:
    """Return the clicked rows of users who did something before the request."""
    if impressions is None:
        return np.empty(0, np.int64)
    began_us = np.full(log.n_users, np.iinfo(np.int64).max)
    active = np.flatnonzero(np.diff(log.indptr))
    began_us[active] = log.timestamp_us[log.indptr[active]]
    usable = (impressions.user_idx >= 0) & (began_us[impressions.user_idx] < impressions.timestamp_us)
    if allowed is not None:
        usable &= allowed
    return np.flatnonzero(impressions.clicked & usable[impressions.row_request])


def _draw(users: Int32, n: int, rng: np.random.Generator) -> Int64:
    """Return `n` places in `users`, with replacement; a user comes in proportion to the root of how many are theirs."""
    _, inverse, counts = np.unique(users, return_inverse=True, return_counts=True)
    reach: Float64 = np.cumsum(1.0 / np.sqrt(counts[inverse]))
    places = np.searchsorted(reach, rng.random(n) * reach[-1], side="right")
    return np.minimum(places, len(users) - 1)


def _next_pairs(
    log: InteractionLog, rows: Int64, window: int, n: int, rng: np.random.Generator
) -> tuple[Int32, Int32, Int32]:
    if n == 0:
        return _no_pairs()
    chosen = rows[_draw(log.user_idx[rows], n, rng)]
    back = rng.integers(1, np.minimum(_place(log)[chosen], window + 1), endpoint=True)
    drawn = np.unique(np.stack([chosen, back]), axis=1)  # (2, at most n)
    anchor, positive = log.item_idx[drawn[0] - drawn[1]], log.item_idx[drawn[0]]
    differs = anchor != positive
    return anchor[differs], positive[differs], np.full(int(differs.sum()), NO_ITEM, np.int32)


def _click_pairs(
    log: InteractionLog, impressions: ImpressionLog, clicks: Int64, n: int, rng: np.random.Generator
) -> tuple[Int32, Int32, Int32]:
    if n == 0:
        return _no_pairs()
    chosen = np.sort(clicks[_draw(impressions.user_idx[impressions.row_request[clicks]], n, rng)])
    drawn = np.empty((n, 3), np.int32)
    for i, row in enumerate(chosen):
        request = int(impressions.row_request[row])
        history = log.history_of(int(impressions.user_idx[request]), int(impressions.timestamp_us[request]))
        recent = history.last(_RECENT).item_idx
        rows = impressions.rows(request)
        passed_over = impressions.item_idx[rows][~impressions.clicked[rows]]
        anchor = recent[rng.integers(len(recent))]
        passed_over = passed_over[passed_over != anchor]
        hard = passed_over[rng.integers(len(passed_over))] if len(passed_over) else NO_ITEM
        drawn[i] = anchor, impressions.item_idx[row], hard
    drawn = np.unique(drawn, axis=0)
    drawn = drawn[drawn[:, 0] != drawn[:, 1]]
    return drawn[:, 0], drawn[:, 1], drawn[:, 2]


def _no_pairs() -> tuple[Int32, Int32, Int32]:
    return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int32)


def _log_frequency(items: Int32, n_items: int) -> Float32:
    counts = np.bincount(items, minlength=n_items) + 1.0
    return np.log(counts / counts.sum()).astype(np.float32)
