"""Columns that hold lists, and the free attributes of items and users, into the few types that features know."""

import json
from typing import Any, Final

import polars as pl

from recsys.datasets.check_columns import as_text, check_text
from recsys.datasets.checks import add_rows
from recsys.datasets.faults import FaultLog

MAX_ATTRIBUTE_LENGTH: Final = 1_000_000
_LISTS: Final = pl.List(pl.String())
_PARSED: Final = "__parsed"
# A leading zero (zip codes) or more digits than a float carries (long ids) mark a name that only looks like a number.
_NUMBER: Final = r"^-?(?:0|[1-9]\d{0,14})(?:\.\d+)?(?:[eE][+-]?\d{1,3})?$"
_MAX_EXACT: Final = 10**15


def parse_list(text: str) -> list[str] | None:
    """Return the parts of a JSON array or of `|`-separated text without blank ones, or None for a broken array."""
    text = text.strip()
    parts: list[Any] = text.split("|")
    if text.startswith("["):
        try:
            parts = json.loads(text)
            json.dumps(parts, ensure_ascii=False).encode()  # half a surrogate pair is no character
        except (ValueError, RecursionError):
            return None
        if any(isinstance(part, list | dict) for part in parts):
            return None
    texts = [part if isinstance(part, str) else json.dumps(part) for part in parts if part is not None]
    return [stripped for part in texts if (stripped := part.strip())]


def check_list(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Convert lists, JSON arrays and `|`-separated text to lists of String without blanks; missing is empty."""
    if column not in frame.columns:
        return frame.with_columns(pl.lit([], _LISTS).alias(column))
    frame = frame.with_columns(_to_lists(frame[column]).alias(_PARSED))
    add_rows(
        faults,
        frame.filter(pl.col(_PARSED).is_null() & pl.col(column).is_not_null()).with_columns(
            as_text(column, frame.schema[column])
        ),
        column=column,
        problem="this is no list of texts",
        remedy='Write a list, a JSON array such as ["a", "b"], or a|b.',
    )
    return frame.with_columns(pl.col(_PARSED).fill_null(pl.lit([], _LISTS)).alias(column)).drop(_PARSED)


def check_attributes(frame: pl.DataFrame, columns: list[str], faults: FaultLog) -> pl.DataFrame:
    """Convert attribute columns to Float64, Boolean, String or lists of String.

    Text that is a number in every row becomes Float64, unless leading zeros or more than 15 digits mark it as a name;
    text that is `true` or `false` in every row becomes Boolean, JSON arrays become lists. Other types, and columns
    without any value, are left out with a note. Infinite numbers are faults; NaN is missing.
    """
    for column in columns:
        dtype = frame.schema[column]
        if isinstance(dtype, pl.String):
            frame = frame.with_columns(pl.col(column).replace("", None))
        if frame[column].null_count() == frame.height:
            faults.note(f"attribute column {column} without any value, left out")
            frame = frame.drop(column)
        elif dtype.is_integer() and _fits_float(frame[column]):
            frame = frame.with_columns(pl.col(column).cast(pl.Float64))
        elif dtype.is_float() or dtype.is_decimal():
            frame = _check_float(frame, column, faults)
        elif isinstance(dtype, pl.List | pl.Array) and _holds_text(dtype):
            frame = check_list(frame, column, faults)
        elif dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration):
            faults.note(f"attribute column {column} of type {dtype}, left out")
            frame = frame.drop(column)
        elif not isinstance(dtype, pl.Boolean):
            frame = check_text(_temporal_as_iso(frame, column), column, faults, max_length=MAX_ATTRIBUTE_LENGTH)
            frame = frame.with_columns(_typed(frame[column]).alias(column))
    return frame


def _to_lists(values: pl.Series) -> pl.Series:
    dtype = values.dtype
    if isinstance(dtype, pl.List | pl.Array):
        if not _holds_text(dtype) and not dtype.inner.is_integer():
            return pl.Series(values.name, [None] * len(values), _LISTS)
        part = pl.element().str.strip_chars()
        return values.cast(_LISTS).list.eval(part).list.eval(pl.element().filter(pl.element().str.len_bytes() > 0))
    if dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration):
        return pl.Series(values.name, [None] * len(values), _LISTS)
    texts = values.cast(pl.String)
    known = texts.drop_nulls().unique()
    parsed = pl.DataFrame(
        {values.name: known, _PARSED: pl.Series([parse_list(text) for text in known.to_list()], dtype=_LISTS)}
    )
    return texts.to_frame().join(parsed, on=values.name, how="left", maintain_order="left")[_PARSED]


def _holds_text(dtype: pl.List | pl.Array) -> bool:
    return isinstance(dtype.inner, pl.String | pl.Categorical | pl.Enum | pl.Null)


def _fits_float(values: pl.Series) -> bool:
    low, high = values.min(), values.max()
    return low is None or (int(low) > -_MAX_EXACT and int(high) < _MAX_EXACT)  # type: ignore[arg-type]


def _check_float(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    frame = frame.with_columns(pl.col(column).cast(pl.Float64).fill_nan(None))
    add_rows(
        faults,
        frame.filter(pl.col(column).is_infinite()),
        column=column,
        problem="the number is not finite",
        remedy="Leave the field empty where the value is unknown.",
    )
    return frame


def _temporal_as_iso(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    dtype = frame.schema[column]
    if isinstance(dtype, pl.Datetime):
        return frame.with_columns(pl.col(column).dt.to_string("iso"))
    return frame


def _typed(texts: pl.Series) -> pl.Series:
    given = texts.drop_nulls()
    if given.is_empty():
        return texts
    if given.str.contains(_NUMBER).all() and (numbers := texts.cast(pl.Float64)).is_finite().all():
        return numbers
    if given.str.to_lowercase().is_in(["true", "false"]).all():
        return texts.str.to_lowercase() == "true"
    if given.str.contains(r"^\s*\[.*\]\s*$").all():
        lists = _to_lists(texts)
        return lists.fill_null(pl.Series([[]], dtype=_LISTS)) if lists.null_count() == texts.null_count() else texts
    return texts
