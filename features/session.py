"""What the user is doing right now."""

import numpy as np

from features.context import MINUTE_US, Float32, RequestContext


def names(context: RequestContext) -> tuple[str, ...]:
    """Return the columns' names: three of the session, one per attribute field."""
    return (
        "session_length",
        "minutes_since_last",
        "n_given_candidates",
        *(f"session_match_{name}" for name in context.items.field_names),
    )


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, 3 + n_fields)`.

    session_length: interactions, log scale. minutes_since_last: log scale, NaN without a history.
    n_given_candidates: log of the number of items in a list that the caller wants ordered, NaN when the candidates
    were retrieved. session_match_*: share of the session with one of the candidate's values of that field.
    """
    n = len(context)
    head = np.empty((n, 3), np.float32)
    head[:, 0] = np.log1p(np.float32(len(context.session)))
    history = context.history
    pause = (context.request.as_of_us - history.timestamp_us[-1]) / MINUTE_US if len(history) else np.nan
    head[:, 1] = np.log1p(np.maximum(pause, 0.0))
    head[:, 2] = np.log1p(np.float32(n)) if context.given else np.nan
    return np.hstack([head, context.matches(context.taste(context.session))])
