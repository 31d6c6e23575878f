"""What the tuning of the text encoder works towards: what an objective is, and the one on pairs of items.

The other one, on who chose which item, is in `training.encoder_choices`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recsys.config import EncoderConfig
from training.encoder_loss import ContrastiveBatch, contrastive_loss, known_pairs, make_batch
from training.pairs import NO_ITEM, EncoderPairs

Bool = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
Embed = Callable[[Int64], Tensor]

_MAX_VALID_PAIRS: Final = 1_000


class Batch(Protocol):
    """The items of one step, each to be encoded once, and what the loss has to know of them.

    items: int64 `(u,)`, different rows of the catalogue. The length is by how much the batch counts in a mean.
    """

    @property
    def items(self) -> Int64: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        ...


B = TypeVar("B", bound=Batch)


class Objective(Protocol[B]):
    """One tuning's batches and their loss."""

    @property
    def n_examples(self) -> int:
        """How many pairs or items make one epoch; 0 where there is nothing to learn from."""
        ...

    def begin(self, embed: Embed, device: torch.device) -> list[nn.Parameter]:
        """Return parameters to be trained beside the encoder, set up with the encoder as it stands."""
        ...

    def batches(self, epoch: int, n_batches: int, rng: np.random.Generator) -> Iterator[B]:
        """Yield the batches of an epoch, counted from 0."""
        ...

    def held_out(self, rng: np.random.Generator) -> list[B]:
        """Return the batches whose loss tells when to stop; none where nothing was held out."""
        ...

    def loss(self, embeddings: Tensor, batch: B) -> Tensor:
        """Return the mean loss of a batch, a scalar; row i of `embeddings` `(u, d)` encodes `batch.items[i]`."""
        ...


class ExampleSource(Protocol):
    """What an encoder may learn from; it becomes an objective once it is known which items have text."""

    def objective(self, has_text: Bool, config: EncoderConfig, rng: np.random.Generator) -> "Objective":
        """Return the objective on items that have text, bool `(n_items,)`."""
        ...


@dataclass(frozen=True)
class PairSource:
    """Pairs of items to tune on: `train` draws those of one epoch, `valid` are held out."""

    train: Callable[[np.random.Generator], EncoderPairs]
    valid: EncoderPairs | None = None

    def objective(self, has_text: Bool, config: EncoderConfig, rng: np.random.Generator) -> "ContrastiveObjective":
        """Return the contrastive objective; the pairs of the first epoch are drawn now."""
        return ContrastiveObjective(self, has_text, config, _with_text(self.train(rng), has_text))


@dataclass(frozen=True)
class ContrastiveObjective:
    """Items of a pair are to lie closer than other items; see `training.encoder_loss`."""

    source: PairSource
    has_text: Bool
    config: EncoderConfig
    first: EncoderPairs

    @property
    def n_examples(self) -> int:
        return len(self.first)

    def begin(self, embed: Embed, device: torch.device) -> list[nn.Parameter]:
        """Return nothing: the loss has no parameters."""
        return []

    def batches(self, epoch: int, n_batches: int, rng: np.random.Generator) -> Iterator[ContrastiveBatch]:
        """Yield batches of pairs that are newly drawn for every epoch."""
        drawn = self.first if epoch == 0 else _with_text(self.source.train(rng), self.has_text)
        known = known_pairs(drawn)
        for rows in np.array_split(rng.permutation(len(drawn)), n_batches):
            yield make_batch(drawn, rows, known, self.config.popularity_correction)

    def held_out(self, rng: np.random.Generator) -> list[ContrastiveBatch]:
        """Return batches of at most 1,000 held-out pairs."""
        if self.source.valid is None:
            return []
        valid = _with_text(self.source.valid, self.has_text)
        if not len(valid):
            return []
        rows = rng.permutation(len(valid))[:_MAX_VALID_PAIRS]
        known = known_pairs(valid)
        return [
            make_batch(valid, part, known, self.config.popularity_correction)
            for part in np.array_split(rows, -(-len(rows) // self.config.batch_size))
        ]

    def loss(self, embeddings: Tensor, batch: ContrastiveBatch) -> Tensor:
        """Return the contrastive loss of a batch."""
        return contrastive_loss(embeddings, batch, self.config.temperature)


def _with_text(pairs: EncoderPairs, has_text: Bool) -> EncoderPairs:
    """Return the pairs of which both items have text; hard negatives without text become none."""
    kept = pairs.select(has_text[pairs.anchor] & has_text[pairs.positive])
    hard = np.where((kept.hard_negative != NO_ITEM) & has_text[kept.hard_negative], kept.hard_negative, NO_ITEM)
    return replace(kept, hard_negative=hard.astype(np.int32))
