"""The contrastive loss that tunes the text encoder, and which of a batch's items may not serve as negatives."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.pairs import NO_ITEM, EncoderPairs

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ContrastiveBatch:
    """One step's items and what the loss has to know of them.

    items: int64 `(u,)`, the different items of the batch, each to be encoded once. anchor: int64 `(b,)` rows of
    `items`. columns: int64 `(b + h,)` rows of `items`; first each anchor's positive, then the hard negatives.
    correction: float32 `(b + h,)`, subtracted from the columns' logits; anchor_correction: float32 `(b,)`.
    masked: bool `(b, b + h)`, columns that are no negative of a row.
    """

    items: Int64
    anchor: Tensor
    columns: Tensor
    correction: Tensor
    anchor_correction: Tensor
    masked: Tensor

    def __len__(self) -> int:
        return len(self.anchor)

    def to(self, device: torch.device) -> "ContrastiveBatch":
        """Return the batch with its tensors on a device."""
        return ContrastiveBatch(
            self.items,
            self.anchor.to(device),
            self.columns.to(device),
            self.correction.to(device),
            self.anchor_correction.to(device),
            self.masked.to(device),
        )


def known_pairs(pairs: EncoderPairs) -> Int64:
    """Return the sorted keys of all pairs, both ways round, for `make_batch` to look up."""
    n_items = len(pairs.log_frequency)
    anchor, positive = pairs.anchor.astype(np.int64), pairs.positive.astype(np.int64)
    return np.unique(np.concatenate([anchor * n_items + positive, positive * n_items + anchor]))


def make_batch(pairs: EncoderPairs, rows: Int64, known: Int64, strength: float) -> ContrastiveBatch:
    """Return the batch of some pairs.

    A column is masked for a row when it is the row's own anchor or positive once more, or is known to go with the
    anchor: such a column is a false negative.

    Args:
        pairs: where the batch is taken from.
        rows: int64 `(b,)`, which of the pairs.
        known: from `known_pairs`.
        strength: factor of the log-frequency correction.
    """
    anchor = pairs.anchor[rows]  # (b,)
    hard = pairs.hard_negative[rows]
    columns = np.concatenate([pairs.positive[rows], hard[hard != NO_ITEM]])  # (b + h,)
    keys = anchor[:, None].astype(np.int64) * len(pairs.log_frequency) + columns[None, :]  # (b, b + h)
    found = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
    masked: Bool = (columns[None, :] == anchor[:, None]) | (columns[None, :] == pairs.positive[rows][:, None])
    if len(known):
        masked |= known[found] == keys
    masked[np.arange(len(rows)), np.arange(len(rows))] = False  # the positive itself
    items, inverse = np.unique(np.concatenate([anchor, columns]).astype(np.int64), return_inverse=True)
    return ContrastiveBatch(
        items,
        torch.from_numpy(inverse[: len(rows)]),
        torch.from_numpy(inverse[len(rows) :]),
        torch.from_numpy(strength * pairs.log_frequency[columns]).float(),
        torch.from_numpy(strength * pairs.anchor_log_frequency[anchor]).float(),
        torch.from_numpy(masked),
    )


def contrastive_loss(embeddings: Tensor, batch: ContrastiveBatch, temperature: float) -> Tensor:
    """Return the mean loss of a batch, a scalar.

    InfoNCE (Oord et al. 2018, eq. 4) over the batch's own items, in both directions:

        s_ij = cos(a_i, c_j) / temperature
        l_i  = -log( exp(s_ii - log q_i) / sum_j exp(s_ij - log q_j) )     j over the columns not masked for i

    and the same with anchors and positives changed over; the result is the mean of both. `q_j` is how often item j is
    among the columns, since an item in proportion to whose popularity negatives are drawn would else be pushed away
    for being popular (Yi et al. 2019, eq. 5). Hard negatives are columns of every row; `q` counts them with the
    positives, as in mixed negative sampling (Yang et al. 2020). Deviations: masked columns, `strength * log q` in the
    place of `log q`, frequencies counted over the pairs of an epoch rather than streamed.

    Args:
        embeddings: `(u, d)`, unit-norm, row i encodes `batch.items[i]`.
        batch: from `make_batch`, on the same device.
        temperature: divides the cosines.
    """
    b = len(batch)
    embeddings = embeddings.float()
    # By index_select, as items repeat: the gradient of indexing adds theirs up in whatever order threads come.
    anchors = embeddings.index_select(0, batch.anchor)  # (b, d)
    columns = embeddings.index_select(0, batch.columns)  # (b + h, d)
    similarity = anchors @ columns.T / temperature  # (b, b + h)
    forward = (similarity - batch.correction).masked_fill(batch.masked, -torch.inf)  # (b, b + h)
    backward = (similarity[:, :b].T - batch.anchor_correction).masked_fill(batch.masked[:, :b].T, -torch.inf)  # (b, b)
    target = torch.arange(b, device=embeddings.device)
    return (functional.cross_entropy(forward, target) + functional.cross_entropy(backward, target)) / 2
