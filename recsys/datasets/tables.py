"""The generic tables: `items`, `interactions`, `impressions` and `users` as Parquet, CSV or JSON Lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import find_file, read_delimited, read_json_lines, read_parquet
from recsys.errors import DataError
from recsys.schema import TABLES

PARQUET: Final = (".parquet",)
DELIMITED: Final = {".csv": ",", ".tsv": "\t"}
JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
SUFFIXES: Final = (*PARQUET, *DELIMITED, *JSON_LINES)
_INT64: Final = range(-(2**63), 2**63)


class TablesReader:
    """Reads a folder of the tables that `recsys.schema` describes."""

    name = "tables"

    def detects(self, folder: Path) -> bool:
        """Return whether there is a table of interactions or impressions; items alone may be of any format."""
        return any(_is_table(path, name) for path in folder.iterdir() for name in ("interactions", "impressions"))

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return the raw tables; a missing items table, and having no behaviour at all, are faults."""
        raw = RawTables()
        found: set[str] = set()
        for name in TABLES:
            try:
                path = find_file(folder, [name], SUFFIXES)
            except DataError as error:
                found.add(name)
                for fault in error.faults:
                    if isinstance(fault, Fault):
                        faults.add(fault)
                continue
            if path is not None:
                found.add(name)
                setattr(raw, name, read_table(path, faults))
        wanted = ", ".join(f"items{suffix}" for suffix in SUFFIXES)
        if "items" not in found:
            faults.add(
                Fault(
                    folder.name,
                    "there is no items table",
                    f"Add one ({wanted}; .gz allowed) with a column item_id, and title and description for cold items.",
                )
            )
        if not found & {"interactions", "impressions"}:
            faults.add(
                Fault(
                    folder.name,
                    "there is neither an interactions nor an impressions table",
                    "Add interactions with the columns user_id, item_id, timestamp and event.",
                )
            )
        return raw


def read_table(path: Path, faults: FaultLog) -> pl.DataFrame | None:
    """Return one table with `ROW` and `FILE`, read as its suffix says, or None after a fault."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix in PARQUET:
        return read_parquet(path, faults)
    if suffix in DELIMITED:
        return read_delimited(path, faults, separator=DELIMITED[suffix], quoting=True)
    records = read_json_lines(path, faults)
    return records_frame(records, path.name, faults) if records else None


def records_frame(records: Sequence[dict[str, Any]], file: str, faults: FaultLog) -> pl.DataFrame:
    """Return JSON objects (each with `ROW`) as a frame; keys that an object lacks are null.

    A standard column of mixed types becomes text, which validation judges; any other column of mixed types is a fault.
    """
    standard = {column.name for table in TABLES.values() for column in table.columns}
    names = {name: None for record in records for name in record if name not in (ROW, FILE)}
    rows = [record[ROW] for record in records]
    columns = [
        _column(name, [record.get(name) for record in records], rows, file, faults, is_standard=name in standard)
        for name in names
    ]
    frame = pl.DataFrame([column for column in columns if column is not None])
    return frame.with_columns(pl.Series(ROW, rows, pl.Int64), pl.lit(file).alias(FILE))


def _is_table(path: Path, name: str) -> bool:
    return path.name.removesuffix(".gz") in {f"{name}{suffix}" for suffix in SUFFIXES} and path.is_file()


def _column(
    name: str, values: list[Any], rows: Sequence[int], file: str, faults: FaultLog, *, is_standard: bool
) -> pl.Series | None:
    kinds = {_kind(value) for value in values if value is not None}
    if kinds == {"number"}:
        whole = all(value is None or isinstance(value, int) for value in values)
        return pl.Series(name, values, pl.Int64 if whole else pl.Float64, strict=False)
    if kinds == {"list"}:
        return _list_column(name, values, as_text=is_standard)
    if kinds == {"true or false"}:
        return pl.Series(name, values, pl.Boolean)
    if kinds == {"object"} and not is_standard:
        faults.note(f"columns of {file} with objects in them, left out")
        return None
    if len(kinds) > 1 and not is_standard:
        first = _kind(next(value for value in values if value is not None))
        at = next(i for i, value in enumerate(values) if value is not None and _kind(value) != first)
        faults.add(
            Fault(
                file,
                f"the column has mixed types: {' and '.join(sorted(kinds))}",
                "Write all its values as one type, for example all as text.",
                rows[at],
                name,
                json.dumps(values[at], ensure_ascii=False),
            )
        )
        return None
    return pl.Series(name, [None if value is None else _as_text(value) for value in values], pl.String)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int) and value not in _INT64:
        return "huge number"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "object"


def _list_column(name: str, values: list[Any], *, as_text: bool) -> pl.Series:
    numbers = any(values) and all(_kind(part) == "number" for value in values if value for part in value)
    if numbers and not as_text:
        floats = [None if value is None else [float(part) for part in value] for value in values]
        return pl.Series(name, floats, pl.List(pl.Float64))
    texts = [None if value is None else [_as_text(part) for part in value if part is not None] for value in values]
    return pl.Series(name, texts, pl.List(pl.String))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
