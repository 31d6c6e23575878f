"""How rows that fail a check become faults: the first few with their place and value, all of them counted."""

from typing import Final

import polars as pl

from recsys.datasets.faults import Fault, FaultLog
from recsys.datasets.raw import FILE, ROW

FIRST_SHOWN: Final = 3


def add_rows(
    faults: FaultLog, rows: pl.DataFrame, *, column: str | None, problem: str, remedy: str, value: str | None = None
) -> None:
    """Record one fault for every row of `rows` (with `ROW` and `FILE`); the first three are kept with row and value.

    value: name of the column that holds the offending value; `column` by default.
    """
    where = None if column is None else str(column)
    source = value if value is not None else column
    shown = rows.head(FIRST_SHOWN)
    for i, row in enumerate(shown.iter_rows(named=True)):
        found = row.get(source) if source is not None else None
        fault = Fault(row[FILE], problem, remedy, row[ROW], where, None if found is None else str(found))
        faults.add(fault, count=1 + rows.height - shown.height if i == 0 else 1)
