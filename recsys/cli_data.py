"""`recsys validate`: what a data folder holds, and every fault in it."""

from pathlib import Path
from typing import Annotated

import typer

from recsys.cli_output import AsJson, note, say, say_json

Format = Annotated[
    str,
    typer.Option(
        "--format",
        help="tables, movielens, mind, recbole, amazon, metarank or gorse; auto recognises which.",
        show_default=True,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration; left out, the preset that fits the format."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one value of the configuration, repeatable."),
]


def validate(
    folder: Annotated[str, typer.Argument(help="Folder of the data, or the URL of a database.", show_default=False)],
    *,
    format: Format = "auto",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check a data folder: print what it holds, what was tolerated, and every fault with its place and remedy.

    Exit code 2 where the data cannot be trained on.
    """
    from recsys.datasets import format_of, validate_folder
    from recsys.errors import DataError
    from recsys.preset_files import choose_config, parse_overrides

    try:
        name = format_of(folder) if format == "auto" else format
    except DataError:
        name = format  # the report says what is wrong with the folder
    chosen = choose_config(config, name, parse_overrides(settings or []))
    report = validate_folder(folder, format, chosen.data)
    if as_json:
        say_json(report.to_dict())
    else:
        say("\n".join(report.lines()))
    if not report.is_sound:
        note(f"{report.folder} cannot be trained on; mend the faults above and validate it again")
        raise typer.Exit(2)
