"""Reviews and comments of a log: their ratings, and their texts as embeddings."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.config import DataConfig
from recsys.datasets.dataset import Dataset
from recsys.histories import InteractionLog
from recsys.models.encoder import TextEncoder
from recsys.models.sentiment import REVIEW_KINDS, RatingScale
from recsys.schema import Col
from training.desk import Desk
from training.progress import Advance
from training.work import stage_key

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_EMBED_CHUNK: Final = 512
_NO_TEXT: Final = -1


@dataclass(frozen=True)
class Events:
    """What the interactions table says of each row of a log, arrays `(n,)`.

    kind: int64 place in `names`. rating: float64, NaN where there is none. text: int64 place in `texts`, -1 for none;
    texts are distinct. Only kinds of review have ratings and texts here: a purchase's value is a price.
    """

    kind: Int64
    names: tuple[str, ...]
    rating: Float64
    text: Int64
    texts: tuple[str, ...]

    @staticmethod
    def read(dataset: Dataset, log: InteractionLog) -> "Events":
        """Return the events behind a log's rows, which must be those of the data set's interactions."""
        table = dataset.interactions[log.row]
        names = tuple(sorted(table[Col.EVENT].unique().to_list()))
        kind = table[Col.EVENT].replace_strict(list(names), list(range(len(names))), return_dtype=pl.Int64).to_numpy()
        is_review = np.isin(kind, [place for place, name in enumerate(names) if name in REVIEW_KINDS])
        rating = np.full(len(log), np.nan)
        if Col.VALUE in table.columns:
            rating = np.where(is_review, table[Col.VALUE].fill_null(float("nan")).to_numpy(), np.nan)
        text = np.full(len(log), _NO_TEXT, np.int64)
        texts: tuple[str, ...] = ()
        if Col.TEXT in table.columns:
            written = table[Col.TEXT].fill_null("").str.strip_chars()
            has_text = is_review & (written != "").to_numpy()
            if has_text.any():
                ranks = written.filter(has_text).rank("dense").to_numpy().astype(np.int64) - 1
                text[has_text] = ranks
                texts = tuple(written.filter(has_text).unique().sort().to_list())
        return Events(kind.astype(np.int64), names, rating, text, texts)

    @property
    def is_rated(self) -> Bool:
        return np.isfinite(self.rating)

    @property
    def has_text(self) -> Bool:
        return self.text != _NO_TEXT

    def scale(self, known: Bool, config: DataConfig) -> RatingScale | None:
        """Return the configured scale or that of the known ratings; None where these do not differ."""
        if config.rating_scale is not None:
            return RatingScale(*config.rating_scale)
        ratings = self.rating[known & self.is_rated]
        if config.min_rating is not None or not len(ratings) or ratings.min() == ratings.max():
            return None
        return RatingScale(float(ratings.min()), float(ratings.max()))


@dataclass(frozen=True)
class ReadTexts:
    """Embeddings of distinct texts, float32 `(n_texts, d)`, zero for those not read; and of which encoder."""

    embeddings: Float32
    encoder_fingerprint: str

    def readable(self, events: Events) -> Bool:
        """Return which events have a text that was read and had something in it, bool `(n,)`."""
        if not len(self.embeddings):
            return np.zeros(len(events.text), np.bool_)
        is_read: Bool = np.any(self.embeddings, axis=1)
        return events.has_text & is_read[events.text]


def read_texts(
    events: Events, log: InteractionLog, encoder: TextEncoder | None, n_texts: int, desk: Desk, key: str
) -> ReadTexts:
    """Return the embeddings of the newest `n_texts` texts, kept from before where the work folder has them.

    Without an encoder there are none. key: hash of the data and of what else is particular to the caller.
    """
    if encoder is None:
        return ReadTexts(np.zeros((0, 1), np.float32), "")
    stage, stage_id = "review-embeddings", stage_key(key, encoder.fingerprint, n_texts, len(log))
    file = desk.work.folder / stage / "embeddings.npy"
    if desk.work.is_finished(stage, stage_id):
        desk.reporter.say("  review embeddings: kept from before")
        return ReadTexts(np.load(file, allow_pickle=False), encoder.fingerprint)
    newest = np.full(len(events.texts), np.iinfo(np.int64).min)
    np.maximum.at(newest, events.text[events.has_text], log.timestamp_us[events.has_text])
    read = np.sort(np.argsort(-newest, kind="stable")[:n_texts])

    def embed(advance: Advance) -> Float32:
        embeddings = np.zeros((len(events.texts), encoder.embedding_size), np.float32)
        for start in range(0, len(read), _EMBED_CHUNK):
            rows = read[start : start + _EMBED_CHUNK]
            embeddings[rows] = encoder.encode([events.texts[row] for row in rows])
            advance(min(start + _EMBED_CHUNK, len(read)), len(read))
        return embeddings

    embeddings = desk.run("review embeddings", embed)
    with desk.work.writing(stage, stage_id):
        np.save(file, embeddings, allow_pickle=False)
    return ReadTexts(embeddings, encoder.fingerprint)
