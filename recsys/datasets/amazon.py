"""Amazon reviews and product metadata as UCSD published them: JSON Lines of 2014, 2018 and 2023."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.movielens import first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import read_json_lines, read_text
from recsys.schema import Col

_SUFFIXES: Final = (".json", ".jsonl")
_REVIEW_KEYS: Final = (("reviewerID", "asin"), ("user_id", "parent_asin", "rating"))
_PRICE: Final = re.compile(r"(?:from\s+)?\$?\s*(\d[\d,]*(?:\.\d+)?)(?:\s*-\s*\$?\s*\d[\d,]*(?:\.\d+)?)?", re.IGNORECASE)
_ALT: Final = re.compile(r"<img[^>]*\balt=\"([^\"]*)\"[^>]*>")
_NO_PRICE: Final = ("", "None", "—")


class AmazonReader:
    """Reads reviews as events of kind `rating` and `meta*` files as items.

    Interactions: the value is the number of stars, the text is the review's heading and body. The item is
    parent_asin (2023), else asin; metadata are keyed in the same way.

    Items: the description is the product's description followed by its features; categories are the named ones, each
    once. Attributes: `brand` (2023: store), `main_category`, and `price` in dollars, of a range the lower end. Rows of
    the metadata that repeat an earlier one are left out and counted. 2014's metadata, which are Python literals instead
    of JSON, are read too.
    """

    name = "amazon"

    def detects(self, folder: Path) -> bool:
        """Return whether there is a file of reviews, or metadata with an asin, by the keys of the first line."""
        reviews, meta = _files(folder)
        return any(_has_keys(path, keys) for path in reviews for keys in _REVIEW_KEYS) or any(
            _has_keys(path, [key]) for path in meta for key in ("asin", "parent_asin")
        )

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return items and interactions; several files of one kind are read one after the other, by name."""
        reviews, meta = _files(folder)
        for paths, wanted in ((reviews, "*.json.gz with the reviews"), (meta, "meta_*.json.gz with the products")):
            if not paths:
                faults.add(Fault(wanted, "the file is missing", "Copy it from the Amazon review data."))
        return RawTables(
            items=_distinct(_concat(_read_items(path, faults) for path in meta), faults),
            interactions=_concat(_read_reviews(path, faults) for path in reviews),
        )


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of reviews and those of metadata, each sorted by name."""
    found = (path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith(_SUFFIXES))
    paths = sorted(path for path in found if path.is_file())
    return [p for p in paths if not p.name.startswith("meta")], [p for p in paths if p.name.startswith("meta")]


def _has_keys(path: Path, keys: Sequence[str]) -> bool:
    line = first_line(path)
    return all(f'"{key}"' in line or f"'{key}'" in line for key in keys)


def _concat(frames: Iterable[pl.DataFrame | None]) -> pl.DataFrame | None:
    found = [frame for frame in frames if frame is not None]
    return pl.concat(found) if found else None


def _distinct(items: pl.DataFrame | None, faults: FaultLog) -> pl.DataFrame | None:
    if items is None:
        return None
    distinct = items.unique(pl.exclude(ROW, FILE), keep="first", maintain_order=True)
    faults.note("rows of the metadata that repeat an earlier row, left out", items.height - distinct.height)
    return distinct


def _read_records(path: Path, faults: FaultLog) -> list[dict[str, Any]]:
    if not first_line(path).startswith(("{'", "{u'")):
        return read_json_lines(path, faults) or []
    text = read_text(path, faults)
    records = []
    for row, line in enumerate((text or "").split("\n"), start=1):
        if line and not line.isspace():
            try:
                record = ast.literal_eval(line)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                record = None
            if isinstance(record, dict):
                records.append({**record, ROW: row})
            else:
                problem = "the line is no Python literal of an object, as the other lines of this file are"
                faults.add(Fault(path.name, problem, "Copy the file again.", row=row, value=line))
    return records


def _first(record: Mapping[str, Any], *keys: str) -> Any:
    """Return the value of the first key that is there and not empty, else None."""
    return next((record[key] for key in keys if record.get(key) not in (None, "", [], {})), None)


def _text(value: Any) -> str | None:
    """Return a value as text that validation can judge; lists are joined line by line, nothing is None."""
    if isinstance(value, list):
        return "\n".join(part for item in value if (part := _text(item))) or None
    return None if value is None or value == "" else str(value)


def _frame(path: Path, records: Sequence[Mapping[str, Any]], columns: Mapping[str, list[Any]]) -> pl.DataFrame:
    """Return columns as a frame of String, the categories as lists."""
    listed = pl.List(pl.String)
    return pl.DataFrame(
        [
            *(
                pl.Series(name, values, listed if name == Col.CATEGORIES else pl.String)
                for name, values in columns.items()
            ),
            pl.Series(ROW, [record[ROW] for record in records], pl.Int64),
            pl.Series(FILE, [path.name] * len(records), pl.String),
        ]
    )


def _read_reviews(path: Path, faults: FaultLog) -> pl.DataFrame | None:
    records = _read_records(path, faults)
    if not records:
        return None
    return _frame(
        path,
        records,
        {
            Col.USER_ID: [_text(_first(record, "reviewerID", "user_id")) for record in records],
            Col.ITEM_ID: [_text(_first(record, "parent_asin", "asin")) for record in records],
            Col.TIMESTAMP: [_text(_first(record, "unixReviewTime", "timestamp")) for record in records],
            Col.EVENT: ["rating"] * len(records),
            Col.VALUE: [_text(_first(record, "overall", "rating")) for record in records],
            Col.TEXT: [
                _text([_first(record, "summary", "title"), _first(record, "reviewText", "text")]) for record in records
            ],
        },
    )


def _read_items(path: Path, faults: FaultLog) -> pl.DataFrame | None:
    records = _read_records(path, faults)
    if not records:
        return None
    prices = [_price(record.get("price")) for record in records]
    unread = sum(1 for text, number in prices if text not in _NO_PRICE and number is None)
    faults.note(f"prices of {path.name} that are no number, left out", unread)
    return _frame(
        path,
        records,
        {
            Col.ITEM_ID: [_text(_first(record, "parent_asin", "asin")) for record in records],
            Col.TITLE: [_text(record.get("title")) for record in records],
            Col.DESCRIPTION: [
                _text([_first(record, "description"), _first(record, "feature", "features")]) for record in records
            ],
            Col.CATEGORIES: [_categories(_first(record, "category", "categories")) for record in records],
            "brand": [_text(_first(record, "brand", "store")) for record in records],
            "main_category": [_main_category(_first(record, "main_cat", "main_category")) for record in records],
            "price": [number for _, number in prices],
        },
    )


def _categories(value: Any) -> list[str] | None:
    """Return distinct category names in order; 2014 lists several paths, each a list of its own."""
    parts = value if isinstance(value, list) else [value]
    flat = [name for part in parts for name in (part if isinstance(part, list) else [part])]
    return list(dict.fromkeys(text for name in flat if (text := _text(name)))) or None


def _main_category(value: Any) -> str | None:
    """Return the name; 2018 gives some as a picture whose alternative text is the name."""
    text = _text(value)
    picture = _ALT.search(text) if text else None
    return picture.group(1) if picture else text


def _price(value: Any) -> tuple[str, str | None]:
    """Return a price as it stands and as a number in text, None where it is no price."""
    text = (_text(value) or "").strip()
    match = _PRICE.fullmatch(text)
    return text, match.group(1).replace(",", "") if match else None
