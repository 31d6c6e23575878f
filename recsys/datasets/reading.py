"""Files into text, raw frames and records: every fault is named, nothing is dropped in silence."""

import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.datasets.delimited import report_ragged, split_plain, split_quoted, take_header
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW
from recsys.errors import DataError

_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
_PARQUET: Final = b"PAR1"
_NO_ROWS: Final = "Export it again with its rows, or take the file away where the table is optional."


def find_file(folder: Path, stems: Sequence[str], suffixes: Sequence[str]) -> Path | None:
    """Return the file of `folder` named one of `stems` with one of `suffixes`, gzipped (`.gz`) or not, or None.

    Raises:
        DataError: more than one file has such a name, so that it is not clear which is meant.
    """
    endings = [f".{suffix.lstrip('.')}{gz}" for suffix in suffixes for gz in ("", ".gz")]
    names = {f"{stem}{ending}" for stem in stems for ending in endings}
    found = sorted(path for path in folder.iterdir() if path.name in names and path.is_file())
    if len(found) > 1:
        fault = Fault(
            found[1].name,
            f"the table is there {len(found)} times: {', '.join(path.name for path in found)}",
            "Keep the one that is right and move the other files out of the folder.",
        )
        raise DataError(str(fault), (fault,))
    return found[0] if found else None


def read_text(path: Path, faults: FaultLog, *, encodings: Sequence[str] = ("utf-8-sig",)) -> str | None:
    """Return a file's text with `\\n` line ends and without byte order mark, or None after a fault.

    Gzip is recognised by its first bytes, whatever the name. The first of `encodings` that fits is taken.
    """
    data = _read_bytes(path, faults)
    if data is None:
        return None
    if data.startswith(_UTF16):
        _add(faults, path, "the file is UTF-16 text", f"Convert it: iconv -f utf-16 -t utf-8 {path.name} > new file.")
        return None
    if (offset := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, offset) + 1
        _add(
            faults,
            path,
            f"there is a NUL byte at byte offset {offset} (line {line}), so the file is binary or damaged",
            "Export the table again as UTF-8 text, or as Parquet with the suffix .parquet.",
        )
        return None
    text = _decode(data, path, faults, encodings)
    if text is not None and not text.strip():
        _add(faults, path, "the file is empty", _NO_ROWS)
        return None
    return text.replace("\r\n", "\n") if text is not None and "\r" in text else text


def read_delimited(
    path: Path,
    faults: FaultLog,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    quoting: bool,
    encodings: Sequence[str] = ("utf-8-sig",),
) -> pl.DataFrame | None:
    """Return a delimited file as String columns with `ROW` and `FILE`, or None after a fault in the file as a whole
    or where no row is left.

    Empty fields are null, blank lines are skipped. A row with more or fewer fields than columns is a fault and is not
    in the frame. A column without a name, such as the index that pandas writes, is noted and left out.

    Args:
        path: the file, gzipped or not.
        faults: where faults are recorded.
        separator: one character; without quoting any string, such as `::`.
        columns: names of the columns; None takes them from the first line.
        quoting: whether fields may stand in double quotes (RFC 4180). Without, quotes are ordinary characters.
        encodings: see `read_text`.
    """
    if quoting and len(separator) != 1:
        raise ValueError(f"a quoted file needs a separator of one character, not {separator!r}")
    text = read_text(path, faults, encodings=encodings)
    if text is None:
        return None
    quoted = quoting and '"' in text
    if columns is None:
        header, text = take_header(text, separator, path, faults, quoted=quoted)
        if header is None:
            return None
    else:
        header = list(columns)
    n_columns = len(header)
    if quoted:
        table, ragged = split_quoted(text, separator, n_columns, path, faults)
    else:
        table, ragged = split_plain(text, separator, n_columns)
    report_ragged(ragged, n_columns, separator, path, faults)
    if table.is_empty():
        if ragged.is_empty():
            _add(faults, path, "the file has a header but no rows", _NO_ROWS)
        return None
    named = [pl.col(str(i)).replace("", None).alias(name) for i, name in enumerate(header) if name]
    return table.select(*named, ROW, pl.lit(path.name).alias(FILE))


def read_json_lines(path: Path, faults: FaultLog) -> list[dict[str, Any]] | None:
    """Return the objects of a JSON Lines file in order, each with its 1-based line under the key `ROW`, or None.

    A broken line, a line that is no object, and the literals NaN and Infinity are faults; such lines are not in the
    list. Blank lines are skipped.
    """
    text = read_text(path, faults)
    if text is None:
        return None
    if text.lstrip().startswith("["):
        _add(
            faults,
            path,
            "the file is one JSON array, not JSON Lines",
            f"Write one object per line: jq -c '.[]' {path.name} > new file.",
        )
        return None
    records = []
    for row, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            record = _parse_record(line, row, path, faults)
            if record is not None:
                record[ROW] = row
                records.append(record)
    return records


def read_parquet(path: Path, faults: FaultLog) -> pl.DataFrame | None:
    """Return a Parquet file with its own dtypes and `ROW` and `FILE`, or None after a fault."""
    data = _read_bytes(path, faults)
    if data is None:
        return None
    remedy = "Write it again as Parquet, or rename it to what it is (.csv, .jsonl)."
    if not (data.startswith(_PARQUET) and data.endswith(_PARQUET)):
        cut = "the Parquet file is cut off" if data.startswith(_PARQUET) else "the file is not Parquet"
        _add(faults, path, cut, remedy, value=data[:16].decode("utf-8", "replace"))
        return None
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        _add(faults, path, f"the Parquet file is damaged: {str(error).splitlines()[0]}", remedy)
        return None
    if frame.is_empty():
        _add(faults, path, "the file has columns but no rows", _NO_ROWS)
        return None
    frame = frame.drop(ROW, FILE, strict=False)
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias(ROW), pl.lit(path.name).alias(FILE))


def _add(faults: FaultLog, path: Path, problem: str, remedy: str, **place: Any) -> None:
    faults.add(Fault(path.name, problem, remedy, **place))


def _read_bytes(path: Path, faults: FaultLog) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        _add(faults, path, f"the file cannot be read: {error.strerror}", "Check its permissions and the disk.")
        return None
    if data.startswith(_ZIP):
        _add(faults, path, "the file is a zip archive", "Unpack it; gzip is read directly, zip is not.")
        return None
    if data.startswith(_GZIP):
        again = "Copy or download it again."
        try:
            data = gzip.decompress(data)
        except EOFError:
            _add(faults, path, "the gzip file is cut off", again)
            return None
        except (gzip.BadGzipFile, zlib.error) as error:
            _add(faults, path, f"the gzip file is damaged: {error}", again)
            return None
    if not data:
        _add(faults, path, "the file is empty", _NO_ROWS)
        return None
    return data


def _decode(data: bytes, path: Path, faults: FaultLog, encodings: Sequence[str]) -> str | None:
    first: UnicodeDecodeError | None = None
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            first = first or error
    if first is None:
        raise ValueError("read_text needs at least one encoding")
    # The utf-8-sig decoder counts from behind the byte order mark.
    start = first.start + (len(data) - len(first.object))
    line = data.count(b"\n", 0, start) + 1
    _add(
        faults,
        path,
        f"byte 0x{data[start]:02x} at byte offset {start} (line {line}) is not UTF-8",
        f"Convert it, if it is Latin-1: iconv -f latin1 -t utf-8 {path.name} > new file.",
        value=data[max(data.rfind(b"\n", 0, start) + 1, start - 20) : start + 20].split(b"\n")[0].decode("latin-1"),
    )
    return None


def _refuse_constant(literal: str) -> float:
    raise ValueError(f"the literal {literal} is not allowed in JSON")


def _parse_record(line: str, row: int, path: Path, faults: FaultLog) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
        if "\\ud" in line.lower():
            json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at character {error.pos + 1}"
        elif isinstance(error, UnicodeEncodeError):
            reason = "half a surrogate pair is no character"
        _add(
            faults,
            path,
            f"the line is not valid JSON: {reason}",
            "Write one complete JSON object per line; numbers must be finite, a missing value is null.",
            row=row,
            value=line,
        )
        return None
    if not isinstance(record, dict):
        _add(faults, path, "the line is JSON, but not an object", "Write every row as an object.", row=row, value=line)
        return None
    return record
