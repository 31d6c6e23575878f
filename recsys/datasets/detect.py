"""Which format a folder holds."""

from pathlib import Path
from typing import Final

from recsys.datasets.amazon import AmazonReader
from recsys.datasets.faults import Fault
from recsys.datasets.gorse import GorseReader
from recsys.datasets.metarank import MetarankReader
from recsys.datasets.mind import MindReader
from recsys.datasets.movielens import MovieLensReader
from recsys.datasets.raw import Reader
from recsys.datasets.recbole import RecBoleReader
from recsys.datasets.tables import TablesReader
from recsys.errors import DataError

READERS: Final[tuple[Reader, ...]] = (
    TablesReader(),
    MovieLensReader(),
    MindReader(),
    RecBoleReader(),
    AmazonReader(),
    MetarankReader(),
    GorseReader(),
)
AUTO: Final = "auto"
# What each reader looks for, for the message when none of it is there.
LOOKED_FOR: Final = {
    "tables": "items with interactions or impressions, as .parquet, .csv, .tsv or .jsonl",
    "movielens": "ratings.dat with movies.dat, ratings.csv with movies.csv, or u.data with u.item",
    "mind": "behaviors*.tsv with news*.tsv",
    "recbole": "NAME.inter with NAME.item, whose headers give types (user_id:token)",
    "amazon": "reviews with meta_NAME, as JSON Lines",
    "metarank": "JSON Lines of Metarank events",
    "gorse": "feedback with items, as JSON Lines or CSV",
}
_MAX_LISTED: Final = 12


def detect_format(folder: Path) -> str:
    """Return the name of the one format whose files `folder` holds.

    Raises:
        DataError: no folder, no known format, or the files of more than one.
    """
    present = _files(folder)
    names = [reader.name for reader in READERS if reader.detects(folder)]
    if len(names) == 1:
        return names[0]
    listed = ", ".join(present[:_MAX_LISTED]) + (f", … ({len(present)} files)" if len(present) > _MAX_LISTED else "")
    if names:
        raise _error(
            folder,
            f"the files fit {len(names)} formats: {' and '.join(names)}; there are {listed}",
            f"Say which is meant with --format {names[0]} or --format {names[1]}, or move the other files away.",
        )
    looked_for = "; ".join(f"{name}: {files}" for name, files in LOOKED_FOR.items())
    raise _error(
        folder,
        f"no known format is there. Looked for (gzipped or not): {looked_for}. The folder has {listed or 'no files'}",
        "Name the folder that holds the files themselves, rename them, or say the format with --format.",
    )


def reader_for(folder: Path, format: str = AUTO) -> Reader:
    """Return the reader of a format name, or of what the folder holds for `auto`.

    Raises:
        DataError: as `detect_format` does, or no format has this name.
    """
    _files(folder)
    by_name = {reader.name: reader for reader in READERS}
    name = detect_format(folder) if format == AUTO else format
    if name not in by_name:
        raise _error(folder, f"there is no format {name!r}", f"Choose one of {AUTO}, {', '.join(by_name)}.")
    return by_name[name]


def _files(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_file())
    except NotADirectoryError:
        raise _error(folder, "this is a file, not a folder", "Name the folder that holds the tables.") from None
    except FileNotFoundError:
        raise _error(folder, "there is no such folder", "Check the path.") from None
    except OSError as error:
        raise _error(folder, f"the folder cannot be read: {error.strerror}", "Check its permissions.") from None


def _error(folder: Path, problem: str, remedy: str) -> DataError:
    fault = Fault(str(folder), problem, remedy)
    return DataError(str(fault), (fault,))
