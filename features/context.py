"""What all feature groups share about one request: computed once, read by each."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from recsys.catalogue import NO_TIME, Catalogue
from recsys.config import FeatureConfig
from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.models.kernels import field_shares, field_sums, shares_below
from recsys.retrieval.asked import Asked

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
N_RECENT = 20
_TASTE_DECAY = 0.95


class ItemValues:
    """Attribute values of each item, one row after the other; rows may be replaced while others read.

    start, count: int64 `(n_rows,)`, where a row's values lie in `columns`, int32.
    """

    def __init__(self, values: sp.csr_matrix, n_rows: int) -> None:
        self.n_values = values.shape[1]
        self.columns: Int32 = values.indices.astype(np.int32, copy=False)
        self.start = np.zeros(n_rows, np.int64)
        self.count = np.zeros(n_rows, np.int64)
        self.start[: values.shape[0]] = values.indptr[:-1]
        self.count[: values.shape[0]] = np.diff(values.indptr)

    def of(self, rows: Int32) -> tuple[Int32, Int64]:
        """Return the values of some rows, and for each the place of its row among them."""
        start, count = self.start[rows], self.count[rows]
        place = np.repeat(np.arange(len(rows)), count)
        within = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return self.columns[start[place] + within], place

    def put(self, row: int, columns: Int32) -> None:
        """Replace the values of a row."""
        start = len(self.columns)
        self.columns = np.append(self.columns, columns)
        self.count[row] = 0  # for readers in between
        self.start[row] = start
        self.count[row] = len(columns)


@dataclass(frozen=True)
class ItemTable:
    """Per-item arrays that features read, derived once from fitted models. All have `models.n_rows` rows."""

    values: ItemValues
    value_field: Int32
    field_names: tuple[str, ...]
    numeric: Float32
    numeric_names: tuple[str, ...]
    numeric_scale: Float32  # (n_numeric,) spread of each numeric attribute
    static: Float32  # (n_rows, n_static) columns that do not depend on the request
    static_names: tuple[str, ...]
    created_at_us: Int64

    @staticmethod
    def build(models: FittedModels) -> "ItemTable":
        catalogue, n_rows = models.catalogue, models.n_rows
        numeric = np.full((n_rows, catalogue.numeric.shape[1]), np.nan, np.float32)
        created_at_us = np.full(n_rows, NO_TIME, np.int64)
        static = np.full((n_rows, 3 + numeric.shape[1]), np.nan, np.float32)
        spread = np.ones(numeric.shape[1], np.float32)
        for column, numbers in enumerate(catalogue.numeric.T):
            present = numbers[np.isfinite(numbers)]
            if len(present) and (deviation := np.float32(present.std(dtype=np.float64))) > 0:
                spread[column] = deviation
        table = ItemTable(
            values=ItemValues(catalogue.values, n_rows),
            value_field=catalogue.value_field,
            field_names=tuple(catalogue.value_fields),
            numeric=numeric,
            numeric_names=tuple(catalogue.numeric_fields),
            numeric_scale=spread,
            static=static,
            static_names=("text_length", "n_attribute_values", "is_warm", *catalogue.numeric_fields),
            created_at_us=created_at_us,
        )
        table.fill(np.arange(len(catalogue)), catalogue, models.factors.is_warm[: len(catalogue)])
        return table

    def fill(self, rows: npt.NDArray[np.integer], items: Catalogue, is_warm: npt.NDArray[np.bool_]) -> None:
        """Write what is known of some items, in the columns of the models' catalogue, but for their values."""
        text_length = np.asarray([len(text) for text in items.texts], np.float32)
        n_values = np.diff(items.values.indptr).astype(np.float32)
        self.numeric[rows] = items.numeric
        self.created_at_us[rows] = items.created_at_us
        self.static[rows] = np.column_stack(
            [np.log1p(text_length), n_values, is_warm.astype(np.float32), items.numeric]
        )


@dataclass(frozen=True)
class RequestContext:
    """One request with its candidates, and what several groups need of them.

    history: the latest `max_history` interactions. session: those since the last long pause. asked: the request with
    what its sources computed. candidate_idx: int32 `(n,)`. given: whether the caller named the candidates.
    """

    models: FittedModels
    items: ItemTable
    config: FeatureConfig
    request: Request
    candidate_idx: Int32
    history: History
    session: History
    asked: Asked
    given: bool
    recent_idx: Int32 = field(default_factory=lambda: np.empty(0, np.int32))

    @staticmethod
    def build(models: FittedModels, items: ItemTable, request: Request, candidate_idx: Int32) -> "RequestContext":
        config = models.config.features
        history = request.history.last(config.max_history)
        return RequestContext(
            models=models,
            items=items,
            config=config,
            request=request,
            candidate_idx=candidate_idx,
            history=history,
            session=current_session(history, request.as_of_us, int(config.session_gap_minutes * MINUTE_US)),
            asked=Asked.of(models, request),
            given=request.candidates is not None,
            recent_idx=history.item_idx[-N_RECENT:],
        )

    def __len__(self) -> int:
        return len(self.candidate_idx)

    def taste(self, history: History) -> Float32:
        """Return the decayed, normalised attribute profile of a history, float32 `(n_values,)`.

        Each field's part sums to 1, so that a match is the share of the history (newest first, 0.95 per step) with it.
        """
        values = self.items.values
        decay = np.float32(_TASTE_DECAY) ** np.arange(len(history) - 1, -1, -1, dtype=np.float32)
        return field_shares(
            history.item_idx, decay, values.start, values.count, values.columns, self.items.value_field,
            len(self.items.field_names), values.n_values,
        )  # fmt: skip

    def matches(self, profile: Float32) -> Float32:
        """Return how well each candidate's values fit a profile, per field, float32 `(n, n_fields)`."""
        values = self.items.values
        return field_sums(
            self.candidate_idx, profile, values.start, values.count, values.columns, self.items.value_field,
            len(self.items.field_names),
        )  # fmt: skip


def current_session(history: History, as_of_us: int, gap_us: int) -> History:
    """Return the newest interactions with no pause longer than `gap_us` between them or before `as_of_us`."""
    if not len(history):
        return history
    pauses = np.diff(np.append(history.timestamp_us, as_of_us))
    breaks = np.flatnonzero(pauses > gap_us)
    length = len(history) - (int(breaks[-1]) + 1 if len(breaks) else 0)
    return history.last(length) if length else History.empty()


def share_below(scores: Float32) -> Float32:
    """Return for each score the share of the others that are lower, float32 in [0, 1]; equal scores share a value."""
    return shares_below(scores) if len(scores) > 1 else np.zeros(len(scores), np.float32)
