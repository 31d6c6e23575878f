"""A server of the real kind, started for a measurement: its address, CPU time and memory, over all processes."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import psutil
from prometheus_client.parser import text_string_to_metric_families

from recsys.client import Client
from recsys.errors import RecsysError
from serving.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
_SERVE: Final = "from recsys.cli import main; main()"
_START_S: Final = 900.0
_METRICS_S: Final = 10.0
REQUEST: Final = "request"


class ServerError(RecsysError):
    """The server of a measurement did not start, or ended while it was measured."""


@dataclass(frozen=True)
class Server:
    """A running server. log: file with what it wrote."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    workers: int

    def _processes(self) -> list[psutil.Process]:
        if self.process.poll() is not None:
            raise ServerError(f"the server ended with status {self.process.returncode}:\n{_tail(self.log)}")
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_s(self) -> float:
        """Return the CPU seconds, user and system, of all processes since their start."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes()))

    def memory_mb(self) -> dict[str, float]:
        """Return RSS, USS and PSS in MB (10⁶ bytes), summed over all processes; shared pages count once in PSS."""
        infos = [process.memory_full_info() for process in self._processes()]
        return {kind: round(sum(getattr(info, kind, 0) for info in infos) / 1e6, 1) for kind in ("rss", "uss", "pss")}

    def stage_s(self) -> dict[str, float]:
        """Return the seconds that each stage of requests took so far, and all of `REQUEST`, over all processes."""
        with urlopen(f"{self.address}/metrics", timeout=_METRICS_S) as answer:
            text = answer.read().decode("utf-8")
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "recsys_stage_seconds_sum":
                    found[sample.labels["stage"]] = sample.value
                elif sample.name == "recsys_request_seconds_sum" and sample.labels["route"].startswith("/v1/"):
                    found[REQUEST] = found.get(REQUEST, 0.0) + sample.value
        return found


@contextmanager
def serving(bundle: Path | None, *, workers: int = 1, **settings: Any) -> Iterator[Server]:
    """Start `recsys serve` on a bundle with an empty store, wait until it is ready, and end it.

    bundle: a bundle's folder; None for what the settings name. workers: processes, as far as this version has the
    setting. settings: of the server, by their names.

    Raises:
        ServerError: it did not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        port = _free_port()
        given = {"port": port, "store_url": f"sqlite:///{folder}/events.db"} | settings
        if bundle is not None:
            given["bundle"] = bundle.resolve()
        has_workers = "workers" in Settings.model_fields
        if has_workers:
            given["workers"] = workers
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RECSYS_")}
        environment |= {f"RECSYS_{name.upper()}": str(value) for name, value in given.items()}
        # NumPy's threads of each process would take the cores from the others.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, "serve"], cwd=folder, env=environment, stdout=output, stderr=output
            )
        server = Server(f"http://127.0.0.1:{port}", process, log, workers if has_workers else 1)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def machine_facts() -> dict[str, Any]:
    """Return what a figure depends on: processor, cores, memory, load before the measurement."""
    model = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average_at_start": [round(value, 2) for value in os.getloadavg()],
        "cpu_percent_of_others_at_start": psutil.cpu_percent(1.0),
    }


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _START_S
    with Client(server.address, timeout_s=5.0, retries=0) as client:
        while time.monotonic() < deadline:
            if server.process.poll() is not None:
                raise ServerError(f"the server ended with status {server.process.returncode}:\n{_tail(server.log)}")
            try:
                # Several in a row: with several workers each should have had its turn.
                for _ in range(3 * server.workers):
                    client.ready()
                return
            except RecsysError:
                time.sleep(0.2)
    raise ServerError(f"the server was not ready within {_START_S:g} s:\n{_tail(server.log)}")


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2_000:]
