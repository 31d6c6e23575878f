"""MIND, the Microsoft News data set: news with titles and abstracts, and impressions with the user's click history."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.checks import add_rows
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.movielens import first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import read_delimited
from recsys.schema import TIMESTAMP, Col

_NEWS: Final = (
    Col.ITEM_ID, "category", "subcategory", Col.TITLE, Col.DESCRIPTION, "url", "title_entities", "abstract_entities",
)  # fmt: skip
_HEADER_NAMES: Final = {"nid": Col.ITEM_ID, "news_id": Col.ITEM_ID, "abstract": Col.DESCRIPTION}
_FILLED: Final = ("category", "subcategory")
_TEXTS: Final = (Col.TITLE, Col.DESCRIPTION)
_HISTORY: Final = "history"
_SHOWN: Final = "impressions"
_TIME: Final = "time"
_BEHAVIORS: Final = (Col.REQUEST_ID, Col.USER_ID, _TIME, _HISTORY, _SHOWN)
_TIME_FORMAT: Final = "%m/%d/%Y %I:%M:%S %p"
_NEWS_SIGN: Final = re.compile(r"nid\t|news_id\t|[^\t]+(\t[^\t]*){7}$")
_BEHAVIORS_SIGN: Final = re.compile(r"[^\t]+\t[^\t]+\t\d{1,2}/\d{1,2}/\d{4} [^\t]*\t[^\t]*\t")
_STEP: Final = pl.duration(seconds=1)


class MindReader:
    """Reads news as items, shown news as impressions and the click history as interactions.

    News: the abstract is the description, category and subcategory are the categories; links and entities are left
    out. Of several files `news*.tsv` the one with most rows gives titles and abstracts (xMIND's translated news, for
    example); the others add items and fill in categories that it lacks.

    Behaviours: `behaviors.tsv`, the only file `behaviors*.tsv`, or the one that `data.behaviors_file` names. Positions
    are null: MIND shuffled the items of every impression, so their order says nothing. Impressions without any click,
    or with nothing but clicks, are kept.

    History: clicks of which MIND gives the order but no times. Each entry of the history at a user's earliest
    impression becomes an interaction of kind `click` with a made-up time: the newest one second before the earliest
    impression of the whole file, then one second back per entry. Repeated entries stay. Where a later history holds
    more (in MIND none does), what it adds is dated in the same way before its own impression, but after the user's
    impression before that, and items that the user clicked in an impression by then are left out, since that click
    counts already. The request_id is that of the impression whose history is the first to have the entry.
    """

    name = "mind"

    def detects(self, folder: Path) -> bool:
        """Return whether there are behaviours as MIND writes them, or its news beside any file of behaviours."""
        behaviors = _named(folder, "behaviors")
        if any(_BEHAVIORS_SIGN.match(first_line(path)) for path in behaviors):
            return True
        return bool(behaviors) and any(_NEWS_SIGN.match(first_line(path)) for path in _named(folder, "news"))

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return items, interactions (the histories) and impressions."""
        items = _read_news(_named(folder, "news"), faults)
        path = _behaviors_file(folder, config, faults)
        if path is None:
            return RawTables(items=items)
        behaviors = read_delimited(path, faults, separator="\t", columns=_BEHAVIORS, quoting=False)
        if behaviors is None:
            return RawTables(items=items)
        timed = _timed(behaviors, faults)
        impressions = _impressions(timed, faults)
        return RawTables(items=items, interactions=_histories(timed, impressions), impressions=impressions)


def _named(folder: Path, stem: str) -> list[Path]:
    found = (path for path in folder.glob(f"{stem}*") if path.name.removesuffix(".gz").endswith(".tsv"))
    return sorted(path for path in found if path.is_file())


def _read_news(paths: Sequence[Path], faults: FaultLog) -> pl.DataFrame | None:
    if not paths:
        faults.add(Fault("news.tsv", "the file is missing", "Copy it from the MIND release (train or dev)."))
        return None
    frames = [frame for path in paths if (frame := _read_news_file(path, faults)) is not None]
    if not frames:
        return None
    primary, *others = sorted(frames, key=lambda frame: -frame.height)
    for other in others:
        fills = other.unique(Col.ITEM_ID, keep="first").select(Col.ITEM_ID, *_FILLED)
        filled = primary.join(fills, on=Col.ITEM_ID, how="left", maintain_order="left", suffix="_other")
        primary = pl.concat(
            [
                filled.with_columns(pl.coalesce(name, f"{name}_other").alias(name) for name in _FILLED).select(
                    primary.columns
                ),
                other.join(primary, on=Col.ITEM_ID, how="anti", maintain_order="left").select(primary.columns),
            ]
        )
    categories = pl.concat_list(_FILLED).list.drop_nulls()
    return primary.select(
        Col.ITEM_ID,
        *_TEXTS,
        pl.when(categories.list.len() > 0).then(categories).alias(Col.CATEGORIES),
        ROW,
        FILE,
    )


def _read_news_file(path: Path, faults: FaultLog) -> pl.DataFrame | None:
    """Return ids, categories and texts of one file, with MIND's eight columns or with a header of its own."""
    has_header = first_line(path).split("\t")[0] in _HEADER_NAMES
    news = read_delimited(path, faults, separator="\t", columns=None if has_header else _NEWS, quoting=False)
    if news is None:
        return None
    news = news.rename(_HEADER_NAMES, strict=False)
    absent = [name for name in (*_FILLED, *_TEXTS) if name not in news.columns]
    return news.with_columns(pl.lit(None, pl.String).alias(name) for name in absent).select(
        Col.ITEM_ID, *_FILLED, *_TEXTS, ROW, FILE
    )


def _behaviors_file(folder: Path, config: DataConfig, faults: FaultLog) -> Path | None:
    paths = _named(folder, "behaviors")
    found = ", ".join(path.name for path in paths)
    if config.behaviors_file is not None:
        wanted = config.behaviors_file.removesuffix(".gz")
        chosen = [path for path in paths if path.name in (wanted, f"{wanted}.gz")]
        exact = [path for path in chosen if path.name == config.behaviors_file]
        if chosen:
            return (exact or chosen)[0]
        problem = "the file that data.behaviors_file names is not there"
        faults.add(Fault(config.behaviors_file, problem, f"Name one of those that are: {found or 'none'}."))
        return None
    plain = [path for path in paths if path.name in ("behaviors.tsv", "behaviors.tsv.gz")]
    if len(plain) == 1:
        return plain[0]
    if len(paths) == 1:
        return paths[0]
    if paths:
        problem = f"there are {len(paths)} files of behaviours and none is plainly the one: {found}"
        faults.add(Fault(paths[0].name, problem, "Name the one to read with the setting data.behaviors_file."))
    else:
        faults.add(Fault("behaviors.tsv", "the file is missing", "Copy it from the MIND release (train or dev)."))
    return None


def _timed(behaviors: pl.DataFrame, faults: FaultLog) -> pl.DataFrame:
    """Parse the times; rows without a readable one are faults and are not in the result."""
    timed = behaviors.with_columns(
        pl.col(_TIME)
        .str.to_datetime(_TIME_FORMAT, time_unit="us", strict=False)
        .dt.replace_time_zone("UTC")
        .alias(Col.TIMESTAMP)
    )
    add_rows(
        faults,
        timed.filter(pl.col(Col.TIMESTAMP).is_null()),
        column=_TIME,
        problem="the time is missing or not written as MIND writes it",
        remedy="Write times as month/day/year h:mm:ss AM or PM, such as 11/15/2019 8:55:22 AM.",
    )
    return timed.filter(pl.col(Col.TIMESTAMP).is_not_null())


def _tokens(name: str) -> pl.Expr:
    return pl.col(name).str.split(" ").list.filter(pl.element() != "")


def _impressions(behaviors: pl.DataFrame, faults: FaultLog) -> pl.DataFrame:
    shown = behaviors.select(Col.REQUEST_ID, Col.USER_ID, Col.TIMESTAMP, _tokens(_SHOWN).alias(Col.ITEM_ID), ROW, FILE)
    empty = pl.col(Col.ITEM_ID).is_null() | (pl.col(Col.ITEM_ID).list.len() == 0)
    faults.note("behaviours rows that show no news, left out", shown.filter(empty).height)
    exploded = shown.filter(~empty).explode(Col.ITEM_ID)
    token = pl.col(Col.ITEM_ID)
    mark = token.str.tail(2)
    labelled = mark.is_in(["-0", "-1"]) & (token.str.len_bytes() > 2)
    add_rows(
        faults,
        exploded.filter(~labelled),
        column=_SHOWN,
        value=Col.ITEM_ID,
        problem="shown news do not say whether they were clicked",
        remedy="Write each as N123-1 (clicked) or N123-0; MIND's test set has no such marks, so use train or dev.",
    )
    return exploded.filter(labelled).select(
        Col.REQUEST_ID,
        Col.USER_ID,
        Col.TIMESTAMP,
        token.str.head(-2),
        pl.lit(None, pl.Int32).alias(Col.POSITION),
        (mark == "-1").alias(Col.CLICKED),
        ROW,
        FILE,
    )


def _histories(behaviors: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return one click per history entry, oldest first within each impression; see `MindReader` for the times."""
    moment = [Col.USER_ID, Col.TIMESTAMP]
    previous = behaviors.select(moment).unique().sort(moment)
    previous = previous.with_columns(pl.col(Col.TIMESTAMP).shift().over(Col.USER_ID).alias("previous"))
    ordered = behaviors.sort(Col.TIMESTAMP, ROW).with_columns(
        pl.col(ROW).first().over(Col.USER_ID).alias("first_row"), _tokens(_HISTORY).alias(Col.ITEM_ID)
    )
    entries = (
        ordered.select(Col.USER_ID, Col.REQUEST_ID, Col.TIMESTAMP, Col.ITEM_ID, "first_row", ROW, FILE)
        .explode(Col.ITEM_ID)
        .drop_nulls(Col.ITEM_ID)
        # Occurrence n of an item is new where a history first has n of them, whatever fell out of it meanwhile.
        .with_columns(pl.int_range(pl.len()).over(ROW, Col.ITEM_ID).alias("n"))
        .unique([Col.USER_ID, Col.ITEM_ID, "n"], keep="first", maintain_order=True)
    )
    is_first = pl.col(ROW) == pl.col("first_row")
    dated = pl.concat(
        [
            entries.filter(is_first).with_columns(
                pl.lit(behaviors[Col.TIMESTAMP].min(), TIMESTAMP).alias("end"), _STEP.alias("step")
            ),
            _added(entries.filter(~is_first), previous, impressions),
        ]
    )
    age = pl.int_range(pl.len(), 0, step=-1, dtype=pl.Int64).over(moment)
    return dated.sort(ROW, maintain_order=True).select(
        Col.USER_ID,
        Col.ITEM_ID,
        (pl.col("end") - age * pl.col("step")).alias(Col.TIMESTAMP),
        pl.lit("click").alias(Col.EVENT),
        Col.REQUEST_ID,
        ROW,
        FILE,
    )


def _added(entries: pl.DataFrame, previous: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return what later histories add, without what the impressions tell, and when to date it.

    An item that the user clicked up to this impression is no addition: the impression's own click counts, at its time.
    Nor can one be placed where the user has no earlier moment.
    """
    user_item = [Col.USER_ID, Col.ITEM_ID]
    clicked = impressions.filter(Col.CLICKED).group_by(user_item).agg(pl.col(Col.TIMESTAMP).min().alias("clicked_at"))
    moment = [Col.USER_ID, Col.TIMESTAMP]
    kept = (
        entries.join(clicked, on=user_item, how="left", maintain_order="left")
        .filter((pl.col("clicked_at") > pl.col(Col.TIMESTAMP)).fill_null(value=True))
        .join(previous, on=moment, how="left", maintain_order="left")
        .drop_nulls("previous")
    )
    gap = pl.col(Col.TIMESTAMP) - pl.col("previous")
    step = pl.min_horizontal(_STEP, gap / (pl.len().over(moment) + 1))
    return kept.with_columns(pl.col(Col.TIMESTAMP).alias("end"), step.alias("step")).drop("clicked_at", "previous")
