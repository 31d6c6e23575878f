"""The web application: lifespan, endpoints, errors."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import uvicorn
from fastapi import FastAPI

from serving.refusals import install_refusals
from serving.routes import api, health
from serving.service import Service
from serving.settings import Settings

_DRAIN_S: Final = 10

_DESCRIPTION: Final = """Personalised recommendations from behaviour and text.

Ids are strings of the caller, any Unicode but control characters, up to 512 characters. Bodies are strict JSON: unknown
fields, numbers in quotes, NaN and repeated fields are refused. Every refusal has the same body: `error.code` for
programs, `error.message` for people, and `error.field`, the dotted path of what is wrong."""


def create_app(settings: Settings | None = None, *, service: Service | None = None) -> FastAPI:
    """Return the application. The model is loaded in the background once it starts.

    Args:
        settings: read from the environment when left out.
        service: in place of one made from the settings.

    Raises:
        ConfigError: a setting in the environment cannot be used.
    """
    service = service or Service(settings or Settings.from_environment())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="recsys", summary="Recommendation engine", description=_DESCRIPTION, version=_version(),
        lifespan=lifespan, redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    install_refusals(app)
    app.include_router(api)
    app.include_router(health)
    return app


def serve(settings: Settings) -> None:
    """Run the server until it is told to stop (SIGTERM or SIGINT), then answer what was begun."""
    logging.basicConfig(format="%(levelname)s:     %(name)s: %(message)s")
    logging.getLogger("serving").setLevel(logging.INFO)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=_DRAIN_S,
        server_header=False,
    )


def _version() -> str:
    try:
        return version("recsys-engine")
    except PackageNotFoundError:
        return "0"
