"""MovieLens as GroupLens published it: 100K (`u.data`), 1M and 10M (`ratings.dat`), and the CSV releases."""

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW, RawTables
from recsys.datasets.reading import find_file, read_delimited
from recsys.schema import Col

_ENCODINGS: Final = ("utf-8-sig", "latin-1")
_MAX_PEEK: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_MAX_TAGS: Final = 20

# One line of each file that gives a release away.
_SIGNS: Final = {
    "u.data": re.compile(r"\d+\t\d+\t\d+\t\d+$"),
    "ratings.dat": re.compile(r"\d+::\d+::"),
    "movies.dat": re.compile(r"\d+::.*::"),
    "ratings.csv": re.compile(r'"?userId"?,"?movieId"?,'),
    "movies.csv": re.compile(r'"?movieId"?,"?title"?,'),
}
_RATINGS: Final = (Col.USER_ID, Col.ITEM_ID, Col.VALUE, Col.TIMESTAMP)
_FILMS: Final = (Col.ITEM_ID, Col.TITLE, Col.CATEGORIES)
_USERS: Final = (Col.USER_ID, "gender", "age", "occupation", "zip")
_TAG: Final = "tag"
_TAGS: Final = (Col.USER_ID, Col.ITEM_ID, _TAG, Col.TIMESTAMP)
_CSV_NAMES: Final = {
    "userId": Col.USER_ID,
    "movieId": Col.ITEM_ID,
    "rating": Col.VALUE,
    "timestamp": Col.TIMESTAMP,
    "title": Col.TITLE,
    "genres": Col.CATEGORIES,
    "tag": _TAG,
}
_PLOTS: Final = "movies_extrainfos"
_PLOT_COLUMNS: Final = (
    Col.ITEM_ID,
    "plot_title",
    "plot_year",
    "rated",
    "released",
    "genres_extra",
    "director",
    "writer",
    "actors",
    Col.DESCRIPTION,
    "poster_url",
)
_PEOPLE: Final = ("director", "writer", "actors")
_NO_GENRES: Final = ("(no genres listed)", "unknown")

# The 19 flags of u.item, in their order.
_GENRES_100K: Final = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
# The codes 0 to 20 of users.dat, as its README names them.
_OCCUPATIONS: Final = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip

_YEAR: Final = r"\s*\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)(?:\s*\(V\))?\s*$"
_ARTICLES: Final = "The|An?|La|Le|Les|El|Los|Las|Il|Lo|Gli|I|Der|Die|Das|Ein|Eine|Une?|Una|Det|Den|De|Ett?|En|Os?"
_CREDIT: Final = r"\s*\([^()]*\)"


class MovieLensReader:
    """Reads ratings as events of kind `rating` with the rating as value, and films as items.

    Title: "Matrix, The (1999)" becomes "The Matrix", and 1999 the numeric attribute `year`. Genres are the categories.
    Where `movies_extrainfos.dat` lies beside `movies.dat`, the plot is the description, and director, writer, actors,
    rated and genres_extra (genres that movies.dat does not name) are attributes; a film without a plot has none.
    Tags, where there are any, become the attribute `tags`: the 20 most given, whenever they were given.
    Users: gender, age (1M: lower end of the age group), occupation and zip. Links, posters and other files are ignored.
    """

    name = "movielens"

    def detects(self, folder: Path) -> bool:
        """Return whether one of the ratings or films files is there and begins as published."""
        return any(
            pattern.match(first_line(path))
            for file_name, pattern in _SIGNS.items()
            for path in (folder / file_name, folder / f"{file_name}.gz")
            if path.is_file()
        )

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return items, interactions and, where the release has them, users."""
        if find_file(folder, ["u"], ["data"]) is not None:
            return _read_100k(folder, faults)
        ratings = _read_table(folder, "ratings", _RATINGS, faults)
        films = _read_table(folder, "movies", _FILMS, faults)
        users = _read_table(folder, "users", _USERS, faults, needed=False)
        tags = _read_table(folder, "tags", _TAGS, faults, needed=False)
        if films is not None:
            genres = pl.col(Col.CATEGORIES)
            films = _titled(films).with_columns(
                pl.when(~genres.is_in(_NO_GENRES)).then(genres.str.split("|")).alias(Col.CATEGORIES)
            )
            films = _with_tags(_with_plots(films, folder, faults), tags)
        if users is not None:
            users = users.with_columns(
                pl.col("occupation").replace({str(code): name for code, name in enumerate(_OCCUPATIONS)})
            )
        return RawTables(items=films, interactions=_rated(ratings), users=users)


def first_line(path: Path) -> str:
    """Return a file's first line that is not blank, gzipped or not, at most 1 MiB of it; "" where there is none."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            while line := file.readline(_MAX_PEEK):
                if line.strip():
                    return line.decode("utf-8-sig", errors="replace").strip("\r\n")
    except (OSError, EOFError, zlib.error):
        pass  # what is wrong with the file is said by the reading proper
    return ""


def _read_table(
    folder: Path, stem: str, columns: Sequence[str], faults: FaultLog, *, needed: bool = True
) -> pl.DataFrame | None:
    path = find_file(folder, [stem], ["dat", "csv"])
    if path is None:
        if needed:
            faults.add(Fault(f"{stem}.dat or {stem}.csv", "the file is missing", "Copy it from the MovieLens release."))
        return None
    if ".csv" not in path.suffixes:
        return read_delimited(path, faults, separator="::", columns=columns, quoting=False, encodings=_ENCODINGS)
    frame = read_delimited(path, faults, separator=",", quoting=True)
    if frame is None:
        return None
    frame = frame.rename(_CSV_NAMES, strict=False)
    published = {new: old for old, new in _CSV_NAMES.items()}
    missing = [published[name] for name in columns if name not in frame.columns]
    for name in missing:
        faults.add(Fault(path.name, "the column is missing", "Copy the file from the MovieLens release.", column=name))
    return None if missing else frame


def _read_100k(folder: Path, faults: FaultLog) -> RawTables:
    flags = [f"flag_{i}" for i in range(len(_GENRES_100K))]
    films = _read_parts(
        folder, "item", (Col.ITEM_ID, Col.TITLE, "released", "video_released", "imdb_url", *flags), "|", faults
    )
    users = _read_parts(folder, "user", (Col.USER_ID, "age", "gender", "occupation", "zip"), "|", faults)
    ratings = _read_parts(folder, "data", (Col.USER_ID, Col.ITEM_ID, Col.VALUE, Col.TIMESTAMP), "\t", faults)
    if films is not None:
        genres = pl.concat_list(
            pl.when(pl.col(flag) == "1").then(pl.lit(genre))
            for flag, genre in zip(flags, _GENRES_100K, strict=True)
            if genre not in _NO_GENRES
        ).list.drop_nulls()
        films = _titled(films.with_columns(_null_if_empty(genres).alias(Col.CATEGORIES)))
        films = films.select(Col.ITEM_ID, Col.TITLE, Col.CATEGORIES, "year", ROW, FILE)
    return RawTables(items=films, interactions=_rated(ratings), users=users)


def _read_parts(
    folder: Path, suffix: str, columns: Sequence[str], separator: str, faults: FaultLog
) -> pl.DataFrame | None:
    path = find_file(folder, ["u"], [suffix])
    if path is None:
        faults.add(Fault(f"u.{suffix}", "the file is missing", "Copy it from the MovieLens 100K release."))
        return None
    return read_delimited(path, faults, separator=separator, columns=columns, quoting=False, encodings=_ENCODINGS)


def _rated(ratings: pl.DataFrame | None) -> pl.DataFrame | None:
    if ratings is None:
        return None
    return ratings.select(
        Col.USER_ID, Col.ITEM_ID, Col.TIMESTAMP, pl.lit("rating").alias(Col.EVENT), Col.VALUE, ROW, FILE
    )


def _titled(films: pl.DataFrame) -> pl.DataFrame:
    """Return the films with the year in `year` (Int32) instead of the title, and articles at its front."""
    title = pl.col(Col.TITLE)
    bare = title.str.replace(_YEAR, "")
    front = (
        bare.str.replace(rf"^(.*), ({_ARTICLES})( \(.*)?$", "${2} ${1}${3}")
        .str.replace(r"^(.*), (L')( \(.*)?$", "${2}${1}${3}")
        .str.replace_all(rf"\((a\.k\.a\. )?([^()]*), ({_ARTICLES})\)", "(${1}${3} ${2})")
        .str.replace_all(r"\((a\.k\.a\. )?([^()]*), (L')\)", "(${1}${3}${2})")
        .str.replace_all(r"\s+\)", ")")
    )
    return films.with_columns(
        pl.when(bare != "").then(front).otherwise(title).alias(Col.TITLE),
        title.str.extract(_YEAR).cast(pl.Int32).alias("year"),
    )


def _with_plots(films: pl.DataFrame, folder: Path, faults: FaultLog) -> pl.DataFrame:
    path = find_file(folder, [_PLOTS], ["dat"])
    if path is None:
        return films
    plots = read_delimited(path, faults, separator="::", columns=_PLOT_COLUMNS, quoting=False, encodings=_ENCODINGS)
    if plots is None:
        return films
    given = plots.height
    plots = plots.unique(Col.ITEM_ID, keep="first", maintain_order=True)
    faults.note(f"repeated films in {path.name}, of which the first counts", given - plots.height)
    unknown = plots.join(films, on=Col.ITEM_ID, how="anti").height
    faults.note(f"films of {path.name} that the films file lacks, left out", unknown)
    known = pl.when(pl.col(pl.String) != "N/A").then(pl.col(pl.String)).name.keep()
    plots = plots.select(pl.exclude(ROW, FILE, "plot_title", "released", "poster_url")).with_columns(known)
    joined = films.join(plots, on=Col.ITEM_ID, how="left", maintain_order="left")
    genres = pl.col(Col.CATEGORIES)
    extra = _listed("genres_extra").list.set_difference(genres.fill_null([])).list.sort()
    return joined.with_columns(
        *(_listed(name).alias(name) for name in _PEOPLE),
        _null_if_empty(extra).alias("genres_extra"),
        pl.coalesce("year", pl.col("plot_year").str.extract(r"(\d{4})").cast(pl.Int32)).alias("year"),
    ).drop("plot_year")


def _listed(name: str) -> pl.Expr:
    """Return the distinct names of a comma-separated column without their credits in parentheses."""
    text = pl.col(name).str.replace_all(_CREDIT, "").str.replace_all(_CREDIT, "")  # twice: credits may be nested
    stripped = text.str.split(",").list.eval(pl.element().str.strip_chars())
    return _null_if_empty(stripped.list.filter(pl.element() != "").list.unique(maintain_order=True))


def _null_if_empty(values: pl.Expr) -> pl.Expr:
    return pl.when(values.list.len() > 0).then(values)


def _with_tags(films: pl.DataFrame, tags: pl.DataFrame | None) -> pl.DataFrame:
    if tags is None:
        return films
    tag = pl.col(_TAG).str.strip_chars().str.to_lowercase()
    counted = (
        tags.select(Col.ITEM_ID, tag)
        .drop_nulls()
        .group_by(Col.ITEM_ID, _TAG, maintain_order=True)
        .len("n")
        .sort("n", descending=True, maintain_order=True)
        .group_by(Col.ITEM_ID, maintain_order=True)
        .agg(pl.col(_TAG).head(_MAX_TAGS).alias("tags"))
    )
    return films.join(counted, on=Col.ITEM_ID, how="left", maintain_order="left")
