"""How much attention an item gets, as of the request, and how new it is."""

from typing import Any

import numpy as np

from features.context import HOUR_US, Float32, RequestContext, share_below
from recsys.catalogue import NO_TIME
from recsys.models.kernels import compiled

# A click-through rate starts at a typical one and moves with this many impressions.
_PRIOR_SHOWN = 20.0
_PRIOR_RATE = 0.05
_NEVER = -1


@compiled
def _hours_since(time_us: int, as_of_us: int, missing: int) -> float:
    """Return the hours that have passed since a time, at least 0, NaN where the time is `missing`."""
    return np.nan if time_us == missing else max(np.float64(as_of_us) - np.float64(time_us), 0.0) / HOUR_US


def names(context: RequestContext) -> tuple[str, ...]:
    """Return the columns' names: totals, then three per counter window."""
    windows = [f"{hours:g}h" for hours in context.config.windows_hours]
    return (
        "popularity_all",
        "popularity_share_below",
        "shown_all",
        "ctr_all",
        "hours_since_seen",
        "hours_since_first",
        "hours_since_created",
        *(f"popularity_{window}" for window in windows),
        *(f"ctr_{window}" for window in windows),
        *(f"trend_{window}" for window in windows),
    )


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, 7 + 3 * n_windows)`, all read as of the request's time.

    popularity, shown, hours: log1p scale. ctr: smoothed clicks per impression. trend: log of the window's rate of
    interactions over the all-time rate. Hours are NaN for items that were never seen or have no date.
    """
    counters, as_of = context.models.counters, context.request.as_of_us
    items, windows = context.candidate_idx, context.config.windows_hours
    spans = (None, *(int(hours * HOUR_US) for hours in windows))
    total = counters.count("interactions", items, as_of, spans)  # (n, 1 + n_windows)
    shown = counters.count("shown", items, as_of, spans)
    clicked = counters.count("clicked", items, as_of, spans)
    times_us = (counters.last_seen_us(items, as_of), counters.first_seen_us(items, as_of))
    created_us = context.items.created_at_us[items]
    rows = _columns(total, shown, clicked, *times_us, created_us, as_of, np.asarray(windows, np.float64))
    rows[:, 1] = share_below(rows[:, 0])
    return rows


@compiled
def _columns(
    total: Any, shown: Any, clicked: Any, last_us: Any, first_us: Any, created_us: Any, as_of_us: int, width: Any
) -> Float32:
    """Return all columns but the second; width: hours of each window."""
    n, n_windows = len(total), len(width)
    rows = np.empty((n, 7 + 3 * n_windows), np.float32)
    for row in range(n):
        rate = (clicked[row, 0] + _PRIOR_RATE * _PRIOR_SHOWN) / (shown[row, 0] + _PRIOR_SHOWN)
        first_hours = _hours_since(first_us[row], as_of_us, _NEVER)
        rows[row, 0] = np.log1p(total[row, 0])
        rows[row, 2] = np.log1p(shown[row, 0])
        rows[row, 3] = rate
        rows[row, 4] = np.log1p(_hours_since(last_us[row], as_of_us, _NEVER))
        rows[row, 5] = np.log1p(first_hours)
        rows[row, 6] = np.log1p(_hours_since(created_us[row], as_of_us, NO_TIME))
        for window in range(n_windows):
            in_window = total[row, 1 + window]
            lifetime = first_hours if first_hours > width[window] else width[window]
            rows[row, 7 + window] = np.log1p(in_window)
            rows[row, 7 + n_windows + window] = (clicked[row, 1 + window] + _PRIOR_SHOWN * rate) / (
                shown[row, 1 + window] + _PRIOR_SHOWN
            )
            usual = total[row, 0] * width[window] / lifetime
            rows[row, 7 + 2 * n_windows + window] = np.log((in_window + 1.0) / (usual + 1.0))
    return rows
