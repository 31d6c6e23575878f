"""The same tables written as Parquet, CSV, TSV, JSON Lines and gzip load to equal data sets."""

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.config import DataConfig
from recsys.datasets import load_dataset
from recsys.schema import IMPRESSIONS, INTERACTIONS, Col

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
IDS = TEXT.filter(lambda text: text.strip(" ") != "" and text.strip() != "")
NUMBERS = st.floats(-1e14, 1e14, allow_nan=False)
TIMES = st.datetimes(datetime(1990, 1, 2), datetime(2024, 12, 31)).map(lambda time: time.replace(tzinfo=UTC))
KINDS = st.sampled_from(["view", "click", "purchase", "rating", "loved it"])


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    item_ids = draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    user_ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    items = [
        {
            "item_id": item_id,
            "title": draw(st.none() | TEXT),
            "description": draw(st.none() | TEXT),
            "categories": draw(st.none() | st.lists(TEXT, max_size=3)),
            "created_at": draw(st.none() | TIMES),
            "price": draw(st.none() | NUMBERS),
            "in_print": draw(st.none() | st.booleans()),
            "maker": draw(st.none() | TEXT),
        }
        for item_id in item_ids
    ]
    interactions = [
        {
            "user_id": draw(st.sampled_from(user_ids)),
            "item_id": draw(st.sampled_from(item_ids)),
            "timestamp": draw(TIMES),
            "event": draw(KINDS),
            "value": draw(st.none() | NUMBERS),
            "request_id": draw(st.none() | IDS),
            "text": draw(st.none() | TEXT),
        }
        for _ in range(draw(st.integers(1, 8)))
    ]
    impressions = [
        {
            "request_id": f"request {r}",
            "user_id": user_id,
            "timestamp": time,
            "item_id": item_id,
            "position": draw(st.none() | st.integers(1, 2**31 - 1)),
            "clicked": draw(st.booleans()),
            "propensity": draw(st.none() | st.floats(0, 1, exclude_min=True)),
        }
        for r in range(draw(st.integers(0, 2)))
        for user_id, time in [(draw(st.sampled_from(user_ids)), draw(TIMES))]
        for item_id in draw(st.lists(st.sampled_from(item_ids), min_size=1, unique=True))
    ]
    users = [{"user_id": user_id, "age": draw(st.integers(0, 120)), "zip": draw(TEXT)} for user_id in user_ids]
    every = {"items": items, "interactions": interactions, "impressions": impressions, "users": users}
    return {name: rows for name, rows in every.items() if rows}


def as_parquet(name: str, rows: Rows) -> bytes:
    schema: dict[str, Any] = {"categories": pl.List(pl.String), "price": pl.Float64, "in_print": pl.Boolean}
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema_overrides={k: v for k, v in schema.items() if k in rows[0]}).write_parquet(buffer)
    return buffer.getvalue()


def as_delimited(separator: str) -> Callable[[str, Rows], bytes]:
    def write(name: str, rows: Rows) -> bytes:
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, delimiter=separator)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow([json.dumps(v) if isinstance(v, list | bool) else v for v in row.values()])
        return buffer.getvalue().encode()

    return write


def as_json_lines(name: str, rows: Rows) -> bytes:
    lines = []
    for row in rows:
        plain = {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}
        lines.append(json.dumps(plain, ensure_ascii=False) + "\n")
    return "".join(lines).encode()


def gzipped(write: Callable[[str, Rows], bytes]) -> Callable[[str, Rows], bytes]:
    return lambda name, rows: gzip.compress(write(name, rows))


WRITERS: dict[str, Callable[[str, Rows], bytes]] = {
    ".csv": as_delimited(","),
    ".tsv": as_delimited("\t"),
    ".jsonl": as_json_lines,
    ".csv.gz": gzipped(as_delimited(",")),
    ".jsonl.gz": gzipped(as_json_lines),
    ".parquet.gz": gzipped(as_parquet),
}


def load(written: Tables, suffix: str, write: Callable[[str, Rows], bytes], config: DataConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in written.items():
            (Path(folder) / f"{name}{suffix}").write_bytes(write(name, rows))
        dataset = load_dataset(folder, "tables", config)
        return {name: getattr(dataset, name) for name in ("items", "interactions", "impressions", "users")}


@settings(max_examples=40, deadline=None)
@given(tables())
def test_every_file_format_gives_the_same_dataset(written: Tables) -> None:
    config = DataConfig(max_duplicate_share=1.0)
    expected = load(written, ".parquet", as_parquet, config)
    for suffix, write in WRITERS.items():
        found = load(written, suffix, write, config)
        for name, table in expected.items():
            if table is None:
                assert found[name] is None
            else:
                assert found[name].schema == table.schema, (suffix, name)
                assert found[name].equals(table), f"{suffix} {name}:\n{found[name]}\n{table}"


@settings(max_examples=40, deadline=None)
@given(tables())
def test_what_was_written_is_what_is_loaded(written: Tables) -> None:
    loaded = load(written, ".csv", as_delimited(","), DataConfig(max_duplicate_share=1.0))
    assert loaded["items"]["item_id"].to_list() == [row["item_id"] for row in written["items"]]
    by_id = {row["item_id"]: row for row in written["items"]}
    for row in loaded["items"].iter_rows(named=True):
        assert row["created_at"] == by_id[row["item_id"]]["created_at"]
        assert row.get("price") == by_id[row["item_id"]]["price"]
    key = list(INTERACTIONS.dtypes)
    rows = {tuple(row[name] or None for name in key) for row in written["interactions"]}
    found = {tuple(value or None for value in row) for row in loaded["interactions"].select(key).rows()}
    assert rows <= found
    clicks = {(r["request_id"], r["item_id"]) for r in written.get("impressions", []) if r["clicked"]}
    added = loaded["interactions"].filter(pl.col(Col.EVENT) == "click").select(Col.REQUEST_ID, Col.ITEM_ID).rows()
    assert clicks <= set(added) | {
        (r["request_id"], r["item_id"])
        for r in written.get("impressions", [])
        for i in written["interactions"]
        if i["request_id"] is None and all(i[name] == r[name] for name in ("user_id", "item_id", "timestamp"))
    }
    if "impressions" in written:
        assert sorted(loaded["impressions"].select(*IMPRESSIONS.dtypes).rows(), key=repr) == sorted(
            (tuple(row[name] for name in IMPRESSIONS.dtypes) for row in written["impressions"]), key=repr
        )
