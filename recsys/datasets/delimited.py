"""The lines of a delimited file: its header, its fields, and the rows that have too many or too few of them."""

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.datasets.checks import add_rows
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW

_SEPARATORS: Final = (",", ";", "\t", "|", "::")
_CHUNK: Final = 20_000  # records that the csv module parses before they become columns; bounds the memory
_MAX_SHOWN: Final = 80
_QUOTES: Final = 'Close every quoted field, write a quote inside one as "", and end lines with a line feed.'
_LINE = "_line"
_PARTS = "_parts"
_FOUND = "_found"


def take_header(
    text: str, separator: str, path: Path, faults: FaultLog, *, quoted: bool
) -> tuple[list[str] | None, str]:
    """Return the column names and the text behind the header line; None for names that cannot be used."""
    line, _, rest = text.lstrip("\n").partition("\n")
    try:
        fields = next(csv.reader([line], delimiter=separator)) if quoted else line.split(separator)
    except csv.Error as error:
        faults.add(Fault(path.name, f"the header cannot be split into columns: {error}", _QUOTES, value=line))
        return None, rest
    names = ["" if name.strip() in (ROW, FILE) else name.strip() for name in fields]
    other = next((s for s in _SEPARATORS if s != separator and s in line), None)
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    fault = None
    if len(names) == 1 and other is not None:
        fault = Fault(
            path.name,
            f"the header is a single column; its fields seem to be separated by {other!r} instead of {separator!r}",
            f"Write the file again with {separator!r} between fields.",
            value=line,
        )
    elif repeated:
        fault = Fault(
            path.name,
            "the header names a column twice",
            "Give every column its own name.",
            column=repeated[0],
            value=", ".join(names),
        )
    elif not any(names):
        fault = Fault(
            path.name, "the header line names no column", "Write the column names into the first line.", value=line
        )
    if fault is not None:
        faults.add(fault)
        return None, rest
    faults.note(f"columns of {path.name} without a usable name, left out", names.count(""))
    return names, rest


def split_plain(text: str, separator: str, n_columns: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the fields as columns `0`, `1`, … with ROW, and the lines with another number of fields."""
    lines = pl.Series(_LINE, [text]).str.split("\n").explode()
    frame = pl.DataFrame([lines]).with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW))
    parts = pl.col(_LINE).str.split(separator) if n_columns > 1 else pl.concat_list(_LINE)
    frame = frame.filter(pl.col(_LINE) != "").with_columns(parts.alias(_PARTS))
    fits = pl.col(_PARTS).list.len() == n_columns
    table = frame.filter(fits).select(ROW, *(pl.col(_PARTS).list.get(i).alias(str(i)) for i in range(n_columns)))
    return table, frame.filter(~fits).select(ROW, _LINE, pl.col(_PARTS).list.len().alias(_FOUND))


def split_quoted(
    text: str, separator: str, n_columns: int, path: Path, faults: FaultLog
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what `split_plain` does, for text with quoted fields."""
    columns = {ROW: pl.Int64(), **{str(i): pl.String() for i in range(n_columns)}}
    tables = [pl.DataFrame(schema=columns)]
    ragged: list[tuple[int, str, int]] = []
    records = _records(text, separator, path, faults)
    while chunk := list(itertools.islice(records, _CHUNK)):
        whole = [record for record in chunk if len(record) == n_columns + 1]
        ragged += [(f[0], separator.join(f[1:]), len(f) - 1) for f in chunk if len(f) != n_columns + 1]
        fields = zip(*whole, strict=True) if whole else [()] * len(columns)
        tables.append(
            pl.DataFrame([pl.Series(n, values, d) for (n, d), values in zip(columns.items(), fields, strict=True)])
        )
    schema = {ROW: pl.Int64(), _LINE: pl.String(), _FOUND: pl.Int64()}
    return pl.concat(tables), pl.DataFrame(ragged, schema=schema, orient="row")


def _records(text: str, separator: str, path: Path, faults: FaultLog) -> Iterator[list[Any]]:
    """Yield row number and then the fields; a quote in the wrong place is a fault and its record is left out."""
    # The limit is global to the process: a long description must not fail here, so it is lifted and put back.
    limit = csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=separator, strict=True)
    row = 0
    try:
        while True:
            row += 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                faults.add(Fault(path.name, f"the row cannot be split into fields: {error}", _QUOTES, row=row))
                continue
            if fields:
                yield [row, *fields]
    finally:
        csv.field_size_limit(limit)


def report_ragged(ragged: pl.DataFrame, expected: int, separator: str, path: Path, faults: FaultLog) -> None:
    if ragged.is_empty():
        return
    add_rows(
        faults,
        ragged.select(
            ROW,
            pl.lit(path.name).alias(FILE),
            pl.format("{} fields: {}", pl.col(_FOUND), pl.col(_LINE).str.slice(0, _MAX_SHOWN)).alias(_LINE),
        ),
        column=None,
        value=_LINE,
        problem=f"the row does not have {expected} fields separated by {separator!r}",
        remedy="Complete or shorten the row; a field that contains the separator needs quotes in CSV.",
    )
