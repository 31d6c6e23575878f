"""What a candidate is, whoever asks."""

from features.context import Float32, RequestContext


def names(context: RequestContext) -> tuple[str, ...]:
    """Return the columns' names."""
    return tuple(f"item_{name}" for name in context.items.static_names)


def compute(context: RequestContext) -> Float32:
    """Return float32 `(n, n_static)`: log of the text's length, attribute values, warmth, numeric attributes.

    NaN where a numeric attribute is missing.
    """
    return context.items.static[context.candidate_idx]
