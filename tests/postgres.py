"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a Unix socket, which may be killed."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import sqlalchemy as sa

_DEBIAN = Path("/usr/lib/postgresql")
# PostgreSQL refuses to run as root.
_OTHER_USERS = ("postgres", "nobody")


def postgres_programs() -> Path | None:
    """Return the folder of initdb and postgres, None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresCluster:
    """Runs from `start` until `kill` or `stop`; it writes to the disk as a real server does."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = next(iter(_existing(_OTHER_USERS)), None) if os.getuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="recsys-pg-"))  # a socket's path has to be short
        self._data = self.folder / "data"
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        subprocess.run(
            [
                programs / "initdb",
                "--auth=trust",
                "--username=recsys",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
                self._data,
            ],
            user=self._user,
            cwd=self.folder,
            capture_output=True,
            check=True,
        )

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://recsys@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start the server and return when it answers, after a crash too."""
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}"]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                user=self._user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while subprocess.run([self._programs / "pg_isready", "--quiet", "-h", self.folder]).returncode:
            if self._server.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended\n{(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill every process of the server at once, and return when all are gone: they hold what a start needs."""
        self._server.send_signal(signal.SIGSTOP)  # first: it would start others
        children = psutil.Process(self._server.pid).children()
        self._server.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._server.wait()
        while any(map(_is_alive, children)):
            time.sleep(0.01)

    def new_database(self, name: str) -> str:
        """Create an empty database in place of one of that name, and return its URL."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _existing(users: tuple[str, ...]) -> list[str]:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return [user for user in users if user in known]
