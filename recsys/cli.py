"""The command line: `recsys COMMAND`. Heavy libraries are imported by the commands that need them, not here.

Exit codes: 0 done, 1 a defect (or `doctor` found a fault), 2 bad input or usage, 130 interrupted.
"""

from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from recsys import (
    __version__,
    cli_data,
    cli_demo,
    cli_doctor,
    cli_export,
    cli_keys,
    cli_models,
    cli_serving,
    cli_training,
)
from recsys.cli_output import forgive_unprintable, note, say
from recsys.errors import RecsysError

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


class _Commands(TyperGroup):
    """Turns errors that a user can mend into their message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RecsysError as error:
            note(f"error: {error}")
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from None


app: Final = typer.Typer(
    cls=_Commands,
    name="recsys",
    help="Recommendations that understand text: train on your own log, compare versions, serve the best.",
    epilog="Example: recsys demo. Every command explains itself with --help.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda wanted: _print_version(wanted=wanted), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    forgive_unprintable()


for _command, _example in (
    (cli_data.validate, "recsys validate data/sample"),
    (cli_training.train, "recsys train --data data/sample --set encoder.epochs=1"),
    (cli_training.evaluate, "recsys evaluate --data data/tomorrow --alias challenger"),
    (cli_training.tune, "recsys tune --data data/sample --search ranker --trials 30 --out best.yaml"),
    (cli_models.compare, "recsys compare champion challenger"),
    (cli_models.promote, "recsys promote challenger"),
    (cli_models.rollback, "recsys rollback"),
    (cli_serving.recommend, "recsys recommend --user u0001 --history i0042,i0017 -n 5"),
    (cli_export.export, "recsys export --out lists.parquet -n 20"),
    (cli_serving.serve, "recsys serve --port 8000"),
    (cli_doctor.doctor, "recsys doctor"),
    (cli_demo.demo, "recsys demo"),
):
    app.command(epilog=f"Example: {_example}")(_command)

app.add_typer(cli_keys.keys, name="keys")


def main() -> None:
    """Run the command line."""
    app(prog_name="recsys")
