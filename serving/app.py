"""The web application: what it is made of, and what starts and ends with it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from fastapi import FastAPI

from serving.access import Access, needs_keys
from serving.admission import Admission
from serving.drain import Drain
from serving.errors import NotReadyError
from serving.gate import Gate
from serving.key_store import open_key_store
from serving.keys import KeyRing, KeyStore
from serving.logs import Pseudonyms
from serving.refusals import install_refusals
from serving.routes import api, figures, health
from serving.server import serve
from serving.service import Service
from serving.settings import Settings
from serving.telemetry import forget_ended_processes, hear, observe_memory, set_model

__all__ = ["create_app", "serve"]

_TICK_S: Final = 5.0
_LOOK_S: Final = 0.02
_LONGEST_FIRST_TRY_S: Final = 60.0

_DESCRIPTION: Final = """Personalised recommendations from behaviour and text.

Ids are strings of the caller, any Unicode but control characters, up to 512 characters. Bodies are strict JSON: unknown
fields, numbers in quotes, NaN and repeated fields are refused. Every refusal has the same body: `error.code` for
programs, `error.message` for people, and `error.field`, the dotted path of what is wrong. Every answer has the header
`X-Request-Id`, which the log names too."""


def create_app(
    settings: Settings | None = None,
    *,
    service: Service | None = None,
    open_keys: Callable[[], KeyStore] | None = None,
) -> FastAPI:
    """Return the application. The model is loaded in the background once it starts.

    Args:
        settings: read from the environment when left out.
        service: in place of one made from the settings.
        open_keys: opens where API keys are kept, in place of the store of the settings.

    Raises:
        ConfigError: a setting in the environment cannot be used.
    """
    service = service or Service(settings or Settings.from_environment(), on_event=hear)
    settings = service.settings
    keys = None
    if needs_keys(settings):
        url = settings.store_url
        keys = KeyRing(open_keys or (lambda: open_key_store(url)), max_age_s=settings.key_cache_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        forget_ended_processes()
        app.state.admission = admission = Admission(settings)
        app.state.drain.install()
        if keys is not None:
            keys.start()
        service.start()
        if settings.workers > 1:
            await _first_try(service, drain)
        ticking = asyncio.create_task(_tick(service))
        yield
        ticking.cancel()
        admission.close(timeout_s=0.1)
        if keys is not None:
            keys.stop()
        service.stop()

    app = FastAPI(
        title="recsys", summary="Recommendation engine", description=_DESCRIPTION, version=_version(),
        lifespan=lifespan, redirect_slashes=False,
        # FastAPI would report to any OpenTelemetry provider that a library sets up. No figures leave but by /metrics.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )  # fmt: skip
    app.state.service = service
    app.state.access = Access(keys, is_open=settings.auth == "off")
    app.state.drain = drain = Drain(settings.drain_delay_s)
    install_refusals(app)
    for router in (api, health, figures):
        app.include_router(router)
    pseudonyms = Pseudonyms(settings.log_secret or secrets.token_hex())
    app.add_middleware(Gate, routes=api.routes, pseudonyms=pseudonyms, is_draining=lambda: drain.has_begun)
    return app


async def _first_try(service: Service, drain: Drain) -> None:
    """Wait for the model to be loaded, or for a first failure; not for ever, since nothing is answered meanwhile.

    Workers share one socket. One that took calls before its model is loaded would refuse what another can answer: at
    the start, where readiness is that of the first worker, and when a worker that has died is replaced.
    """
    until_s = time.monotonic() + _LONGEST_FIRST_TRY_S
    while not service.has_tried and not drain.has_begun and time.monotonic() < until_s:
        await asyncio.sleep(_LOOK_S)


async def _tick(service: Service) -> None:
    """Take down every few seconds what no request tells: memory, and the model while nobody asks."""
    while True:
        observe_memory()
        with suppress(NotReadyError):
            model = service.engine.model
            set_model(model.name, model.version, model.alias)
        await asyncio.sleep(_TICK_S)


def _version() -> str:
    try:
        return version("recsys-engine")
    except PackageNotFoundError:
        return "0"
