"""How the engine reaches MLflow: which store, whether it answers, and names that it allows.

Whatever needs MLflow takes it from here, so that the settings below are in place before MLflow is imported.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

# MLflow reads these while it is imported; what the user has set stands.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where a command's JSON may be

import httpx
import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from recsys.config import TrackingConfig
from recsys.errors import RegistryError, RegistryUnavailableError

DEFAULT_URI: Final = "sqlite:///mlflow.db"

_SQLITE_HEADER: Final = b"SQLite format 3\x00"
_PROBE_TIMEOUT_S: Final = 5.0

# MLflow allows no @ and no = in names: these words stand for them, and _uHHHH_ for any other forbidden character.
_WORDS: Final = {"@": "_at_", "=": "_is_"}
_FORBIDDEN: Final = re.compile(r"[^\w.\-/ ]|_(?=at_|is_|u[0-9a-f]{4,6}_)")
_ENCODED: Final = re.compile(r"_at_|_is_|_u([0-9a-f]{4,6})_")


def to_mlflow_name(name: str) -> str:
    """Return a metric or parameter name as MLflow allows it, such as `test/full/ndcg_at_10` for `test/full/ndcg@10`."""
    return _FORBIDDEN.sub(lambda found: _WORDS.get(found[0], f"_u{ord(found[0]):04x}_"), name)


def from_mlflow_name(name: str) -> str:
    """Return the name that `to_mlflow_name` was given."""
    words = {word: character for character, word in _WORDS.items()}
    return _ENCODED.sub(lambda found: chr(int(found[1], 16)) if found[1] else words[found[0]], name)


def default_uri(config: TrackingConfig | None = None) -> str:
    """Return the tracking URI: the config's, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory."""
    explicit = config.uri if config is not None else None
    return explicit or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def shown_uri(uri: str) -> str:
    """Return the URI without its password, for messages."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


@contextmanager
def mlflow_errors(uri: str, action: str) -> Iterator[None]:
    """Turn what MLflow, its database or its files raise into a RegistryUnavailableError.

    It says: cannot `action` at `uri`, and why.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, httpx.HTTPError, OSError, ImportError) as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        remedy = (
            f"install the driver of this kind of database ({error.name})"
            if isinstance(error, ImportError)
            else "check the tracking URI (tracking.uri in the configuration, or MLFLOW_TRACKING_URI)"
        )
        raise RegistryUnavailableError(f"cannot {action} at {shown_uri(uri)}: {reason}; {remedy}") from error


def connect(uri: str, *, create: bool = False) -> mlflow.MlflowClient:
    """Return a client of a store that is known to answer.

    create: make the SQLite database where there is none; without it a missing file is an error, and none is left
        behind by looking.

    Raises:
        RegistryError: the database file is missing, no database or not accessible, or the server does not answer.
    """
    if uri.startswith("sqlite"):
        _check_sqlite(uri, create=create)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)
    with mlflow_errors(uri, "open MLflow's store"):
        if not uri.startswith("sqlite"):
            return mlflow.MlflowClient(tracking_uri=uri)
        # MLflow makes the tables of a new database without looking whether another process is about to: a service that
        # waits for the first model and the training that makes it would trip over each other.
        with _one_at_a_time(sqlite_file(uri).parent):
            return mlflow.MlflowClient(tracking_uri=uri)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which other processes that ask for it wait for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sqlite_file(uri: str) -> Path:
    """Return the absolute path of the database that an SQLite URI names.

    Raises:
        RegistryError: the URI names no file.
    """
    try:
        database = make_url(uri).database
    except ArgumentError:
        database = None
    if not database or database == ":memory:":
        raise RegistryError(
            f"{uri} names no database file; write sqlite:///FILE, or sqlite:////FOLDER/FILE for a full path"
        )
    return Path(database).absolute()


def _check_sqlite(uri: str, *, create: bool) -> None:
    path = sqlite_file(uri)
    if not path.exists():
        if not create:
            raise RegistryUnavailableError(
                f"no MLflow database at {path}; train a model first (recsys train --data FOLDER), start from the "
                "folder that holds the database, or name it with MLFLOW_TRACKING_URI"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryUnavailableError(
                f"the folder of the database {path} cannot be made: {error}; choose another"
            ) from error
        return
    try:
        with path.open("r+b" if create else "rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        raise RegistryUnavailableError(
            f"the database {path} cannot be opened for {'writing' if create else 'reading'}: {error.strerror}; check "
            "what it is and its permissions"
        ) from error
    if header not in (b"", _SQLITE_HEADER):
        raise RegistryUnavailableError(
            f"{path} is not an SQLite database (it begins with {header[:8]!r}); restore it from a backup, or name "
            "another with MLFLOW_TRACKING_URI"
        )


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/health"
    try:
        # Any answer will do. MLflow itself would try for minutes; it also has its own settings for certificates.
        httpx.get(address, timeout=_PROBE_TIMEOUT_S, verify=False)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise RegistryUnavailableError(
            f"the MLflow server at {shown_uri(uri)} does not answer ({error}); start it (mlflow server --host HOST "
            "--port PORT), or name another with MLFLOW_TRACKING_URI"
        ) from error
