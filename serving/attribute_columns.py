"""One attribute of all items as arrays: texts, numbers, booleans or times."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.catalogue import NO_TIME

Bool = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_NO_ROWS: Final = np.empty(0, np.int32)


class Kind(StrEnum):
    """What a column holds."""

    LABELS = "text"
    NUMBER = "number"
    FLAG = "true or false"
    TIME = "time"

    @property
    def expected(self) -> str:
        """Return which value fits, in words."""
        return {
            Kind.LABELS: "text or a list of texts",
            Kind.NUMBER: "a finite number",
            Kind.FLAG: "true or false",
            Kind.TIME: "an ISO 8601 time such as 2026-05-01T12:30:00Z",
        }[self]


class Column(ABC):
    """Values of `n_rows` rows. `set_row` is called by one thread at a time, everything else by any."""

    kind: Kind

    def __init__(self, values: pl.Series | None, n_rows: int) -> None:
        """Take the first rows' values; None for no values at all."""
        self.n_rows = n_rows

    @abstractmethod
    def set_row(self, row: int, value: Any) -> None:
        """Replace a row's value, None for none."""

    @abstractmethod
    def codes(self, rows: Int32) -> tuple[Int64, Int64]:
        """Return which values rows have: pairs of place in `rows` and code of the value, int64 `(n_pairs,)` each.

        Equal values have equal codes. Places rise; a row without value has no pair, one with several has several.
        """


class LabelColumn(Column):
    """Texts, none to many a row. Each value knows its rows, so that "any of" touches only those that match."""

    kind = Kind.LABELS

    def __init__(self, values: pl.Series | None, n_rows: int) -> None:
        super().__init__(values, n_rows)
        pairs = _pairs(values)
        self._n_base = 0 if values is None else len(values)
        # Sorted texts, searched instead of hashed: a million of them take what their letters take.
        self._texts = pairs["value"].unique().drop_nulls().sort()
        codes = pairs["value"].cast(pl.Enum(self._texts)).to_physical().to_numpy().astype(np.int32)
        rows = pairs["row"].to_numpy().astype(np.int32)
        self._row_codes = codes  # pairs are in the order of rows
        self._row_starts = _starts(rows, self._n_base)
        self._code_rows = rows[np.argsort(codes, kind="stable")]
        self._code_starts = _starts(codes, len(self._texts))
        self._new_codes: dict[str, int] = {}
        self._changes = _Changes(_NO_ROWS, {}, {})

    def mask(self, values: Sequence[str]) -> Bool:
        """Return which rows have any of the values, bool `(n_rows,)`; a value that no item has matches none."""
        result = np.zeros(self.n_rows, np.bool_)
        changes = self._changes
        codes = [code for value in dict.fromkeys(values) if (code := self._code(value)) is not None]
        for code in codes:
            if code < len(self._texts):
                result[self._code_rows[self._code_starts[code] : self._code_starts[code + 1]]] = True
        result[changes.rows] = False
        for code in codes:
            result[changes.code_rows.get(code, _NO_ROWS)] = True
        return result

    def set_row(self, row: int, value: Sequence[str] | None) -> None:
        codes = [self._code_or_new(text) for text in dict.fromkeys(value or ())]
        old = self._changes
        code_rows = dict(old.code_rows)
        for code in old.row_codes.get(row, _NO_ROWS).tolist():
            code_rows[code] = code_rows[code][code_rows[code] != row]
        for code in codes:
            code_rows[code] = np.append(code_rows.get(code, _NO_ROWS), np.int32(row))
        row_codes = old.row_codes | {row: np.asarray(codes, np.int32)}
        rows = old.rows if row in old.row_codes else np.append(old.rows, np.int32(row))
        self._changes = _Changes(rows, row_codes, code_rows)

    def codes(self, rows: Int32) -> tuple[Int64, Int64]:
        changes = self._changes
        is_base = (rows < self._n_base) & ~np.isin(rows, changes.rows)
        starts = self._row_starts[np.where(is_base, rows, 0)]
        sizes = np.where(is_base, self._row_starts[np.where(is_base, rows + 1, 0)] - starts, 0)
        places = np.repeat(np.arange(len(rows)), sizes)
        offsets = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found = self._row_codes[np.repeat(starts, sizes) + offsets].astype(np.int64)
        if is_base.all():
            return places, found
        others = [
            (place, code)
            for place in np.flatnonzero(~is_base).tolist()
            for code in changes.row_codes.get(int(rows[place]), _NO_ROWS).tolist()
        ]
        more = np.asarray(others, np.int64).reshape(-1, 2)
        order = np.argsort(np.concatenate([places, more[:, 0]]), kind="stable")
        return np.concatenate([places, more[:, 0]])[order], np.concatenate([found, more[:, 1]])[order]

    def _code(self, text: str) -> int | None:
        place = int(self._texts.search_sorted(text)) if len(self._texts) else 0
        if place < len(self._texts) and self._texts[place] == text:
            return place
        return self._new_codes.get(text)

    def _code_or_new(self, text: str) -> int:
        code = self._code(text)
        return code if code is not None else self._new_codes.setdefault(text, len(self._texts) + len(self._new_codes))


@dataclass(frozen=True)
class _Changes:
    """Rows that were replaced, swapped as a whole so that a reader never meets half a row.

    rows: int32, all of them. row_codes: their codes. code_rows: the other way round.
    """

    rows: Int32
    row_codes: dict[int, Int32]
    code_rows: dict[int, Int32]


class NumberColumn(Column):
    """Numbers, float64, NaN where missing."""

    kind = Kind.NUMBER

    def __init__(self, values: pl.Series | None, n_rows: int) -> None:
        super().__init__(values, n_rows)
        self.values: Float64 = np.full(n_rows, np.nan)
        if values is not None:
            self.values[: len(values)] = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def mask(self, values: Sequence[float]) -> Bool:
        """Return which rows have any of the numbers, bool `(n_rows,)`."""
        wanted = np.asarray(values, np.float64)
        return self.values == wanted[0] if len(wanted) == 1 else np.isin(self.values, wanted)

    def between(self, low: float | None, high: float | None) -> Bool:
        """Return which rows have a number within both bounds, themselves included, bool `(n_rows,)`."""
        result = ~np.isnan(self.values) if low is None else self.values >= low
        return result if high is None else result & (self.values <= high)

    def set_row(self, row: int, value: float | None) -> None:
        self.values[row] = np.nan if value is None else value

    def codes(self, rows: Int32) -> tuple[Int64, Int64]:
        return _codes_of(self.values[rows], ~np.isnan(self.values[rows]))


class FlagColumn(Column):
    """Booleans: int8 1, 0, or -1 where missing."""

    kind = Kind.FLAG

    def __init__(self, values: pl.Series | None, n_rows: int) -> None:
        super().__init__(values, n_rows)
        self.values: npt.NDArray[np.int8] = np.full(n_rows, -1, np.int8)
        if values is not None:
            self.values[: len(values)] = values.cast(pl.Int8).fill_null(-1).to_numpy()

    def mask(self, values: Sequence[bool]) -> Bool:
        """Return which rows have any of the values, bool `(n_rows,)`."""
        wanted = set(values)
        return self.values >= 0 if len(wanted) == 2 else self.values == int(next(iter(wanted)))

    def set_row(self, row: int, value: Any) -> None:
        self.values[row] = -1 if value is None else int(value)

    def codes(self, rows: Int32) -> tuple[Int64, Int64]:
        return _codes_of(self.values[rows], self.values[rows] >= 0)


class TimeColumn(Column):
    """Times, int64 microseconds UTC, `NO_TIME` where missing."""

    kind = Kind.TIME

    def __init__(self, values: pl.Series | None, n_rows: int) -> None:
        super().__init__(values, n_rows)
        self.values: Int64 = np.full(n_rows, NO_TIME, np.int64)
        if values is not None:
            self.values[: len(values)] = values.dt.epoch("us").fill_null(NO_TIME).to_numpy()

    def between(self, after_us: int | None, before_us: int | None) -> Bool:
        """Return which rows have a time at or after the one and before the other, bool `(n_rows,)`."""
        result = self.values != NO_TIME
        if after_us is not None:
            result &= self.values >= after_us
        if before_us is not None:
            result &= self.values < before_us
        return result

    def set_row(self, row: int, value: int | None) -> None:
        self.values[row] = NO_TIME if value is None else value

    def codes(self, rows: Int32) -> tuple[Int64, Int64]:
        return _codes_of(self.values[rows], self.values[rows] != NO_TIME)


def _codes_of(values: npt.NDArray[Any], is_known: Bool) -> tuple[Int64, Int64]:
    places = np.flatnonzero(is_known)
    return places, np.unique(values[places], return_inverse=True)[1].astype(np.int64).reshape(-1)


def _pairs(values: pl.Series | None) -> pl.DataFrame:
    """Return (row, value) in the order of rows, each pair once, without missing and empty values."""
    if values is None:
        return pl.DataFrame(schema={"row": pl.UInt32, "value": pl.String})
    frame = values.alias("value").to_frame().with_row_index("row")
    if isinstance(values.dtype, pl.List):
        frame = frame.with_columns(pl.col("value").list.unique(maintain_order=True)).explode("value")
    return frame.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))


def _starts(sorted_or_not: Int32, n: int) -> Int64:
    """Return where the entries of each number 0..n-1 begin once sorted, int64 `(n + 1,)`."""
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_or_not, minlength=n))]).astype(np.int64)
