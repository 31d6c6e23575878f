"""Files that processes of one machine make once and then share: arrays that are mapped, indexes that are read."""

import fcntl
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
T = TypeVar("T")

# The version that is served, and the one that it takes over from or goes back to.
_KEPT_FOLDERS: Final = 2
_AT_ONCE: Final = 100_000
_BYTES_AT_ONCE: Final = 1 << 24
_CHECK_BYTES: Final = 4
_LOCK: Final = ".lock"


class KeptFiles:
    """A folder of files that are derived from one thing, such as a bundle, and made by whoever needs them first.

    A file is written beside and renamed, so that it is whole or not there. Where the folder cannot be written, nothing
    is kept, and every process has its own copy: that is logged once.

    folder: made if need be; its siblings are other versions, of which the latest alone is left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder: Path | None = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
            _remove_old(folder)
        except OSError as error:
            self._give_up(error)

    def array(self, name: str, n_rows: int, make: Callable[[], Float32]) -> Float32:
        """Return an array, float32 `(n_rows, …)`, zeros behind what `make` returns where that has fewer rows.

        It is mapped: what is read is shared by all processes, what is written to it belongs to this one alone.

        make: returns float32 `(n, …)`, `n` at most `n_rows`; called where there is no such file yet.
        """
        return self._kept(
            f"{name}.npy", lambda path: _write_array(path, make(), n_rows), _map_array, lambda: _longer(make(), n_rows)
        )

    def file(self, name: str, write: Callable[[Path], None], read: Callable[[Path], T], make: Callable[[], T]) -> T:
        """Return what `read` makes of a file that `write` wrote, now or in another process; else what `make` returns.

        A file that is not as it was written is written anew. read: takes no offence at four bytes behind the content.
        """
        return self._kept(name, write, read, make)

    def _kept(self, name: str, write: Callable[[Path], None], read: Callable[[Path], T], make: Callable[[], T]) -> T:
        if self._folder is None:
            return make()
        path = self._folder / name
        try:
            with _locked(self._folder):
                if path.is_file():
                    try:
                        _check(path)
                        return read(path)
                    except (ValueError, RuntimeError) as error:
                        logger.warning("%s is damaged and is made anew: %s", path, error)
                for left in self._folder.glob(f".{name}-*"):  # by a process that was killed
                    left.unlink()
                descriptor, beside = tempfile.mkstemp(dir=self._folder, prefix=f".{name}-")
                os.close(descriptor)
                try:
                    write(Path(beside))
                    _seal(Path(beside))
                    Path(beside).replace(path)
                finally:
                    Path(beside).unlink(missing_ok=True)
                return read(path)
        except (OSError, RuntimeError) as error:  # the latter from FAISS, of a full disk too
            self._give_up(error)
            return make()

    def _give_up(self, error: Exception) -> None:
        logger.warning("large arrays are not shared with other processes: %s cannot be used (%s)", self._folder, error)
        self._folder = None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process makes a file of the folder."""
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_old(folder: Path) -> None:
    """Remove what was not used lately. Who has it mapped keeps it until it lets go."""
    others = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_KEPT_FOLDERS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _longer(array: Float32, n_rows: int) -> Float32:
    longer = np.zeros((n_rows, *array.shape[1:]), np.float32)
    longer[: len(array)] = array
    return longer


def _write_array(path: Path, array: Float32, n_rows: int) -> None:
    """Write an array in NumPy's format, with zeros behind it."""
    with path.open("wb") as file:
        shape = (n_rows, *array.shape[1:])
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # Plain writes: to a mapped file a full disk would end the process.
        for start in range(0, len(array), _AT_ONCE):
            file.write(np.ascontiguousarray(array[start : start + _AT_ONCE], np.float32).tobytes())
        file.write(bytes((n_rows - len(array)) * int(np.prod(array.shape[1:])) * 4))


def _map_array(path: Path) -> Float32:
    mapped: Float32 = np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
    return mapped


def _seal(path: Path) -> None:
    """Put the CRC-32 of a file behind its content, and see it on the disk."""
    check = _checksum(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(check.to_bytes(_CHECK_BYTES, "little"))
        file.flush()
        os.fsync(file.fileno())


def _check(path: Path) -> None:
    """Raise ValueError where a sealed file is not as it was written."""
    size = path.stat().st_size - _CHECK_BYTES
    with path.open("rb") as file:
        file.seek(max(size, 0))
        expected = int.from_bytes(file.read(), "little")
    if size < 0 or _checksum(path, size) != expected:
        raise ValueError("its content is not what was written")


def _checksum(path: Path, size: int) -> int:
    check = 0
    with path.open("rb") as file:
        while size > 0 and (part := file.read(min(size, _BYTES_AT_ONCE))):
            check, size = zlib.crc32(part, check), size - len(part)
    return check
