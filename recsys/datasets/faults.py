"""What is wrong with input data: single faults, and the log that collects them all in one pass."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from recsys.errors import DataError

_MAX_VALUE_LENGTH: Final = 80


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what stood there, and how to mend it. `row` is 1-based in the file's data."""

    file: str
    problem: str
    remedy: str
    row: int | None = None
    column: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        place = self.file
        if self.row is not None:
            place += f", row {self.row}"
        if self.column is not None:
            place += f", column {self.column}"
        value = self.value
        if value is not None and len(value) > _MAX_VALUE_LENGTH:
            value = f"{value[:_MAX_VALUE_LENGTH]}… ({len(value)} characters)"
        got = f" (value {value!r})" if value is not None else ""
        return f"{place}: {self.problem}{got}. {self.remedy}"


class FaultLog:
    """Collects faults (which stop the loading) and notes (tolerated, counted, shown)."""

    def __init__(self, max_kept_per_kind: int = 20) -> None:
        self._max_kept = max_kept_per_kind
        self._kinds: Counter[tuple[str, str, str | None]] = Counter()
        self.faults: list[Fault] = []
        self.notes: Counter[str] = Counter()

    def add(self, fault: Fault, count: int = 1) -> None:
        """Record a fault that stands for `count` rows. Of each kind the first few are kept, all are counted."""
        kind = (fault.file, fault.problem, fault.column)
        if sum(1 for kept in self.faults if (kept.file, kept.problem, kept.column) == kind) < self._max_kept:
            self.faults.append(fault)
        self._kinds[kind] += count

    def note(self, what: str, count: int = 1) -> None:
        """Count something tolerated, such as `interactions with an unknown item, dropped`."""
        if count:
            self.notes[what] += count

    @property
    def n_faults(self) -> int:
        return sum(self._kinds.values())

    def raise_if_any(self) -> None:
        """Raise `DataError` with every kept fault, when there is one."""
        if not self.faults:
            return
        lines = [f"- {fault}" for fault in self.faults]
        if self.n_faults > len(self.faults):
            lines.append(f"(and {self.n_faults - len(self.faults)} more of the same kinds)")
        raise DataError(
            f"the data has {self.n_faults} fault(s); nothing was loaded:\n" + "\n".join(lines), tuple(self.faults)
        )
