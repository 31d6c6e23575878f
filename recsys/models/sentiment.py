"""What a comment or a review says for or against its item: a linear head on the text encoder's embeddings."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from recsys.errors import EncoderError

# Kinds of event whose value is a rating and whose text is an opinion.
REVIEW_KINDS: Final = ("rating", "review", "comment")
# The part of a text in the signal of a rated review. Below 1/3 no text turns a clear rating (half the scale from its
# middle, as two of five stars) into its opposite, so the text decides around the middle only.
TEXT_SHARE: Final = 0.25

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RatingScale:
    """Lowest and highest rating there is."""

    low: float
    high: float

    def signal(self, ratings: npt.NDArray[np.floating]) -> Float64:
        """Return ratings as signals, float64 `(n,)`: -1 lowest, 0 middle, 1 highest; beyond the scale cut, NaN kept."""
        middle = (self.low + self.high) / 2.0
        return np.clip((np.asarray(ratings, np.float64) - middle) / (self.high - middle), -1.0, 1.0)


@dataclass(frozen=True)
class SentimentHead:
    """A logistic model on unit embeddings: how probable it is that a text's rating lies above the scale's middle.

    weights: float32 `(embedding_size,)`. encoder_fingerprint: of the encoder whose embeddings it reads.
    complaint_cost: how many likings lost weigh as much as one complaint taken for a liking.
    """

    weights: Float32
    bias: float
    scale: RatingScale
    encoder_fingerprint: str
    complaint_cost: float = 1.0

    def probability(self, embeddings: Float32) -> Float64:
        """Return the probability of a rating above the middle for each embedding `(n, d)`, float64 `(n,)`."""
        return expit(embeddings.astype(np.float64) @ self.weights.astype(np.float64) + self.bias)

    def score(self, embeddings: Float32) -> Float32:
        """Return each text's signal in [-1, 1], float32 `(n,)`: negative where it is to be taken for a complaint.

        With the probability p and the cost c it is (p - c (1 - p)) / (p + c (1 - p)): the expected sign of the rating
        that it would come with, a complaint counted c times. A zero embedding, of a text without anything to read,
        scores 0.
        """
        liking = self.probability(embeddings)
        complaint = self.complaint_cost * (1.0 - liking)
        signal = (liking - complaint) / (liking + complaint)
        return np.where(embeddings.any(axis=1), signal, 0.0).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write everything to a NumPy archive (no pickle)."""
        np.savez_compressed(
            path,
            allow_pickle=False,
            weights=self.weights,
            bias=np.float64(self.bias),
            scale=np.array([self.scale.low, self.scale.high], np.float64),
            encoder_fingerprint=np.array(self.encoder_fingerprint),
            complaint_cost=np.float64(self.complaint_cost),
        )

    @staticmethod
    def load(path: Path, encoder_fingerprint: str) -> "SentimentHead":
        """Read what `save` wrote.

        Raises:
            EncoderError: the file cannot be read, or the head belongs to another encoder.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                low, high = file["scale"].tolist()
                head = SentimentHead(
                    file["weights"].astype(np.float32),
                    float(file["bias"]),
                    RatingScale(low, high),
                    str(file["encoder_fingerprint"]),
                    float(file["complaint_cost"]),
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise EncoderError(f"{path}: the sentiment head cannot be read ({error}); train again") from error
        if head.encoder_fingerprint != encoder_fingerprint:
            raise EncoderError(
                f"{path}: the sentiment head reads embeddings of encoder {head.encoder_fingerprint[:12]}, not of "
                f"{encoder_fingerprint[:12]}; embeddings of two encoders cannot be compared, so train again"
            )
        return head


def review_signal(rating_signal: npt.NDArray[np.floating], text_signal: npt.NDArray[np.floating]) -> Float64:
    """Return the signal of each review, float64 `(n,)`, from what its rating and its text say; NaN stands for neither.

    Where there are both, the rating counts three quarters and the text one; where there is one, it counts alone.
    """
    rating, text = np.asarray(rating_signal, np.float64), np.asarray(text_signal, np.float64)
    both = (1.0 - TEXT_SHARE) * rating + TEXT_SHARE * text
    return np.where(np.isnan(rating), text, np.where(np.isnan(text), rating, both))


def signed_weight(event_weight: npt.NDArray[np.floating], signal: npt.NDArray[np.floating]) -> Float32:
    """Return weights after signals, float32 `(n,)`: scaled by a positive signal, 0 for the rest.

    Weight 0 says: they know the item, and did not like it. Events without a signal (NaN) keep their weight.
    """
    factor = np.where(np.isnan(signal), 1.0, np.maximum(signal, 0.0))
    return (np.asarray(event_weight, np.float64) * factor).astype(np.float32)
