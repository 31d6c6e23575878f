"""What the commands print: tables for people, JSON for programs, results on standard output, the rest on stderr."""

import io
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

_PLAIN_WIDTH: Final = 140

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="MLflow store; left out, MLFLOW_TRACKING_URI, else sqlite:///mlflow.db."
    ),
]
ModelName = Annotated[str, typer.Option("--model-name", metavar="NAME", help="Registered model.")]


def say(text: str = "") -> None:
    """Print a line of the result."""
    typer.echo(text)


def note(text: str) -> None:
    """Print a line that is no part of the result."""
    typer.echo(text, err=True)


def say_json(values: Any) -> None:
    """Print a result as JSON."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False, default=str))


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print a table. numbers: columns that are set to the right; cells that are None stay empty."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    on_terminal = sys.stdout.isatty()
    Console(width=None if on_terminal else _PLAIN_WIDTH, highlight=False).print(table)


def forgive_unprintable() -> None:
    """Let characters that the terminal cannot show be replaced, so that a foreign title never ends a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def ids_of(values: Sequence[str] | None) -> list[str]:
    """Return the ids of an option that takes several: repeated, or separated by commas."""
    return [id_.strip() for value in values or () for id_ in value.split(",") if id_.strip()]
