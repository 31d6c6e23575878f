"""What the user is like over the long run, and how a candidate fits that."""

import numpy as np

from features.context import Float32, RequestContext


def names(context: RequestContext) -> tuple[str, ...]:
    """Return the columns' names."""
    return (
        "user_history_length",
        "user_mean_popularity",
        "popularity_against_user",
        "times_in_history",
        *(f"user_match_{name}" for name in context.items.field_names),
        *(f"{name}_against_user" for name in context.items.numeric_names),
        *(f"user_{name}" for name in context.models.user_attribute_names),
    )


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, n_columns)`.

    user_mean_popularity: mean log interaction count of the history's items, as of the request. *_against_user: the
    candidate's value less the mean of the history, in standard deviations of the attribute. user_match_*: share of
    the history with one of the candidate's values of that field. NaN where there is no history.
    """
    n, items = len(context), context.items
    history = context.history
    head = np.full((n, 4), np.nan, np.float32)
    head[:, 0] = np.log1p(np.float32(len(history)))
    against = np.full((n, items.numeric.shape[1]), np.nan, np.float32)
    if len(history):
        counters, as_of = context.models.counters, context.request.as_of_us
        usual = np.log1p(counters.count("interactions", context.recent_idx, as_of)).mean()
        head[:, 1] = usual
        head[:, 2] = np.log1p(counters.count("interactions", context.candidate_idx, as_of))[:, 0] - usual
        known = np.sort(history.item_idx)
        first, last = (known.searchsorted(context.candidate_idx, side) for side in ("left", "right"))
        head[:, 3] = last - first
        seen = items.numeric[history.item_idx]
        present = np.isfinite(seen)
        mean = np.where(present, seen, 0).sum(axis=0, dtype=np.float64) / np.where(
            present.any(axis=0), present.sum(axis=0), np.nan
        )
        against = (items.numeric[context.candidate_idx] - mean.astype(np.float32)) / items.numeric_scale
    attributes = (
        context.models.user_attributes[context.request.user_idx]
        if context.request.user_idx >= 0
        else np.full(len(context.models.user_attribute_names), np.nan, np.float32)
    )
    return np.hstack(
        [head, context.matches(context.taste(history)), against, np.broadcast_to(attributes, (n, len(attributes)))]
    )
