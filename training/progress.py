"""Says how far a training is: a live bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

log = logging.getLogger(__name__)

_LINE_EVERY_S: Final = 10.0


def how_it_ended(name: str, stopped_because: str, setting: str, *, time_was_short: bool) -> str:
    """Return the line that says why the training of a network ended, and which setting gives it more time."""
    how = stopped_because if stopped_because.startswith("not ") else f"ended by {stopped_because}"
    if not time_was_short:
        return f"  {name}: {how}"
    hurried = "" if stopped_because == "time" else ", hurried by time"
    return f"  {name}: {how}{hurried}; raise {setting} to let it learn longer"


class Advance(Protocol):
    """Called while a stage works: how much is done, of how much (0 when unknown), and a word on how it goes."""

    def __call__(self, done: int, total: int = 0, note: str = "") -> None: ...


class Reporter:
    """Shows stages on standard error; `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Announce a stage, yield the function that advances it, and say how long it took."""
        started = time.perf_counter()
        if self._console.is_terminal and not self._console.quiet:
            with self._bar(name) as advance:
                yield advance
        else:
            yield self._lines(name)
        self.say(f"  {name}: {time.perf_counter() - started:.1f} s")

    @contextmanager
    def _bar(self, name: str) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console, transient=True) as bar:
            task = bar.add_task(name, total=None, note="")
            yield lambda done, total=0, note="": bar.update(task, completed=done, total=total or None, note=note)

    def _lines(self, name: str) -> Advance:
        last = time.perf_counter()

        def advance(done: int, total: int = 0, note: str = "") -> None:
            nonlocal last
            if time.perf_counter() - last >= _LINE_EVERY_S:
                last = time.perf_counter()
                of = f" of {total}" if total else ""
                self.say(f"  {name}: {done}{of} {note}".rstrip())
                sys.stderr.flush()

        return advance
