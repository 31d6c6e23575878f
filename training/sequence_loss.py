"""The softmax over the items, computed a cache-sized chunk at a time."""

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

# Logits of one chunk, in numbers: 2 MB, so that all passes over them stay in a processor's own cache.
_CHUNK_LOGITS: Final = 500_000
_CHUNK_LOGITS_GPU: Final = 200_000_000


@dataclass(frozen=True)
class Columns:
    """What the softmax runs over, and what each row leaves out of it.

    target: int64 `(n,)`, column of each row's target. masked: int64, columns, and masked_from, masked_to: int64
    `(n,)`, the part of them that each row leaves out, never its target; parts may overlap. correction: float32 `(c,)`
    added to all logits but the target's, for sampled columns; None for all items.
    """

    target: Tensor
    masked: Tensor
    masked_from: Tensor
    masked_to: Tensor
    correction: Tensor | None = None


def softmax_loss(hidden: Tensor, vectors: Tensor, bias: Tensor, columns: Columns) -> Tensor:
    """Return the mean cross-entropy of the targets, a scalar.

    hidden: float32 `(n, d)`. vectors: float32 `(c, d)` and bias: float32 `(c,)` of the columns.
    """
    loss: Tensor = _SoftmaxLoss.apply(hidden, vectors, bias, columns)
    return loss


class _SoftmaxLoss(torch.autograd.Function):
    """Takes the gradients along with the loss: the logits exist once, a chunk at a time, and are never kept.

    The gradient of a logit is its probability, less 1 for the target. The division by the normaliser and the 1 are
    taken out of the large array: they act on what it is multiplied with.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, vectors: Tensor, bias: Tensor, columns: Columns) -> Tensor:
        n = len(hidden)
        ones = torch.ones_like(hidden[:, :1])
        with_one = torch.cat([hidden, ones], dim=1)  # (n, d + 1)
        with_bias = torch.cat([vectors, bias[:, None], torch.ones_like(bias[:, None])], dim=1)  # (c, d + 2)
        # What a target's own gradient of -1 amounts to.
        grad_hidden = -vectors[columns.target]
        grad_columns = torch.zeros_like(with_bias[:, :-1]).index_add_(0, columns.target, -with_one)
        total = hidden.new_zeros(())
        for start, stop in chunks(n, len(vectors), hidden.device):
            logits = masked_logits(with_one, with_bias[:, :-1], columns, start, stop)
            of_target = logits.gather(1, columns.target[start:stop, None])
            highest = logits.amax(dim=1, keepdim=True)
            odds = logits.sub_(highest).exp_()
            sums = odds @ with_bias  # (rows, d + 2): the last column is the normaliser
            normaliser = sums[:, -1:]
            total += (normaliser.log() + highest - of_target).sum()
            grad_hidden[start:stop] += sums[:, :-2] / normaliser
            grad_columns.addmm_(odds.t(), with_one[start:stop] / normaliser)
        ctx.save_for_backward(grad_hidden.div_(n), grad_columns.div_(n))
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad_hidden, grad_columns = ctx.saved_tensors
        scaled = grad_columns * grads[0]
        return grad_hidden * grads[0], scaled[:, :-1], scaled[:, -1], None


def chunks(n: int, n_columns: int, device: torch.device) -> list[tuple[int, int]]:
    """Return where chunks of rows begin and end."""
    room = _CHUNK_LOGITS if device.type == "cpu" else _CHUNK_LOGITS_GPU
    size = max(16, room // max(1, n_columns))
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def masked_logits(hidden: Tensor, vectors: Tensor, columns: Columns, start: int, stop: int) -> Tensor:
    """Return the logits of some rows, float32 `(stop - start, c)`, minus infinity where a column is left out."""
    logits = hidden[start:stop] @ vectors.t()
    if columns.correction is not None:
        target = columns.target[start:stop, None]
        of_target = logits.gather(1, target)
        logits.add_(columns.correction).scatter_(1, target, of_target)
    logits.view(-1).index_fill_(0, _left_out(columns, start, stop, len(vectors)), float("-inf"))
    return logits


def _left_out(columns: Columns, start: int, stop: int, n_columns: int) -> Tensor:
    """Return what some rows leave out, int64 places in the flattened `(stop - start, n_columns)`."""
    begin = columns.masked_from[start:stop]
    n_masked = columns.masked_to[start:stop] - begin
    row = torch.repeat_interleave(torch.arange(stop - start, device=begin.device), n_masked)
    offset = begin - (n_masked.cumsum(0) - n_masked)
    place = torch.arange(len(row), device=begin.device) + offset[row]
    return row * n_columns + columns.masked[place]
