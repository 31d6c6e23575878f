"""The server as processes of its own with the toy engine, for tests of workers, limits and the end."""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from fastapi import FastAPI
from serving_toys import ToyPath, toy_engine

from features.path import Ranking
from recsys.histories import Request
from serving.app import create_app
from serving.engine import Engine
from serving.keys import StoredKey
from serving.server import serve, settings_of_process
from serving.service import Service
from serving.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
_ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


@dataclass
class SlowPath(ToyPath):
    """Takes `SERVING_TOY_MS` milliseconds for a ranking."""

    def rank(self, request: Request, **options: Any) -> Ranking:
        time.sleep(float(os.environ.get("SERVING_TOY_MS", "0")) / 1_000)
        return super().rank(request, **options)


class KeyFile:
    """API keys in a file of JSON lines, which tests write and server processes read."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add_key(self, key: StoredKey) -> None:
        self._write([*self.keys(), key])

    def keys(self) -> list[StoredKey]:
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [
            StoredKey(id_, name, tuple(scopes), bytes.fromhex(salt), bytes.fromhex(hash_), created, revoked)
            for id_, name, scopes, salt, hash_, created, revoked in map(json.loads, lines)
        ]

    def revoke_key(self, key_id: str, at_us: int) -> bool:
        keys = self.keys()
        self._write([key if key.key_id != key_id else StoredKey(*_values(key)[:-1], at_us) for key in keys])
        return any(key.key_id == key_id and key.revoked_us is None for key in keys)

    def close(self) -> None:
        """Nothing is open."""

    def _write(self, keys: list[StoredKey]) -> None:
        lines = []
        for key in keys:
            id_, name, scopes, salt, hash_, created, revoked = _values(key)
            lines.append(json.dumps([id_, name, scopes, salt.hex(), hash_.hex(), created, revoked]) + "\n")
        beside = self._file.with_suffix(".new")
        beside.write_text("".join(lines))
        beside.replace(self._file)


def _values(key: StoredKey) -> tuple[Any, ...]:
    return key.key_id, key.name, key.scopes, key.salt, key.hash, key.created_us, key.revoked_us


def create_toy_app() -> FastAPI:
    """Return the application of one server process with the toy engine."""
    settings = settings_of_process()
    keys = os.environ.get("SERVING_TOY_KEYS")
    service = Service(settings, lambda _: _open_engine())
    return create_app(service=service, open_keys=(lambda: KeyFile(Path(keys))) if keys else None)


def _open_engine() -> Engine:
    """Return the engine at once in the first process that asks, and after `SERVING_TOY_LATER_MS` in the others."""
    first = os.environ.get("SERVING_TOY_FIRST")
    if first is not None:
        try:
            Path(first).touch(exist_ok=False)
        except FileExistsError:
            time.sleep(float(os.environ["SERVING_TOY_LATER_MS"]) / 1_000)
    return toy_engine(path=SlowPath())


class ToyServer:
    """A server, started on a free port, with what it logs and a client of it. Use as a context."""

    def __init__(self, *, toy_ms: float = 0, keys: Path | None = None, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS_", "PROMETHEUS"))}
        kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), kept.get("PYTHONPATH", "")])
        toys = {"SERVING_TOY_MS": str(toy_ms)} | ({} if keys is None else {"SERVING_TOY_KEYS": str(keys)})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving_process"],
            env=kept | {"RECSYS_PORT": "0", "RECSYS_DRAIN_DELAY_S": "0"} | toys | environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        while not (found := _ADDRESS.search(line := self._lines.get())):
            if not line:
                raise RuntimeError("the server did not start:\n" + "".join(self.log))
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def __enter__(self) -> Self:
        while self.client.get("/health/ready").status_code != 200:
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.client.base_url.host, self.client.base_url.port or 0

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.client.close()
        self.process.send_signal(how)
        code = self.process.wait()
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            self._lines.put(line)
        self._lines.put("")


if __name__ == "__main__":
    serve(Settings.from_environment(), app="serving_process:create_toy_app")
