"""What fine-tuning changes in an encoder, and how items are embedded meanwhile.

Where only the top layers are tuned, what enters them does not change: it is computed once per item and kept, and every
further step runs the top layers alone.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import pad
from training.encoder_module import PretrainedEncoder

Int64 = npt.NDArray[np.int64]

_CACHE_BYTES: Final = 1_500_000_000
# What is kept of one step for its backward pass on a CPU; the rest is computed a second time.
_ACTIVATION_BYTES: Final = 600_000_000
# Korthikanti et al. 2022, eq. 2, in 32 bits: kept per token and layer for each hidden unit and each attention score.
_BYTES_PER_HIDDEN: Final = 68
_BYTES_PER_SCORE: Final = 10
_TOKENS_PER_CHUNK: Final = 4_096
_TOKENS_PER_LARGE_CHUNK: Final = 65_536


class FrozenLayers:
    """The lower layers of a transformer, run once per item; what leaves them is kept in bfloat16 if it fits.

    The layers' `forward` is bypassed while the others run, so the model itself makes masks and positions as ever.
    """

    def __init__(self, encoder: PretrainedEncoder, n_top: int) -> None:
        layers = encoder.layers
        self._encoder = encoder
        self._lower, self._top = layers[:-n_top], layers[-n_top:]
        self.n_top = n_top
        self._kept: dict[int, Tensor] = {}
        self._gives_tuple = False
        self.keeps = False

    def allow_cache(self, n_tokens: int) -> None:
        """Keep what leaves the lower layers if that of `n_tokens` tokens takes at most 1.5 GB."""
        self.keeps = n_tokens * self._encoder.hidden_size * 2 <= _CACHE_BYTES

    def missing(self, items: Int64) -> Int64:
        """Return the items of which nothing is kept."""
        return np.asarray([item for item in items if int(item) not in self._kept], dtype=np.int64)

    def run_lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what leaves the lower layers, `(b, length, hidden)`, without gradient."""
        seen: list[Tensor] = []

        def remember(hidden: Tensor, *_: Any, **__: Any) -> Any:
            seen.append(hidden)
            return (hidden,) if self._gives_tuple else hidden

        def note_output(_: nn.Module, __: Any, output: Any) -> None:
            self._gives_tuple = isinstance(output, tuple)

        hook = self._lower[0].register_forward_hook(note_output)
        try:
            with torch.no_grad(), _replaced_forward(self._top, remember):
                self._encoder(input_ids, attention_mask)
        finally:
            hook.remove()
        return seen[0]

    def run_top(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the embeddings `(b, d)` that the top layers make of what left the lower ones."""

        def hand_on(*_: Any, **__: Any) -> Any:
            return (hidden,) if self._gives_tuple else hidden

        with _replaced_forward(self._lower, hand_on):
            embeddings: Tensor = self._encoder(input_ids, attention_mask)
        return embeddings

    def keep(self, items: Int64, hidden: Tensor, lengths: Sequence[int]) -> None:
        """Keep what left the lower layers for some items, `(b, length, hidden)`."""
        for item, states, length in zip(items, hidden, lengths, strict=True):
            self._kept[int(item)] = states[:length].to(torch.bfloat16, copy=True)

    def kept(self, items: Int64, length: int) -> Tensor:
        """Return what is kept of some items as float32 `(b, length, hidden)`, zero where nothing stands."""
        states = [self._kept[int(item)] for item in items]
        hidden = states[0].new_zeros((len(states), length, states[0].shape[1]), dtype=torch.float32)
        for row, state in enumerate(states):
            hidden[row, : len(state)] = state
        return hidden


@contextmanager
def _replaced_forward(layers: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    for layer in layers:
        layer.forward = forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class ItemEmbedder:
    """Embeds items with a network under training; texts of like length go through it together."""

    def __init__(
        self,
        module: nn.Module,
        tokens: Sequence[Int64],
        pad_id: int,
        device: torch.device,
        *,
        use_bfloat16: bool,
        frozen: FrozenLayers | None = None,
    ) -> None:
        self._module = module
        self._tokens = tokens
        self.lengths = np.asarray([len(ids) for ids in tokens], dtype=np.int64)
        self._pad_id = pad_id
        self._device = device
        self._use_bfloat16 = use_bfloat16
        self._frozen = frozen
        small_chunks = device.type == "cpu" and isinstance(module, PretrainedEncoder)
        self._tokens_per_chunk = _TOKENS_PER_CHUNK if small_chunks else _TOKENS_PER_LARGE_CHUNK
        if frozen is not None:
            frozen.allow_cache(int(self.lengths.sum()))

    def __call__(self, items: Int64) -> Tensor:
        """Return the embeddings `(n, d)` of items that have text, in their order."""
        if self._frozen is not None and self._frozen.keeps:
            for chunk in self._chunks(self._frozen.missing(items)):
                ids, mask = self._padded(chunk)
                self._frozen.keep(chunk, self._run(self._frozen.run_lower, ids, mask), self.lengths[chunk].tolist())
        parts: list[Tensor] = []
        room = _ACTIVATION_BYTES if torch.is_grad_enabled() else np.inf
        for chunk in self._chunks(items):
            size = self._activation_bytes(chunk)
            parts.append(self._embed(chunk, recompute=size > room))
            room -= size if size <= room else 0
        place = np.argsort(self._by_length(items), kind="stable")
        return torch.cat(parts)[torch.from_numpy(place).to(self._device)]

    def _embed(self, chunk: Int64, *, recompute: bool) -> Tensor:
        ids, mask = self._padded(chunk)
        if self._frozen is None:
            return self._run(self._module, ids, mask, recompute=recompute)
        if self._frozen.keeps:
            hidden = self._frozen.kept(chunk, ids.shape[1])
        else:
            hidden = self._run(self._frozen.run_lower, ids, mask).float()
        return self._run(self._frozen.run_top, hidden, ids, mask, recompute=recompute)

    def _run(self, function: Callable[..., Tensor], *inputs: Tensor, recompute: bool = False) -> Tensor:
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._use_bfloat16):
            if recompute:
                return checkpoint(function, *inputs, use_reentrant=False)
            return function(*inputs)

    def _padded(self, chunk: Int64) -> tuple[Tensor, Tensor]:
        ids, mask = pad([self._tokens[item] for item in chunk], self._pad_id)
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)

    def _by_length(self, items: Int64) -> Int64:
        return np.argsort(self.lengths[items], kind="stable")

    def _chunks(self, items: Int64) -> Iterator[Int64]:
        """Yield the items from the shortest to the longest, in groups whose padded size stays within bounds."""
        ordered = items[self._by_length(items)]
        start = 0
        while start < len(ordered):
            # The longest of a group is its last, so the padded size grows with the group.
            sizes = self.lengths[ordered[start:]] * np.arange(1, len(ordered) - start + 1)
            stop = start + max(1, int(np.searchsorted(sizes, self._tokens_per_chunk, side="right")))
            yield ordered[start:stop]
            start = stop

    def _activation_bytes(self, chunk: Int64) -> float:
        """Return about how much is kept of a chunk for its backward pass; nothing where there is no need to save."""
        if self._device.type != "cpu" or not isinstance(self._module, PretrainedEncoder):
            return 0.0
        n_layers = len(self._module.layers) if self._frozen is None else self._frozen.n_top
        n_scores = self._module.n_heads * int(self.lengths[chunk].max())
        per_token = self._module.hidden_size * _BYTES_PER_HIDDEN + n_scores * _BYTES_PER_SCORE
        return float(self.lengths[chunk].sum() * n_layers * per_token)


def choose_tuned(module: nn.Module, config: EncoderConfig) -> FrozenLayers | None:
    """Set which parameters of an encoder are tuned; return its frozen layers where `config.tune` is top_layers.

    An encoder that is no transformer is tuned in full, as is any with `config.tune` full. LoRA adds adapters, which
    `merge_lora` takes up into the weights.
    """
    if not isinstance(module, PretrainedEncoder) or config.tune == "full":
        return None
    if config.tune == "lora":
        adapters = LoraConfig(
            r=config.lora_rank,
            lora_alpha=2 * config.lora_rank,
            lora_dropout=config.dropout or 0.0,
            target_modules="all-linear",
        )
        module.head.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between the two libraries
            module.transformer = get_peft_model(module.transformer, adapters)
        return None
    layers = module.layers
    n_top = min(config.n_top_layers, len(layers)) if config.tune == "top_layers" else 0
    module.requires_grad_(False)
    for layer in layers[len(layers) - n_top :]:
        layer.requires_grad_(True)
    return FrozenLayers(module, n_top) if 0 < n_top < len(layers) else None


def merge_lora(module: nn.Module) -> None:
    """Take LoRA adapters, where there are any, up into the weights that they adapt."""
    if isinstance(module, PretrainedEncoder) and hasattr(module.transformer, "merge_and_unload"):
        module.transformer = module.transformer.merge_and_unload()


def train_tuned_parts(module: nn.Module) -> None:
    """Switch a network to training, but leave dropout off in parts of which nothing is tuned."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def choose_device(name: str) -> torch.device:
    """Return the device of a setting; `auto` is the GPU where there is one.

    Raises:
        EncoderError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EncoderError(f"encoder.device {name!r} cannot be used here ({error}); set it to auto or cpu") from error
    return device


def use_bfloat16(setting: str, device: torch.device) -> bool:
    """Return whether to compute in bfloat16: as set, or where the hardware has it."""
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, check, lambda: False)() for check in checks)
