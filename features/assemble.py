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
from recsys.errors import ConfigError
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
    """Return every column's name with its group, in column order.

    Raises:
        ConfigError: `features.without_columns` names a column that there is not.
    """
    empty = RequestContext.build(models, items, Request(History.empty(), 0), np.empty(0, np.int32))
    names = _all_names(empty)
    left_out = models.config.features.without_columns
    if unknown := [name for name in left_out if name not in names]:
        raise ConfigError(
            f"features.without_columns names {', '.join(unknown)}, which is no column here; the columns are: "
            f"{', '.join(names)}"
        )
    return {name: group for name, group in names.items() if name not in left_out}


def _all_names(context: RequestContext) -> dict[str, str]:
    names: dict[str, str] = {}
    for group in context.models.config.features.groups:
        for name in GROUPS[group].names(context):
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
    rows = np.hstack(columns)
    if left_out := models.config.features.without_columns:
        rows = rows[:, [name not in left_out for name in _all_names(context)]]
    return np.ascontiguousarray(rows, dtype=np.float32)
