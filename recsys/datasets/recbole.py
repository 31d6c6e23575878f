"""RecBole's atomic files: tab-separated tables whose header gives every column a type."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.checks import add_rows
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.movielens import first_line
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import read_delimited
from recsys.schema import Col

_TYPES: Final = ("token", "token_seq", "float", "float_seq")
_HEADER: Final = re.compile(r"[^\t:]+:(token|float)(_seq)?(\t[^\t:]+:(token|float)(_seq)?)*$")
_USER_NAMES: Final = ("user_id", "session_id")
_TITLE_NAMES: Final = ("movie_title", "title", "name", "item_name")
_DESCRIPTION_NAMES: Final = ("description", "abstract", "plot", "overview")
_CATEGORY_NAMES: Final = ("class", "categories", "category", "genre", "genres")
_TEXT_NAMES: Final = ("review", "review_text", "comment")
_LABEL: Final = "label"


@dataclass(frozen=True)
class _Atomic:
    """One atomic file: its columns under their bare names, and the type of each."""

    frame: pl.DataFrame
    types: dict[str, str]

    def first(self, names: Sequence[str]) -> str | None:
        """Return the first of `names` that is a column."""
        return next((name for name in names if name in self.types), None)


class RecBoleReader:
    """Reads `NAME.inter`, and `NAME.item` and `NAME.user` where they are there.

    Interactions: with a rating the event is `rating` and the rating its value; without one it is `click`. With a label
    and no rating the rows are impressions: label above 0 means clicked, and what one user was shown at one time makes
    one request (or one session, where both a session_id and a user_id are there). A file without user_id counts every
    session_id as a user.

    Items: the title is the column movie_title, title, name or item_name, or the first whose name ends in `_title`; the
    categories are the first token_seq column named class, categories, category, genre or genres, split into its quoted
    parts, else at commas, else at blanks. Description, abstract, plot or overview is the description. All other columns
    are attributes as they stand, float_seq (vectors) excepted.
    """

    name = "recbole"

    def detects(self, folder: Path) -> bool:
        """Return whether there is a file `*.inter` whose header is typed."""
        return any(_HEADER.match(first_line(path)) for path in _ending(folder, "inter"))

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return what the atomic files hold; `.link`, `.kg`, `.net` and others are not read."""
        inter = _read_atomic(folder, "inter", faults)
        item = _read_atomic(folder, "item", faults, needed=config.unknown_items == "drop")
        user = _read_atomic(folder, "user", faults, needed=False)
        raw = RawTables(items=_items(item, faults) if item else None, users=_users(user, faults) if user else None)
        if not _ending(folder, "item") and config.unknown_items == "keep":
            raw.items = pl.DataFrame(schema={Col.ITEM_ID: pl.String, ROW: pl.Int64, FILE: pl.String})
        if inter is not None:
            _fill_feedback(raw, inter, faults)
        return raw


def _ending(folder: Path, suffix: str) -> list[Path]:
    found = (path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith(f".{suffix}"))
    return sorted(path for path in found if path.is_file())


def _read_atomic(folder: Path, suffix: str, faults: FaultLog, *, needed: bool = True) -> _Atomic | None:
    paths = _ending(folder, suffix)
    if not paths:
        if needed:
            remedy = "Copy it from the RecBole data set."
            if suffix == "item":
                remedy += " To go without, set data.unknown_items to keep; items then have no text."
            faults.add(Fault(f"*.{suffix}", "the file is missing", remedy))
        return None
    if len(paths) > 1:
        problem = f"there are {len(paths)} files of this kind: {', '.join(path.name for path in paths)}"
        faults.add(Fault(paths[0].name, problem, "Keep one data set per folder; join parts of a split into one file."))
        return None
    frame = read_delimited(paths[0], faults, separator="\t", quoting=False)
    if frame is None:
        return None
    headers = [name for name in frame.columns if name not in (ROW, FILE)]
    types = {name.rpartition(":")[0]: name.rpartition(":")[2] for name in headers}
    untyped = [name for name in headers if name.rpartition(":")[2] not in _TYPES or not name.rpartition(":")[0]]
    if untyped or len(types) < len(headers):
        faults.add(
            Fault(
                paths[0].name,
                "the header names a column without its type or twice",
                f"Write each as name:type, once; the types are {', '.join(_TYPES)}.",
                column=untyped[0] if untyped else None,
                value=", ".join(headers),
            )
        )
        return None
    vectors = [name for name, type_ in types.items() if type_ == "float_seq"]
    faults.note(f"columns of {paths[0].name} that hold vectors, left out", len(vectors))
    named = frame.rename(dict(zip(headers, types, strict=True))).drop(vectors)
    return _Atomic(named, {name: type_ for name, type_ in types.items() if name not in vectors})


def _require(atomic: _Atomic, names: Sequence[str], faults: FaultLog) -> str | None:
    """Return the first of `names` that is there; none is a fault."""
    found = atomic.first(names)
    if found is None:
        file = atomic.frame[FILE].first() or "the atomic file"
        wanted = " or ".join(f"{name}:token" for name in names)
        faults.add(
            Fault(str(file), "a column is missing", f"Add {wanted}.", column=names[0], value=", ".join(atomic.types))
        )
    return found


def _fill_feedback(raw: RawTables, inter: _Atomic, faults: FaultLog) -> None:
    user = _require(inter, _USER_NAMES, faults)
    columns = [user, *(_require(inter, [name], faults) for name in (Col.ITEM_ID, Col.TIMESTAMP))]
    if user is None or None in columns:
        return
    rating = "rating" in inter.types
    common = [pl.col(user).alias(Col.USER_ID), pl.col(Col.ITEM_ID), pl.col(Col.TIMESTAMP)]
    if _LABEL in inter.types and not rating:
        raw.impressions = _impressions(inter, user, common, faults)
        return
    text = inter.first(_TEXT_NAMES)
    raw.interactions = inter.frame.select(
        *common,
        pl.lit("rating" if rating else "click").alias(Col.EVENT),
        *([pl.col("rating").alias(Col.VALUE)] if rating else []),
        *([pl.col(text).alias(Col.TEXT)] if text else []),
        ROW,
        FILE,
    )


def _impressions(inter: _Atomic, user: str, common: list[pl.Expr], faults: FaultLog) -> pl.DataFrame:
    label = pl.col(_LABEL).cast(pl.Float64, strict=False)
    add_rows(
        faults,
        inter.frame.filter(label.is_null()),
        column=_LABEL,
        problem="the label is missing or no number",
        remedy="Write 1 where the item was clicked and 0 where it was only shown.",
    )
    session = "session_id" if "session_id" in inter.types and user != "session_id" else None
    request = pl.col(session) if session else pl.format("{}@{}", user, Col.TIMESTAMP)
    return inter.frame.filter(label.is_not_null()).select(
        request.alias(Col.REQUEST_ID), *common, (label > 0).alias(Col.CLICKED), ROW, FILE
    )


def _items(item: _Atomic, faults: FaultLog) -> pl.DataFrame | None:
    if _require(item, [Col.ITEM_ID], faults) is None:
        return None
    title = item.first(_TITLE_NAMES) or next((name for name in item.types if name.endswith("_title")), None)
    description = item.first(_DESCRIPTION_NAMES)
    categories = next((n for n, type_ in item.types.items() if type_ == "token_seq" and n in _CATEGORY_NAMES), None)
    renames = {
        old: str(new)
        for old, new in ((title, Col.TITLE), (description, Col.DESCRIPTION), (categories, Col.CATEGORIES))
        if old is not None
    }
    # A column that bears a standard name without being chosen for it would be taken for the standard column.
    clashes = {name: f"{name}_text" for name in renames.values() if name in item.types and name not in renames}
    frame = item.frame.rename(clashes | renames)
    if categories is None:
        return frame
    return frame.with_columns(_split_categories(frame[Col.CATEGORIES]))


def _split_categories(values: pl.Series) -> pl.Series:
    """Return the categories as lists: quoted ones where there are quotes, else comma-separated ones, else words."""
    text = pl.col(values.name)
    commas = values.str.contains(", ").any()
    quoted = text.str.extract_all(r"'[^']+'|\"[^\"]+\"").list.eval(pl.element().str.slice(1).str.head(-1))
    plain = text.str.split("," if commas else " ").list.eval(pl.element().str.strip_chars())
    parts = pl.when(text.str.contains(r"^\[?\s*['\"]")).then(quoted).otherwise(plain)
    return values.to_frame().select(parts.list.filter(pl.element() != "").list.unique(maintain_order=True)).to_series()


def _users(user: _Atomic, faults: FaultLog) -> pl.DataFrame | None:
    name = _require(user, _USER_NAMES, faults)
    return None if name is None else user.frame.rename({name: Col.USER_ID})
