"""Which items a request lets in: conditions on attributes, as a mask over the rows of the catalogue."""

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.errors import RequestError
from serving.attribute_columns import FlagColumn, Kind, LabelColumn, NumberColumn, TimeColumn
from serving.attributes import AttributeIndex
from serving.faults import field_of, shown

Bool = npt.NDArray[np.bool_]

_DEFAULT_CACHE_BYTES: Final = 64 * 1024 * 1024
# Beside its mask an entry costs some hundred bytes, which count where the catalogue is small.
_MAX_MASKS: Final = 1_024
_KEY_BYTES: Final = 16


@dataclass(frozen=True)
class AnyOf:
    """The item has one of the values; at least one is given, all of one type."""

    values: tuple[str, ...] | tuple[float, ...] | tuple[bool, ...]


@dataclass(frozen=True)
class Between:
    """The number lies within the bounds, themselves included; None for no bound."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class During:
    """The time lies at or after the one and before the other, microseconds UTC; None for no bound."""

    after_us: int | None = None
    before_us: int | None = None


Condition = AnyOf | Between | During


@dataclass(frozen=True)
class Filter:
    """Conditions by field. An item passes that meets all of `wanted` and none of `unwanted`.

    An item without a value meets no condition: it fails every wanted one and passes every unwanted one.
    """

    wanted: tuple[tuple[str, Condition], ...] = ()
    unwanted: tuple[tuple[str, Condition], ...] = ()


def filter_mask(wish: Filter, index: AttributeIndex, path: str = "filter") -> Bool:
    """Return which rows pass a filter, bool `(index.n_rows,)`; all of them for a filter without conditions.

    Rows behind the catalogue's last item pass filters that only say what is unwanted: leave them out elsewhere.

    Raises:
        RequestError: a field is unknown, or a condition does not fit what it holds; `field` is its place below `path`.
    """
    mask = np.ones(index.n_rows, np.bool_)
    for name, condition in wish.wanted:
        mask &= _meets(name, condition, index, path)
    for name, condition in wish.unwanted:
        mask &= ~_meets(name, condition, index, f"{path}.not")
    return mask


class FilterMasks:
    """Masks of filters, kept while no row changes: the same filters come with request after request. Thread-safe."""

    def __init__(self, index: AttributeIndex, max_bytes: int = _DEFAULT_CACHE_BYTES) -> None:
        self.index = index
        self._n_kept = max(1, min(_MAX_MASKS, max_bytes // max(index.n_rows, 1)))
        self._masks: OrderedDict[tuple[bytes, int], Bool] = OrderedDict()
        self._lock = threading.Lock()

    def mask(self, wish: Filter, path: str = "filter") -> Bool:
        """Return `filter_mask`, read-only: it may be shared with other requests."""
        # The version before the columns are read: what changes meanwhile makes the mask stale, never falsely fresh.
        # repr, since as values True, 1 and 1.0 are one; its digest, since a filter may be longer than the mask.
        digest = hashlib.blake2b(repr(wish).encode("utf-8"), digest_size=_KEY_BYTES).digest()
        key = (digest, self.index.version)
        with self._lock:
            known = self._masks.get(key)
            if known is not None:
                self._masks.move_to_end(key)
                return known
        mask = filter_mask(wish, self.index, path)
        mask.flags.writeable = False
        with self._lock:
            self._masks[key] = mask
            while len(self._masks) > self._n_kept:
                self._masks.popitem(last=False)
        return mask


def _meets(name: str, condition: Condition, index: AttributeIndex, path: str) -> Bool:
    resolved = index.resolve(name, path)
    column = index.column(resolved)
    match column, condition:
        case LabelColumn(), AnyOf(values) if all(isinstance(value, str) for value in values):
            return column.mask([str(value) for value in values])
        case NumberColumn(), AnyOf(values) if all(type(value) in (int, float) for value in values):
            return column.mask([float(value) for value in values])
        case FlagColumn(), AnyOf(values) if all(isinstance(value, bool) for value in values):
            return column.mask([bool(value) for value in values])
        case NumberColumn(), Between(low, high):
            return column.between(low, high)
        case TimeColumn(), During(after_us, before_us):
            return column.between(after_us, before_us)
    field = field_of([path, name]) or path
    raise RequestError(
        f"{field} asks for {_asked(condition)}, but {resolved!r} holds {_HOLDS[column.kind]}; {_REMEDIES[column.kind]}",
        field=field,
    )


_HOLDS: Final = {
    Kind.LABELS: "text",
    Kind.NUMBER: "numbers",
    Kind.FLAG: "true or false",
    Kind.TIME: "times",
}
_REMEDIES: Final = {
    Kind.LABELS: 'give a text or a list of texts, such as "red" or ["red", "blue"]',
    Kind.NUMBER: 'give a number, a list of numbers, or bounds such as {"min": 3, "max": 10}',
    Kind.FLAG: "give true or false",
    Kind.TIME: 'give bounds such as {"after": "2026-01-01T00:00:00Z", "before": "2026-02-01T00:00:00Z"}',
}


def _asked(condition: Condition) -> str:
    match condition:
        case AnyOf(values):
            return shown(values[0]) if len(values) == 1 else shown(list(values))
        case Between():
            return "numbers between min and max"
        case During():
            return "times after or before a moment"
