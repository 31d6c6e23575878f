"""Fits the sequence model: a causal transformer that tells each next item of a history from those before it."""

import io
import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.config import SequenceConfig
from recsys.errors import ConfigError, DataError, EncoderError
from recsys.histories import InteractionLog
from recsys.models.sequence import INPUTS, SequenceModel
from training.encoder_tuning import choose_device, use_bfloat16
from training.sequence_loop import Loop, Progress
from training.sequence_module import LastPlace, SequenceNetwork

Float32 = npt.NDArray[np.float32]

_OPSET: Final = 20
_ARRAYS: Final = "state.npz"
_FACTS: Final = "fit.json"


@dataclass(frozen=True)
class SequenceFit:
    """A fitted network and what it was fitted on.

    state: its parameters, on the CPU. embeddings: float32 `(n_items, embedding_size)`, the text that items entered
    with. is_trained: bool `(n_items,)`, items with behaviour. curve: one dict per epoch: `epoch`, `seconds`,
    `train_loss`, and `valid_loss` and `valid_ndcg@10` where something was held out.
    stopped_because: `epochs`, `patience`, `time`, or `not trained` where there was nothing to train on.
    time_was_short: whether `max_train_seconds` ended it or made its learning rate fall sooner. Only then may the same
    seed give another network on another machine or another day.
    """

    config: SequenceConfig
    state: dict[str, Tensor]
    embeddings: Float32
    is_trained: npt.NDArray[np.bool_]
    curve: list[dict[str, float]]
    seconds: float
    stopped_because: str
    time_was_short: bool

    def report(self) -> dict[str, Any]:
        """Return what the fit says of itself as JSON values, its curve aside."""
        return {
            "epochs": len(self.curve),
            "stopped_because": self.stopped_because,
            "time_was_short": self.time_was_short,
            "seconds": round(self.seconds, 1),
        }

    def save(self, folder: Path) -> None:
        """Write the fit to a folder that is there; what it was fitted on, config and embeddings, is not written."""
        arrays = {name: value.numpy() for name, value in self.state.items()}
        np.savez(folder / _ARRAYS, allow_pickle=False, is_trained=self.is_trained, **arrays)
        facts = {name: getattr(self, name) for name in ("curve", "seconds", "stopped_because", "time_was_short")}
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

    @staticmethod
    def load(folder: Path, config: SequenceConfig, embeddings: Float32) -> "SequenceFit":
        """Read a fit that `save` wrote, of the same config and embeddings."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        is_trained = arrays.pop("is_trained")
        state = {name: torch.from_numpy(value) for name, value in arrays.items()}
        return SequenceFit(config, state, embeddings, is_trained, **facts)

    def export(self) -> SequenceModel:
        """Return the model as it is served."""
        network = _network(self.embeddings, self.config)
        network.load_state_dict(self.state)
        network.eval()
        projection, offset = _export_projection(network, self.embeddings)
        with torch.no_grad():
            vectors = network.items().numpy()
        bias = self.state["items.bias"].numpy()
        new_bias = float(np.quantile(bias[self.is_trained], 0.1)) if self.is_trained.any() else 0.0
        return SequenceModel(
            item_vectors=np.ascontiguousarray(vectors),
            item_bias=np.where(self.is_trained, bias, np.float32(new_bias)).astype(np.float32),
            projection=projection,
            offset=offset,
            new_item_bias=new_bias,
            max_length=self.config.max_length,
            graph=_export_graph(network, self.config),
        )


def fit_sequence(
    log: InteractionLog,
    embeddings: Float32,
    config: SequenceConfig,
    seed: np.random.SeedSequence,
    *,
    start: SequenceFit | None = None,
    on_progress: Progress | None = None,
) -> SequenceFit:
    """Fit a network on a log, or bring a fitted one up to date.

    The last interactions of some users are held out; the state with the lowest loss on them is kept. With `start`,
    its network makes `config.refit_epochs` passes over the log, which should be a longer one, and nothing is held
    out. Items without behaviour take no part in the softmax: they would be taught to be unlikely.

    Args:
        log: interactions; its items are the rows of `embeddings`.
        embeddings: float32 `(n_items, embedding_size)` of the items' texts, zero rows for items without text.
        config: the sequence section.
        seed: of the new weights, the order, dropout, and what is held out.
        start: a fitted network of the same section and the same width of embeddings, with at most as many items.
        on_progress: called after each update with (updates, updates planned, loss).

    Raises:
        ConfigError: the heads do not divide the width, there is no such device, or the loss diverged.
        DataError: the embeddings do not fit the log or the network to start from.
    """
    started = time.monotonic()
    _check(log, embeddings, config, start)
    network_seed, data_seed = (int(state) for state in seed.generate_state(2))
    device = _device(config)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _matmul_precision(config, device):
        torch.manual_seed(network_seed)
        network = _network(embeddings, config)
        if start is not None:
            _take_over(network, start)
        loop = Loop(
            network.to(device), log, config, device, np.random.default_rng(data_seed), is_refit=start is not None
        )
        stopped_because = loop.run(on_progress or (lambda step, total, loss: None))
    state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    is_trained = log.item_counts() > 0
    return SequenceFit(
        config,
        state,
        embeddings,
        is_trained,
        loop.curve,
        time.monotonic() - started,
        stopped_because,
        loop.pace.time_was_short,
    )


def _device(config: SequenceConfig) -> torch.device:
    try:
        return choose_device(config.device)
    except EncoderError:
        raise ConfigError(f"sequence.device {config.device!r} cannot be used here; set it to auto or cpu") from None


@contextmanager
def _matmul_precision(config: SequenceConfig, device: torch.device) -> Iterator[None]:
    """Let products of float32 matrices round to bfloat16 inside where that is set or the hardware has it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if use_bfloat16(config.mixed_precision, device) else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _standard(embeddings: Float32) -> tuple[Float32, float]:
    """Return the mean embedding of items with text, and the factor that gives what is left of them unit variance."""
    with_text = embeddings[embeddings.any(axis=1)]
    if not len(with_text):
        return np.zeros(embeddings.shape[1], np.float32), 1.0
    mean = with_text.mean(axis=0)
    spread = float((with_text - mean).std())
    return mean.astype(np.float32), 1.0 / spread if spread > 0 else 1.0


def _network(embeddings: Float32, config: SequenceConfig) -> SequenceNetwork:
    mean, scale = _standard(embeddings)
    text = (embeddings - mean) * np.float32(scale / np.sqrt(embeddings.shape[1]))
    return SequenceNetwork(torch.from_numpy(text), torch.from_numpy(embeddings.any(axis=1)), config)


def _export_projection(network: SequenceNetwork, embeddings: Float32) -> tuple[Float32, Float32]:
    """Return the map from raw embeddings to item vectors: the standardising and the projection as one."""
    mean, scale = _standard(embeddings)
    weight = network.items.projection.weight.detach().numpy().T * np.float32(scale / np.sqrt(embeddings.shape[1]))
    offset = network.items.projection.bias.detach().numpy() - mean @ weight
    return np.ascontiguousarray(weight, np.float32), offset.astype(np.float32)


def _export_graph(network: SequenceNetwork, config: SequenceConfig) -> bytes:
    length = torch.export.Dim("length", min=1, max=config.max_length)
    n = min(3, config.max_length)
    example = (
        torch.zeros(1, n, config.embedding_size),
        torch.zeros(1, n, dtype=torch.int64),
        torch.zeros(1, n, dtype=torch.int64),
    )
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                LastPlace(network.trunk).eval(),
                example,
                input_names=list(INPUTS),
                output_names=["user_vector"],
                dynamic_shapes={name: {1: length} for name in INPUTS},
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def _take_over(network: SequenceNetwork, start: SequenceFit) -> None:
    """Set a network to a fitted one; residuals and biases of items that it lacks stay zero."""
    state = network.state_dict()
    for name, value in start.state.items():
        state[name][tuple(slice(size) for size in value.shape)] = value
    network.load_state_dict(state)


def _check(log: InteractionLog, embeddings: Float32, config: SequenceConfig, start: SequenceFit | None) -> None:
    if config.embedding_size % config.n_heads:
        raise ConfigError(
            f"sequence.n_heads {config.n_heads} does not divide sequence.embedding_size {config.embedding_size}; "
            "choose heads that do"
        )
    if len(embeddings) != log.n_items:
        raise DataError(f"{len(embeddings)} item embeddings do not fit a log over {log.n_items} items; embed them all")
    if start is not None and (
        start.embeddings.shape[1] != embeddings.shape[1] or len(start.embeddings) > len(embeddings)
    ):
        raise DataError(
            f"a sequence model fitted on embeddings {start.embeddings.shape} cannot go on with {embeddings.shape}; "
            "fit it anew"
        )
