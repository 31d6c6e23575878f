"""What is known, what labels the ranker, and what tests it: each interaction and request gets one fold.

FIT feeds everything that is fitted; LABEL holds the outcomes of the ranker's training rows; VALID stops training
early; TEST measures. Models that feed rows of a fold are fitted on earlier folds only.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from recsys.config import SplitConfig
from recsys.errors import ConfigError, DataError, LeakageError
from recsys.histories import ImpressionLog, InteractionLog

Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]


class Fold(IntEnum):
    """In order of time; a later fold is the future of an earlier one."""

    FIT = 0
    LABEL = 1
    VALID = 2
    TEST = 3


@dataclass(frozen=True)
class Split:
    """Folds of interactions `(len(log),)` and, where there are impressions, of requests; int8 values of `Fold`.

    boundaries_us: int64 `(3,)`, when LABEL, VALID and TEST begin; None for `leave_last`. An interaction of the test may
    be dated before the test begins, see `make_split`.
    """

    interaction_fold: Int8
    request_fold: Int8 | None
    boundaries_us: Int64 | None

    def known_before(self, fold: Fold) -> npt.NDArray[np.bool_]:
        """Return which interactions may be known when rows of `fold` are made: those of earlier folds."""
        return self.interaction_fold < fold

    def in_time(self, timestamp_us: Int64) -> npt.NDArray[np.bool_]:
        """Return which interactions, at times `(len(log),)`, lie in their fold by the clock; all for `leave_last`."""
        if self.boundaries_us is None:
            return np.ones(len(timestamp_us), np.bool_)
        return np.searchsorted(self.boundaries_us, timestamp_us, side="right") == self.interaction_fold


def make_split(
    log: InteractionLog,
    impressions: ImpressionLog | None,
    config: SplitConfig,
    *,
    came_with: npt.NDArray[np.int32] | None = None,
) -> Split:
    """Split a log by the calendar or by each user's last interactions.

    came_with: the request that each interaction came with, int32 `(len(log),)`, -1 for none, see
    `recsys.datasets.encoded.request_rows`. What came with a request of the test belongs to the test, though it be
    dated before: histories are told with the lists that they precede, and nobody knew of them until then.

    Raises:
        DataError: a fold would be empty.
        ConfigError: `leave_last` on data with impressions.
    """
    if config.kind == "leave_last":
        if impressions is not None:
            raise ConfigError("split.kind leave_last cannot split impressions; use split.kind time")
        split = Split(_leave_last_folds(log, config), None, None)
    else:
        split = _time_split(log, impressions, config)
    check_no_overlap(split, log, impressions)
    if came_with is not None and split.request_fold is not None and len(came_with):
        from_test = (came_with >= 0) & (split.request_fold[came_with] == Fold.TEST)
        fold = np.where(from_test, np.int8(Fold.TEST), split.interaction_fold)
        split = replace(split, interaction_fold=fold)
    _check_not_empty(split, config)
    return split


def _time_split(log: InteractionLog, impressions: ImpressionLog | None, config: SplitConfig) -> Split:
    times = np.sort(impressions.timestamp_us if impressions is not None else log.timestamp_us)
    if not len(times):
        raise DataError("there is no feedback to split; the interactions table is empty")
    boundaries = _boundaries(times, config)
    interaction_fold = np.searchsorted(boundaries, log.timestamp_us, side="right").astype(np.int8)
    request_fold = None
    if impressions is not None:
        request_fold = np.searchsorted(boundaries, impressions.timestamp_us, side="right").astype(np.int8)
    return Split(interaction_fold, request_fold, boundaries)


def _boundaries(times: Int64, config: SplitConfig) -> Int64:
    """Return when LABEL, VALID and TEST begin, given the sorted times of all feedback."""
    shares = np.cumsum([config.test_share, config.valid_share, config.label_share])[::-1]
    if config.test_from is not None:
        try:
            moment = datetime.fromisoformat(config.test_from)
        except ValueError:
            raise ConfigError(
                f"split.test_from {config.test_from!r} is no ISO 8601 time; write 2019-11-13T00:00"
            ) from None
        test_us = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)
        times = times[times < test_us]
        if not len(times):
            raise DataError(f"split.test_from {config.test_from} lies before all feedback; choose a later time")
        shares = (shares - config.test_share) / (1.0 - config.test_share)
    if shares[0] >= 1.0:
        raise ConfigError(f"split shares add up to {shares[0]:.2f}; leave something to fit on (below 1)")
    boundaries = times[np.minimum(np.round(len(times) * (1.0 - shares)).astype(np.int64), len(times) - 1)]
    if config.test_from is not None:
        boundaries[-1] = test_us
    return boundaries


def _leave_last_folds(log: InteractionLog, config: SplitConfig) -> Int8:
    lengths = np.diff(log.indptr)
    from_end = np.repeat(log.indptr[1:], lengths) - 1 - np.arange(len(log))  # 0 = a user's last interaction
    edges = np.cumsum([config.n_test, config.n_valid, config.n_label])
    fold = (Fold.TEST - np.searchsorted(edges, from_end, side="right")).astype(np.int8)
    # A user too short to give every fold something only feeds the models.
    fold[np.repeat(lengths <= config.n_test + config.n_valid, lengths)] = Fold.FIT
    return fold


def _check_not_empty(split: Split, config: SplitConfig) -> None:
    folds = split.request_fold if split.request_fold is not None else split.interaction_fold
    counts = np.bincount(folds, minlength=len(Fold))
    counts[Fold.FIT] = int((split.interaction_fold == Fold.FIT).sum())
    if empty := [fold.name for fold in Fold if not counts[fold]]:
        if split.request_fold is None:
            rows, remedy = "interactions per fold", "bring more feedback over more time"
        else:
            rows = f"interactions to fit on, then {len(folds)} requests with impressions, per fold"
            remedy = (
                "bring more impressions over more time, learn from interactions alone (data.use_impressions: false)"
            )
        raise DataError(
            f"the {config.kind} split leaves {', '.join(empty)} empty ({rows}: {counts.tolist()}); "
            f"{remedy}, or change the split section of the configuration"
        )


def check_no_overlap(split: Split, log: InteractionLog, impressions: ImpressionLog | None) -> None:
    """Raise `LeakageError` when something of a later fold lies before something of an earlier one.

    For a time split that is a matter of the clock, for leave_last of each user's own order.
    """
    if split.boundaries_us is None:
        same_user = log.user_idx[1:] == log.user_idx[:-1]
        backwards = same_user & (np.diff(split.interaction_fold) < 0)
        if backwards.any():
            row = int(np.flatnonzero(backwards)[0])
            raise LeakageError(f"user row {log.user_idx[row]}: an earlier interaction lies in a later fold")
        return
    parts = [("interactions", log.timestamp_us, split.interaction_fold)]
    if impressions is not None and split.request_fold is not None:
        parts.append(("requests", impressions.timestamp_us, split.request_fold))
    for what, times, folds in parts:
        for fold, boundary in zip((Fold.LABEL, Fold.VALID, Fold.TEST), split.boundaries_us, strict=True):
            late = times[folds < fold]
            early = times[folds >= fold]
            if (len(late) and late.max() >= boundary) or (len(early) and early.min() < boundary):
                raise LeakageError(
                    f"{what} of fold {fold.name} overlap an earlier fold at {boundary} µs; the split is broken"
                )
