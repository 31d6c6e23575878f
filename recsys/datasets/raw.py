"""What a reader hands over: tables under their standard column names, not yet checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from recsys.config import DataConfig
from recsys.datasets.faults import FaultLog

# Hidden columns of raw frames, so that a fault can say where a value stood. They do not reach a Dataset.
ROW: Final = "_row"  # Int64, 1-based row in the data of its file (a header line is not counted, a blank line is)
FILE: Final = "_file"  # String, name of the file


@dataclass
class RawTables:
    """Tables as read: columns named as in `recsys.schema.Col`, any dtype, unchecked values, plus `ROW` and `FILE`.

    Attributes stand under their own names. A table is None where the folder does not hold it or it cannot be read.
    """

    items: pl.DataFrame | None = None
    interactions: pl.DataFrame | None = None
    impressions: pl.DataFrame | None = None
    users: pl.DataFrame | None = None


class Reader(Protocol):
    """Reads one format of folder."""

    name: str

    def detects(self, folder: Path) -> bool:
        """Return whether the files of `folder` look like this format. Raises nothing for a readable folder."""
        ...

    def read(self, folder: Path, config: DataConfig, faults: FaultLog) -> RawTables:
        """Return the raw tables of `folder`; what cannot be read is in `faults`, what was left out in its notes."""
        ...
