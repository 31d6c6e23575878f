"""Opens what an engine needs: the bundle, from a folder or the registry, and the store."""

from recsys.bundle import Bundle, load_bundle
from serving.engine import Engine
from serving.settings import Settings
from serving.slates import ModelInfo, Query
from serving.store import EventStore, SqlEventStore


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
    """Return an engine that has answered once and counts the events stored since its training.

    store: in place of the one that the settings name.

    Raises:
        BundleError, RegistryError: see `open_bundle`.
        StoreError: the store cannot be opened or read.
    """
    bundle, model = open_bundle(settings)
    if store is None:
        store = SqlEventStore(settings.store_url)
    engine = Engine(bundle, store, model=model, max_user_events=settings.max_user_events)
    engine.replay_events()
    engine.recommend(Query(n=1))
    return engine
