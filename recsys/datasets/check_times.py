"""Times of raw tables, as ISO 8601 or as numbers since 1970 whose magnitude tells the unit, into microseconds UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from recsys.datasets.check_columns import as_text
from recsys.datasets.checks import add_rows
from recsys.datasets.faults import FaultLog
from recsys.schema import TIMESTAMP

EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)  # of behaviour; a log of before that is a unit or clock error
EARLIEST_ITEM: Final = datetime(1000, 1, 1, tzinfo=UTC)
CLOCK_SLACK: Final = timedelta(days=1)
_RAW: Final = "__raw"
_PARSED: Final = "__parsed"
# Between these bounds a number counts seconds, milliseconds, microseconds or nanoseconds: no time from 1973 to 5138 is
# in two of the ranges.
_MAX_SECONDS: Final = 10**11
_MAX_MILLISECONDS: Final = 10**14
_MAX_MICROSECONDS: Final = 10**17
_MAX_NANOSECONDS: Final = 9 * 10**18
_WHOLE: Final = r"^[+-]?\d{1,18}$"
_DECIMAL: Final = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_ISO: Final = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<hour>\d{2}):(?<minute>\d{2})(?::(?<second>\d{2})(?:[.,](?<fraction>\d{1,9}))?)?"
    r"\s*(?<zone>Z|z|UTC|GMT|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)?)?$"
)


def check_time(
    frame: pl.DataFrame,
    column: str,
    faults: FaultLog,
    *,
    required: bool,
    earliest: datetime | None = None,
    latest: datetime | None = None,
) -> pl.DataFrame:
    """Return the frame with `column` as UTC microseconds, and null where a fault was recorded.

    Faults are values that are no time, missing required ones, and times before `earliest` or after `latest`. Times
    without a zone are taken as UTC.
    """
    if column not in frame.columns:
        return frame.with_columns(pl.lit(None, TIMESTAMP).alias(column))
    dtype = frame.schema[column]
    frame = frame.with_columns(as_text(column, dtype).alias(_RAW)).with_columns(to_time(frame[column]).alias(_PARSED))
    time = pl.col(_PARSED)
    blank = pl.col(_RAW).is_null() | (pl.col(_RAW).str.strip_chars() == "")
    how = "Write ISO 8601, such as 2024-05-31T18:00:00Z, or whole seconds or milliseconds since 1970."
    checks = [(time.is_null() & ~blank, "this is no time", how)]
    if required:
        checks.append((blank, "the time is missing", "Fill it in or take the row out."))
    if earliest is not None:
        remedy = "Check its unit (seconds and milliseconds are recognised); 0 often stands for an unknown time."
        checks.append((time < earliest, f"the time lies before {earliest:%Y-%m-%d}", remedy))
    if latest is not None:
        remedy = "Check the clock and the unit of the export; behaviour cannot come from the future."
        checks.append((time > latest, "the time lies in the future", remedy))
    for bad, problem, remedy in checks:
        add_rows(faults, frame.filter(bad), column=column, problem=problem, remedy=remedy, value=_RAW)
    allowed = pl.lit(True)
    if earliest is not None:
        allowed &= time >= earliest
    if latest is not None:
        allowed &= time <= latest
    return frame.with_columns(pl.when(allowed).then(time).alias(column)).drop(_RAW, _PARSED)


def to_time(values: pl.Series) -> pl.Series:
    """Return a column of any dtype as UTC microseconds, null where a value is no time."""
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        zoned = values.dt.replace_time_zone("UTC") if dtype.time_zone is None else values.dt.convert_time_zone("UTC")
        return zoned.cast(TIMESTAMP)
    if isinstance(dtype, pl.Date):
        return values.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype.is_numeric():
        return _from_number(values)
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return _from_text(values.cast(pl.String).str.strip_chars())
    return pl.Series(values.name, [None], TIMESTAMP).new_from_index(0, len(values))


def _from_number(values: pl.Series) -> pl.Series:
    values = values.cast(pl.Int64 if values.dtype.is_integer() else pl.Float64, strict=False)
    number = pl.col(values.name)
    micros = (
        pl.when(number.is_between(-_MAX_SECONDS, _MAX_SECONDS, closed="none"))
        .then(number * 1_000_000)
        .when(number.is_between(-_MAX_MILLISECONDS, _MAX_MILLISECONDS, closed="none"))
        .then(number * 1_000)
        .when(number.is_between(-_MAX_MICROSECONDS, _MAX_MICROSECONDS, closed="none"))
        .then(number)
        .when(number.is_between(-_MAX_NANOSECONDS, _MAX_NANOSECONDS, closed="none"))
        .then(number // 1_000)
    )
    return values.to_frame().select(micros.cast(pl.Int64, strict=False).cast(TIMESTAMP)).to_series()


def _from_text(values: pl.Series) -> pl.Series:
    whole = values.str.contains(_WHOLE)
    if whole.all():
        return _from_number(values.cast(pl.Int64))
    times = _from_iso(values)
    decimal = values.str.contains(_DECIMAL).fill_null(False)
    if not decimal.any():
        return times
    whole = whole.fill_null(False)
    integers = _from_number(values.set(~whole, None).cast(pl.Int64))
    floats = _from_number(values.set(~decimal | whole, None).cast(pl.Float64))
    return times.zip_with(~decimal, integers.zip_with(whole, floats))


def _from_iso(values: pl.Series) -> pl.Series:
    part = pl.col(values.name).struct.field
    stamp = pl.concat_str(
        part("date"),
        pl.lit("T"),
        part("hour").fill_null("00"),
        pl.lit(":"),
        part("minute").fill_null("00"),
        pl.lit(":"),
        part("second").fill_null("00"),
        pl.lit("."),
        part("fraction").fill_null("").str.pad_end(6, "0").str.slice(0, 6),
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S%.6f", time_unit="us", strict=False)
    digits = part("zone").str.replace_all(r"\D", "").str.pad_end(4, "0")
    hours, rest = (digits.str.slice(start, 2).cast(pl.Int64, strict=False) for start in (0, 2))
    minutes = hours * 60 + rest
    offset = pl.duration(minutes=pl.when(part("zone").str.starts_with("-")).then(-minutes).otherwise(minutes))
    utc = (stamp - offset.fill_null(pl.duration(minutes=0))).dt.replace_time_zone("UTC")
    return values.str.extract_groups(_ISO).to_frame().select(utc.alias(values.name)).to_series()
