"""A pretrained sentence encoder as one network from token ids to a unit-norm embedding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from recsys.errors import EncoderError


class PretrainedEncoder(nn.Module):
    """A transformer and the SentenceTransformer modules behind it: pooling, dense layers, normalisation."""

    def __init__(self, transformer: nn.Module, head: nn.ModuleList) -> None:
        super().__init__()
        self.transformer: Any = transformer
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `(b, d)` unit-norm embeddings of int64 token ids `(b, length)` and their mask."""
        hidden = self.transformer(input_ids=input_ids, attention_mask=attention_mask)[0]  # (b, length, hidden)
        features: dict[str, Any] = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for module in self.head:
            features = module(features)
        return functional.normalize(features["sentence_embedding"], dim=1)

    @property
    def hidden_size(self) -> int:
        """Width of what the layers hand on."""
        return int(self.transformer.config.hidden_size)

    @property
    def n_heads(self) -> int:
        """Attention heads of a layer."""
        return int(getattr(self.transformer.config, "num_attention_heads", 1))

    @property
    def layers(self) -> list[nn.Module]:
        """The transformer's layers, from the input to the output.

        Raises:
            EncoderError: they cannot be told apart in this architecture.
        """
        n_layers = getattr(self.transformer.config, "num_hidden_layers", None)
        for module in self.transformer.modules():
            if isinstance(module, nn.ModuleList) and len(module) == n_layers:
                return list(module)
        raise EncoderError(
            f"the layers of a {type(self.transformer).__name__} are not known, so its top layers cannot be tuned "
            "alone; set encoder.tune to full, lora or none"
        )


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder ready to be tuned. `pad_id` fills up short texts, `pooling` names how tokens become one embedding."""

    module: nn.Module
    tokenizer: Tokenizer
    pad_id: int
    pooling: str


def load_pretrained(folder: Path, max_length: int) -> LoadedEncoder:
    """Read a SentenceTransformer, or a bare transformer (which then pools by the mean), in float32 on the CPU.

    Raises:
        EncoderError: the folder holds none, it does not start with a transformer, it has no fast tokenizer, or it
            cannot read `max_length` tokens.
    """
    # Written-out attention is the fastest to train on a CPU, and gives the smallest graph when it is exported.
    model_kwargs = {"use_safetensors": True, "dtype": torch.float32, "attn_implementation": "eager"}
    try:
        with _without_progress_bar():
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=model_kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(f"{folder} cannot be read as a SentenceTransformer: {error}") from error
    first, *rest = model
    transformer = getattr(first, "auto_model", None)
    if transformer is None:
        raise EncoderError(
            f"the encoder in {folder} starts with {type(first).__name__}; encoder.model must start with a transformer"
        )
    positions = getattr(transformer.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise EncoderError(
            f"encoder.max_length is {max_length}, and the encoder in {folder} reads {positions} tokens; lower it"
        )
    fast = model.tokenizer
    backend = getattr(fast, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EncoderError(f"the encoder in {folder} has no fast tokenizer (tokenizer.json); choose one that has")
    return LoadedEncoder(
        PretrainedEncoder(transformer, nn.ModuleList(rest)),
        Tokenizer.from_str(backend.to_str()),
        fast.pad_token_id or 0,
        _pooling_of(rest),
    )


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _pooling_of(head: list[nn.Module]) -> str:
    for module in head:
        if isinstance(mode := getattr(module, "pooling_mode", None), str):
            return mode
        if callable(name := getattr(module, "get_pooling_mode_str", None)):
            return str(name())
    return "none"


def set_dropout(module: nn.Module, share: float | None) -> None:
    """Set the share of every dropout in a network; None leaves them as they are."""
    if share is None:
        return
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = share
