"""Fits the text encoder: finds or builds one, tunes it on what people did, and exports it.

One tuning loop, `tune_encoder`, serves the pretrained encoder, the small one, and the pre-training of the small one,
whatever they are to learn.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
from training.encoder_module import LoadedEncoder, load_pretrained, set_dropout
from training.encoder_objectives import B, ExampleSource, Objective, PairSource
from training.encoder_source import choose_kind, resolve
from training.encoder_tuning import (
    ItemEmbedder,
    choose_device,
    choose_tuned,
    merge_lora,
    train_tuned_parts,
    use_bfloat16,
)
from training.small_encoder import build_small_encoder, pretraining_config, title_pairs

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int, int, float], None]

SMALL_BASE: Final = "catalogue text"
_MAX_GRADIENT_NORM: Final = 1.0
# Learning rate of an objective's own parameters, as a multiple of the encoder's.
_RATE_BESIDE: Final = 5.0


@dataclass(frozen=True)
class EncoderTexts:
    """The catalogue's text, row i of each is item i. `texts` are embedded; titles and descriptions teach `small`."""

    texts: Sequence[str]
    titles: Sequence[str]
    descriptions: Sequence[str]


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
    source: ExampleSource | None,
    config: EncoderConfig,
    seed: np.random.SeedSequence,
    out: Path,
    *,
    on_progress: Progress | None = None,
) -> EncoderFit:
    """Fit an encoder and write it to a folder.

    The state before the tuning competes with every later one: what is exported is what has the lowest loss on the
    held-out examples. An interrupt ends the work and leaves the folder as it was.

    Args:
        texts: the catalogue's text.
        source: what to tune on; None leaves the encoder as it is found or built.
        config: the encoder section.
        seed: of the examples, the order, dropout and new weights.
        out: folder that `recsys.models.encoder.TextEncoder.load` will read.
        on_progress: called after each update with (step, steps planned, loss).

    Raises:
        EncoderError: no encoder is to be had, it cannot be tuned as configured, or the tuning diverged.
    """
    started = time.monotonic()
    build_seed, pretrain_seed, tune_seed = (int(state) for state in seed.generate_state(3))
    device = choose_device(config.device)
    kind = choose_kind(texts.texts) if config.kind == "auto" else config.kind
    report = on_progress or (lambda step, total, loss: None)
    if kind == "small":
        loaded = build_small_encoder(texts.texts, config, np.random.default_rng(build_seed))
        own_texts, own_pairs = title_pairs(texts.titles, texts.descriptions)
        own_source = PairSource(lambda rng: own_pairs)
        tune_encoder(loaded, own_texts, own_source, pretraining_config(config), pretrain_seed, device, report)
    else:
        loaded = load_pretrained(resolve(config.model), config.max_length)
        set_dropout(loaded.module, config.dropout)
    curve: list[dict[str, float | None]] = []
    stopped_because = "not tuned"
    if source is not None and (kind == "small" or config.tune != "none"):
        curve, stopped_because = tune_encoder(loaded, texts.texts, source, config, tune_seed, device, report)
    base = SMALL_BASE if kind == "small" else config.model
    export_encoder(loaded, out, kind=kind, base=base, max_length=config.max_length, texts=texts.texts)
    return EncoderFit(kind, base, curve, time.monotonic() - started, out, stopped_because)


def tune_encoder(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    source: ExampleSource,
    config: EncoderConfig,
    seed: int,
    device: torch.device,
    report: Progress,
) -> tuple[list[dict[str, float | None]], str]:
    """Tune an encoder in place and leave its best state; return the learning curve and why the tuning ended."""
    started = time.monotonic()
    rng = np.random.default_rng(seed)
    tokens = tokenise(loaded.tokenizer, texts, config.max_length)
    has_text = np.asarray([len(ids) > 0 for ids in tokens], dtype=np.bool_)
    objective = source.objective(has_text, config, rng)
    if not objective.n_examples or not config.epochs:
        return [], "not tuned"
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)

        # -- what is tuned
        frozen = choose_tuned(loaded.module, config)
        module = loaded.module.to(device)
        in_bfloat16 = use_bfloat16(config.mixed_precision, device)
        embed = ItemEmbedder(module, tokens, loaded.pad_id, device, use_bfloat16=in_bfloat16, frozen=frozen)
        module.eval()
        beside = objective.begin(embed, device)
        optimiser = _adamw(module, beside, config)
        schedule = _Schedule.of(objective.n_examples, config)
        watch = _Watch(module, embed, objective, rng)
        watch.evaluate(0, time.monotonic() - started)

        # -- the loop
        stopped_because = "epochs"
        for step, group in enumerate(_groups(objective, schedule, config, rng), start=1):
            for parameters in optimiser.param_groups:
                parameters["lr"] = schedule.rate(step) * parameters["rate_factor"]
            train_tuned_parts(module)
            loss = make_update(group, lambda batch: objective.loss(embed(batch.items), batch.to(device)), optimiser)
            if not np.isfinite(loss):
                raise EncoderError(
                    f"the encoder's tuning diverged: loss {loss} at step {step}; lower encoder.learning_rate "
                    f"(now {config.learning_rate}) or set encoder.mixed_precision to off"
                )
            watch.train_losses.append(loss)
            report(step, schedule.n_steps, loss)
            seconds = time.monotonic() - started
            out_of_time = seconds > config.max_train_seconds and step < schedule.n_steps
            if schedule.evaluates_at(step) or out_of_time:
                watch.evaluate(step, seconds)
            if out_of_time or watch.n_stale >= config.patience:
                stopped_because = "time" if out_of_time else "patience"
                break
        watch.restore_best()
        merge_lora(module)
    module.cpu().eval()
    return watch.curve, stopped_because


def make_update(group: Sequence[B], loss_of: Callable[[B], Tensor], optimiser: torch.optim.Optimizer) -> float:
    """Make one update from the mean loss over all examples of a group of batches; return that loss.

    Each batch has its own negatives, so a group of two is not one batch of double size; were the loss of an example
    independent of the others in its batch, it would be.
    """
    n_examples = sum(len(batch) for batch in group)
    optimiser.zero_grad(set_to_none=True)
    total = 0.0
    for batch in group:
        loss = loss_of(batch) * (len(batch) / n_examples)
        loss.backward()
        total += loss.item()
    parameters = [parameter for part in optimiser.param_groups for parameter in part["params"]]
    nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
    optimiser.step()
    return total


def _groups(
    objective: Objective[B], schedule: "_Schedule", config: EncoderConfig, rng: np.random.Generator
) -> Iterator[list[B]]:
    """Yield the batches of every update, epoch after epoch."""
    for epoch in range(config.epochs):
        batches = objective.batches(epoch, schedule.n_batches, rng)
        while group := list(islice(batches, config.gradient_accumulation)):
            yield group


def _adamw(module: nn.Module, beside: list[nn.Parameter], config: EncoderConfig) -> torch.optim.AdamW:
    """Return AdamW over what is tuned, and over an objective's own parameters, which learn faster.

    Biases and normalisation weights (fewer than two axes) do not decay, nor do the objective's own.
    """
    tuned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in tuned if parameter.ndim >= 2]
    vectors = [parameter for parameter in tuned if parameter.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay, "rate_factor": 1.0},
            {"params": vectors, "weight_decay": 0.0, "rate_factor": 1.0},
            {"params": beside, "weight_decay": 0.0, "rate_factor": _RATE_BESIDE},
        ],
        lr=config.learning_rate,
    )


@dataclass(frozen=True)
class _Schedule:
    """How many updates there will be, at which rate each, and after which the held-out loss is taken."""

    n_batches: int  # per epoch
    steps_per_epoch: int
    n_steps: int
    n_warmup: int
    evaluate_every: int
    peak_rate: float

    @staticmethod
    def of(n_examples: int, config: EncoderConfig) -> "_Schedule":
        n_batches = -(-n_examples // config.batch_size)
        steps_per_epoch = -(-n_batches // config.gradient_accumulation)
        n_steps = steps_per_epoch * config.epochs
        return _Schedule(
            n_batches,
            steps_per_epoch,
            n_steps,
            round(config.warmup_share * n_steps),
            max(1, steps_per_epoch // config.evaluations_per_epoch),
            config.learning_rate,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of an update, counted from 1: linear up to the peak, then linear towards 0."""
        if step <= self.n_warmup:
            return self.peak_rate * step / self.n_warmup
        return self.peak_rate * (self.n_steps - step + 1) / (self.n_steps - self.n_warmup)

    def evaluates_at(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.n_steps


class _Watch:
    """Takes the held-out loss, draws the curve, and remembers the best state; the last one if nothing is held out."""

    def __init__(
        self, module: nn.Module, embed: ItemEmbedder, objective: Objective[Any], rng: np.random.Generator
    ) -> None:
        self._module = module
        self._embed = embed
        self._objective = objective
        self._batches = objective.held_out(rng)
        self._tuned = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._best: dict[str, Tensor] = {}
        self._best_loss = float("inf")
        self.train_losses: list[float] = []
        self.curve: list[dict[str, float | None]] = []
        self.n_stale = 0

    def evaluate(self, step: int, seconds: float) -> None:
        """Add a point to the curve, and keep the state if none before was better."""
        loss = self._held_out_loss()
        train_loss = float(np.mean(self.train_losses)) if self.train_losses else None
        self.curve.append({"step": step, "seconds": seconds, "train_loss": train_loss, "valid_loss": loss})
        self.train_losses.clear()
        if loss is None:
            return
        self.n_stale += 1
        if loss < self._best_loss:
            self._best_loss, self.n_stale = loss, 0
            self._best = {name: value.detach().clone() for name, value in self._tuned.items()}

    @torch.no_grad()
    def restore_best(self) -> None:
        """Set what is tuned to its best state."""
        for name, value in self._best.items():
            self._tuned[name].copy_(value)

    @torch.no_grad()
    def _held_out_loss(self) -> float | None:
        if not self._batches:
            return None
        self._module.eval()
        items = np.unique(np.concatenate([batch.items for batch in self._batches]))
        embeddings = self._embed(items)
        losses = [
            self._objective.loss(
                embeddings[torch.from_numpy(np.searchsorted(items, batch.items)).to(embeddings.device)],
                batch.to(embeddings.device),
            ).item()
            for batch in self._batches
        ]
        return float(np.average(losses, weights=[len(batch) for batch in self._batches]))
