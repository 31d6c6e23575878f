"""Metarank's event log: JSON Lines of item, user, ranking and interaction events."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.check_times import to_time
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.movielens import first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import read_json_lines
from recsys.datasets.tables import records_frame
from recsys.schema import Col

_SUFFIXES: Final = (".json", ".jsonl", ".ndjson")
# What each kind of event cannot do without.
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "item": ("item", "timestamp"),
    "user": ("user", "timestamp"),
    "ranking": ("id", "items", "timestamp"),
    "interaction": ("type", "item", "timestamp"),
}
_SIGN: Final = re.compile(rf'"event"\s*:\s*"({"|".join(_REQUIRED)})"')
# Further names under which logs carry a standard column; the standard name wins where both are there.
_ALIASES: Final = {"name": Col.TITLE, "category": Col.CATEGORIES}
_RESERVED: Final = (Col.ITEM_ID, Col.USER_ID, ROW, FILE)
_CLICK: Final = "click"

_Event = dict[str, Any]
_Events = dict[str, list[_Event]]


class MetarankReader:
    """Reads all files of events in the folder, by name, as one log.

    Item and user events become items and users: the newest value of every field counts. The fields title (or name),
    description, categories (or category) and created_at are the standard columns, all others attributes.

    Ranking events become impressions with the place in the list as position, interactions interactions whose event is
    their type and whose request_id is their ranking. A shown item counts as clicked where the log has an interaction
    of type `click` with that ranking and item; in a log without the type `click`, one of any type. Where an event
    has no user its session stands in, then the user of its ranking; an event with none of them is left out and counted.
    The fields of rankings and interactions are not read.
    """

    name = "metarank"

    def detects(self, folder: Path) -> bool:
        """Return whether the first line of a JSON Lines file is an event."""
        return any(_SIGN.search(first_line(path)) for path in _json_files(folder))

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return items, users, impressions and interactions, as far as the log has such events."""
        events: _Events = {kind: [] for kind in _REQUIRED}
        for path in _json_files(folder):
            if not (first := first_line(path)) or _SIGN.search(first):  # an empty file is a fault that reading names
                for record in read_json_lines(path, faults) or []:
                    if _is_sound(record, path.name, faults):
                        events[record["event"]].append(record | {FILE: path.name})
        users_of_rankings = {str(ranking["id"]): _user(ranking, {}) for ranking in events["ranking"]}
        raw = RawTables(
            items=_entities(events["item"], "item", Col.ITEM_ID, faults),
            users=_entities(events["user"], "user", Col.USER_ID, faults),
            interactions=_interactions(events["interaction"], users_of_rankings, faults),
            impressions=_impressions(events["ranking"], events["interaction"], faults),
        )
        if raw.items is None and config.unknown_items == "keep":
            raw.items = pl.DataFrame(schema={Col.ITEM_ID: pl.String, ROW: pl.Int64, FILE: pl.String})
        return raw


def attribute_frame(records: Sequence[_Event], faults: FaultLog) -> pl.DataFrame:
    """Return objects, each with `ROW` and `FILE`, as a raw frame; a value beside lists becomes a list of one.

    At least one record is needed.
    """
    listed = {name for record in records for name, value in record.items() if isinstance(value, list)}
    even = [
        {
            name: [value] if name in listed and not isinstance(value, list) and value is not None else value
            for name, value in record.items()
        }
        for record in records
    ]
    frame = records_frame(even, records[0][FILE], faults)
    return frame.with_columns(pl.Series(FILE, [record[FILE] for record in records], pl.String))


def _json_files(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith(_SUFFIXES))
    return sorted(path for path in found if path.is_file())


def _is_sound(record: Mapping[str, Any], file: str, faults: FaultLog) -> bool:
    """Return whether an event has what its kind needs; record a fault for each thing that it lacks."""
    wrong = list(_wrong_parts(record))
    for name, problem, remedy, value in wrong:
        shown = None if value is None else str(value)
        faults.add(Fault(file, problem, remedy, record[ROW], name, shown))
    return not wrong


def _wrong_parts(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """Yield key, problem, remedy and value of each thing that keeps an event from being used."""
    kind = record.get("event")
    if not isinstance(kind, str) or kind not in _REQUIRED:
        yield "event", "the kind of event is not known", f"Write one of {', '.join(_REQUIRED)}.", kind
        return
    for name in _REQUIRED[kind]:
        value = record.get(name)
        if name != "items" and not _is_id(value):
            yield name, f"an event of kind {kind} needs text or a whole number here", "Fill it in.", value
    shown = record.get("items")
    if kind == "ranking" and not _all_have(shown, "id"):
        yield "items", "the items of a ranking are a list of objects with an id", 'Write [{"id": "i1"}].', shown
    fields = record.get("fields")
    if fields is not None and not _all_have(fields, "name"):
        remedy = 'Write [{"name": "title", "value": "Wool socks"}].'
        yield "fields", "fields are a list of objects with a name and a value", remedy, fields


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and value != "" and not isinstance(value, bool)


def _all_have(value: Any, key: str) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) and _is_id(part.get(key)) for part in value)


def _entities(events: Sequence[_Event], key: str, id_column: str, faults: FaultLog) -> pl.DataFrame | None:
    """Return one row per item or user with the newest value of each field, or None without events."""
    if not events:
        return None
    merged: dict[str, _Event] = {}
    for event in _by_time(events, faults):
        entity = merged.setdefault(str(event[key]), {id_column: str(event[key]), ROW: event[ROW], FILE: event[FILE]})
        for field in event.get("fields") or []:
            name = str(field["name"])
            if name in _RESERVED:
                faults.note(f"fields named {name}, which is a column's own name, left out")
            else:
                entity[name] = field.get("value")
    records = list(merged.values())
    names = {name for record in records for name in record}
    renames = {alias: str(name) for alias, name in _ALIASES.items() if alias in names and name not in names}
    return attribute_frame(
        [{renames.get(name, name): value for name, value in record.items()} for record in records], faults
    )


def _by_time(events: Sequence[_Event], faults: FaultLog) -> list[_Event]:
    """Return the events ordered by time, in the order of the log where times are equal."""
    times = to_time(pl.Series([str(event["timestamp"]) for event in events], dtype=pl.String)).to_list()
    for event, time in zip(events, times, strict=True):
        if time is None:
            remedy = "Write milliseconds since 1970, such as 1700000000000, or ISO 8601."
            shown = str(event["timestamp"])
            faults.add(Fault(event[FILE], "this is no time", remedy, event[ROW], "timestamp", shown))
    readable = [(time, i) for i, time in enumerate(times) if time is not None]
    return [events[i] for _, i in sorted(readable)]


def _user(event: _Event, users_of_rankings: Mapping[str, str | None]) -> str | None:
    own = event.get("user") or event.get("session")
    return str(own) if own else users_of_rankings.get(str(event.get("ranking")))


def _interactions(
    events: Sequence[_Event], users_of_rankings: Mapping[str, str | None], faults: FaultLog
) -> pl.DataFrame | None:
    users = [_user(event, users_of_rankings) for event in events]
    faults.note("interactions without user or session, left out", users.count(None))
    return _frame(
        {
            Col.USER_ID: user,
            Col.ITEM_ID: str(event["item"]),
            Col.TIMESTAMP: str(event["timestamp"]),
            Col.EVENT: str(event["type"]),
            Col.REQUEST_ID: str(event["ranking"]) if event.get("ranking") else None,
            ROW: event[ROW],
            FILE: event[FILE],
        }
        for event, user in zip(events, users, strict=True)
        if user is not None
    )


def _impressions(rankings: Sequence[_Event], interactions: Sequence[_Event], faults: FaultLog) -> pl.DataFrame | None:
    has_clicks = any(event["type"] == _CLICK for event in interactions)
    clicked = {
        (str(event.get("ranking")), str(event["item"]))
        for event in interactions
        if event["type"] == _CLICK or not has_clicks
    }
    users = [_user(ranking, {}) for ranking in rankings]
    faults.note("rankings without user or session, left out", users.count(None))
    return _frame(
        {
            Col.REQUEST_ID: str(ranking["id"]),
            Col.USER_ID: user,
            Col.TIMESTAMP: str(ranking["timestamp"]),
            Col.ITEM_ID: str(item["id"]),
            Col.POSITION: position,
            Col.CLICKED: (str(ranking["id"]), str(item["id"])) in clicked,
            ROW: ranking[ROW],
            FILE: ranking[FILE],
        }
        for ranking, user in zip(rankings, users, strict=True)
        if user is not None
        for position, item in enumerate(ranking["items"], start=1)
    )


def _frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame | None:
    """Return rows as a frame, or None where there are none."""
    frame = pl.DataFrame(list(rows), infer_schema_length=None)
    return frame.with_columns(pl.col(pl.Null).cast(pl.String)) if frame.height else None
