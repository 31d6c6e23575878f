"""Fits the text encoder: finds or builds one, tunes it on what people turned to one after the other, and exports it.

The tuning loop, `_tune`, is one for the pretrained encoder, for the small one, and for the small one's pre-training.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import tokenise
from training.encoder_export import export_encoder
from training.encoder_loss import ContrastiveBatch, contrastive_loss, known_pairs, make_batch
from training.encoder_module import LoadedEncoder, load_pretrained, set_dropout
from training.encoder_source import choose_kind, resolve
from training.encoder_tuning import (
    ItemEmbedder,
    choose_device,
    choose_tuned,
    merge_lora,
    train_tuned_parts,
    use_bfloat16,
)
from training.pairs import NO_ITEM, EncoderPairs
from training.small_encoder import build_small_encoder, pretraining_config, title_pairs

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int, int, float], None]

SMALL_BASE: Final = "catalogue text"
_MAX_VALID_PAIRS: Final = 1_000
_MAX_GRADIENT_NORM: Final = 1.0


@dataclass(frozen=True)
class EncoderTexts:
    """The catalogue's text, row i of each is item i. `texts` are embedded; titles and descriptions teach `small`."""

    texts: Sequence[str]
    titles: Sequence[str]
    descriptions: Sequence[str]


@dataclass(frozen=True)
class PairSource:
    """What the encoder is tuned on: `train` draws the pairs of one epoch, `valid` are held out (None: not stopped early)."""

    train: Callable[[np.random.Generator], EncoderPairs]
    valid: EncoderPairs | None = None


@dataclass(frozen=True)
class EncoderFit:
    """A fitted and exported encoder.

    curve: one dict per evaluation: `step` (updates so far), `seconds`, `train_loss` (mean since the evaluation before,
    None at step 0) and `valid_loss` (None without held-out pairs).
    stopped_because: `epochs`, `patience`, `time`, or `not tuned` when there was nothing to tune or to tune on.
    """

    kind: str
    base: str
    curve: list[dict[str, float | None]]
    seconds: float
    folder: Path
    stopped_because: str


def fit_text_encoder(
    texts: EncoderTexts,
    pairs: PairSource | None,
    config: EncoderConfig,
    seed: np.random.SeedSequence,
    out: Path,
    *,
    on_progress: Progress | None = None,
) -> EncoderFit:
    """Fit an encoder and write it to a folder.

    The state before the tuning competes with every later one: what is exported is what has the lowest loss on the
    held-out pairs. An interrupt ends the work and leaves the folder as it was.

    Args:
        texts: the catalogue's text.
        pairs: what to tune on; None leaves the encoder as it is found or built.
        config: the encoder section.
        seed: of the pairs, the order, dropout and new weights.
        out: folder that `recsys.models.encoder.TextEncoder.load` will read.
        on_progress: called after each update with (step, steps planned, loss).

    Raises:
        EncoderError: no encoder is to be had, it cannot be tuned as configured, or the tuning diverged.
    """
    started = time.monotonic()
    build_seed, pretrain_seed, tune_seed = seed.spawn(3)
    device = choose_device(config.device)
    kind = choose_kind(texts.texts) if config.kind == "auto" else config.kind
    report = on_progress or (lambda step, total, loss: None)
    if kind == "small":
        loaded = build_small_encoder(texts.texts, config, np.random.default_rng(build_seed))
        own_texts, own_pairs = title_pairs(texts.titles, texts.descriptions)
        _tune(
            loaded, own_texts, PairSource(lambda rng: own_pairs), pretraining_config(config), pretrain_seed, device, report
        )
    else:
        loaded = load_pretrained(resolve(config.model), config.max_length)
        set_dropout(loaded.module, config.dropout)
    curve: list[dict[str, float | None]] = []
    stopped_because = "not tuned"
    if pairs is not None and (kind == "small" or config.tune != "none"):
        curve, stopped_because = _tune(loaded, texts.texts, pairs, config, tune_seed, device, report)
    base = SMALL_BASE if kind == "small" else config.model
    export_encoder(loaded, out, kind=kind, base=base, max_length=config.max_length, texts=texts.texts)
    return EncoderFit(kind, base, curve, time.monotonic() - started, out, stopped_because)
