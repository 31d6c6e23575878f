"""Checks across rows and tables: unknown items, conflicting requests, repeats, clicks that only impressions hold.

Rows reach these checks converted (`check_columns`, `check_times`); rows whose required values are missing or faulty are
already recorded and are taken out first, so that one mistake is not reported twice.
"""

from typing import Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.checks import FIRST_SHOWN, add_rows
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW
from recsys.schema import INTERACTIONS, Col, TableSpec

CLICK: Final = "click"
RATING: Final = "rating"
NOTE_DUPLICATES: Final = "repeated interactions, dropped"
NOTE_LOW_RATINGS: Final = "ratings below data.min_rating, left out"
NOTE_CLICKS_ADDED: Final = "clicks of impressions, added to the interactions"
NOTE_SHOWN_TWICE: Final = "items shown twice in one request, merged"
NOTE_UNKNOWN_CLICKS: Final = "clicked impressions with an unknown item, dropped"
NOTE_ITEMS_ADDED: Final = "items that only behaviour names, added without text"
_SHOWN: Final = "__shown"
_LATEST: Final = "__latest"
# By how much the clock of a click may lag behind that of its impression.
_CLOCK_SKEW: Final = pl.duration(minutes=1)


def note_unknown(table: str) -> str:
    """Return the name of the note that counts a table's dropped rows with an unknown item."""
    return f"{table} with an unknown item, dropped"


def whole_rows(frame: pl.DataFrame, spec: TableSpec) -> pl.DataFrame:
    """Return the rows that have every required value."""
    return frame.drop_nulls(list(spec.required))


def check_events(frame: pl.DataFrame, config: DataConfig, faults: FaultLog) -> pl.DataFrame:
    """Record blank and negative event kinds, note kinds without a weight, and leave low ratings out."""
    event = pl.col(Col.EVENT)
    add_rows(
        faults,
        frame.filter(event.is_null()),
        column=Col.EVENT,
        problem="the kind of event is missing",
        remedy=f"Write what the user did, such as {', '.join(sorted(config.event_weights)[:3])}.",
    )
    negative = event.str.contains(r"^-\d+(\.\d+)?$")
    add_rows(
        faults,
        frame.filter(negative),
        column=Col.EVENT,
        problem="the kind of event is a negative number",
        remedy="Name what the user did, such as click; a size belongs into the column value.",
    )
    frame = frame.filter(event.is_not_null() & ~negative)
    unweighted = frame.filter(~event.is_in(list(config.event_weights)))
    for kind, count in unweighted.group_by(Col.EVENT).len().sort("len", descending=True).head(20).iter_rows():
        faults.note(f"interactions of kind {kind!r}, which data.event_weights does not name (weight 1)", count)
    if config.min_rating is None:
        return frame
    low = (event == RATING) & (pl.col(Col.VALUE) < config.min_rating).fill_null(False)
    kept = frame.filter(~low)
    faults.note(NOTE_LOW_RATINGS, frame.height - kept.height)
    return kept


def check_known_items(
    frame: pl.DataFrame, items: pl.DataFrame, table: str, config: DataConfig, faults: FaultLog
) -> pl.DataFrame:
    """Return the rows whose item is known, or all of them where unknown items are kept.

    Dropped rows are noted; above `config.max_unknown_item_share` they are a fault.
    """
    if items.is_empty():
        return frame
    unknown = frame.join(items.select(Col.ITEM_ID), on=Col.ITEM_ID, how="anti", maintain_order="left")
    if config.unknown_items == "keep" or unknown.is_empty():
        return frame
    share = unknown.height / frame.height
    if share > config.max_unknown_item_share:
        first = unknown[Col.ITEM_ID].unique(maintain_order=True).head(FIRST_SHOWN).to_list()
        faults.add(
            Fault(
                unknown[FILE][0],
                f"{unknown.height} of {frame.height} rows ({share:.1%}) have an item that the items table lacks, more "
                f"than data.max_unknown_item_share = {config.max_unknown_item_share} allows; the first: {first}, "
                f"while the items table has ids such as {items[Col.ITEM_ID][0]!r}",
                "Add the items, check that both tables write ids alike, or set data.unknown_items to keep.",
                unknown[ROW][0],
                Col.ITEM_ID,
                unknown[Col.ITEM_ID][0],
            )
        )
    faults.note(note_unknown(table), unknown.height)
    if Col.CLICKED in unknown.columns:
        faults.note(NOTE_UNKNOWN_CLICKS, int(unknown[Col.CLICKED].sum()))
    return frame.join(items.select(Col.ITEM_ID), on=Col.ITEM_ID, how="semi", maintain_order="left")


def with_unknown_items(items: pl.DataFrame, tables: list[pl.DataFrame], faults: FaultLog) -> pl.DataFrame:
    """Return `items` with a row appended for every item that only the other tables name; it has nothing but its id."""
    named = pl.concat([table.select(Col.ITEM_ID) for table in tables]).unique(maintain_order=True)
    added = named.join(items.select(Col.ITEM_ID), on=Col.ITEM_ID, how="anti", maintain_order="left")
    faults.note(NOTE_ITEMS_ADDED, added.height)
    return pl.concat([items, added], how="diagonal") if added.height else items


def check_requests(frame: pl.DataFrame, faults: FaultLog) -> pl.DataFrame:
    """Record requests of two users or two times, and merge items shown twice: first place, clicked if either was."""
    for column, what in ((Col.USER_ID, "users"), (Col.TIMESTAMP, "times")):
        first = pl.col(column).first().over(Col.REQUEST_ID)
        conflicting = frame.filter(pl.col(column) != first)
        add_rows(
            faults,
            conflicting.with_columns(pl.format("{} in request {}", column, Col.REQUEST_ID).alias(_SHOWN)),
            column=column,
            problem=f"one request has two {what}",
            remedy="Give every list that was shown its own request_id; all its rows share user_id and timestamp.",
            value=_SHOWN,
        )
    key = [Col.REQUEST_ID, Col.ITEM_ID]
    merged = frame.with_columns(pl.col(Col.CLICKED).any().over(key)).unique(key, keep="first", maintain_order=True)
    faults.note(NOTE_SHOWN_TWICE, frame.height - merged.height)
    return merged


def with_impression_clicks(
    interactions: pl.DataFrame | None, impressions: pl.DataFrame, faults: FaultLog
) -> pl.DataFrame:
    """Return the interactions with a `click` for each clicked impression that they lack, so that it counts once.

    An impression's click is there already when an interaction has its request, user and item and does not lie before
    it (an earlier one is the user's history), or has no request but its user, item and time.
    """
    clicks = impressions.filter(Col.CLICKED).with_columns(pl.lit(CLICK).alias(Col.EVENT))
    if interactions is not None:
        request = [Col.REQUEST_ID, Col.USER_ID, Col.ITEM_ID]
        moment = [Col.USER_ID, Col.ITEM_ID, Col.TIMESTAMP]
        latest = interactions.group_by(request).agg(pl.col(Col.TIMESTAMP).max().alias(_LATEST))
        without_request = interactions.filter(pl.col(Col.REQUEST_ID).is_null())
        is_there = (pl.col(_LATEST) >= pl.col(Col.TIMESTAMP) - _CLOCK_SKEW).fill_null(False)
        clicks = clicks.join(latest, on=request, how="left", maintain_order="left").filter(~is_there).drop(_LATEST)
        clicks = clicks.join(without_request.select(moment), on=moment, how="anti", maintain_order="left")
    faults.note(NOTE_CLICKS_ADDED, clicks.height)
    missing = [
        pl.lit(None, dtype).alias(name) for name, dtype in INTERACTIONS.dtypes.items() if name not in clicks.columns
    ]
    clicks = clicks.with_columns(missing).select(*INTERACTIONS.dtypes, ROW, FILE)
    return clicks if interactions is None else pl.concat([interactions.select(clicks.columns), clicks])


def without_duplicates(frame: pl.DataFrame, config: DataConfig, faults: FaultLog) -> pl.DataFrame:
    """Return the interactions without exact repeats; too large a share of them is a fault."""
    is_first = frame.select(pl.struct(*INTERACTIONS.dtypes).is_first_distinct()).to_series()
    repeats = frame.filter(~is_first)
    if repeats.is_empty():
        return frame
    faults.note(NOTE_DUPLICATES, repeats.height)
    share = repeats.height / frame.height
    if share > config.max_duplicate_share:
        faults.add(
            Fault(
                repeats[FILE][0],
                f"{repeats.height} of {frame.height} interactions ({share:.1%}) repeat an earlier one exactly, more "
                f"than data.max_duplicate_share = {config.max_duplicate_share} allows",
                "Check whether the export was appended twice; if repeats are meant, raise data.max_duplicate_share.",
                repeats[ROW][0],
                Col.ITEM_ID,
                repeats[Col.ITEM_ID][0],
            )
        )
    return frame.filter(is_first)
