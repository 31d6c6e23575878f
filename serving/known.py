"""What is known of who asks, put together for one request."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recsys.histories import History
from recsys.schema import Warmth
from serving.rules import SeenWindow
from serving.seen import UNKNOWN_KIND, seen_rows
from serving.sessions import Session
from serving.users import StoredUser

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Known:
    """What is known of who asks. complained_idx: items that they know and did not like. user_idx: row, -1 for none.

    computed: what models computed of this history for an earlier request. is_whole: whether the store could be read.
    trained, stored, session: the parts of it. kinds: of the events in `history`, None where unknown.
    """

    history: History
    complained_idx: Int32
    warmth: Warmth
    user_idx: int
    computed: dict[object, object]
    is_whole: bool
    trained: History
    stored: StoredUser
    session: Session

    @property
    def kinds(self) -> list[str | None]:
        of = dict(zip(zip(self.stored.event_idx.tolist(), self.stored.event_us.tolist(), strict=True),
                      self.stored.event_kinds, strict=True))  # fmt: skip
        pairs = zip(self.history.item_idx.tolist(), self.history.timestamp_us.tolist(), strict=True)
        return [of.get(pair) for pair in pairs]

    def seen(self, window: bool | SeenWindow, as_of_us: int) -> Int32:  # noqa: FBT001 (a field of the request)
        """Return the items that a request leaves out because the user has seen them, int32."""
        if window is False:
            return np.empty(0, np.int32)
        if window is True:
            return np.union1d(self.history.item_idx, self.complained_idx).astype(np.int32)
        trained, stored, session = self.trained, self.stored, self.session
        # A model keeps no kinds, so what training knows counts as every kind, but where the store has the same event.
        told = set(zip(stored.event_idx.tolist(), stored.event_us.tolist(), strict=True))
        pairs = zip(trained.item_idx.tolist(), trained.timestamp_us.tolist(), strict=True)
        untold = np.array([pair not in told for pair in pairs], np.bool_)
        rows = np.concatenate([trained.item_idx[untold], stored.event_idx, session.item_idx])
        kinds = [UNKNOWN_KIND] * int(untold.sum()) + [*stored.event_kinds]
        kinds += [UNKNOWN_KIND if kind is None else kind for kind in session.kinds]
        times = np.concatenate([trained.timestamp_us[untold], stored.event_us, session.timestamp_us])
        return seen_rows(rows, kinds, times, window, as_of_us=as_of_us)


def as_of(history: History, as_of_us: int) -> History:
    """Return stored behaviour as of a moment: what has arrived has happened, so a time ahead is the moment before."""
    if not len(history) or history.timestamp_us[-1] < as_of_us:
        return history
    return replace(history, timestamp_us=np.minimum(history.timestamp_us, as_of_us - 1))
