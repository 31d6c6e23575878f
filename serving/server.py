"""The server: one process or several on one port, until they are told to stop."""

import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from typing import Any

import uvicorn
from threadpoolctl import threadpool_limits
from uvicorn.supervisors import Multiprocess

from serving.access import needs_keys
from serving.logs import configure_logging
from serving.protocol import BoundedProtocol
from serving.settings import Settings
from serving.telemetry import SHARED_FOLDER_VARIABLE


def serve(settings: Settings, *, app: str = "serving.server:create_process_app") -> None:
    """Run the server until it is told to stop (SIGTERM or SIGINT); what was begun is answered first.

    app: module and name of the function that makes the application in each process.

    Raises:
        ConfigError: API keys are switched off on a host that others reach.
        SystemExit: the port is taken, or a process could not start.
    """
    needs_keys(settings)
    if not settings.log_secret:
        settings = settings.model_copy(update={"log_secret": secrets.token_hex()})
    # The processes read their settings from the environment, one process as several.
    settings.export()
    configure_logging(settings.log_format, settings.log_level)
    config = uvicorn.Config(app, factory=True, **_options(settings))
    if settings.workers == 1:
        _serve_alone(config)
    else:
        _serve_with_workers(config, settings.drain_delay_s)


def create_process_app() -> Any:
    """Return the application of one process of the server, whose log is set up."""
    from serving.app import create_app

    return create_app(settings_of_process())


def settings_of_process() -> Settings:
    """Return the settings that the server has handed to this process, once its log is set up by them."""
    settings = Settings.from_environment()
    configure_logging(settings.log_format, settings.log_level)
    # A request's arrays are small: waking further threads for them takes longer than the work, and takes processors
    # away from the other requests.
    threadpool_limits(limits=1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="watch-parent", daemon=True).start()
    return settings


def _end_with(parent: Any) -> None:
    """End this process in order once its parent is gone, killed: it would keep the port, and nobody could end it."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor(Multiprocess):
    """Ends workers as each ends itself: it holds their socket too, and must close it when they stop to listen."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], drain_delay_s: float) -> None:
        super().__init__(config, sockets)
        self._drain_delay_s = drain_delay_s

    def terminate_all(self) -> None:
        super().terminate_all()
        time.sleep(self._drain_delay_s)
        for listening in self.sockets:
            listening.close()


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.workers,
        "http": BoundedProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        # Whether a call was forwarded is for `serving.access` to see.
        "proxy_headers": False,
        "timeout_keep_alive": settings.keep_alive_s,
        "timeout_graceful_shutdown": settings.drain_s,
        # A process that reads a large model may hold the interpreter for seconds; it is not hung.
        "timeout_worker_healthcheck": 60,
    }


def _serve_alone(config: uvicorn.Config) -> None:
    server = uvicorn.Server(config)
    # The server raises the signal that ended it once more when it is done. An ordered end shall be exit status 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run()
    except KeyboardInterrupt:
        return
    if not server.started:
        raise SystemExit(3)


def _serve_with_workers(config: uvicorn.Config, drain_delay_s: float) -> None:
    # Where the processes put their figures together; Prometheus's library looks for it when it is imported.
    folder = tempfile.mkdtemp(prefix="recsys-metrics-")
    os.environ[SHARED_FOLDER_VARIABLE] = folder
    try:
        listening = config.bind_socket()
        # From here on callers wait for the first worker, where they would be refused.
        listening.listen(config.backlog)
        _Supervisor(config, [listening], drain_delay_s).run()
    finally:
        del os.environ[SHARED_FOLDER_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)
