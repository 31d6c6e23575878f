"""Reading data: a folder in any known format becomes one validated `Dataset`, or an error that names every fault."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from recsys.config import DataConfig
from recsys.datasets.database import DATABASE, database_name, is_database, read_database, shown_database
from recsys.datasets.dataset import Dataset
from recsys.datasets.detect import AUTO, reader_for
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import RawTables
from recsys.datasets.summary import DatasetSummary, ValidationReport, summarise
from recsys.datasets.validation import build_dataset
from recsys.errors import DataError

__all__ = [
    "Dataset",
    "DatasetSummary",
    "Fault",
    "FaultLog",
    "ValidationReport",
    "build_dataset",
    "format_of",
    "load_dataset",
    "summarise",
    "validate_folder",
]


def format_of(source: Path | str, format: str = AUTO) -> str:
    """Return the name of the format of a folder, recognised where `format` is `auto`, or `database` for a URL.

    Raises:
        DataError: the folder cannot be read or holds no known format, or there is no format of this name.
    """
    return DATABASE if is_database(source) else reader_for(Path(source), format).name


def load_dataset(folder: Path | str, format: str = AUTO, config: DataConfig | None = None) -> Dataset:
    """Return the validated data set of a folder, or of a service's database.

    Args:
        folder: holds the files of one format, see docs/data-formats.md; or the SQLAlchemy URL of a database.
        format: its name, or `auto` to recognise it; a database has its own.
        config: what is tolerated; the defaults when None.

    Raises:
        DataError: with every fault that was found, in `faults` too; nothing was loaded.
    """
    return _load(folder, format, config or DataConfig(), FaultLog())


def validate_folder(folder: Path | str, format: str = AUTO, config: DataConfig | None = None) -> ValidationReport:
    """Return what `load_dataset` would find, as a report: never raises for bad data, a wrong folder or format."""
    faults = FaultLog()
    name, dataset = format, None
    try:
        name = format_of(folder, format)
        dataset = _load(folder, format, config or DataConfig(), faults)
    except DataError as error:
        if not faults.n_faults:
            _add_all(error, faults)
    summary = summarise(dataset) if dataset is not None else None
    return ValidationReport(_shown(folder), name, tuple(faults.faults), faults.n_faults, dict(faults.notes), summary)


def _load(source: Path | str, format: str, config: DataConfig, faults: FaultLog) -> Dataset:
    if is_database(source):
        url = str(source)
        name, format = database_name(url), DATABASE
        read = partial(read_database, url)
    else:
        folder = Path(source)
        reader = reader_for(folder, format)
        name, format = folder.resolve().name, reader.name
        read = partial(reader.read, folder)
    try:
        raw = read(config, faults)
    except DataError as error:
        _add_all(error, faults)
        raw = RawTables()
    dataset = build_dataset(raw, config, faults, name=name, format=format)
    return dataset if config.use_impressions else replace(dataset, impressions=None)


def _shown(source: Path | str) -> str:
    try:
        return shown_database(str(source)) if is_database(source) else str(source)
    except DataError:
        return "data"  # what is no URL may hold a password all the same


def _add_all(error: DataError, faults: FaultLog) -> None:
    found = [fault for fault in error.faults if isinstance(fault, Fault)]
    for fault in found or [Fault("data", str(error), "Mend it and load the folder again.")]:
        faults.add(fault)
