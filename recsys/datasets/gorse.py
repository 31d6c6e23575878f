"""Gorse's exports: items, users and feedback as JSON Lines (version 0.5) or CSV (before)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.metarank import attribute_frame
from recsys.datasets.movielens import first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import find_file, read_delimited, read_json_lines
from recsys.schema import Col

_SUFFIXES: Final = ("jsonl", "json", "ndjson", "csv")
# Keys without case and underscores: JSON has FeedbackType and IsHidden, CSV feedback_type and is_hidden.
_SIGNS: Final = {
    "feedback": re.compile(r"feedback_?type", re.IGNORECASE),
    "items": re.compile(r"is_?hidden|ItemId", re.IGNORECASE),
}
_EVENTS: Final = {"star": "like", "read": "view"}
_NO_TIME: Final = "0001-01-01"
_GO_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d+)?) ?(Z|[+-]\d\d:?\d\d)(?: [A-Z]+)?(?: m=\S+)?"
)
_RESERVED: Final = (Col.ITEM_ID, Col.USER_ID, ROW, FILE)

_Record = dict[str, Any]


class GorseReader:
    """Reads `items`, `users` and `feedback`, each as JSON Lines or CSV.

    Items: Categories are the categories and Timestamp is created_at. Labels become attributes under their own names;
    the labels title and description are the standard columns. Comment is the title where no label is, since Gorse has
    no title of its own and most exports keep it there. Hidden items are left out, and so is the feedback on them; both
    are counted. Users: Labels become attributes.

    Feedback: the event is FeedbackType in lower case, with star as `like` and read as `view`. Value is the value,
    except 0, which Gorse writes where there is none. Comment is the text.
    """

    name = "gorse"

    def detects(self, folder: Path) -> bool:
        """Return whether there is feedback, or are items, with Gorse's own keys in the first line."""
        return any(
            sign.search(first_line(path))
            for stem, sign in _SIGNS.items()
            for path in folder.glob(f"{stem}.*")
            if path.name.removesuffix(".gz").split(".")[1:] in [[suffix] for suffix in _SUFFIXES]
        )

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return items, users and interactions."""
        tables = {name: _read_records(folder, name, faults) for name in ("items", "users", "feedback")}
        for name in ("items", "feedback"):
            if tables[name] is None and find_file(folder, [name], _SUFFIXES) is None:
                remedy = "Export it from Gorse's dashboard into the same folder."
                faults.add(Fault(f"{name}.jsonl or {name}.csv", "the file is missing", remedy))
        raw = RawTables()
        hidden: set[str] = set()
        if items := tables["items"]:
            shown = [item for item in items if not _is_true(item.get("ishidden"))]
            hidden = {str(item["itemid"]) for item in items if _is_true(item.get("ishidden")) and "itemid" in item}
            faults.note("hidden items, left out", len(items) - len(shown))
            raw.items = attribute_frame([_item(item, faults) for item in shown], faults) if shown else None
        if users := tables["users"]:
            raw.users = attribute_frame([_user(user, faults) for user in users], faults)
        if feedback := tables["feedback"]:
            raw.interactions = _interactions(feedback, hidden, faults)
        return raw


def _read_records(folder: Path, name: str, faults: FaultLog) -> list[_Record] | None:
    """Return one table's rows with keys in lower case without underscores, except the hidden columns."""
    path = find_file(folder, [name], _SUFFIXES)
    if path is None:
        return None
    if path.name.removesuffix(".gz").endswith(".csv"):
        frame = read_delimited(path, faults, separator=",", quoting=True)
        records = [] if frame is None else list(frame.iter_rows(named=True))
    else:
        records = read_json_lines(path, faults) or []
    return [
        {key if key == ROW else key.replace("_", "").lower(): value for key, value in record.items() if key != FILE}
        | {FILE: path.name}
        for record in records
    ]


def _is_true(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "1", "t"))


def _item(item: _Record, faults: FaultLog) -> _Record:
    labels = _labels(item, faults)
    title = labels.pop(Col.TITLE, None) or item.get("comment", item.get("description"))
    return labels | {
        Col.ITEM_ID: _id(item.get("itemid")),
        Col.TITLE: title,
        Col.CATEGORIES: _listed(item.get("categories") or labels.get(Col.CATEGORIES)),
        Col.CREATED_AT: _time(item.get("timestamp") or labels.get(Col.CREATED_AT)),
        ROW: item[ROW],
        FILE: item[FILE],
    }


def _user(user: _Record, faults: FaultLog) -> _Record:
    return {Col.USER_ID: _id(user.get("userid")), **_labels(user, faults), ROW: user[ROW], FILE: user[FILE]}


def _id(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(value: Any) -> Any:
    """Return a CSV cell `a|b` as a list, anything else as it is."""
    return [part for part in value.split("|") if part] if isinstance(value, str) else value


def _labels(record: _Record, faults: FaultLog) -> _Record:
    """Return labels as one flat mapping: keys of nested objects are joined by `_`, a bare list is called `labels`."""
    labels = record.get("labels")
    if isinstance(labels, str):
        try:
            labels = json.loads(labels)
        except (ValueError, RecursionError):
            labels = _listed(labels)
    if labels is None:
        return {}
    flat = _flat(labels) if isinstance(labels, dict) else {"labels": labels}
    for name in [name for name in flat if name in _RESERVED]:
        faults.note(f"labels named {name}, which is a column's own name, left out")
        del flat[name]
    return flat


def _flat(labels: Mapping[str, Any], prefix: str = "") -> _Record:
    flat: _Record = {}
    for name, value in labels.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _time(value: Any) -> Any:
    """Return a time as ISO 8601, None for Go's zero time; what looks different is left for validation to judge."""
    if not isinstance(value, str) or (match := _GO_TIME.fullmatch(value.strip())) is None:
        return value
    day, clock, zone = match.groups()
    return None if day == _NO_TIME else f"{day}T{clock}{zone}"


def _interactions(feedback: list[_Record], hidden: set[str], faults: FaultLog) -> pl.DataFrame | None:
    kept = [row for row in feedback if str(row.get("itemid")) not in hidden]
    faults.note("feedback on hidden items, left out", len(feedback) - len(kept))
    if not kept:
        return None
    rows = [
        {
            Col.USER_ID: _id(row.get("userid")),
            Col.ITEM_ID: _id(row.get("itemid")),
            Col.TIMESTAMP: _time(row.get("timestamp")),
            Col.EVENT: _event(row.get("feedbacktype")),
            Col.VALUE: _value(row.get("value")),
            Col.TEXT: row.get("comment") or None,
            ROW: row[ROW],
            FILE: row[FILE],
        }
        for row in kept
    ]
    return attribute_frame(rows, faults)


def _event(kind: Any) -> Any:
    return _EVENTS.get(kind.strip().lower(), kind.strip().lower()) if isinstance(kind, str) else kind


def _value(value: Any) -> Any:
    return None if value in (0, "0", "") else value
