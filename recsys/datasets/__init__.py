"""Reading data: a folder in any known format becomes one validated `Dataset`, or an error that names every fault."""

from pathlib import Path

from recsys.config import DataConfig
from recsys.datasets.dataset import Dataset
from recsys.datasets.detect import AUTO, reader_for
from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import RawTables, Reader
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
    "load_dataset",
    "summarise",
    "validate_folder",
]


def load_dataset(folder: Path | str, format: str = AUTO, config: DataConfig | None = None) -> Dataset:
    """Return the validated data set of a folder.

    Args:
        folder: holds the files of one format, see docs/data-formats.md.
        format: its name, or `auto` to recognise it.
        config: what is tolerated; the defaults when None.

    Raises:
        DataError: with every fault that was found, in `faults` too; nothing was loaded.
    """
    return _load(Path(folder), reader_for(Path(folder), format), config or DataConfig(), FaultLog())


def validate_folder(folder: Path | str, format: str = AUTO, config: DataConfig | None = None) -> ValidationReport:
    """Return what `load_dataset` would find, as a report: never raises for bad data, a wrong folder or format."""
    faults = FaultLog()
    name, dataset = format, None
    try:
        reader = reader_for(Path(folder), format)
        name = reader.name
        dataset = _load(Path(folder), reader, config or DataConfig(), faults)
    except DataError as error:
        if not faults.n_faults:
            _add_all(error, faults)
    summary = summarise(dataset) if dataset is not None else None
    return ValidationReport(str(folder), name, tuple(faults.faults), faults.n_faults, dict(faults.notes), summary)


def _load(folder: Path, reader: Reader, config: DataConfig, faults: FaultLog) -> Dataset:
    try:
        raw = reader.read(folder, config, faults)
    except DataError as error:
        _add_all(error, faults)
        raw = RawTables()
    return build_dataset(raw, config, faults, name=folder.resolve().name, format=reader.name)


def _add_all(error: DataError, faults: FaultLog) -> None:
    found = [fault for fault in error.faults if isinstance(fault, Fault)]
    for fault in found or [Fault("data", str(error), "Mend it and load the folder again.")]:
        faults.add(fault)
