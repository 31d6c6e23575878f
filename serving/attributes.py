"""The items' attributes as arrays that answer "which rows have this value"; columns are built when first asked for."""

import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.catalogue import NO_TIME
from recsys.errors import RequestError
from recsys.schema import Col
from serving.attribute_columns import Column, FlagColumn, Kind, LabelColumn, NumberColumn, TimeColumn
from serving.faults import field_of, shown

Int64 = npt.NDArray[np.int64]

# Names that a request may use for a standard column, unless the catalogue has an attribute of that name.
ALIASES: Final[Mapping[str, str]] = {"category": Col.CATEGORIES}

MAX_LIVE_COLUMNS: Final = 100
_N_SHOWN: Final = 8
_NOT_ATTRIBUTES: Final = frozenset({Col.ITEM_ID, Col.TITLE, Col.DESCRIPTION})
_BUILDERS: Final[Mapping[Kind, type[Column]]] = {
    Kind.LABELS: LabelColumn,
    Kind.NUMBER: NumberColumn,
    Kind.FLAG: FlagColumn,
    Kind.TIME: TimeColumn,
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AttributeIndex:
    """Attributes by row of the catalogue. Reading is safe from any thread, also while rows are replaced.

    A column costs nothing before it is asked for. Rows that nothing was said of have no value anywhere.
    """

    def __init__(self, table: pl.DataFrame, n_rows: int) -> None:
        if n_rows < table.height:
            raise ValueError(f"n_rows is {n_rows}, less than the {table.height} items of the table")
        self.n_rows = n_rows
        self._table = table
        self._kinds = {
            name: kind
            for name, dtype in table.schema.items()
            if name not in _NOT_ATTRIBUTES and (kind := _kind_of_dtype(dtype)) is not None
        }
        self._n_from_table = len(self._kinds)
        self._columns: dict[str, Column] = {}
        self._replaced: dict[int, dict[str, Any]] = {}
        self._version = 0
        self._lock = threading.Lock()

    @staticmethod
    def from_table(table: pl.DataFrame, n_rows: int) -> "AttributeIndex":
        """Return the index of a validated items table, whose row `i` is item `i`.

        Args:
            table: `item_id` and any of the standard columns, then attributes of Float64, Boolean, String or lists of
                String; columns of other types are left out.
            n_rows: length of every mask: at least the table's height; the rest is room for `set_row`.

        Raises:
            ValueError: `n_rows` is less than the table's height.
        """
        return AttributeIndex(table, n_rows)

    @property
    def version(self) -> int:
        """Grows with every replaced row; what was computed under an older one may be stale."""
        return self._version

    @property
    def fields(self) -> tuple[str, ...]:
        """Names that a filter or a cap may use, standard columns first."""
        return tuple(self._kinds)

    def resolve(self, name: str, path: str) -> str:
        """Return the column that a request means.

        Raises:
            RequestError: there is none; `path`, the place of `name` in the request, is the error's field.
        """
        if name in self._kinds:
            return name
        if ALIASES.get(name) in self._kinds:
            return ALIASES[name]
        field = field_of([path, name]) or path
        known = ", ".join(self.fields[:_N_SHOWN]) or "none"
        more = f" and {len(self._kinds) - _N_SHOWN} more" if len(self._kinds) > _N_SHOWN else ""
        raise RequestError(
            f"{field}: the items have no attribute {shown(name)}; there is: {known}{more}; correct the name, or "
            "train again with such a column in the items table",
            field=field,
        )

    def kind(self, column: str) -> Kind:
        """Return what a column holds; `column` as `resolve` gives it."""
        return self._kinds[column]

    def column(self, column: str) -> Column:
        """Return the arrays of a column, built now where nobody asked before; `column` as `resolve` gives it."""
        found = self._columns.get(column)
        if found is not None:
            return found
        with self._lock:
            if column not in self._columns:
                self._columns[column] = self._build(column)
            return self._columns[column]

    def values_of(self, row: int) -> dict[str, Any]:
        """Return the values of a row by column, as `set_row` takes them; missing ones are left out."""
        replaced = self._replaced.get(row)
        if replaced is not None:
            return dict(replaced)
        if not 0 <= row < self._table.height:
            return {}
        values = self._table.row(row, named=True)
        return {name: values[name] for name in self._table.columns if name in self._kinds and _is_value(values[name])}

    def set_row(self, row: int, values: Mapping[str, Any]) -> None:
        """Replace all values of a row; those not named are missing from then on.

        Args:
            row: 0 to `n_rows` - 1.
            values: text, lists of text, numbers or booleans by attribute, a datetime, ISO 8601 text or microseconds for
                `created_at`; `title`, `description` and `item_id` are passed over. A name that the table lacks becomes
                a column of the first value's type.

        Raises:
            RequestError: a value does not fit its column; nothing was changed then.
            ValueError: there is no such row.
        """
        if not 0 <= row < self.n_rows:
            raise ValueError(f"row {row} is outside 0..{self.n_rows - 1}")
        with self._lock:
            kinds, checked = self._checked(values)
            for name, column in self._columns.items():
                column.set_row(row, checked.get(name))
            self._replaced[row] = checked
            self._kinds = kinds
            # Last, so that no mask of the old rows can be taken for one of the new.
            self._version += 1

    def _checked(self, values: Mapping[str, Any]) -> tuple[dict[str, Kind], dict[str, Any]]:
        kinds = dict(self._kinds)
        checked: dict[str, Any] = {}
        for given, value in values.items():
            name = ALIASES[given] if given not in kinds and ALIASES.get(given) in kinds else given
            if name in _NOT_ATTRIBUTES or not _is_value(value):
                continue
            kind = kinds.get(name) or (Kind.TIME if name == Col.CREATED_AT else _kind_of_value(value))
            plain = None if kind is None else _plain(value, kind)
            if kind is None or plain is None:
                raise RequestError(
                    f"attribute {shown(name)} is {shown(value)}; {kind.expected if kind else _ANY_VALUE} is expected",
                    field=field_of([name]) or "",
                )
            if name not in kinds and len(kinds) - self._n_from_table >= MAX_LIVE_COLUMNS:
                raise RequestError(
                    f"attribute {shown(name)} would be the {MAX_LIVE_COLUMNS + 1}st that the items table lacks; train "
                    "again with the new attributes in the items table",
                    field=field_of([name]) or "",
                )
            kinds[name] = kind
            checked[name] = plain
        return kinds, checked

    def _build(self, name: str) -> Column:
        values = self._table[name] if name in self._table.columns else None
        column = _BUILDERS[self._kinds[name]](values, self.n_rows)
        for row, replaced in self._replaced.items():
            column.set_row(row, replaced.get(name))
        return column


_ANY_VALUE: Final = "text, a list of texts, a number or true/false"


def _kind_of_dtype(dtype: pl.DataType) -> Kind | None:
    if isinstance(dtype, pl.List):
        return Kind.LABELS if isinstance(dtype.inner, pl.String) else None
    if isinstance(dtype, pl.Datetime):
        return Kind.TIME
    if dtype == pl.Boolean:
        return Kind.FLAG
    if dtype == pl.String:
        return Kind.LABELS
    return Kind.NUMBER if dtype.is_numeric() else None


def _kind_of_value(value: Any) -> Kind | None:
    if isinstance(value, bool):
        return Kind.FLAG
    if isinstance(value, int | float):
        return Kind.NUMBER
    return Kind.LABELS if _is_text(value) else None


def _plain(value: Any, kind: Kind) -> Any | None:
    """Return a value in the form that columns of its kind take, None where it does not fit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case Kind.FLAG:
            return value if isinstance(value, bool) else None
        case Kind.NUMBER:
            return float(value) if is_number and abs(value) <= np.finfo(np.float64).max else None
        case Kind.LABELS:
            return None if not _is_text(value) else [value] if isinstance(value, str) else list(value)
        case Kind.TIME:
            return time_us(value)


def time_us(value: Any) -> int | None:
    """Return a datetime, ISO 8601 text (UTC where no offset is given) or microseconds as microseconds UTC, or None."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        since = moment - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return value if isinstance(value, int) and not isinstance(value, bool) and NO_TIME < value < -NO_TIME else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, Sequence) and not isinstance(value, bytes) and all(isinstance(part, str) for part in value)
    )


def _is_value(value: Any) -> bool:
    return value is not None and value != [] and value != "" and not (isinstance(value, float) and np.isnan(value))
