"""`recsys export`: lists for many users into one file."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from recsys.cli_output import AsJson, TrackingUri, ids_of, note, say, say_json
from recsys.cli_serving import Alias, Bundle, ModelName, Store, open_recommender, settings_from
from recsys.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from recsys.api import Recommender

SUFFIXES: Final = (".parquet", ".csv", ".jsonl")
_USERS_PER_PART: Final = 1_000


def export(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Ends in .parquet, .csv or .jsonl.", show_default=False)
    ],
    users: Annotated[
        list[str] | None, typer.Option("--user", metavar="IDS", help="Only these users, a,b,c; repeatable.")
    ] = None,
    users_file: Annotated[
        Path | None, typer.Option("--users-file", metavar="FILE", help="Only the users in this file, one id a line.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Length of each list at most.")] = 10,
    alias: Alias = None,
    bundle: Bundle = None,
    model_name: ModelName = None,
    tracking_uri: TrackingUri = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Write the lists of all users that a version knows, or of chosen ones, to a file.

    Columns: user_id, rank, item_id, score, title. The file appears whole or not at all.
    """
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: the file's name must end in {', '.join(SUFFIXES)}, which says its format")
    settings = settings_from(
        alias=alias, bundle=bundle, model_name=model_name, tracking_uri=tracking_uri, store_url=store
    )
    chosen = chosen_users(users, users_file)
    with open_recommender(settings) as recommender:
        known = recommender.engine.bundle.models.user_ids
        wanted = list(known.ids) if chosen is None else chosen
        n_unknown = sum(user not in known for user in wanted)
        n_rows = write_lists(recommender, wanted, n, out)
        model = recommender.model
    if n_unknown:
        note(f"{n_unknown} of {len(wanted)} users are not known to the model: their lists come from popularity")
    if as_json:
        say_json(
            {"file": str(out), "users": len(wanted), "rows": n_rows, "model": model.name, "version": model.version}
        )
    else:
        say(f"{out}: {n_rows:,} rows for {len(wanted):,} users, from {model.name} version {model.version[:12]}")


def chosen_users(users: Sequence[str] | None, users_file: Path | None) -> list[str] | None:
    """Return the users that the options name, each once, in order; None for everyone.

    Raises:
        ConfigError: the file cannot be read, or no user is left.
    """
    if users is None and users_file is None:
        return None
    chosen = ids_of(users)
    if users_file is not None:
        try:
            lines = users_file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--users-file {users_file} cannot be read: {error}; write one id a line, UTF-8"
            ) from None
        chosen += [line.strip() for line in lines if line.strip()]
    if not chosen:
        raise ConfigError("no user is named; leave out --user and --users-file to export everyone")
    return list(dict.fromkeys(chosen))


def write_lists(recommender: "Recommender", user_ids: Sequence[str], n: int, out: Path) -> int:
    """Write the users' lists to a file and return the number of rows; memory does not grow with the users.

    Raises:
        ConfigError: the file cannot be written.
    """
    import polars as pl
    from rich.console import Console
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    starts = range(0, len(user_ids), _USERS_PER_PART)
    console = Console(stderr=True)
    try:
        # Beside the target, so that the last step is a rename.
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch, threadpool_limits(limits=1):
            for part, start in enumerate(
                track(starts, "lists", console=console, transient=True, disable=not console.is_terminal)
            ):
                rows = _lists(recommender, user_ids[start : start + _USERS_PER_PART], n)
                rows.write_parquet(Path(scratch) / f"part-{part:08d}.parquet")
            parts = pl.scan_parquet(Path(scratch) / "part-*.parquet")
            whole = Path(scratch) / f"whole{out.suffix}"
            if out.suffix == ".parquet":
                parts.sink_parquet(whole)
            elif out.suffix == ".csv":
                parts.sink_csv(whole)
            else:
                parts.sink_ndjson(whole)
            n_rows = int(parts.select(pl.len()).collect().item())
            whole.replace(out)
    except OSError as error:
        raise ConfigError(
            f"--out {out} cannot be written: {error}; choose a folder that is there and writable"
        ) from error
    return n_rows


def _lists(recommender: "Recommender", user_ids: Sequence[str], n: int) -> "pl.DataFrame":
    import polars as pl

    rows = [
        (user_id, item.rank, item.item_id, item.score, item.title)
        for user_id in user_ids
        for item in recommender.recommend(user_id, n)
    ]
    types = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float64, "title": pl.String}
    return pl.DataFrame(rows, schema=types, orient="row")
