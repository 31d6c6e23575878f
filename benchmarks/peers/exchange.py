"""The folder through which our environment and that of the peers speak: what may be known, and what is asked.

Both environments import this module, so it needs nothing but NumPy. A task holds no outcome of a test request: peers
return scores, and only our side knows which items were wanted.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Kind = Literal["whole", "given"]

META: Final = "meta.json"
TRAIN: Final = "train.npz"
VALID: Final = "valid.npz"
REQUESTS: Final = "requests.npz"
ITEMS: Final = "items.jsonl"
SCORES: Final = "scores.npy"
REPORT: Final = "report.json"


class ExchangeError(ValueError):
    """A task or a result that does not hold together."""


@dataclass(frozen=True)
class Ragged:
    """Lists of rows of unequal length: list i is `values[indptr[i]:indptr[i + 1]]`, int32; indptr is int64."""

    indptr: Int64
    values: Int32

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, place: int) -> Int32:
        return self.values[self.indptr[place] : self.indptr[place + 1]]

    @property
    def owner(self) -> Int64:
        """The list of each value, int64 `(n_values,)`."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def take(self, places: npt.NDArray[np.integer]) -> "Ragged":
        """Return the named lists, in the order named."""
        return Ragged.of([self[int(place)] for place in places])

    @staticmethod
    def of(lists: Iterable[npt.NDArray[np.integer]]) -> "Ragged":
        """Return lists as one ragged array."""
        rows = [np.asarray(row, np.int32) for row in lists]
        indptr = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
        return Ragged(indptr, np.concatenate(rows) if rows else np.empty(0, np.int32))


@dataclass(frozen=True)
class Interactions:
    """What happened, sorted by (user, time, order of arrival); arrays of one length `(n,)`.

    user_idx, item_idx: int32. timestamp_us: int64, UTC. weight: float32, of the event. value: float32, such as the
    stars of a rating; NaN where there is none.
    """

    user_idx: Int32
    item_idx: Int32
    timestamp_us: Int64
    weight: Float32
    value: Float32

    def __len__(self) -> int:
        return len(self.user_idx)

    def select(self, mask: Bool) -> "Interactions":
        """Return the rows where `mask` (bool `(n,)`) holds."""
        return Interactions(*(column[mask] for column in self.columns().values()))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Requests:
    """Moments at which a ranking is wanted; every part has one entry per request.

    user_idx: int32. as_of_us: int64. history: items in order of time, the newest last. exclude: items that must not be
    ranked. candidates: the only items to order; an empty list means the whole catalogue without `exclude`.
    """

    user_idx: Int32
    as_of_us: Int64
    history: Ragged
    exclude: Ragged
    candidates: Ragged

    def __len__(self) -> int:
        return len(self.user_idx)

    def take(self, places: npt.NDArray[np.integer]) -> "Requests":
        """Return the named requests, in the order named."""
        lists = (part.take(places) for part in (self.history, self.exclude, self.candidates))
        return Requests(self.user_idx[places], self.as_of_us[places], *lists)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as flat arrays by name."""
        flat: dict[str, npt.NDArray[Any]] = {"user_idx": self.user_idx, "as_of_us": self.as_of_us}
        for name in ("history", "exclude", "candidates"):
            part: Ragged = getattr(self, name)
            flat |= {f"{name}_indptr": part.indptr, f"{name}_item_idx": part.values}
        return flat

    @staticmethod
    def from_arrays(flat: dict[str, npt.NDArray[Any]]) -> "Requests":
        """Return what `arrays` came from."""
        lists = (Ragged(flat[f"{n}_indptr"], flat[f"{n}_item_idx"]) for n in ("history", "exclude", "candidates"))
        return Requests(flat["user_idx"], flat["as_of_us"], *lists)


@dataclass(frozen=True)
class Meta:
    """What a task is about.

    kind: `whole` asks for scores of every item, `given` for those of each request's candidates. metric: what a search
    on validation data looks at, `ndcg@K` or `auc`. k: length of the lists.
    """

    name: str
    n_users: int
    n_items: int
    kind: Kind
    metric: str
    k: int
    seed: int = 42


@dataclass(frozen=True)
class PeerTask:
    """Everything that a peer is told.

    train: what may be fitted on. is_valid: bool `(len(train),)`, the rows to hold out while settings are searched.
    valid_requests, valid_relevant: moments of the held-out part with what was wanted. requests: what is measured.
    items: per item its title, description, categories, text, and features as `field=value`.
    """

    meta: Meta
    train: Interactions
    is_valid: Bool
    valid_requests: Requests
    valid_relevant: Ragged
    requests: Requests
    items: Sequence[dict[str, Any]] = field(default_factory=list)

    def key(self, *, with_items: bool = True, with_values: bool = True) -> str:
        """Return a SHA-256 over the content; without items or values for peers that never read them."""
        digest = hashlib.sha256(json.dumps(asdict(self.meta), sort_keys=True).encode())
        columns = self.train.columns()
        if not with_values:
            columns.pop("value")
        parts = [columns, {"is_valid": self.is_valid}, self.valid_requests.arrays()]
        parts += [{"indptr": self.valid_relevant.indptr, "item_idx": self.valid_relevant.values}]
        for part in (*parts, self.requests.arrays()):
            for name, values in sorted(part.items()):
                digest.update(f"{name} {values.dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
        if with_items:
            digest.update(json.dumps(list(self.items), sort_keys=True).encode())
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write the task into a folder, which is made where it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META).write_text(json.dumps(asdict(self.meta), indent=2) + "\n", encoding="utf-8")
        np.savez(folder / TRAIN, **self.train.columns())  # type: ignore[arg-type]
        relevant = {"relevant_indptr": self.valid_relevant.indptr, "relevant_item_idx": self.valid_relevant.values}
        valid = {"is_valid": self.is_valid, **self.valid_requests.arrays(), **relevant}
        np.savez(folder / VALID, **valid)  # type: ignore[arg-type]
        np.savez(folder / REQUESTS, **self.requests.arrays())  # type: ignore[arg-type]
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in self.items)
        (folder / ITEMS).write_text("".join(lines), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> "PeerTask":
        """Read a task that `write` wrote."""
        valid = _arrays(folder / VALID)
        lines = (folder / ITEMS).read_text(encoding="utf-8").split("\n")
        return PeerTask(
            meta=Meta(**json.loads((folder / META).read_text(encoding="utf-8"))),
            train=Interactions(**_arrays(folder / TRAIN)),
            is_valid=valid["is_valid"],
            valid_requests=Requests.from_arrays(valid),
            valid_relevant=Ragged(valid["relevant_indptr"], valid["relevant_item_idx"]),
            requests=Requests.from_arrays(_arrays(folder / REQUESTS)),
            items=[json.loads(line) for line in lines if line],
        )


def write_result(folder: Path, scores: Float32, report: dict[str, Any]) -> None:
    """Write what a peer answers: float32 scores and how they came about; numbers that are not finite become null."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / SCORES, scores.astype(np.float32, copy=False), allow_pickle=False)
    text = json.dumps(_read_report(json.dumps(report)), indent=2, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def read_result(folder: Path, meta: Meta, requests: Requests) -> tuple[Float32, dict[str, Any]]:
    """Return a peer's scores and its report, in which no number is NaN or infinite.

    Scores are float32 `(n_requests, n_items)` for a `whole` task, and one number per candidate, in the candidates'
    order, for a `given` one.

    Raises:
        ExchangeError: scores of another shape or dtype, or NaN among them.
    """
    scores = np.load(folder / SCORES, mmap_mode="r", allow_pickle=False)
    wanted = (len(requests), meta.n_items) if meta.kind == "whole" else (len(requests.candidates.values),)
    if scores.shape != wanted or scores.dtype != np.float32:
        raise ExchangeError(
            f"{folder / SCORES} has shape {scores.shape} and dtype {scores.dtype}; task {meta.name} needs float32 "
            f"{wanted}: mend the peer"
        )
    if n_missing := sum(int(np.isnan(row).sum()) for row in np.array_split(scores, 1 + scores.size // 4_000_000)):
        raise ExchangeError(f"{folder / SCORES} holds {n_missing} NaN; give items that cannot be scored -inf")
    return scores, _read_report((folder / REPORT).read_text(encoding="utf-8"))


def _read_report(text: str) -> dict[str, Any]:
    """Return a report with None for NaN and infinities, which Python writes and JSON does not know."""
    report: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return report


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
