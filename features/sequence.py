"""What the sequence model expects next."""

import numpy as np

from features.context import Float32, RequestContext, share_below


def names(_: RequestContext | None = None) -> tuple[str, ...]:
    """Return the columns' names."""
    return ("sequence_score", "sequence_share_below", "sequence_log_probability")


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, 3)`: the logit, the share of the candidates below it, and its logarithm after a softmax.

    The softmax is over the candidates. NaN without a history, or where the model was switched off.
    """
    rows = np.full((len(context), 3), np.nan, np.float32)
    model, user = context.models.sequence, context.asked.sequence_vector
    if model is None or user is None or not len(context.history) or not len(context):
        return rows
    scores = model.biased_vectors[context.candidate_idx] @ np.append(user, np.float32(1.0))
    rows[:, 0] = scores
    rows[:, 1] = share_below(scores)
    highest = scores.max()
    rows[:, 2] = scores - highest - np.log(np.exp(scores - highest).sum(dtype=np.float64))
    return rows
