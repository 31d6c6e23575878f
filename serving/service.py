"""The state of one server process: which engine answers, or why none does yet."""

import ctypes
import gc
import logging
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from recsys.errors import RecsysError, RegistryUnavailableError
from recsys.models.kernels import top_rows
from serving.breaker import GuardedStore
from serving.descent import Descent
from serving.engine import Engine
from serving.errors import NotReadyError, StoreError
from serving.fallback import PopularFallback
from serving.ladder import Ladder, Reason
from serving.loading import Models, Wanted
from serving.notices import OnEvent, Seldom, unheard
from serving.settings import Settings
from serving.slate_log import SlateLog
from serving.slates import ModelInfo, Query, ServedRequest, Slate
from serving.store import SqlEventStore
from serving.telemetry import count_slates
from serving.watcher import Watcher

logger = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 15.0
_TICK_S: Final = 0.25


class Service:
    """Keeps an engine: loads it in a thread of its own, follows the registry, and answers without one where it can.

    open_engine: in place of the registry, the store and all that follows them. on_served: handed to every engine.
    """

    def __init__(
        self,
        settings: Settings,
        open_engine: Callable[[Settings], Engine] | None = None,
        *,
        first_retry_s: float = _FIRST_RETRY_S,
        on_event: OnEvent = unheard,
        on_served: Callable[[ServedRequest], None] | None = None,
    ) -> None:
        self.settings = settings
        self.on_served = on_served
        self._on_event = on_event
        self._open_engine = open_engine
        self._first_retry_s = first_retry_s
        self._engine: Engine | None = None
        self._reason: Reason | None = None  # why every answer of this engine is degraded
        self._problem = "the model is being loaded"
        self._descent = Descent(Ladder(settings.budget_ms), on_event)
        self._models = Models(settings)
        self.store = GuardedStore(lambda: SqlEventStore(settings.store_url), on_event)
        self._watcher = Watcher(self._models, self.store, on_event)
        nobody = ModelInfo(settings.model_name, "none", settings.alias)
        self._fallback = PopularFallback(self.store, nobody, max_user_events=settings.max_user_events)
        self._is_set_aside = False
        self._is_worth_logging = Seldom()
        self._slates: SlateLog | None = None
        self._counted_slates = 0, 0
        self._stop = threading.Event()
        self._tried = threading.Event()
        # Daemons: a load that hangs on the network does not keep the process from ending.
        self._thread = threading.Thread(target=self._load, name="load-model", daemon=True)
        # Two, since opening a new champion takes minutes, and what others delete must not be recommended meanwhile.
        self._following = threading.Thread(target=self._follow, name="follow-store", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="watch-model", daemon=True)

    @property
    def engine(self) -> Engine:
        """The engine that answers; to be asked for once per request, since the next call may give another.

        Raises:
            NotReadyError: none is loaded; the text says why.
        """
        engine = self._engine
        if engine is None:
            raise NotReadyError(f"no model is loaded: {self._problem}")
        return engine

    @property
    def has_tried(self) -> bool:
        """Whether a model is loaded, or the first try of it has failed."""
        return self._tried.is_set()

    def recommend(self, query: Query, *, waited_ms: float = 0.0) -> Slate:
        """Return the best list that can be made now; `degraded_reason` says what was missing for a better one.

        waited_ms: how long the request has waited already.

        Raises:
            RequestError: as the engine does.
            NotReadyError: there is no model, and no recent events to go by.
        """
        engine, reason = self._engine, self._reason
        if engine is None:
            return self._recommend_popular(query)
        walked = self._descent.walk(lambda rung: engine.recommend(query, rung=rung), waited_ms=waited_ms)
        slate = walked.value
        why = walked.reason or slate.degraded_reason or reason
        if why is None:
            return slate
        if walked.reason is None:
            self._on_event("degraded", rung=walked.rung.value, reason=str(why))
        return replace(slate, degraded=True, rung=walked.rung, degraded_reason=str(why))

    def start(self) -> None:
        """Begin to load; returns at once."""
        if self._open_engine is None:
            self._slates = SlateLog(self.store)
        self._thread.start()

    def stop(self) -> None:
        """Stop loading and release the store."""
        self._stop.set()
        if self._slates is not None:
            self._slates.close()
        self.store.close()
        if self._engine is not None and self._open_engine is not None:
            self._engine.store.close()

    def _recommend_popular(self, query: Query) -> Slate:
        if self.settings.fallback == "off" or self._open_engine is not None:
            return self.engine.recommend(query)  # raises, unless one was loaded just now
        try:
            slate = self._fallback.recommend(query)
        except NotReadyError:
            return self.engine.recommend(query)  # says why there is no model
        self._on_event("degraded", rung=slate.rung.value, reason=str(slate.degraded_reason))
        return slate

    def _load(self) -> None:
        retry_s = self._first_retry_s
        reported = ""
        try:
            while not self._stop.is_set() and self._engine is None:
                try:
                    self._load_once()
                except Exception as error:
                    # Whatever a bad version does while it is loaded must not end the tries: the next one may be good.
                    self._problem = _why_not_loaded(error)
                    if self._problem != reported:
                        logger.warning("no model is loaded: %s", self._problem, exc_info=_traceback_of(error))
                        reported = self._problem
                    self._tried.set()
                    self._stop.wait(retry_s)
                    retry_s = min(2 * retry_s, _LONGEST_RETRY_S)
        finally:
            self._tried.set()
        if self._engine is not None and self._open_engine is None and not self._stop.is_set():
            self._following.start()
            if self.settings.poll_s and self._models.can_change:
                self._watching.start()

    def _load_once(self) -> None:
        if self._open_engine is not None:
            self._take(self._open_engine(self.settings), None)
            return
        self.store.try_open()
        wanted: Wanted | None = None
        try:
            wanted = self._models.wanted()
            self._take(self._open(wanted), None)
        except Exception as error:
            last = self._models.last_served()
            # Who cannot even say what is wanted, for a defect of theirs or ours, is as good as away.
            is_away = isinstance(error, RegistryUnavailableError) or (
                wanted is None and not isinstance(error, RecsysError)
            )
            if last is None or (wanted is None and not is_away):
                raise
            if wanted is not None and not is_away:
                if last.model.version == wanted.model.version:
                    raise
                self._watcher.refuse(wanted.model.version)
            why, version = _why_not_loaded(error), last.model.version
            if self._is_worth_logging(f"{version} {why}"):
                logger.warning(
                    "version %s, which was served last, is served instead: %s",
                    version,
                    why,
                    exc_info=_traceback_of(error),
                )
            reason = Reason.REGISTRY_UNAVAILABLE if is_away else Reason.MODEL_REFUSED
            self._take(self._open(last, is_remembered=False), reason)

    def _open(self, wanted: Wanted, *, is_remembered: bool = True) -> Engine:
        """Return the first engine."""
        if not self._is_set_aside:
            _set_libraries_aside()
            self._is_set_aside = True
        return self._models.open(wanted, self.store, is_remembered=is_remembered)

    def _follow(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self._catch_up()
            except Exception as error:
                if self._is_new_defect("follow", error):
                    logger.exception("following the store failed and is tried again")

    def _watch(self) -> None:
        poll_s = self.settings.poll_s
        # So that workers that were started together do not ask together.
        jitter = random.Random()
        wait_s = poll_s * jitter.uniform(0.2, 1.0)
        while not self._stop.wait(wait_s):
            try:
                self._look()
            except Exception as error:
                # A defect here must not leave the service with an old model for ever, and unnoticed.
                if self._is_new_defect("watch", error):
                    logger.exception("the watch over the model failed and goes on")
            wait_s = poll_s * jitter.uniform(0.8, 1.2)

    def _look(self) -> None:
        seen = self._watcher.look(self.engine.model)
        if seen.engine is not None:
            self._bring_up_to_date(seen.engine)
            self._take(seen.engine, None)
        elif seen.is_current:
            self._reason = None

    def _bring_up_to_date(self, engine: Engine) -> None:
        """Let a new engine take in what came while it was warmed, so that no list of it has what was deleted since."""
        try:
            engine.follower.catch_up()
        except StoreError:
            return  # logged and counted where the store failed
        except Exception as error:
            if self._is_new_defect("follow", error):
                logger.exception("a new version knows the store as it was before it was warmed")

    def _catch_up(self) -> None:
        """Take in what the store has got since the last time, from this process and from others."""
        if not self.store.try_open():
            return
        try:
            self.engine.follower.catch_up()
        except StoreError:
            return  # logged and counted where the store failed
        finally:
            self._count_slates()

    def _is_new_defect(self, kind: str, error: Exception) -> bool:
        """Count a defect; return whether to log it."""
        self._on_event("defect", kind=kind)
        return self._is_worth_logging(f"{kind} {type(error).__name__}")

    def _count_slates(self) -> None:
        """Pass on how many slates were written and dropped since the last time."""
        if self._slates is None:
            return
        written, dropped = self._slates.written, self._slates.dropped
        before = self._counted_slates
        count_slates("written", written - before[0])
        count_slates("dropped", dropped - before[1])
        self._counted_slates = written, dropped

    def _take(self, engine: Engine, reason: Reason | None) -> None:
        """Answer from an engine from now on. The one before is gone once the last request that it answers has ended."""
        old = self._engine
        if old is not None:
            engine.follower.forget(old.follower.forgotten())  # the store may be away, and the new engine know of nobody
        engine.on_served = self.on_served or engine.on_served
        engine.on_slate = self._slates.add if self._slates is not None else None
        self._engine, self._reason = engine, reason
        model = engine.model
        logger.info("model %s version %s is loaded", model.name, model.version)
        if old is not None:
            del old
            self._on_event("model_swapped", version=model.version)
            _give_memory_back()


def _why_not_loaded(error: Exception) -> str:
    """Return what callers are told; of a defect its kind alone."""
    if isinstance(error, RecsysError):
        return str(error)
    return f"loading it failed unexpectedly ({type(error).__name__}) and is tried again; the service's log says why"


def _traceback_of(error: Exception) -> Exception | None:
    """Return what a log line is to trace: a defect, but nothing whose text says enough."""
    return None if isinstance(error, RecsysError) else error


def _set_libraries_aside() -> None:
    """Spare the collector what libraries are made of: 300,000 objects, half a second each time it looks at them.

    To be called before the first model is loaded: what is there now is never released.
    """
    top_rows(np.zeros(1, np.float32), np.ones(1, np.bool_), 1)  # makes all that Numba makes on first use
    gc.collect()
    gc.freeze()


def _give_memory_back() -> None:
    """Return what a released engine held to the system; the C library would keep it."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not the GNU C library
