"""`recsys recommend` and `recsys serve`: lists from a registered version or a bundle."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recsys.cli_output import AsJson, TrackingUri, ids_of, note, say, say_json, say_table

if TYPE_CHECKING:
    from recsys.api import Recommendation, Recommender
    from serving.settings import Settings

Alias = Annotated[
    str | None, typer.Option("--alias", metavar="ALIAS", help="Alias or version number; left out, champion.")
]
Bundle = Annotated[
    Path | None, typer.Option("--bundle", metavar="FOLDER", help="A bundle's folder in place of a registered version.")
]
ModelName = Annotated[str | None, typer.Option("--model-name", metavar="NAME", help="Registered model.")]
Store = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Event store of the server; left out, sqlite:///recsys.db."),
]


def recommend(
    *,
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="The user; left out, someone without an id.")
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option("--history", metavar="IDS", help="What the user did beyond what is known, oldest first: a,b,c."),
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Length of the list at most.")] = 10,
    candidates: Annotated[
        list[str] | None, typer.Option("--candidates", metavar="IDS", help="The only items to order: a,b,c.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="IDS", help="Items to leave out: a,b,c.")
    ] = None,
    diversity: Annotated[
        float, typer.Option("--diversity", metavar="0..1", help="How far alike items give way to others.")
    ] = 0.0,
    alias: Alias = None,
    bundle: Bundle = None,
    model_name: ModelName = None,
    tracking_uri: TrackingUri = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Print the list that the API would give.

    Where a server has stored events of the user in this folder's recsys.db (or in --store), they count as history.
    Settings that are not given are taken from the server's environment variables (RECSYS_ALIAS and so on).
    """
    settings = settings_from(
        alias=alias, bundle=bundle, model_name=model_name, tracking_uri=tracking_uri, store_url=store
    )
    given = {"history": ids_of(history), "candidates": ids_of(candidates), "exclude": ids_of(exclude)}
    with open_recommender(settings) as recommender:
        found = recommender.recommend(
            user,
            n,
            history=given["history"],
            candidates=given["candidates"] if candidates else None,
            exclude=given["exclude"],
            diversity=diversity,
        )
        if as_json:
            say_json({"model": asdict(recommender.model), "user_id": user, "items": [asdict(item) for item in found]})
        else:
            say(f"{recommender.model.name} version {recommender.model.version[:12]}, for {user or 'someone unknown'}")
            say_list(found)
        note_unknown(recommender, user, given)


def serve(
    *,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; left out, 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; left out, 8000.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that answer on the port; left out, 1.")
    ] = None,
    alias: Alias = None,
    bundle: Bundle = None,
    model_name: ModelName = None,
    tracking_uri: TrackingUri = None,
    store: Store = None,
) -> None:
    """Answer requests over HTTP until Ctrl-C; /docs shows every endpoint.

    Settings that are not given are taken from the environment (RECSYS_PORT and so on, see docs/api.md). The server may
    be started before the first training: it answers as soon as a version is registered.
    """
    from serving.app import serve as run

    run(
        settings_from(
            host=host,
            port=port,
            workers=workers,
            alias=alias,
            bundle=bundle,
            model_name=model_name,
            tracking_uri=tracking_uri,
            store_url=store,
        )
    )


def settings_from(**given: Any) -> "Settings":
    """Return the server's settings: what was given, else the environment's, else the defaults.

    Raises:
        ConfigError: a value is not allowed; the message names each.
    """
    from pydantic import ValidationError

    from recsys.errors import ConfigError
    from serving.settings import Settings

    values = Settings.from_environment().model_dump() | {
        key: value for key, value in given.items() if value is not None
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = [f"{fault['loc'][0]}: {fault['msg']} (got {fault['input']!r})" for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from None


def open_recommender(settings: "Settings") -> "Recommender":
    """Return a recommender for settings. A SQLite store that nobody has written yet is not created by looking.

    Raises:
        BundleError, RegistryError, StoreError: see `recsys.api.load`.
    """
    from recsys.api import Recommender
    from serving.loading import open_engine
    from serving.store import NoStore

    return Recommender(open_engine(settings, None if store_exists(settings.store_url) else NoStore()))


def store_exists(url: str) -> bool:
    """Return whether there is an event store to open; False for an SQLite file that is not there."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        return True  # opening it says what is wrong
    return parsed.get_backend_name() != "sqlite" or (bool(parsed.database) and Path(str(parsed.database)).exists())


def say_list(items: "list[Recommendation]") -> None:
    """Print a list as a table with titles."""
    rows = [[item.rank, item.title, f"{item.score:.3f}", item.item_id, ", ".join(item.sources)] for item in items]
    say_table(["rank", "title", "score", "item_id", "sources"], rows, numbers=["rank", "score"])


def note_unknown(recommender: "Recommender", user: str | None, given: dict[str, list[str]]) -> None:
    """Say which ids the model does not know."""
    models = recommender.engine.bundle.models
    if user is not None and user not in models.user_ids:
        note(f"the model was not trained on user {user!r}: the list comes from the history given, else from popularity")
    for part, ids in given.items():
        if unknown := [id_ for id_ in ids if id_ not in models.catalogue.ids]:
            note(f"{part}: {len(unknown)} of {len(ids)} items are not in the catalogue, the first: {unknown[:3]}")
