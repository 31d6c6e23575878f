"""Tables, their columns and their meaning. Column names are written here and nowhere else."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import polars as pl

TIMESTAMP: Final = pl.Datetime("us", "UTC")


class Col(StrEnum):
    """Names of the standard columns."""

    ITEM_ID = "item_id"
    USER_ID = "user_id"
    TITLE = "title"
    DESCRIPTION = "description"
    CATEGORIES = "categories"
    CREATED_AT = "created_at"
    TIMESTAMP = "timestamp"
    EVENT = "event"
    VALUE = "value"
    REQUEST_ID = "request_id"
    TEXT = "text"
    POSITION = "position"
    CLICKED = "clicked"
    PROPENSITY = "propensity"


@dataclass(frozen=True)
class ColumnSpec:
    """One standard column: its dtype after loading, whether a table must have it, and what it means."""

    name: str
    dtype: pl.DataType
    required: bool
    meaning: str


@dataclass(frozen=True)
class TableSpec:
    """A standard table. `open_ended` tables may carry further columns, which are kept as attributes."""

    name: str
    columns: tuple[ColumnSpec, ...]
    open_ended: bool

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        return {column.name: column.dtype for column in self.columns}

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.required)


_STRING = pl.String()
_FLOAT = pl.Float64()
_ITEM_ID = ColumnSpec(Col.ITEM_ID, _STRING, True, "The caller's id of the item, any Unicode string.")
_USER_ID = ColumnSpec(Col.USER_ID, _STRING, True, "The caller's id of the user, any Unicode string.")
_TIMESTAMP = ColumnSpec(Col.TIMESTAMP, TIMESTAMP, True, "When it happened, UTC. ISO 8601, seconds or milliseconds.")

ITEMS: Final = TableSpec(
    "items",
    (
        _ITEM_ID,
        ColumnSpec(Col.TITLE, _STRING, False, "Short name of the item."),
        ColumnSpec(Col.DESCRIPTION, _STRING, False, "Longer text of the item; HTML is cleaned out."),
        ColumnSpec(Col.CATEGORIES, pl.List(pl.String()), False, "Categories or tags."),
        ColumnSpec(Col.CREATED_AT, TIMESTAMP, False, "When the item became available, UTC."),
    ),
    open_ended=True,
)
INTERACTIONS = TableSpec(
    "interactions",
    (
        _USER_ID,
        _ITEM_ID,
        _TIMESTAMP,
        ColumnSpec(Col.EVENT, _STRING, True, "Kind of behaviour, such as view, click, purchase or rating."),
        ColumnSpec(Col.VALUE, _FLOAT, False, "Size of the event: a rating, a price, seconds watched."),
        ColumnSpec(Col.REQUEST_ID, _STRING, False, "The request whose slate this event came from."),
        ColumnSpec(Col.TEXT, _STRING, False, "Text of a comment or review."),
    ),
    open_ended=False,
)
IMPRESSIONS = TableSpec(
    "impressions",
    (
        ColumnSpec(Col.REQUEST_ID, _STRING, True, "Groups the items that were shown together."),
        _USER_ID,
        _TIMESTAMP,
        _ITEM_ID,
        ColumnSpec(Col.POSITION, pl.Int32(), False, "Place on the screen, 1-based; null where it was not recorded."),
        ColumnSpec(Col.CLICKED, pl.Boolean(), True, "Whether this item was clicked."),
        ColumnSpec(Col.PROPENSITY, _FLOAT, False, "Probability with which this item was shown here."),
    ),
    open_ended=False,
)
USERS = TableSpec("users", (_USER_ID,), open_ended=True)
TABLES: Final = {table.name: table for table in (ITEMS, INTERACTIONS, IMPRESSIONS, USERS)}

# What a kind of behaviour says about preference, relative to a click. Overridden by `data.event_weights`.
DEFAULT_EVENT_WEIGHTS: Final[dict[str, float]] = {
    "view": 0.3,
    "click": 1.0,
    "like": 2.0,
    "comment": 1.5,
    "share": 2.5,
    "purchase": 4.0,
    "rating": 1.0,
}


class Warmth(StrEnum):
    """How much is known about a user or an item when a request is answered."""

    WARM = "warm"  # has behaviour in what the models were fitted on
    COLD = "cold"  # no behaviour there, but text (items) or a session (users)
    UNKNOWN = "unknown"  # nothing at all
