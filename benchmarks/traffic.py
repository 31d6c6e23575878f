"""Requests like those of real traffic, made from what a bundle knows: its users, its items and their popularity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.load import Shot
from recsys.bundle import Bundle
from recsys.client.calls import event_calls, recommend_call

KNOWN_SHARE: Final = 0.7
N: Final = 10


@dataclass(frozen=True)
class Traffic:
    """Makes shots for one server. host: for the header."""

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    popularity: np.ndarray
    host: str

    @staticmethod
    def of(bundle: Bundle, address: str) -> "Traffic":
        """Return traffic by the users and items of a bundle."""
        models = bundle.models
        counts = models.log.item_counts() + 1.0
        return Traffic(
            models.user_ids.ids, models.catalogue.ids.ids, counts / counts.sum(), address.removeprefix("http://")
        )

    def lists(self, n_shots: int, rng: np.random.Generator, *, n_candidates: int | None = None) -> list[Shot]:
        """Return requests for lists: known users, and sessions of unknown ones; with candidates, re-rankings."""
        shots = []
        for _ in range(n_shots):
            given: dict[str, object] = {}
            user_id = None
            if rng.random() < KNOWN_SHARE and len(self.user_ids):
                user_id = self.user_ids[int(rng.integers(len(self.user_ids)))]
            else:
                given["history"] = self._items(int(rng.integers(1, 11)), rng)
            if n_candidates is not None:
                given["candidates"] = self._items(n_candidates, rng)
            kind = "list" if n_candidates is None else "rerank"
            shots.append(Shot.of(kind, recommend_call(user_id, n_candidates or N, given), self.host))
        return shots

    def events(self, n_shots: int, rng: np.random.Generator) -> list[Shot]:
        """Return posts of one click each, by known users; without ids, so that each is a new event when it is sent."""
        shots = []
        for _ in range(n_shots):
            user_id = self.user_ids[int(rng.integers(len(self.user_ids)))] if len(self.user_ids) else "visitor"
            event = {"user_id": user_id, "item_id": self._items(1, rng)[0], "event": "click", "event_id": "x"}
            (call,) = event_calls([event])
            body = (call.body or b"").replace(b',"event_id":"x"', b"")
            shots.append(Shot.of("event", type(call)(call.method, call.path, body), self.host))
        return shots

    def _items(self, n: int, rng: np.random.Generator) -> list[str]:
        n = min(n, len(self.item_ids))
        return [self.item_ids[int(place)] for place in rng.choice(len(self.item_ids), n, False, self.popularity)]
