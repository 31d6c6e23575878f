"""How near a candidate's text is to the texts of the history."""

import numpy as np

from features.context import Float32, RequestContext, share_below

_TOP = 3


def names(_: RequestContext | None = None) -> tuple[str, ...]:
    """Return the columns' names."""
    return (
        "text_profile",
        "text_profile_share_below",
        "text_session",
        "text_last",
        "text_max",
        "text_top3",
        "text_content_factor",
        "text_content_share_below",
    )


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, 8)`: cosines in [-1, 1], shares in [0, 1]; NaN where there is no history to compare with.

    content_factor is the inner product of the user's factor with the factor that the item's content predicts.
    """
    n = len(context)
    rows = np.full((n, 8), np.nan, np.float32)
    if not len(context.history):
        return rows
    embeddings = context.models.item_embeddings
    candidates = embeddings[context.candidate_idx]  # (n, d)
    recent = candidates @ embeddings[context.recent_idx].T  # (n, h)
    rows[:, 0] = candidates @ context.asked.text_profile(context.history)
    rows[:, 1] = share_below(rows[:, 0])
    if len(context.session):
        rows[:, 2] = candidates @ context.asked.text_profile(context.session)
    rows[:, 3] = recent[:, -1]
    rows[:, 4] = recent.max(axis=1)
    rows[:, 5] = np.sort(recent, axis=1)[:, -_TOP:].mean(axis=1)
    rows[:, 6] = context.models.factors.content[context.candidate_idx] @ context.asked.user_factor
    rows[:, 7] = share_below(rows[:, 6])
    return rows
