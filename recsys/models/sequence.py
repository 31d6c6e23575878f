"""The fitted sequence model at work: an ONNX graph turns a history into a user vector, item vectors score it."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from recsys.errors import BundleError
from recsys.histories import History

ARRAYS_FILE: Final = "sequence.npz"
GRAPH_FILE: Final = "sequence.onnx"
FILES: Final = (ARRAYS_FILE, GRAPH_FILE)
INPUTS: Final = ("vectors", "gap_bucket", "index_bucket")

N_GAP_BUCKETS: Final = 32
N_INDEX_BUCKETS: Final = 32

_ARRAYS: Final = ("item_vectors", "item_bias", "projection", "offset", "new_item_bias", "max_length")
_US_PER_SECOND: Final = 1_000_000

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def gap_buckets(gap_us: Int64) -> Int64:
    """Return the bucket of the time since the interaction before, int64 `(h,)`: 1 + log2 of the seconds, rounded down.

    gap_us: int64 microseconds, negative where there was none before (bucket 0).
    """
    seconds = np.maximum(gap_us, 0) / _US_PER_SECOND
    buckets = 1 + np.log2(1 + seconds).astype(np.int64)
    return np.where(gap_us < 0, 0, np.minimum(buckets, N_GAP_BUCKETS - 1))


def index_buckets(index: Int64) -> Int64:
    """Return the bucket of how many interactions a user had before, int64 `(h,)`: twice the log2, rounded down."""
    return np.minimum((2 * np.log2(1 + index)).astype(np.int64), N_INDEX_BUCKETS - 1)


@dataclass(frozen=True)
class SequenceModel:
    """Item vectors and the network over a history; made by training, or by `load`.

    item_vectors: float32 `(n_items, d)`, what the network reads and what its output is compared with: the map of the
    text embedding plus the item's residual, which is zero for items without behaviour in the training.
    item_bias: float32 `(n_items,)`, added to the scores.
    projection, offset: float32 `(embedding_size, d)` and `(d,)`, the map from text embeddings to item vectors.
    new_item_bias: bias of items that the training did not know.
    max_length: latest history items that are read.
    graph: the network as an ONNX file's content.
    """

    item_vectors: Float32
    item_bias: Float32
    projection: Float32
    offset: Float32
    new_item_bias: float
    max_length: int
    graph: bytes

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(self.graph, sess_options=options, providers=["CPUExecutionProvider"])

    def user_vector(self, history: History) -> Float32:
        """Return what a history points to, float32 `(d,)`; zeros for an empty history. Threads may call it at once."""
        if not len(history):
            return np.zeros(self.item_vectors.shape[1], np.float32)
        start = max(0, len(history) - self.max_length)
        gap_us = np.diff(history.timestamp_us, prepend=history.timestamp_us[0])
        gap_us[0] = -1
        inputs = {
            "vectors": self.item_vectors[history.item_idx[start:]][None],
            "gap_bucket": gap_buckets(gap_us[start:])[None],
            "index_bucket": index_buckets(np.arange(start, len(history)))[None],
        }
        vector: Float32 = self._session.run(None, inputs)[0]
        return vector

    @cached_property
    def biased_vectors(self) -> Float32:
        """Item vectors, bias behind them, float32 `(n_items, d + 1)`: their product with (user, 1) is a score."""
        return np.ascontiguousarray(np.column_stack([self.item_vectors, self.item_bias]))

    def score(self, history: History) -> Float32:
        """Return how likely each item comes next, as a logit, float32 `(n_items,)`; zeros for an empty history."""
        if not len(history):
            return np.zeros(len(self.item_vectors), np.float32)
        return self.item_vectors @ self.user_vector(history) + self.item_bias

    def place(self, embeddings: Float32) -> Float32:
        """Return the vectors that text alone gives items, float32 `(n, d)`; zero rows for items without text."""
        has_text = embeddings.any(axis=1, keepdims=True)
        return ((embeddings @ self.projection + self.offset) * has_text).astype(np.float32)

    def with_items(self, embeddings: Float32) -> "SequenceModel":
        """Return the model with further items, placed by their text embeddings, float32 `(n, embedding_size)`."""
        return replace(
            self,
            item_vectors=np.concatenate([self.item_vectors, self.place(embeddings)]),
            item_bias=np.append(self.item_bias, np.full(len(embeddings), self.new_item_bias, np.float32)),
        )

    def save(self, folder: Path) -> None:
        """Write `sequence.npz` and `sequence.onnx` to a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        np.savez(folder / ARRAYS_FILE, **arrays)
        (folder / GRAPH_FILE).write_bytes(self.graph)

    @staticmethod
    def load(folder: Path) -> "SequenceModel":
        """Read what `save` wrote.

        Raises:
            BundleError: a file or an array is missing.
        """
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise BundleError(f"the sequence model in {folder} lacks {', '.join(missing)}; train it again")
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
            if missing := [name for name in _ARRAYS if name not in arrays]:
                raise BundleError(f"{folder / ARRAYS_FILE} lacks the arrays {', '.join(missing)}; train it again")
            values = {name: arrays[name] for name in _ARRAYS}
        return SequenceModel(
            **{name: values[name] for name in _ARRAYS[:4]},
            new_item_bias=float(values["new_item_bias"]),
            max_length=int(values["max_length"]),
            graph=(folder / GRAPH_FILE).read_bytes(),
        )
