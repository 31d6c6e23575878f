"""Raw tables into a Dataset: every column converted, every rule checked, all faults collected before one error."""

from datetime import UTC, datetime
from typing import Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.check_attributes import check_attributes, check_list
from recsys.datasets.check_behaviour import (
    check_events,
    check_known_items,
    check_requests,
    whole_rows,
    with_impression_clicks,
    with_unknown_items,
    without_duplicates,
)
from recsys.datasets.check_columns import (
    check_flag,
    check_id,
    check_number,
    check_position,
    check_propensity,
    check_required,
    check_text,
    check_unique,
)
from recsys.datasets.check_times import CLOCK_SLACK, EARLIEST, EARLIEST_ITEM, check_time
from recsys.datasets.dataset import Dataset
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.errors import DataError
from recsys.schema import IMPRESSIONS, INTERACTIONS, ITEMS, USERS, Col, TableSpec

MAX_TITLE_LENGTH: Final = 10_000
MAX_TEXT_LENGTH: Final = 1_000_000
NOTE_FUTURE_ITEMS: Final = "items whose created_at lies in the future"


def build_dataset(
    raw: RawTables,
    config: DataConfig,
    faults: FaultLog,
    *,
    name: str = "data",
    format: str = "tables",
    now: datetime | None = None,
) -> Dataset:
    """Return the validated data set.

    Args:
        raw: what a reader found; its frames are not changed.
        config: what is tolerated.
        faults: what the reader already recorded; all further faults and notes are added to it.
        name: name of the data, usually its folder.
        format: name of the format it was read from.
        now: the present (UTC), against which times in the future are judged; the clock's time by default.

    Raises:
        DataError: with every fault of the reader and of the validation.
    """
    now = now or datetime.now(UTC)
    _check_tables_there(raw, name, faults)
    items = _checked_items(raw.items, faults, now) if raw.items is not None else None
    users = _checked_users(raw.users, faults) if raw.users is not None else None
    interactions = impressions = None
    if raw.interactions is not None:
        interactions = whole_rows(_checked_interactions(raw.interactions, config, faults, now), INTERACTIONS)
    if raw.impressions is not None:
        impressions = whole_rows(_checked_impressions(raw.impressions, faults, now), IMPRESSIONS)
    if items is not None:
        if interactions is not None:
            interactions = check_known_items(interactions, items, "interactions", config, faults)
        if impressions is not None:
            impressions = check_known_items(impressions, items, "impressions", config, faults)
    if impressions is not None:
        impressions = check_requests(impressions, faults)
        interactions = with_impression_clicks(interactions, impressions, faults)
    if interactions is not None:
        interactions = without_duplicates(interactions, config, faults)
        _check_behaviour_left(interactions, name, faults)
    faults.raise_if_any()
    if items is None or interactions is None:
        raise DataError(f"{name} has no items or no behaviour; a data set needs both, see docs/data-formats.md")
    if config.unknown_items == "keep":
        items = with_unknown_items(items, [t for t in (interactions, impressions) if t is not None], faults)
    return Dataset(
        items.with_columns(pl.col(Col.CATEGORIES).fill_null(pl.lit([], ITEMS.dtypes[Col.CATEGORIES]))),
        interactions.sort(Col.TIMESTAMP, maintain_order=True).select(*INTERACTIONS.dtypes),
        None if impressions is None else _by_request(impressions),
        users,
        name,
        format,
        dict(faults.notes),
    )


def _check_tables_there(raw: RawTables, name: str, faults: FaultLog) -> None:
    if faults.n_faults:
        return  # the reader has said why a table is missing
    if raw.items is None:
        remedy = "Add a table of items with at least item_id; title and description make cold items recommendable."
        faults.add(Fault(name, "there is no items table", remedy))
    if raw.interactions is None and raw.impressions is None:
        remedy = "Add interactions with user_id, item_id, timestamp and event, or impressions with clicks."
        faults.add(Fault(name, "there is no behaviour: neither interactions nor impressions", remedy))


def _check_behaviour_left(interactions: pl.DataFrame, name: str, faults: FaultLog) -> None:
    if interactions.is_empty() and not faults.n_faults:
        told = "; ".join(f"{count} {what}" for what, count in faults.notes.items())
        remedy = f"There is nothing to learn from. What was left out: {told or 'nothing; no impression was clicked'}."
        faults.add(Fault(name, "no behaviour is left", remedy))


def _checked_items(frame: pl.DataFrame, faults: FaultLog, now: datetime) -> pl.DataFrame:
    check_required(frame, ITEMS, faults)
    frame = check_id(frame, Col.ITEM_ID, faults, required=Col.ITEM_ID in frame.columns)
    frame = check_unique(frame, Col.ITEM_ID, faults)
    frame = check_text(frame, Col.TITLE, faults, max_length=MAX_TITLE_LENGTH, clean=True)
    frame = check_text(frame, Col.DESCRIPTION, faults, max_length=MAX_TEXT_LENGTH, clean=True)
    frame = check_list(frame, Col.CATEGORIES, faults)
    frame = check_time(frame, Col.CREATED_AT, faults, required=False, earliest=EARLIEST_ITEM)
    faults.note(NOTE_FUTURE_ITEMS, int((frame[Col.CREATED_AT] > now + CLOCK_SLACK).sum()))
    return _with_attributes(frame, ITEMS, faults)


def _checked_users(frame: pl.DataFrame, faults: FaultLog) -> pl.DataFrame:
    check_required(frame, USERS, faults)
    frame = check_id(frame, Col.USER_ID, faults, required=Col.USER_ID in frame.columns)
    return _with_attributes(check_unique(frame, Col.USER_ID, faults), USERS, faults)


def _with_attributes(frame: pl.DataFrame, spec: TableSpec, faults: FaultLog) -> pl.DataFrame:
    """Return the standard columns followed by the attributes, without the hidden columns."""
    attributes = [name for name in frame.columns if name not in spec.dtypes and name not in (ROW, FILE)]
    frame = check_attributes(frame, attributes, faults)
    return frame.select(*spec.dtypes, *(name for name in attributes if name in frame.columns))


def _checked_interactions(frame: pl.DataFrame, config: DataConfig, faults: FaultLog, now: datetime) -> pl.DataFrame:
    check_required(frame, INTERACTIONS, faults)
    given = frame.columns
    for column, required in ((Col.USER_ID, True), (Col.ITEM_ID, True), (Col.REQUEST_ID, False)):
        frame = check_id(frame, column, faults, required=required and column in given)
    frame = check_time(frame, Col.TIMESTAMP, faults, required=True, earliest=EARLIEST, latest=now + CLOCK_SLACK)
    frame = check_number(frame, Col.VALUE, faults)
    frame = check_text(frame, Col.TEXT, faults, max_length=MAX_TEXT_LENGTH)
    frame = check_text(frame, Col.EVENT, faults, max_length=MAX_TITLE_LENGTH, clean=True)
    if Col.EVENT in given:
        frame = check_events(frame, config, faults)
    return _standard_only(frame, INTERACTIONS, faults)


def _checked_impressions(frame: pl.DataFrame, faults: FaultLog, now: datetime) -> pl.DataFrame:
    check_required(frame, IMPRESSIONS, faults)
    given = frame.columns
    for column in (Col.REQUEST_ID, Col.USER_ID, Col.ITEM_ID):
        frame = check_id(frame, column, faults, required=column in given)
    frame = check_time(frame, Col.TIMESTAMP, faults, required=True, earliest=EARLIEST, latest=now + CLOCK_SLACK)
    frame = check_position(frame, Col.POSITION, faults)
    frame = check_flag(frame, Col.CLICKED, faults)
    frame = check_propensity(frame, Col.PROPENSITY, faults)
    return _standard_only(frame, IMPRESSIONS, faults)


def _standard_only(frame: pl.DataFrame, spec: TableSpec, faults: FaultLog) -> pl.DataFrame:
    for name in frame.columns:
        if name not in spec.dtypes and name not in (ROW, FILE):
            faults.note(f"column {name} of {spec.name}, which no model uses, left out")
    return frame.select(*spec.dtypes, pl.col(ROW).cast(pl.Int64), FILE)


def _by_request(impressions: pl.DataFrame) -> pl.DataFrame:
    """Return the impressions in order of time with the rows of a request together, in the order of the file."""
    order = "__order"
    first = pl.col(order).first().over(Col.REQUEST_ID)
    return (
        impressions.with_row_index(order).sort(pl.col(Col.TIMESTAMP), first, pl.col(order)).select(*IMPRESSIONS.dtypes)
    )
