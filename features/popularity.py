"""How much attention an item gets, as of the request, and how new it is."""

import numpy as np

from features.context import HOUR_US, Float32, RequestContext, share_below
from recsys.catalogue import NO_TIME

# A click-through rate starts at a typical one and moves with this many impressions.
_PRIOR_SHOWN = 20.0
_PRIOR_RATE = 0.05


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
    n_windows = len(windows)
    spans = (None, *(int(hours * HOUR_US) for hours in windows))
    total = counters.count("interactions", items, as_of, spans)  # (n, 1 + n_windows)
    shown = counters.count("shown", items, as_of, spans)
    clicked = counters.count("clicked", items, as_of, spans)
    first_hours = _hours_since(counters.first_seen_us(items, as_of), as_of, -1)
    rate = (clicked[:, :1] + _PRIOR_RATE * _PRIOR_SHOWN) / (shown[:, :1] + _PRIOR_SHOWN)
    width = np.asarray(windows)
    lifetime = np.maximum(np.nan_to_num(first_hours, nan=0.0)[:, None], width)
    rows = np.empty((len(context), 7 + 3 * n_windows), np.float32)
    rows[:, 0] = np.log1p(total[:, 0])
    rows[:, 1] = share_below(rows[:, 0])
    rows[:, 2] = np.log1p(shown[:, 0])
    rows[:, 3] = rate[:, 0]
    rows[:, 4] = np.log1p(_hours_since(counters.last_seen_us(items, as_of), as_of, -1))
    rows[:, 5] = np.log1p(first_hours)
    rows[:, 6] = np.log1p(_hours_since(context.items.created_at_us[items], as_of, NO_TIME))
    rows[:, 7 : 7 + n_windows] = np.log1p(total[:, 1:])
    rows[:, 7 + n_windows : 7 + 2 * n_windows] = (clicked[:, 1:] + _PRIOR_SHOWN * rate) / (shown[:, 1:] + _PRIOR_SHOWN)
    rows[:, 7 + 2 * n_windows :] = np.log((total[:, 1:] + 1.0) / (total[:, :1] * width / lifetime + 1.0))
    return rows


def _hours_since(time_us: np.ndarray, as_of_us: int, missing: int) -> np.ndarray:
    hours = np.maximum(as_of_us - time_us.astype(np.float64), 0.0) / HOUR_US
    return np.where(time_us == missing, np.nan, hours)
