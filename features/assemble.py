"""All feature groups side by side: the one place where a (request, candidate) row is made.

Training and serving both call `feature_rows`, one request at a time, so that a row does not depend on what else was
computed beside it.
"""

import re
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from features import collaborative, item, popularity, sequence, session, text, user
from features.context import Float32, Int32, ItemTable, RequestContext
from recsys.histories import History, Request
from recsys.models.fitted import FittedModels


class FeatureGroup(Protocol):
    """A module that names and computes some columns."""

    def names(self, context: RequestContext) -> tuple[str, ...]:
        """Return the columns' names."""
        ...

    def compute(self, context: RequestContext) -> Float32:
        """Return float32 `(n, n_columns)`."""
        ...


GROUPS: Final[dict[str, FeatureGroup]] = {
    "text": text,
    "collaborative": collaborative,
    "sequence": sequence,
    "session": session,
    "popularity": popularity,
    "item": item,
    "user": user,
}


def feature_names(models: FittedModels, items: ItemTable) -> dict[str, str]:
    """Return every column's name with its group, in column order."""
    empty = RequestContext.build(models, items, Request(History.empty(), 0), np.empty(0, np.int32))
    names: dict[str, str] = {}
    for group in models.config.features.groups:
        for name in GROUPS[group].names(empty):
            # Attribute names are the user's; LightGBM allows no punctuation in a feature's name.
            plain = re.sub(r"\W+", "_", name)
            names[plain if plain not in names else f"{plain}_{len(names)}"] = group
    return names


def feature_rows(
    models: FittedModels, items: ItemTable, request: Request, candidate_idx: Int32, *, without: Sequence[str] = ()
) -> Float32:
    """Return the features of candidates `(n,)` as of a request, float32 `(n, n_features)`, NaN where unknown.

    without: groups whose columns are left unknown.

    Columns are those of `feature_names`. The caller keeps what lies after `request.as_of_us` out of the history;
    counters are read as of that moment.
    """
    context = RequestContext.build(models, items, request, candidate_idx)
    columns = [
        np.full((len(context), len(GROUPS[group].names(context))), np.nan, np.float32)
        if group in without
        else GROUPS[group].compute(context)
        for group in models.config.features.groups
    ]
    return np.ascontiguousarray(np.hstack(columns), dtype=np.float32)
