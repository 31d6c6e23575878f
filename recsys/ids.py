"""Translation between the caller's string ids and dense int32 row numbers."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import UnknownIdError

UNKNOWN_IDX = -1


class IdMap:
    """An ordered set of string ids; the position of an id is its row number (int32, from 0).

    Raises `UnknownIdError` on a duplicate id.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids: list[str] = list(ids)
        self._idx: dict[str, int] = {id_: i for i, id_ in enumerate(self._ids)}
        if len(self._idx) != len(self._ids):
            seen: set[str] = set()
            duplicate = next(id_ for id_ in self._ids if id_ in seen or seen.add(id_))  # type: ignore[func-returns-value]
            raise UnknownIdError(f"id {duplicate!r} occurs twice; an id map needs each id once, so drop the duplicates")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._idx

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and self._ids == other._ids

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdMap({len(self)} ids)"

    @property
    def ids(self) -> Sequence[str]:
        """All ids in row order. Not a copy: do not change it."""
        return self._ids

    def id_of(self, idx: int) -> str:
        """Return the id at row `idx`."""
        if not 0 <= idx < len(self._ids):
            raise UnknownIdError(f"row {idx} is outside 0..{len(self._ids) - 1}")
        return self._ids[idx]

    def ids_of(self, idxs: npt.NDArray[np.integer]) -> list[str]:
        """Return the ids at the given rows, in their order."""
        return [self.id_of(int(i)) for i in idxs]

    def get(self, id_: str) -> int:
        """Return the row of `id_`, or `UNKNOWN_IDX` (-1)."""
        return self._idx.get(id_, UNKNOWN_IDX)

    def lookup(self, ids: Iterable[str], *, unknown: Literal["error", "drop", "mark"]) -> npt.NDArray[np.int32]:
        """Return the rows of `ids` as int32.

        Args:
            ids: external ids, in any order, repeats allowed.
            unknown: what an unknown id means: `error` raises, `drop` leaves it out, `mark` gives -1.

        Raises:
            UnknownIdError: with the first three unknown ids and their count, when `unknown="error"`.
        """
        ids = list(ids)
        rows = np.fromiter((self._idx.get(id_, UNKNOWN_IDX) for id_ in ids), dtype=np.int32, count=len(ids))
        if unknown == "mark" or not (missing := rows == UNKNOWN_IDX).any():
            return rows
        if unknown == "drop":
            return rows[~missing]
        first = [ids[i] for i in np.flatnonzero(missing)[:3]]
        raise UnknownIdError(
            f"{int(missing.sum())} of {len(ids)} ids are not in the catalogue, the first: {first}; "
            "add them to the items table or remove them here"
        )

    def append(self, id_: str) -> int:
        """Add an id behind the present ones and return its row. Readers in other threads find it whole or not at all.

        Raises:
            UnknownIdError: the id is there already.
        """
        if id_ in self._idx:
            raise UnknownIdError(f"id {id_!r} is there already, in row {self._idx[id_]}")
        row = len(self._ids)
        self._ids.append(id_)
        self._idx[id_] = row
        return row

    def extended(self, ids: Iterable[str]) -> "IdMap":
        """Return a map with `ids` appended behind the present ones, whose rows stay as they are."""
        return IdMap([*self._ids, *ids])
