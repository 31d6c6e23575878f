"""Single columns of raw tables, from whatever was read to the dtype of the schema; what does not fit is a fault.

Every function returns the frame with the column converted and the values that do not fit as null. A column that the
frame lacks is added as null: that a required one is missing is reported by `check_required`.
"""

import difflib
from typing import Final

import polars as pl

from recsys.datasets.checks import add_rows
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW
from recsys.schema import Col, TableSpec
from recsys.text import clean_text

_RAW: Final = "__raw"
_SHOWN: Final = "__shown"
_NEEDS_CLEANING: Final = r"[<&]|^\s|\s$|\s\s|[^\S ]"
_MAX_POSITION: Final = 2**31 - 1
# Names that other tools give to the columns, for the remedy of a missing one.
_OTHER_NAMES: Final[dict[str, tuple[str, ...]]] = {
    Col.USER_ID: ("user", "userid", "uid", "customer_id", "visitor_id", "reviewerid"),
    Col.ITEM_ID: ("item", "itemid", "iid", "product_id", "movie_id", "movieid", "article_id", "news_id", "asin", "id"),
    Col.TIMESTAMP: ("ts", "time", "date", "datetime", "event_time", "time_stamp", "created_at", "unixreviewtime"),
    Col.EVENT: ("event_type", "type", "action", "behavior", "behaviour", "feedback_type", "kind"),
    Col.REQUEST_ID: ("request", "impression_id", "session_id", "requestid", "query_id"),
    Col.CLICKED: ("click", "is_click", "is_clicked", "label"),
}


def check_required(frame: pl.DataFrame, spec: TableSpec, faults: FaultLog) -> None:
    """Record a fault for each required column that is missing, naming what is there and the likeliest match."""
    present = [name for name in frame.columns if name not in (ROW, FILE)]
    for name in map(str, spec.required):
        if name not in present:
            match = _closest(name, [other for other in present if other not in spec.dtypes])
            rename = f"Rename {match!r} to {name!r}." if match else f"Add it; required are {', '.join(spec.required)}."
            file = frame[FILE][0] if frame.height else spec.name
            faults.add(Fault(file, "a required column is missing", rename, None, name, ", ".join(present)))


def check_id(frame: pl.DataFrame, column: str, faults: FaultLog, *, required: bool) -> pl.DataFrame:
    """Convert a column of ids to String; numbers with a fraction part, and missing required ids, are faults."""
    if column not in frame.columns:
        return frame.with_columns(pl.lit(None, pl.String).alias(column))
    dtype = frame.schema[column]
    if not (dtype.is_integer() or _is_text(dtype)):
        add_rows(
            faults,
            frame.filter(pl.col(column).is_not_null()),
            column=column,
            problem=f"an id is text or a whole number, and this column has the type {dtype}",
            remedy="Write the ids as text; beware of tools that turn whole numbers into decimals beside empty cells.",
        )
        return frame.with_columns(pl.lit(None, pl.String).alias(column))
    text = pl.col(column).cast(pl.String)
    frame = frame.with_columns(pl.when(text.str.strip_chars() != "").then(text).alias(column))
    if required:
        add_rows(
            faults,
            frame.filter(pl.col(column).is_null()),
            column=column,
            problem="the id is missing",
            remedy="Fill it in or take the row out.",
        )
    return frame


def check_unique(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Record a fault for each row that repeats an id, and return the first row of every id."""
    present = frame.filter(pl.col(column).is_not_null())
    first = pl.col(column).is_first_distinct()
    add_rows(
        faults,
        present.filter(~first),
        column=column,
        problem="the id was already given to an earlier row of this table",
        remedy="Keep one row per id.",
    )
    return present.filter(first)


def check_text(
    frame: pl.DataFrame, column: str, faults: FaultLog, *, max_length: int, clean: bool = False
) -> pl.DataFrame:
    """Convert a column to String; text beyond `max_length` characters is a fault, HTML is cleaned out on request."""
    if column not in frame.columns:
        return frame.with_columns(pl.lit(None, pl.String).alias(column))
    if not is_simple(frame.schema[column]):
        add_rows(
            faults,
            frame.filter(pl.col(column).is_not_null()),
            column=column,
            problem=f"text belongs here, and this column has the type {frame.schema[column]}",
            remedy="Write plain text.",
        )
        return frame.with_columns(pl.lit(None, pl.String).alias(column))
    text = pl.col(column).cast(pl.String)
    frame = frame.with_columns(text)
    length = pl.col(column).str.len_chars()
    too_long = frame.filter(length > max_length)
    add_rows(
        faults,
        too_long.with_columns(pl.format("{}… ({} characters)", text.str.slice(0, 60), length).alias(_RAW)),
        column=column,
        problem=f"the text is longer than {max_length:,} characters",
        remedy="Shorten it; such a length is mostly a sign of shifted columns or of a quote that is not closed.",
        value=_RAW,
    )
    if too_long.height:
        return frame.with_columns(pl.when(length <= max_length).then(pl.col(column)).alias(column))
    series = _clean(frame[column]) if clean else frame[column]
    return frame.with_columns(series.replace("", None).alias(column))


def check_number(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Convert a column to Float64; text, true/false, NaN and infinity are faults."""
    if column not in frame.columns:
        return frame.with_columns(pl.lit(None, pl.Float64).alias(column))
    dtype = frame.schema[column]
    raw = pl.col(column) if dtype.is_numeric() else as_text(column, dtype).str.strip_chars()
    frame = frame.with_columns(raw.cast(pl.Float64, strict=False).alias(column), as_text(column, dtype).alias(_RAW))
    given = pl.col(_RAW).is_not_null() & (pl.col(_RAW).str.strip_chars() != "")
    add_rows(
        faults,
        frame.filter(pl.col(column).is_null() & given),
        column=column,
        problem="a number belongs here",
        remedy="Write a number with a decimal point, such as 3.5, or leave the field empty.",
        value=_RAW,
    )
    add_rows(
        faults,
        frame.filter(~pl.col(column).is_finite()),
        column=column,
        problem="the number is not finite",
        remedy="Leave the field empty where the value is unknown.",
        value=_RAW,
    )
    return frame.with_columns(pl.when(pl.col(column).is_finite()).then(pl.col(column)).alias(column)).drop(_RAW)


def check_position(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Convert a column to Int32 of at least 1."""
    frame = check_number(_with_shown(frame, column), column, faults)
    position = pl.col(column)
    fits = (position == position.floor()) & position.is_between(1, _MAX_POSITION)
    add_rows(
        faults,
        frame.filter(~fits),
        column=column,
        problem="a position is a whole number from 1",
        remedy="Count positions from 1, top first; leave the field empty where it was not recorded.",
        value=_SHOWN,
    )
    return frame.with_columns(pl.when(fits).then(position).cast(pl.Int32).alias(column)).drop(_SHOWN)


def check_propensity(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Convert a column to Float64 above 0 and at most 1."""
    frame = check_number(_with_shown(frame, column), column, faults)
    fits = (pl.col(column) > 0) & (pl.col(column) <= 1)
    add_rows(
        faults,
        frame.filter(~fits),
        column=column,
        problem="a propensity is a probability above 0 and at most 1",
        remedy="Write the probability with which the item was shown, or leave the field empty.",
        value=_SHOWN,
    )
    return frame.with_columns(pl.when(fits).then(pl.col(column)).alias(column)).drop(_SHOWN)


def check_flag(frame: pl.DataFrame, column: str, faults: FaultLog) -> pl.DataFrame:
    """Convert a column of true, false, 1 and 0 to Boolean; anything else, and nothing, is a fault."""
    if column not in frame.columns:
        return frame.with_columns(pl.lit(None, pl.Boolean).alias(column))
    dtype = frame.schema[column]
    text = as_text(column, dtype).str.strip_chars().str.to_lowercase()
    flag = pl.when(text.is_in(["true", "1", "1.0"])).then(True).when(text.is_in(["false", "0", "0.0"])).then(False)
    frame = frame.with_columns(flag.alias(column), as_text(column, dtype).alias(_RAW))
    add_rows(
        faults,
        frame.filter(pl.col(column).is_null()),
        column=column,
        problem="true or false belongs here",
        remedy="Write true, false, 1 or 0 in every row.",
        value=_RAW,
    )
    return frame.drop(_RAW)


def is_simple(dtype: pl.DataType) -> bool:
    """Return whether every value of a dtype has a plain text form."""
    return not (dtype.is_nested() or isinstance(dtype, pl.Binary | pl.Object | pl.Duration))


def as_text(column: str, dtype: pl.DataType) -> pl.Expr:
    """Return a column as String for showing and parsing; values without a plain text form are named by their type."""
    if is_simple(dtype):
        return pl.col(column).cast(pl.String)
    return pl.when(pl.col(column).is_not_null()).then(pl.lit(f"a value of type {dtype}"))


def _with_shown(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    shown = as_text(column, frame.schema[column]) if column in frame.columns else pl.lit(None, pl.String)
    return frame.with_columns(shown.alias(_SHOWN))


def _is_text(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Null)


def _closest(name: str, others: list[str]) -> str | None:
    by_form = {other.lower().replace(" ", "_").replace("-", "_"): other for other in others}
    for form in (name, *_OTHER_NAMES.get(name, ())):
        if form in by_form:
            return by_form[form]
    close = difflib.get_close_matches(name, list(by_form), n=1, cutoff=0.7)
    return by_form[close[0]] if close else None


def _clean(texts: pl.Series) -> pl.Series:
    rows = texts.str.contains(_NEEDS_CLEANING).fill_null(False).arg_true()
    return texts.scatter(rows, [clean_text(text) for text in texts.gather(rows).to_list()]) if len(rows) else texts
