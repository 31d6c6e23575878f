"""What posted comments and reviews say, read by the text encoder and the sentiment head of the bundle."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from recsys.errors import EncoderError
from recsys.models.encoder import TextEncoder
from recsys.models.sentiment import REVIEW_KINDS, SentimentHead
from serving.breaker import Breaker
from serving.notices import Seldom
from serving.store import Event

logger = logging.getLogger(__name__)

_MAX_KEPT: Final = 100_000

Float64 = npt.NDArray[np.float64]


class OpinionReader:
    """Reads the texts of events, each of the latest 100,000 distinct ones once. May be called from several threads.

    The encoder cuts a text to its own length, so that a long one costs no more than an item's. Without a head and its
    encoder no text is read. An encoder that fails three times in a row is left alone for three seconds.

    clock: seconds, rising.
    """

    def __init__(
        self,
        head: SentimentHead | None,
        encoder: TextEncoder | None,
        *,
        max_kept: int = _MAX_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._head = head
        self._encoder = encoder
        self._max_kept = max_kept
        self._kept: dict[bytes, float] = {}
        self._keeping = threading.Lock()
        # A tokenizer must not be set up in one thread while it works in another.
        self._encoding = threading.Lock()
        # How long a failure took says how much was to be read, not what fails.
        self._breaker = Breaker(slow_s=math.inf, clock=clock)
        self._is_worth_logging = Seldom()

    def signals(self, events: Sequence[Event]) -> Float64:
        """Return what the text of each event says for (1) or against (-1) its item, float64 `(n,)`.

        NaN where there is nothing to read, the event is no review, or the encoder failed on it.
        """
        return self.read(events)[0]

    def read(self, events: Sequence[Event]) -> tuple[Float64, bool]:
        """Return `signals`, and whether all that there is to read was read; where not, a later call may find more."""
        signals = np.full(len(events), np.nan)
        if self._head is None or self._encoder is None:
            return signals, True
        texts = {
            place: text
            for place, event in enumerate(events)
            if event.event in REVIEW_KINDS and (text := (event.text or "").strip())
        }
        if not texts:
            return signals, True
        keys = {place: _key(text) for place, text in texts.items()}
        with self._keeping:
            said = {key: self._kept[key] for key in keys.values() if key in self._kept}
        if unread := {key: texts[place] for place, key in keys.items() if key not in said}:
            found = zip(unread, self._read(self._head, self._encoder, list(unread.values())), strict=True)
            read = {key: signal for key, signal in found if signal is not None}
            self._keep(read)
            said |= read
        signals[list(keys)] = [said.get(key, np.nan) for key in keys.values()]
        return signals, all(key in said for key in keys.values())

    def _read(self, head: SentimentHead, encoder: TextEncoder, texts: list[str]) -> list[float | None]:
        """Return what each text says; None for those that cannot be read now."""
        if self._breaker.rest_left_s() > 0:
            return [None] * len(texts)
        try:
            with self._encoding:
                embeddings = encoder.encode(texts)
        except EncoderError as error:
            self._breaker.failed(str(error), 0.0)
            if self._is_worth_logging("unread"):
                logger.warning("reviews count by their rating or kind while they cannot be read: %s", error)
            if len(texts) == 1:
                return [None]
            # One that cannot be read must not keep the others from it.
            return [said for text in texts for said in self._read(head, encoder, [text])]
        self._breaker.succeeded()
        signals: list[float | None] = np.where(embeddings.any(axis=1), head.score(embeddings), np.nan).tolist()
        return signals

    def _keep(self, read: dict[bytes, float]) -> None:
        with self._keeping:
            self._kept |= read
            for key in list(self._kept)[: max(len(self._kept) - self._max_kept, 0)]:
                del self._kept[key]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
