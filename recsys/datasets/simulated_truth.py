"""What a simulated log was drawn from, so that tests and reports can ask for the right answer."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from recsys.errors import DataError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SECOND_US: Final = 1_000_000


@dataclass(frozen=True)
class Truth:
    """What the log was drawn from. Item rows are rows of `items`, user rows are rows of `users`.

    topic_names `(n_topics,)` and subtopic_names `(n_subtopics,)`: str arrays.
    topic_of_subtopic: int32 `(n_subtopics,)`.
    mixtures: float32 `(n_items, n_subtopics)`, shares that sum to 1.
    quality: float32 `(n_items,)`, standard normal.
    state_user_idx, state_since_us: int32, int64 `(n_states,)`; interests hold from `since` until the user's next state.
        Sorted by (user, since). Everyone has one at the start of the log and one per session; whole seconds.
    state_interests: float32 `(n_states, n_subtopics)`, shares that sum to 1.
    examination: float64 `(slate_size,)`, probability that a position is looked at.
    base_relevance, interest_strength, quality_strength: see `SimulationConfig`.
    """

    topic_names: npt.NDArray[np.str_]
    subtopic_names: npt.NDArray[np.str_]
    topic_of_subtopic: Int32
    mixtures: Float32
    quality: Float32
    state_user_idx: Int32
    state_since_us: Int64
    state_interests: Float32
    examination: Float64
    base_relevance: float
    interest_strength: float
    quality_strength: float

    def main_topics(self) -> Int32:
        """Return the row of the topic that weighs most in each item, int32 `(n_items,)`."""
        is_topic = self.topic_of_subtopic[:, None] == np.arange(len(self.topic_names))
        return np.argmax(self.mixtures @ is_topic.astype(np.float32), axis=1).astype(np.int32)

    def interests(self, user_idx: Int32, at_us: Int64) -> Float32:
        """Return interests as shares, float32 `(n, n_subtopics)`, for pairs of user and moment (microseconds UTC).

        Before the log the first state holds, after it the last.
        """
        start_us = int(self.state_since_us.min())
        # One sorted key for (user, second): states begin on whole seconds, so nothing is lost by counting in them.
        since_s = (self.state_since_us - start_us) // SECOND_US
        span = int(since_s.max()) + 1
        second = np.clip((at_us - start_us) // SECOND_US, 0, span - 1)
        key = self.state_user_idx.astype(np.int64) * span + since_s
        state = np.searchsorted(key, user_idx.astype(np.int64) * span + second, side="right") - 1
        return self.state_interests[state]

    def affinity(self, user_idx: Int32, item_idx: Int32, at_us: Int64) -> Float64:
        """Return the cosine of a user's interests at a moment and an item's mixture, float64 `(n,)`, in 0..1."""
        interests = self.interests(user_idx, at_us).astype(np.float64)
        mixtures = self.mixtures[item_idx].astype(np.float64)
        norms = np.linalg.norm(interests, axis=1) * np.linalg.norm(mixtures, axis=1)
        return np.einsum("nk,nk->n", interests, mixtures) / norms

    def relevance(self, user_idx: Int32, item_idx: Int32, at_us: Int64) -> Float64:
        """Return the probability of a click once looked at, float64 `(n,)`, for arrays of users, items and moments.

        logit(relevance) = logit(base_relevance) + interest_strength * affinity + quality_strength * quality.
        """
        return expit(
            logit(self.base_relevance)
            + self.interest_strength * self.affinity(user_idx, item_idx, at_us)
            + self.quality_strength * self.quality[item_idx].astype(np.float64)
        )

    def save(self, path: Path) -> None:
        """Write everything to a NumPy archive (no pickle)."""
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> "Truth":
        """Read what `save` wrote.

        Raises:
            DataError: there is no such file, or it lacks an array.
        """
        if not path.is_file():
            raise DataError(f"no truth at {path}; write_sample() puts one beside a simulated log")
        with np.load(path, allow_pickle=False) as archive:
            missing = [field.name for field in fields(Truth) if field.name not in archive]
            if missing:
                raise DataError(f"{path} lacks {missing}; write the sample again")
            arrays = {name: archive[name] for name in archive.files}
        scalars = {name: float(array) for name, array in arrays.items() if array.ndim == 0}
        return Truth(**{**arrays, **scalars})
