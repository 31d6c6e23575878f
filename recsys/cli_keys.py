"""`recsys keys`: make, list and revoke the API keys of a server's store."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys.cli_output import AsJson, note, say, say_json
from recsys.cli_serving import Store, settings_from
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from serving.keys import KeyStore, StoredKey

keys = typer.Typer(
    help="API keys of the server: create, list, revoke.",
    epilog="Example: recsys keys create --name shop --scope read",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@keys.command(epilog="Example: recsys keys create --name shop --scope read --scope events")
def create(
    *,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Who will use it.")],
    scope: Annotated[list[str], typer.Option("--scope", metavar="SCOPE", help="read, events or admin; repeatable.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: the store keeps only a hash of it."""
    from serving.keys import new_key

    key, kept = new_key(name, scope)
    with _opened(store) as opened:
        opened.add_key(kept)
    if as_json:
        say_json({"key": key, "key_id": kept.key_id, "name": kept.name, "scopes": list(kept.scopes)})
    else:
        say(key)
        note("keep it now: it cannot be shown again")


@keys.command("list", epilog="Example: recsys keys list")
def list_keys(*, store: Store = None, as_json: AsJson = False) -> None:
    """Print every key's id, name, scopes and times, oldest first; never the key."""
    with _opened(store) as opened:
        found = opened.keys()
    if as_json:
        say_json([_row_of(key) for key in found])
        return
    for key in found:
        row = _row_of(key)
        state = row["revoked"] or "open"
        say(f"{key.key_id}  {row['created']}  {state:20}  {','.join(key.scopes)}  {key.name}")


@keys.command(epilog="Example: recsys keys revoke 5f2b7fab520a")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `recsys keys list` prints it.")],
    *,
    store: Store = None,
) -> None:
    """Make a key open nothing any more; running servers know within RECSYS_KEY_CACHE_S."""
    with _opened(store) as opened:
        if not opened.revoke_key(key_id, time.time_ns() // 1_000):
            raise ConfigError(f"no open key has the id {key_id!r}; recsys keys list prints all of them")
    note(f"key {key_id} is revoked")


@contextmanager
def _opened(store: str | None) -> Iterator["KeyStore"]:
    from serving.key_store import open_key_store

    opened = open_key_store(settings_from(store_url=store).store_url)
    try:
        yield opened
    finally:
        opened.close()


def _time_of(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _row_of(key: "StoredKey") -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": list(key.scopes),
        "created": _time_of(key.created_us),
        "revoked": None if key.revoked_us is None else _time_of(key.revoked_us),
    }
