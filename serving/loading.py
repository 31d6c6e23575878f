"""Opens what an engine needs: the bundle, from a folder or the registry, and the store."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recsys.bundle import Bundle, load_bundle, read_manifest
from serving.engine import Engine
from serving.errors import StoreError
from serving.remembered import recall, remember
from serving.settings import Settings
from serving.slates import ModelInfo, Query
from serving.store import EventStore, NoStore, SqlEventStore

_N_WARM_USERS: Final = 4
_N_WARM_CANDIDATES: Final = 50


@dataclass(frozen=True)
class Wanted:
    """A version that is to be served. fetch: returns the folder of its bundle, downloading it where needed."""

    model: ModelInfo
    fetch: Callable[[], Path]


@dataclass(frozen=True)
class Opened:
    """An engine that has answered. has_replayed: whether the events since its training are counted."""

    engine: Engine
    has_replayed: bool


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

    def open(self, wanted: Wanted, store: EventStore, *, is_remembered: bool = True) -> Opened:
        """Return a warm engine. A store that is away does not keep it from being made.

        is_remembered: whether to note it as the version served last.

        Raises:
            BundleError, RegistryError: it cannot be fetched or read.
        """
        folder = wanted.fetch()
        settings = self._settings
        engine = Engine(load_bundle(folder), store, model=wanted.model, max_user_events=settings.max_user_events)
        warm(engine)
        try:
            engine.replay_events()
            has_replayed = True
        except StoreError:
            # Some may be counted: an engine with all of them takes its place once the store answers.
            has_replayed = False
        if is_remembered and self.can_change:
            remember(settings.cache, self._uri, wanted.model, folder)
        return Opened(engine, has_replayed)

    @property
    def _uri(self) -> str:
        return self._settings.tracking_uri or ""


def warm(engine: Engine) -> None:
    """Ask an engine for lists of every kind, so that the first caller does not wait for what is built on first use.

    Nothing of it is told to `on_served`, and no store is read.
    """
    quiet = without_store(engine)
    quiet.on_served = None
    models = engine.bundle.models
    users, items = models.user_ids.ids, models.catalogue.ids.ids
    known = users[:: max(1, len(users) // _N_WARM_USERS)][:_N_WARM_USERS]
    for user_id in (None, *known):
        quiet.recommend(Query(user_id=user_id))
    if items:
        quiet.recommend(Query(candidates=items[:_N_WARM_CANDIDATES]))
        quiet.similar(items[0])


def without_store(engine: Engine) -> Engine:
    """Return the same engine for as long as its store is away: histories are those of training and the request."""
    alone = copy.copy(engine)
    alone.store = NoStore()
    return alone


def open_bundle(settings: Settings) -> tuple[Bundle, ModelInfo]:
    """Return the bundle that the settings name, and how it is called.

    Raises:
        BundleError: the bundle is damaged or incomplete.
        RegistryError: the registry cannot be reached, or has no such model, alias or version.
    """
    wanted = Models(settings).wanted()
    return load_bundle(wanted.fetch()), wanted.model


def open_engine(settings: Settings, store: EventStore | None = None) -> Engine:
    """Return a warm engine that counts the events stored since its training.

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
    warm(engine)
    return engine
