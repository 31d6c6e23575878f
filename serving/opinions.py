"""What posted comments and reviews say, read by the text encoder and the sentiment head of the bundle."""

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.models.encoder import TextEncoder
from recsys.models.sentiment import REVIEW_KINDS, SentimentHead
from serving.store import Event

_MAX_KEPT: Final = 100_000

Float64 = npt.NDArray[np.float64]


class OpinionReader:
    """Reads the texts of events, each of the latest 100,000 distinct ones once. May be called from several threads.

    The encoder cuts a text to its own length, so that a long one costs no more than an item's. Without a head and its
    encoder no text is read.
    """

    def __init__(self, head: SentimentHead | None, encoder: TextEncoder | None, *, max_kept: int = _MAX_KEPT) -> None:
        self._head = head
        self._encoder = encoder
        self._max_kept = max_kept
        self._kept: dict[bytes, float] = {}
        self._keeping = threading.Lock()
        # A tokenizer must not be set up in one thread while it works in another.
        self._encoding = threading.Lock()

    def signals(self, events: Sequence[Event]) -> Float64:
        """Return what the text of each event says for (1) or against (-1) its item, float64 `(n,)`.

        NaN where there is nothing to read, or the event is no review.
        """
        signals = np.full(len(events), np.nan)
        if self._head is None or self._encoder is None:
            return signals
        texts = {
            place: text
            for place, event in enumerate(events)
            if event.event in REVIEW_KINDS and (text := (event.text or "").strip())
        }
        if not texts:
            return signals
        keys = {place: _key(text) for place, text in texts.items()}
        with self._keeping:
            said = {key: self._kept[key] for key in keys.values() if key in self._kept}
        if unread := {key: texts[place] for place, key in keys.items() if key not in said}:
            read = dict(zip(unread, self._read(self._head, self._encoder, list(unread.values())), strict=True))
            self._keep(read)
            said |= read
        signals[list(keys)] = [said[key] for key in keys.values()]
        return signals

    def _read(self, head: SentimentHead, encoder: TextEncoder, texts: list[str]) -> list[float]:
        with self._encoding:
            embeddings = encoder.encode(texts)
        signals: list[float] = np.where(embeddings.any(axis=1), head.score(embeddings), np.nan).tolist()
        return signals

    def _keep(self, read: dict[bytes, float]) -> None:
        with self._keeping:
            self._kept |= read
            for key in list(self._kept)[: max(len(self._kept) - self._max_kept, 0)]:
                del self._kept[key]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
