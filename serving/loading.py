"""Opens what an engine needs: the bundle, from a folder or the registry, and the store."""

import logging
from dataclasses import replace
from typing import Final

from recsys.bundle import Bundle, load_bundle
from recsys.models.room import with_room
from serving.engine import Engine
from serving.errors import StoreError
from serving.sessions import SessionItem
from serving.settings import Settings
from serving.slates import ModelInfo, Query
from serving.store import EventStore, SqlEventStore

logger = logging.getLogger(__name__)

# Up to so many items, counts of all of them are kept between requests; beyond, the candidates' are read each time.
_KEPT_COUNTS: Final = 200_000
_WARMED_USERS: Final = 5


def open_bundle(settings: Settings) -> tuple[Bundle, ModelInfo]:
    """Return the bundle that the settings name, and how it is called.

    Raises:
        BundleError: the bundle is damaged or incomplete.
        RegistryError: the registry cannot be reached, or has no such model, alias or version.
    """
    if settings.bundle is not None:
        bundle = load_bundle(settings.bundle)
        return bundle, ModelInfo("bundle", bundle.manifest.bundle_id)
    # MLflow is large, and not needed where a folder is served.
    from recsys.registry import Registry

    registry = Registry(settings.tracking_uri, settings.model_name)
    ref = registry.resolve(settings.alias)
    bundle = load_bundle(registry.fetch(ref, settings.cache))
    return bundle, ModelInfo(ref.name, ref.version, ref.alias)


def open_engine(settings: Settings, store: EventStore | None = None) -> Engine:
    """Return an engine that has answered once and knows what the store knows since its training.

    store: in place of the one that the settings name.

    Raises:
        BundleError, RegistryError: see `open_bundle`.
        StoreError: the store cannot be opened or read.
    """
    bundle, model = open_bundle(settings)
    if store is None:
        store = SqlEventStore(settings.store_url)
    return make_engine(settings, bundle, model, store)


def make_engine(settings: Settings, bundle: Bundle, model: ModelInfo, store: EventStore) -> Engine:
    """Return an engine of a loaded bundle; see `open_engine`."""
    models = with_room(bundle.models, settings.live_items)
    models.counters.keep_for(models.n_rows if models.n_rows <= _KEPT_COUNTS else 0)
    engine = Engine(
        replace(bundle, models=models),
        store,
        model=model,
        max_user_events=settings.max_user_events,
        max_users=settings.max_users,
    )
    try:
        engine.follower.catch_up()
    except StoreError as error:
        # What the store knows is taken in as soon as it can be read; lists do not wait for it.
        logger.warning("%s", error)
    warm(engine)
    return engine


def warm(engine: Engine) -> None:
    """Have an engine answer a few requests of each kind, so that nobody waits for what is made ready at first use.

    Nothing of it is kept or counted as shown.
    """
    ids = engine.bundle.models.catalogue.ids.ids
    users = engine.bundle.models.user_ids.ids
    session = [SessionItem(id_) for id_ in ids[:3]]
    for query in (
        Query(n=1),
        Query(n=10, history=session),
        Query(n=10, candidates=ids[:50], history=session),
        *(Query(user_id=user_id) for user_id in users[:_WARMED_USERS]),
    ):
        engine.recommend(query)
    if len(ids):
        engine.similar(ids[0], 1)
