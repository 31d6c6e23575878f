"""The items as arrays: ids, titles, texts, categories, ages and attributes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp

from recsys.errors import DataError
from recsys.ids import IdMap
from recsys.schema import Col
from recsys.text import item_text, item_texts

NO_TIME: Final = np.iinfo(np.int64).min
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STANDARD: Final = frozenset(Col)
_ROWS_AT_ONCE: Final = 10_000
_LARGEST: Final = 1e30  # differences of two such numbers are still within float32
_MAX_LABEL_WORDS: Final = 6  # longer attribute values are prose: text for the encoder, no label to match on


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items apart from behaviour; row `i` of everything is item `i`.

    created_at_us: int64 `(n_items,)`, microseconds UTC, `NO_TIME` where unknown.
    values: float32 CSR `(n_items, n_values)`, 1 where the item has an attribute value (categories are one attribute).
    value_field: int32 `(n_values,)`, which of `value_fields` a value belongs to.
    numeric: float32 `(n_items, n_numeric)`, numeric attributes as given, NaN where missing.
    """

    ids: IdMap
    table: pl.DataFrame
    texts: Sequence[str]
    created_at_us: npt.NDArray[np.int64]
    values: sp.csr_matrix
    value_names: Sequence[str]
    value_field: npt.NDArray[np.int32]
    value_fields: Sequence[str]
    numeric: npt.NDArray[np.float32]
    numeric_fields: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def titles(self) -> list[str]:
        """Titles in row order; the id stands in where an item has none."""
        if Col.TITLE not in self.table.columns:
            return list(self.ids.ids)
        return [title or id_ for title, id_ in zip(self.table[Col.TITLE].to_list(), self.ids.ids, strict=True)]

    def title_of(self, row: int) -> str:
        """Return the title of a row of the table; the id stands in where it has none."""
        title = self.table.item(row, Col.TITLE) if Col.TITLE in self.table.columns else None
        return title or self.ids.id_of(row)

    def with_texts_on_demand(self, text_fields: Sequence[str]) -> "Catalogue":
        """Return the same items, whose texts are not kept but made from the table whenever they are asked for."""
        return replace(self, texts=_TextsOfTable(self.table, text_fields))

    def without_attributes(self) -> "Catalogue":
        """Return the same items with their texts alone."""
        n = len(self)
        return replace(
            self,
            values=sp.csr_matrix((n, 0), dtype=np.float32),
            value_names=[],
            value_field=np.empty(0, np.int32),
            value_fields=[],
            numeric=np.empty((n, 0), np.float32),
            numeric_fields=[],
        )

    def like(self, items: Sequence[Mapping[str, Any]], text_fields: Sequence[str]) -> "Catalogue":
        """Return further items in the columns of this catalogue; values that it lacks are part of the text alone.

        items: by column; `item_id` is needed, `created_at` is a datetime, missing columns are missing values.

        Raises:
            DataError: a value does not fit its column; the message names both.
        """
        columns = self.table.columns
        ordered = [{name: item.get(name) for name in columns} | dict(item) for item in items]
        numeric = np.full((len(items), len(self.numeric_fields)), np.nan, np.float32)
        rows: list[int] = []
        cols: list[int] = []
        for row, item in enumerate(ordered):
            for f, name in enumerate(self.numeric_fields):
                numeric[row, f] = _number(name, item[name])
            for f, name in enumerate(self.value_fields):
                known = {self._value_columns.get((f, value), -1) for value in _labels(name, item[name])}
                cols.extend(sorted(known - {-1}))
                rows.extend([row] * len(known - {-1}))
        values = sp.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, cols)), shape=(len(items), len(self.value_names)), dtype=np.float32
        )
        created = [item.get(Col.CREATED_AT) for item in ordered]
        return replace(
            self,
            ids=IdMap(str(item[Col.ITEM_ID]) for item in ordered),
            table=pl.DataFrame({name: [item.get(name) for item in ordered] for name in (Col.ITEM_ID, Col.TITLE)}),
            texts=[item_text(item, text_fields) for item in ordered],
            created_at_us=np.array([NO_TIME if time is None else _us(time) for time in created], np.int64),
            values=values,
            numeric=numeric,
        )

    @cached_property
    def _value_columns(self) -> dict[tuple[int, str], int]:
        return {
            (int(field), name): column
            for column, (field, name) in enumerate(zip(self.value_field, self.value_names, strict=True))
        }

    @staticmethod
    def from_items(items: pl.DataFrame, text_fields: Sequence[str], *, min_value_count: int = 2) -> "Catalogue":
        """Build the arrays from a validated items table.

        List columns and short strings become attribute values (kept when at least `min_value_count` items share
        them), numeric columns become numeric attributes, other strings are only part of the text.
        """
        created = (
            items[Col.CREATED_AT].dt.epoch("us").fill_null(NO_TIME).to_numpy().astype(np.int64)
            if Col.CREATED_AT in items.columns
            else np.full(items.height, NO_TIME, np.int64)
        )
        numeric_fields = [name for name in items.columns if name not in _STANDARD and items.schema[name].is_numeric()]
        numeric = (
            items.select(as_float32(name) for name in numeric_fields).to_numpy()
            if numeric_fields
            else np.empty((items.height, 0), np.float32)
        )
        fields = [name for name in items.columns if _is_label_column(items, name)]
        rows, cols, names, value_field = _attribute_values(items, fields, min_value_count)
        values = sp.csr_matrix(
            (np.ones(len(rows), np.float32), (rows, cols)), shape=(items.height, len(names)), dtype=np.float32
        )
        values.data[:] = 1.0  # a value repeated in one list counts once
        return Catalogue(
            IdMap(items[Col.ITEM_ID].to_list()),
            items,
            item_texts(items, text_fields),
            created,
            values,
            names,
            value_field,
            fields,
            np.ascontiguousarray(numeric, dtype=np.float32),
            numeric_fields,
        )


class _TextsOfTable(Sequence[str]):
    """The texts of a table's rows, made when they are asked for: as strings of Python they take several times as much
    memory as the table.
    """

    def __init__(self, table: pl.DataFrame, text_fields: Sequence[str]) -> None:
        self._table = table
        self._text_fields = text_fields

    def __len__(self) -> int:
        return self._table.height

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        if isinstance(place, slice):
            return _TextsOfTable(self._table[place], self._text_fields)
        row = range(len(self))[place]
        return item_texts(self._table.slice(row, 1), self._text_fields)[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from item_texts(self._table.slice(start, _ROWS_AT_ONCE), self._text_fields)


def _number(name: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{name} is a number in this catalogue (got {value!r}); send a number, or leave it out")
    return min(max(float(value), -_LARGEST), _LARGEST)


def _labels(name: str, value: Any) -> set[str]:
    if value is None:
        return set()
    if isinstance(value, list | tuple):
        return {str(each) for each in value}
    if isinstance(value, dict):
        raise DataError(f"{name} is a label or a list of labels in this catalogue (got {value!r}); send a string")
    return {str(value)}


def _us(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def as_float32(column: str) -> pl.Expr:
    """Return a numeric column as finite Float32, NaN where missing; numbers beyond ±1e30 become that."""
    return pl.col(column).cast(pl.Float64).clip(-_LARGEST, _LARGEST).cast(pl.Float32).fill_null(float("nan"))


def _is_label_column(items: pl.DataFrame, name: str) -> bool:
    if name in _STANDARD and name != Col.CATEGORIES:
        return False
    dtype = items.schema[name]
    if isinstance(dtype, pl.List):
        return dtype.inner == pl.String
    if dtype == pl.Boolean:
        return True
    if dtype != pl.String:
        return False
    words = items[name].drop_nulls().str.count_matches(r"\S+")
    return len(words) > 0 and float(np.median(words.to_numpy())) <= _MAX_LABEL_WORDS


def _attribute_values(
    items: pl.DataFrame, fields: Sequence[str], min_value_count: int
) -> tuple[list[int], list[int], list[str], npt.NDArray[np.int32]]:
    rows: list[int] = []
    cols: list[int] = []
    names: list[str] = []
    value_field: list[int] = []
    for f, field in enumerate(fields):
        lists = [
            value if isinstance(value, list) else [] if value is None else [str(value)]
            for value in items[field].to_list()
        ]
        counts = Counter(value for values in lists for value in set(values))
        kept = [
            value
            for value, count in sorted(counts.items(), key=lambda pair: (-pair[1], str(pair[0])))
            if count >= min_value_count and value
        ]
        column = {value: len(names) + i for i, value in enumerate(kept)}
        names.extend(str(value) for value in kept)
        value_field.extend([f] * len(kept))
        for row, values in enumerate(lists):
            for value in set(values):
                if value in column:
                    rows.append(row)
                    cols.append(column[value])
    return rows, cols, names, np.asarray(value_field, np.int32)
