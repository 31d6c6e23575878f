"""Faulty files of the generic tables: each is refused with its file, row, column, value and a remedy."""

import gzip
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys.config import DataConfig
from recsys.datasets import Fault, load_dataset, validate_folder
from recsys.errors import DataError

ITEMS = "item_id,title,description\ni1,Socks,Warm\ni2,Hats,Wide\ni3,Shoes,Red\n"
INTERACTIONS = (
    "user_id,item_id,timestamp,event,value\n"
    "u1,i1,2024-03-01T10:00:00Z,click,\n"
    "u1,i2,2024-03-01T11:00:00Z,purchase,12.5\n"
    "u2,i3,2024-03-02T10:00:00Z,rating,4\n"
)
IMPRESSIONS = (
    "request_id,user_id,timestamp,item_id,position,clicked,propensity\n"
    "r1,u1,2024-03-01T10:00:00Z,i1,1,true,0.5\n"
    "r1,u1,2024-03-01T10:00:00Z,i2,2,false,0.25\n"
    "r2,u2,2024-03-02T10:00:00Z,i3,1,0,\n"
)
SOUND = {"items.csv": ITEMS, "interactions.csv": INTERACTIONS, "impressions.csv": IMPRESSIONS}


@dataclass
class Case:
    """Files that replace or join the sound ones (None takes one away), and the fault that must be reported."""

    name: str
    files: dict[str, str | bytes | None]
    file: str
    problem: str
    remedy: str
    row: int | None = None
    column: str | None = None
    value: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, files: dict[str, str | bytes | None]) -> Path:
    for name, content in {**SOUND, **files}.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def items(*rows: str, header: str = "item_id,title,description") -> str:
    return "\n".join([header, "i1,Socks,Warm", "i2,Hats,Wide", "i3,Shoes,Red", *rows, ""])


def interaction(row: str) -> str:
    return INTERACTIONS + row + "\n"


def impression(row: str) -> str:
    return IMPRESSIONS + row + "\n"


def json_lines(*objects: object) -> str:
    return "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in objects)


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


ITEM_OBJECTS = [{"item_id": f"i{i}", "title": "Socks", "price": 1.5} for i in (1, 2, 3)]
EVENT_OBJECTS = [
    {"user_id": "u1", "item_id": "i1", "timestamp": 1709287200, "event": "click"},
    {"user_id": "u2", "item_id": "i3", "timestamp": 1709373600, "event": "click"},
]
WITHOUT_CSV: dict[str, str | bytes | None] = {"interactions.csv": None, "impressions.csv": None}
EVENT_FRAME = pl.DataFrame(EVENT_OBJECTS)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"

WHOLE_FILE = [
    Case("empty file", {"items.csv": ""}, "items.csv", "the file is empty", "Export it again"),
    Case("blank file", {"items.csv": "\n \n"}, "items.csv", "the file is empty", "Export it again"),
    Case("header only", {"items.csv": "item_id,title\n"}, "items.csv", "a header but no rows", "Export it again"),
    Case(
        "parquet without rows",
        {"items.csv": None, "items.parquet": parquet(pl.DataFrame({"item_id": []}, schema={"item_id": pl.String}))},
        "items.parquet",
        "columns but no rows",
        "Export it again",
    ),
    Case(
        "truncated gzip",
        {"interactions.csv": None, "interactions.csv.gz": gzip.compress(INTERACTIONS.encode())[:-20]},
        "interactions.csv.gz",
        "the gzip file is cut off",
        "Copy or download it again",
    ),
    Case(
        "gzip with a wrong checksum",
        {"interactions.csv": None, "interactions.csv.gz": gzip.compress(INTERACTIONS.encode())[:-8] + b"12345678"},
        "interactions.csv.gz",
        "the gzip file is damaged",
        "Copy or download it again",
    ),
    Case("zip archive", {"items.csv": b"PK\x03\x04rest"}, "items.csv", "a zip archive", "Unpack it"),
    Case("binary file", {"items.csv": PNG}, "items.csv", "NUL byte at byte offset 8", "UTF-8 text"),
    Case(
        "UTF-16",
        {"items.csv": ITEMS.encode("utf-16")},
        "items.csv",
        "the file is UTF-16 text",
        "iconv -f utf-16 -t utf-8 items.csv",
    ),
    Case(
        "Latin-1",
        {"items.csv": (ITEMS + "i4,Café,x\n").encode("latin-1")},
        "items.csv",
        r"byte 0xe9 at byte offset 72 \(line 5\) is not UTF-8",
        "iconv -f latin1 -t utf-8 items.csv",
        value="Café,x",
    ),
    Case(
        "Latin-1 behind a byte order mark",
        {"items.csv": b"\xef\xbb\xbf" + (ITEMS + "i4,Café,x\n").encode("latin-1")},
        "items.csv",
        r"byte 0xe9 at byte offset 75 \(line 5\)",
        "iconv",
    ),
    Case("missing items", {"items.csv": None}, "data", "there is no items table", r"Add one \(items\.parquet, items"),
    Case(
        "missing behaviour",
        {**WITHOUT_CSV},
        "data",
        "neither an interactions nor an impressions table",
        "Add interactions with the columns user_id, item_id, timestamp and event",
    ),
    Case(
        "two files for one table",
        {"items.parquet": parquet(pl.DataFrame({"item_id": ["i1"]}))},
        "items.parquet",
        r"there 2 times: items\.csv, items\.parquet",
        "Keep the one that is right",
    ),
    Case(
        "plain and gzipped",
        {"items.csv.gz": gzip.compress(ITEMS.encode())},
        "items.csv.gz",
        r"there 2 times: items\.csv, items\.csv\.gz",
        "Keep the one that is right",
    ),
    Case(
        "parquet that is not parquet",
        {"items.csv": None, "items.parquet": ITEMS},
        "items.parquet",
        "the file is not Parquet",
        "Write it again as Parquet",
        value="item_id,title,de",
    ),
    Case(
        "truncated parquet",
        {**WITHOUT_CSV, "interactions.parquet": parquet(EVENT_FRAME)[:-30]},
        "interactions.parquet",
        "the Parquet file is cut off",
        "Write it again as Parquet",
    ),
    Case(
        "damaged parquet",
        {**WITHOUT_CSV, "interactions.parquet": b"PAR1" + b"\xff" * 60 + b"PAR1"},
        "interactions.parquet",
        "the Parquet file is damaged",
        "Write it again as Parquet",
    ),
    Case(
        "JSON array",
        {"items.csv": None, "items.json": json.dumps(ITEM_OBJECTS)},
        "items.json",
        "one JSON array, not JSON Lines",
        r"jq -c '\.\[\]' items\.json",
    ),
]
SHAPE = [
    Case(
        "wrong separator",
        {"items.csv": ITEMS.replace(",", ";")},
        "items.csv",
        "the header is a single column; its fields seem to be separated by ';' instead of ','",
        "Write the file again with ','",
        value="item_id;title;description",
    ),
    Case(
        "column named twice",
        {"items.csv": items(header="item_id,title,title")},
        "items.csv",
        "the header names a column twice",
        "own name",
        column="title",
        value="item_id, title, title",
    ),
    Case(
        "header without names",
        {"items.csv": items(header=",,")},
        "items.csv",
        "the header line names no column",
        "into the first line",
        value=",,",
    ),
    Case(
        "row too long",
        {"items.csv": items("i4,Gloves,Thick, and blue")},
        "items.csv",
        "does not have 3 fields separated by ','",
        "needs quotes",
        4,
        value="4 fields: i4,Gloves,Thick, and blue",
    ),
    Case(
        "row too short beside quotes",
        {"items.csv": items('i4,"Gloves, blue",x', "i5,Scarf")},
        "items.csv",
        "does not have 3 fields separated by ','",
        "Complete or shorten the row",
        5,
        value="2 fields: i5,Scarf",
    ),
    Case(
        "quote never closed",
        {"items.csv": items('i4,"Gloves,x')},
        "items.csv",
        "the row cannot be split into fields: unexpected end of data",
        "Close every quoted field",
        4,
    ),
    Case(
        "line ends of another age in the header",
        {"items.csv": items('i4,"Gloves, blue",x', header="item_id,title,description\rmore")},
        "items.csv",
        "the header cannot be split into columns: new-line character",
        "end lines with a line feed",
        value="item_id,title,description\rmore",
    ),
    Case(
        "wrong column",
        {"interactions.csv": INTERACTIONS.replace("user_id", "userId")},
        "interactions.csv",
        "a required column is missing",
        "Rename 'userId' to 'user_id'",
        column="user_id",
        value="userId, item_id, timestamp, event, value",
    ),
    Case(
        "misspelt column",
        {"interactions.csv": INTERACTIONS.replace("timestamp", "timstamp")},
        "interactions.csv",
        "a required column is missing",
        "Rename 'timstamp' to 'timestamp'",
        column="timestamp",
    ),
    Case(
        "missing column",
        {"items.csv": "title\nSocks\n"},
        "items.csv",
        "a required column is missing",
        "Add it; required are item_id",
        column="item_id",
        value="title",
    ),
    Case(
        "broken JSON line",
        {"items.csv": None, "items.jsonl": json_lines(ITEM_OBJECTS[0], '{"item_id": "i2",\n', ITEM_OBJECTS[2])},
        "items.jsonl",
        "the line is not valid JSON: Expecting property name",
        "one complete JSON object per line",
        2,
        value='{"item_id": "i2",',
    ),
    Case(
        "JSON line that is no object",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, '"i4"\n')},
        "items.jsonl",
        "the line is JSON, but not an object",
        "Write every row as an object",
        4,
        value='"i4"',
    ),
    Case(
        "NaN in JSON",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, {"item_id": "i4", "price": float("nan")})},
        "items.jsonl",
        "the literal NaN is not allowed in JSON",
        "a missing value is null",
        4,
        value='{"item_id": "i4", "price": NaN}',
    ),
    Case(
        "half a surrogate pair",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, '{"item_id": "i4", "title": "\\ud83d"}\n')},
        "items.jsonl",
        "half a surrogate pair is no character",
        "one complete JSON object per line",
        4,
    ),
    Case(
        "endless nesting",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, "{" + '"a":{' * 200_000 + "\n")},
        "items.jsonl",
        "the line is not valid JSON",
        "one complete JSON object per line",
        4,
    ),
    Case(
        "mixed types",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, {"item_id": "i4", "price": "cheap"})},
        "items.jsonl",
        "the column has mixed types: number and text",
        "Write all its values as one type",
        4,
        "price",
        '"cheap"',
    ),
]
VALUES = [
    Case(
        "text for a number",
        {"interactions.csv": interaction("u1,i3,2024-03-05,purchase,twelve")},
        "interactions.csv",
        "a number belongs here",
        "decimal point",
        4,
        "value",
        "twelve",
    ),
    Case(
        "NaN score",
        {"interactions.csv": interaction("u1,i3,2024-03-05,rating,NaN")},
        "interactions.csv",
        "the number is not finite",
        "Leave the field empty",
        4,
        "value",
        "NaN",
    ),
    Case(
        "infinite score in Parquet",
        {
            **WITHOUT_CSV,
            "interactions.parquet": parquet(EVENT_FRAME.with_columns(value=pl.Series([1.0, float("inf")]))),
        },
        "interactions.parquet",
        "the number is not finite",
        "Leave the field empty",
        2,
        "value",
        "inf",
    ),
    Case(
        "true for a number",
        {**WITHOUT_CSV, "interactions.jsonl": json_lines(*({**event, "value": True} for event in EVENT_OBJECTS))},
        "interactions.jsonl",
        "a number belongs here",
        "decimal point",
        1,
        "value",
        "true",
    ),
    Case(
        "infinite attribute",
        {"items.csv": None, "items.jsonl": json_lines(*ITEM_OBJECTS, '{"item_id": "i4", "price": 1e999}\n')},
        "items.jsonl",
        "the number is not finite",
        "Leave the field empty",
        4,
        "price",
        "inf",
    ),
    Case(
        "bad date",
        {"interactions.csv": interaction("u1,i3,2024-02-30T10:00:00Z,click,")},
        "interactions.csv",
        "this is no time",
        "Write ISO 8601",
        4,
        "timestamp",
        "2024-02-30T10:00:00Z",
    ),
    Case(
        "date of another country",
        {"interactions.csv": interaction("u1,i3,31/12/2023,click,")},
        "interactions.csv",
        "this is no time",
        "Write ISO 8601",
        4,
        "timestamp",
        "31/12/2023",
    ),
    Case(
        "missing time",
        {"interactions.csv": interaction("u1,i3,,click,")},
        "interactions.csv",
        "the time is missing",
        "Fill it in",
        4,
        "timestamp",
    ),
    Case(
        "year 1970",
        {"interactions.csv": interaction("u1,i3,0,click,")},
        "interactions.csv",
        "the time lies before 1990-01-01",
        "0 often stands for an unknown time",
        4,
        "timestamp",
        "0",
    ),
    Case(
        "future time",
        {"interactions.csv": interaction("u1,i3,4102444800,click,")},
        "interactions.csv",
        "the time lies in the future",
        "Check the clock",
        4,
        "timestamp",
        "4102444800",
    ),
    Case(
        "future impression",
        {"impressions.csv": impression("r9,u1,2199-01-01,i3,1,true,")},
        "impressions.csv",
        "the time lies in the future",
        "Check the clock",
        4,
        "timestamp",
        "2199-01-01",
    ),
    Case(
        "created_at that is no time",
        {"items.csv": "item_id,created_at\ni1,2020\ni2,soon\ni3,\n"},
        "items.csv",
        "this is no time",
        "Write ISO 8601",
        2,
        "created_at",
        "soon",
    ),
    Case(
        "null id",
        {"interactions.csv": interaction(",i3,2024-03-05,click,")},
        "interactions.csv",
        "the id is missing",
        "Fill it in",
        4,
        "user_id",
    ),
    Case(
        "blank id",
        {"items.csv": items("  ,Gloves,x")},
        "items.csv",
        "the id is missing",
        "Fill it in",
        4,
        "item_id",
    ),
    Case(
        "decimal ids",
        {"items.csv": None, "items.parquet": parquet(pl.DataFrame({"item_id": [1.0, 2.0]}))},
        "items.parquet",
        "an id is text or a whole number, and this column has the type Float64",
        "Write the ids as text",
        1,
        "item_id",
        "1.0",
    ),
    Case(
        "duplicate item ids",
        {"items.csv": items("i2,Caps,x")},
        "items.csv",
        "the id was already given to an earlier row",
        "Keep one row per id",
        4,
        "item_id",
        "i2",
    ),
    Case(
        "duplicate user ids",
        {"users.csv": "user_id,age\nu1,3\nu2,4\nu1,5\n"},
        "users.csv",
        "the id was already given to an earlier row",
        "Keep one row per id",
        3,
        "user_id",
        "u1",
    ),
    Case(
        "10 MB title",
        {"items.csv": items(f"i4,{'x' * 10_000_000},y")},
        "items.csv",
        "the text is longer than 10,000 characters",
        "Shorten it",
        4,
        "title",
        f"{'x' * 60}… (10000000 characters)",
    ),
    Case(
        "2 MB description in quotes",
        {"items.csv": items(f'i4,Gloves,"{"y" * 2_000_000}"')},
        "items.csv",
        "the text is longer than 1,000,000 characters",
        "Shorten it",
        4,
        "description",
        f"{'y' * 60}… (2000000 characters)",
    ),
    Case(
        "broken category list",
        {"items.csv": "item_id,categories\ni1,a|b\ni2,['a']\ni3,\n"},
        "items.csv",
        "this is no list of texts",
        'a JSON array such as ["a", "b"], or a|b',
        2,
        "categories",
        "['a']",
    ),
    Case(
        "nested title",
        {"items.csv": None, "items.parquet": parquet(pl.DataFrame({"item_id": ["i1"], "title": [["a"]]}))},
        "items.parquet",
        "text belongs here, and this column has the type List",
        "Write plain text",
        1,
        "title",
    ),
    Case(
        "blank event",
        {"interactions.csv": interaction("u1,i3,2024-03-05, ,")},
        "interactions.csv",
        "the kind of event is missing",
        "Write what the user did",
        4,
        "event",
    ),
    Case(
        "negative event",
        {"interactions.csv": interaction("u1,i3,2024-03-05,-1,")},
        "interactions.csv",
        "the kind of event is a negative number",
        "Name what the user did",
        4,
        "event",
        "-1",
    ),
    Case(
        "position 0",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,0,0,")},
        "impressions.csv",
        "a position is a whole number from 1",
        "Count positions from 1",
        4,
        "position",
        "0",
    ),
    Case(
        "negative position",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,-3,0,")},
        "impressions.csv",
        "a position is a whole number from 1",
        "Count positions from 1",
        4,
        "position",
        "-3",
    ),
    Case(
        "position between two places",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,1.5,0,")},
        "impressions.csv",
        "a position is a whole number from 1",
        "Count positions from 1",
        4,
        "position",
        "1.5",
    ),
    Case(
        "propensity 2",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,2,0,2")},
        "impressions.csv",
        "a propensity is a probability above 0 and at most 1",
        "probability with which the item was shown",
        4,
        "propensity",
        "2",
    ),
    Case(
        "propensity 0",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,2,0,0")},
        "impressions.csv",
        "a propensity is a probability above 0",
        "probability with which the item was shown",
        4,
        "propensity",
        "0",
    ),
    Case(
        "clicked is maybe",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,2,maybe,")},
        "impressions.csv",
        "true or false belongs here",
        "Write true, false, 1 or 0",
        4,
        "clicked",
        "maybe",
    ),
]
ACROSS = [
    Case(
        "unknown items over the limit",
        {"interactions.csv": interaction("u1,I3,2024-03-05,click,")},
        "interactions.csv",
        r"1 of 4 rows \(25\.0%\) have an item that the items table lacks.*the first: \['I3'\], while .* such as 'i1'",
        "Add the items, check that both tables write ids alike, or set data.unknown_items",
        4,
        "item_id",
        "I3",
    ),
    Case(
        "request with two users",
        {"impressions.csv": impression("r2,u1,2024-03-02T10:00:00Z,i1,2,0,")},
        "impressions.csv",
        "one request has two users",
        "its own request_id",
        4,
        "user_id",
        "u1 in request r2",
    ),
    Case(
        "request with two times",
        {"impressions.csv": impression("r2,u2,2024-03-02T10:00:07Z,i1,2,0,")},
        "impressions.csv",
        "one request has two times",
        "its own request_id",
        4,
        "timestamp",
        "2024-03-02 10:00:07.000000+00:00 in request r2",
    ),
    Case(
        "too many repeats",
        {"interactions.csv": INTERACTIONS + INTERACTIONS.split("\n", 1)[1] * 2},
        "interactions.csv",
        r"6 of 9 interactions \(66\.7%\) repeat an earlier one exactly",
        "Check whether the export was appended twice",
        4,
        "item_id",
        "i1",
    ),
    Case(
        "no click anywhere",
        {"interactions.csv": None, "impressions.csv": IMPRESSIONS.replace("true", "false")},
        "data",
        "no behaviour is left",
        "no impression was clicked",
    ),
    Case(
        "every rating too low",
        {
            "impressions.csv": None,
            "interactions.csv": "user_id,item_id,timestamp,event,value\nu1,i1,2024-03-01,rating,2",
        },
        "data",
        "no behaviour is left",
        r"1 ratings below data\.min_rating",
        config={"min_rating": 3},
    ),
]
CASES = [*WHOLE_FILE, *SHAPE, *VALUES, *ACROSS]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_faulty_file_is_refused_with_place_value_and_remedy(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, case.files)
    config = DataConfig.model_validate(case.config)

    with pytest.raises(DataError, match=case.problem) as caught:
        load_dataset(folder, "tables", config)

    found = [fault for fault in caught.value.faults if isinstance(fault, Fault)]
    assert (case.file, case.row, case.column) in [(fault.file, fault.row, fault.column) for fault in found]
    fault = next(f for f in found if (f.file, f.row, f.column) == (case.file, case.row, case.column))
    assert caught.match(case.remedy)
    assert str(fault) in str(caught.value)
    if case.value is not None:
        assert fault.value is not None
        assert case.value in fault.value

    report = validate_folder(folder, "tables", config)
    assert not report.is_sound
    assert report.summary is None
    assert [str(fault) for fault in report.faults] == [str(fault) for fault in found]


def test_the_sound_files_behind_the_cases_load(tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path, {}))
    assert (dataset.items.height, dataset.interactions.height, dataset.n_users) == (3, 3, 2)


def test_one_mistake_is_one_fault(tmp_path: Path) -> None:
    write(tmp_path, {"interactions.csv": interaction("u1,nowhere,2024-02-30,click,x")})
    with pytest.raises(DataError, match="2 fault") as caught:
        load_dataset(tmp_path)
    assert [getattr(fault, "column", None) for fault in caught.value.faults] == ["timestamp", "value"]


def test_all_faults_of_all_files_are_found_in_one_pass(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "items.csv": items("i1,Again,x"),
            "interactions.csv": interaction("u1,i3,never,click,"),
            "impressions.csv": impression("r2,u2,2024-03-02T10:00:00Z,i1,-1,0,"),
            "users.csv": "",
        },
    )
    report = validate_folder(tmp_path)
    assert sorted(fault.file for fault in report.faults) == [
        "impressions.csv",
        "interactions.csv",
        "items.csv",
        "users.csv",
    ]


def test_many_rows_with_one_fault_are_shown_three_times_and_all_counted(tmp_path: Path) -> None:
    rows = "".join(f"u{i},i1,yesterday {i},click,\n" for i in range(1000))
    write(tmp_path, {"interactions.csv": INTERACTIONS + rows})
    report = validate_folder(tmp_path)
    assert [fault.value for fault in report.faults] == ["yesterday 0", "yesterday 1", "yesterday 2"]
    assert report.n_faults == 1000
    assert report.lines()[-1] == "  (and 997 more of the same kinds)"


def test_a_shown_value_is_cut_to_a_readable_length(tmp_path: Path) -> None:
    write(tmp_path, {"interactions.csv": interaction(f"u1,i3,{'9' * 5000},click,")})
    report = validate_folder(tmp_path)
    assert "(5000 characters)" in str(report.faults[0])
    assert len(str(report.faults[0])) < 400
