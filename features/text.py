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
    n_recent = len(context.recent_idx)
    against = np.empty((n_recent + 2, embeddings.shape[1]), np.float32)
    against[:n_recent] = embeddings[context.recent_idx]
    against[n_recent] = context.asked.text_profile(context.history)
    against[n_recent + 1] = context.asked.text_profile(context.session)
    cosines = embeddings[context.candidate_idx] @ against.T  # (n, h + 2)
    recent = cosines[:, :n_recent]
    rows[:, 0] = cosines[:, n_recent]
    rows[:, 1] = share_below(rows[:, 0])
    if len(context.session):
        rows[:, 2] = cosines[:, n_recent + 1]
    rows[:, 3] = recent[:, -1]
    rows[:, 4] = recent.max(axis=1)
    top = min(_TOP, n_recent)
    rows[:, 5] = np.partition(recent, n_recent - top, axis=1)[:, n_recent - top :].mean(axis=1)
    rows[:, 6] = context.models.factors.content[context.candidate_idx] @ context.asked.user_factor
    rows[:, 7] = share_below(rows[:, 6])
    return rows
