"""Opens what an engine needs: the bundle, from a folder or the registry, and the store."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from features.path import RankingPath
from features.rungs import Rung
from recsys.bundle import Bundle, load_bundle, read_manifest
from recsys.downloads import reading, remove_old
from recsys.models.kept_files import KeptFiles
from recsys.models.room import with_room
from recsys.retrieval.index import Indexes
from serving.engine import Engine
from serving.errors import StoreError
from serving.remembered import noted, recall, remember
from serving.settings import Settings
from serving.slates import ModelInfo, Query
from serving.store import EventStore, SqlEventStore

logger = logging.getLogger(__name__)

# Up to so many items, counts of all of them are kept between requests; beyond, the candidates' are read each time.
_KEPT_COUNTS: Final = 200_000
# Below the cache: what the processes of this machine share of large bundles.
_SHARED: Final = "shared"
_N_WARM_USERS: Final = 4
_N_WARM_CANDIDATES: Final = 50


@dataclass(frozen=True)
class Wanted:
    """A version that is to be served. fetch: returns the folder of its bundle, downloading it where needed."""

    model: ModelInfo
    fetch: Callable[[], Path]


class Models:
    """The versions that the settings name: which is wanted now, which was served last, and engines of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def can_change(self) -> bool:
        """Whether a later look may find another version."""
        return self._settings.bundle is None

    def wanted(self) -> Wanted:
        """Return the version to serve.

        Raises:
            BundleError: the folder is no bundle.
            RegistryError: the registry has no such model, alias or version. RegistryUnavailableError: it is away.
        """
        folder = self._settings.bundle
        if folder is not None:
            return Wanted(ModelInfo("bundle", read_manifest(folder).bundle_id), lambda: folder)
        # A server that hangs is given up after half a minute, not after the quarter of an hour that MLflow would try.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        # MLflow is large, and not needed where a folder is served.
        from recsys.registry import Registry

        registry = Registry(self._settings.tracking_uri, self._settings.model_name)
        ref = registry.resolve(self._settings.alias)
        return Wanted(ModelInfo(ref.name, ref.version, ref.alias), lambda: registry.fetch(ref, self._settings.cache))

    def last_served(self) -> Wanted | None:
        """Return the version that this machine served last under these settings; None for none."""
        if self._settings.bundle is not None:
            return None
        found = recall(self._settings.cache, self._uri, self._settings.model_name, self._settings.alias)
        if found is None:
            return None
        model, folder = found
        return Wanted(model, lambda: folder)

    def open(self, wanted: Wanted, store: EventStore, *, is_remembered: bool = True) -> Engine:
        """Return a warm engine. A store that is away does not keep it from being made.

        is_remembered: whether to note it as the version served last, and to remove old ones that were downloaded.

        Raises:
            BundleError, RegistryError: it cannot be fetched or read.
        """
        cache = self._settings.cache
        with reading(cache):
            folder = wanted.fetch()
            bundle = load_bundle(folder)
        engine = make_engine(self._settings, bundle, wanted.model, store)
        if is_remembered and self.can_change:
            remember(cache, self._uri, wanted.model, folder)
            remove_old(cache, folder, noted(cache))
        return engine

    @property
    def _uri(self) -> str:
        return self._settings.tracking_uri or ""


def make_engine(settings: Settings, bundle: Bundle, model: ModelInfo, store: EventStore) -> Engine:
    """Return a warm engine of a loaded bundle, with room for new items, that knows what the store knows.

    A store that is away does not keep it from being made: `engine.follower` takes everything in once it answers.
    """
    fitted, exact_below = bundle.models, bundle.models.config.retrieval.exact_below
    kept = None
    if len(fitted.catalogue) >= exact_below:
        kept = KeptFiles(settings.cache / _SHARED / f"{bundle.manifest.bundle_id[:16]}-{settings.live_items}")
        texts = fitted.catalogue.with_texts_on_demand(fitted.config.data.text_fields)
        fitted = replace(fitted, catalogue=texts)
    models = with_room(fitted, settings.live_items, kept)
    models.counters.keep_for(models.n_rows if models.n_rows <= _KEPT_COUNTS else 0)
    engine = Engine(
        replace(bundle, models=models),
        store,
        path=RankingPath(models, Indexes(exact_below, len(models.catalogue), kept)),
        model=model,
        max_user_events=settings.max_user_events,
        max_users=settings.max_users,
    )
    try:
        engine.follower.catch_up()
    except StoreError as error:
        logger.warning("%s", error)
    warm(engine)
    return engine


def warm(engine: Engine) -> None:
    """Ask an engine for lists of every kind, so that the first caller does not wait for what is built on first use.

    Nothing of it is told to anybody, and no store is read.
    """
    quiet = engine.without_store()
    models = engine.bundle.models
    users, items = models.user_ids.ids, models.catalogue.ids.ids
    known = users[:: max(1, len(users) // _N_WARM_USERS)][:_N_WARM_USERS]
    for user_id in (None, *known):
        for rung in Rung:
            quiet.recommend(Query(user_id=user_id), rung=rung)
    if items:
        quiet.recommend(Query(candidates=items[:_N_WARM_CANDIDATES], explain=True))
        quiet.similar(items[0])


def open_bundle(settings: Settings) -> tuple[Bundle, ModelInfo]:
    """Return the bundle that the settings name, and how it is called.

    Raises:
        BundleError: the bundle is damaged or incomplete.
        RegistryError: the registry cannot be reached, or has no such model, alias or version.
    """
    wanted = Models(settings).wanted()
    with reading(settings.cache):
        return load_bundle(wanted.fetch()), wanted.model


def open_engine(settings: Settings, store: EventStore | None = None) -> Engine:
    """Return a warm engine that counts the events stored since its training.

    store: in place of the one that the settings name.

    Raises:
        BundleError, RegistryError: see `open_bundle`.
        StoreError: the store cannot be opened or read.
    """
    bundle, model = open_bundle(settings)
    return make_engine(settings, bundle, model, SqlEventStore(settings.store_url) if store is None else store)
