"""What people with similar behaviour did: factors and transitions."""

import numpy as np

from features.context import Float32, RequestContext, share_below

_N_LAST = 3


def names(_: RequestContext | None = None) -> tuple[str, ...]:
    """Return the columns' names."""
    return (
        "als_score",
        "als_share_below",
        "als_last",
        "als_max",
        "als_mean",
        "covisitation_score",
        "covisitation_share_below",
        "covisitation_last",
        "covisitation_second_last",
        "covisitation_third_last",
        "ease_score",
        "ease_share_below",
        "next_item_score",
        "next_item_share_below",
    )


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, 14)`; NaN without a history. als_last, als_max and als_mean are cosines of item factors."""
    rows = np.full((len(context), 14), np.nan, np.float32)
    if not len(context.history):
        return rows
    asked, history, candidates = context.asked, context.history, context.candidate_idx
    factors, covisitation = context.models.factors, context.models.covisitation
    rows[:, 0] = factors.placed[candidates] @ asked.user_factor
    rows[:, 1] = share_below(rows[:, 0])
    cosines = factors.unit_placed[candidates] @ factors.unit_placed[context.recent_idx].T  # (n, h)
    rows[:, 2] = cosines[:, -1]
    rows[:, 3] = cosines.max(axis=1)
    rows[:, 4] = cosines.mean(axis=1)
    rows[:, 5] = asked.covisitation(history).at(candidates)
    rows[:, 6] = share_below(rows[:, 5])
    for place, item in enumerate(context.recent_idx[: -_N_LAST - 1 : -1].tolist()):
        rows[:, 7 + place] = covisitation.between(item, candidates)
    rows[:, 10] = asked.ease(history).at(candidates)
    rows[:, 11] = share_below(rows[:, 10])
    rows[:, 12] = asked.next_item(history).at(candidates)
    rows[:, 13] = share_below(rows[:, 12])
    return rows
