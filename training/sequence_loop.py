"""The epochs of the sequence model's training: steps, learning rate, held-out loss and when to stop."""

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from recsys.config import SequenceConfig
from recsys.errors import ConfigError
from recsys.histories import InteractionLog
from training.sequence_batches import Batch, SequenceData, batches
from training.sequence_loss import Columns, chunks, masked_logits, softmax_loss
from training.sequence_module import SequenceNetwork

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int, int, float], None]

_MAX_GRADIENT_NORM: Final = 1.0
# Peak learning rate of an update of a fitted model, as a share of that of a training.
_REFIT_RATE: Final = 0.3
_CUTOFF: Final = 10
_HELD_OUT_SHARE: Final = 0.5
_MAX_HELD_OUT: Final = 2_000
# Share of the time before which the pace is not judged: too few steps were made, and any hitch would count too much.
_JUDGED_AFTER: Final = 0.02
# A small log is divided into about so many batches an epoch, each of so many places at least.
_MIN_BATCHES: Final = 50
_MIN_TOKENS: Final = 128


class Pace:
    """How far a training is, and whether its time will do.

    time_was_short: whether the clock has had a say in what was learned; else a seed gives the same weights at any pace.
    """

    def __init__(self, max_seconds: float) -> None:
        self._started, self._max_seconds = time.monotonic(), max_seconds
        self._after_first: tuple[float, float] | None = None
        self.time_was_short = False

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def is_time_up(self) -> bool:
        return self.seconds >= self._max_seconds

    def done(self, step_share: float) -> float:
        """Return how far a training is before the step at `step_share` of all steps, from 0 on.

        That is `step_share`, or the share of the time that has passed where that is more and, at the pace of the steps
        since the first, not all of them will be made in time.
        """
        time_share = self.seconds / self._max_seconds
        if self._after_first is None and step_share > 0.0:
            self._after_first = (step_share, time_share)
        if self._after_first is None or time_share < max(_JUDGED_AFTER, step_share):
            return step_share
        steps, passed = step_share - self._after_first[0], time_share - self._after_first[1]
        if not steps or time_share + (1.0 - step_share) * passed / steps <= 1.0:
            return step_share
        self.time_was_short = True
        return time_share


class Loop:
    """Trains a network in place; `curve` gets a point per epoch, `pace` says whether the time did.

    The last interactions of some users are held out to tell when to stop. A refit, the update of a fitted network,
    holds nothing out: few epochs at a lower rate, without a warm-up.
    """

    def __init__(
        self,
        network: SequenceNetwork,
        log: InteractionLog,
        config: SequenceConfig,
        device: torch.device,
        rng: np.random.Generator,
        *,
        is_refit: bool,
    ) -> None:
        self._network, self._config, self._device, self._rng = network, config, device, rng
        self._data = SequenceData(log)
        self._softmax = SoftmaxItems(log, config, device)
        self._optimiser = _adamw(network, config)
        self._n_epochs = config.refit_epochs if is_refit else config.epochs
        self._peak_rate = config.learning_rate * (_REFIT_RATE if is_refit else 1.0)
        self._warmup_share = 0.0 if is_refit else config.warmup_share
        self._held_out = np.empty(0, np.int64) if is_refit else _held_out(self._data, rng)
        self._is_held_out = np.zeros(len(log), np.bool_)
        self._is_held_out[self._held_out] = True
        self._is_target = self._data.is_target & ~self._is_held_out
        tokens = max(_MIN_TOKENS, int(self._is_target.sum()) // _MIN_BATCHES)
        self._batch_tokens = min(config.batch_tokens, tokens)
        self._best: dict[str, Tensor] = {}
        self._best_loss, self._n_stale = float("inf"), 0
        self.pace = Pace(config.max_train_seconds)
        self.curve: list[dict[str, float]] = []

    def run(self, report: Progress) -> str:
        """Train; leave the best state in the network, and return why it ended."""
        if not self._is_target.any() or not self._n_epochs:
            return "not trained"
        stopped_because = "epochs"
        for epoch in range(self._n_epochs):
            train_loss, is_whole = self._run_epoch(epoch, report)
            if not np.isfinite(train_loss):
                raise ConfigError(
                    f"the sequence model's training diverged in epoch {epoch + 1}; lower sequence.learning_rate "
                    f"(now {self._config.learning_rate})"
                )
            self._note(epoch, train_loss)
            if not is_whole or (self.pace.is_time_up and epoch + 1 < self._n_epochs):
                stopped_because, self.pace.time_was_short = "time", True
                break
            if self._n_stale >= self._config.patience:
                stopped_because = "patience"
                break
        if self._best:
            self._network.load_state_dict(self._best)
        return stopped_because

    def _run_epoch(self, epoch: int, report: Progress) -> tuple[float, bool]:
        """Return the mean loss of one pass, and whether it was a whole one: it ends where the time does."""
        windows = self._data.windows(self._config.max_length, self._config.overlap, self._rng)
        parts = list(batches(windows, self._batch_tokens, self._rng))
        losses: list[float] = []
        for place, part in enumerate(parts):
            if losses and self.pace.is_time_up:
                return float(np.mean(losses)), False
            done = self.pace.done((epoch + place / len(parts)) / self._n_epochs)
            for group in self._optimiser.param_groups:
                group["lr"] = self._peak_rate * _rate(done, self._warmup_share)
            batch = self._data.batch(part, self._is_target)
            if len(batch):
                losses.append(self._step(batch))
                report(epoch * len(parts) + place + 1, len(parts) * self._n_epochs, losses[-1])
        return float(np.mean(losses)), True

    def _step(self, batch: Batch) -> float:
        """Make one update; return the loss before it."""
        self._network.train()
        items = self._network.items
        keep = torch.rand(len(items.residual), 1, device=self._device) >= self._config.item_dropout
        vectors = items(keep.float())
        hidden = self._hidden(vectors, batch)
        rows, columns = self._softmax.columns(batch, self._rng)
        loss = softmax_loss(hidden, vectors.index_select(0, rows), items.bias[rows], columns)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), _MAX_GRADIENT_NORM)
        self._optimiser.step()
        return loss.item()

    def _hidden(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the user vectors that tell a batch's targets, `(n, d)`."""
        item_idx, gap, index, place = (
            torch.from_numpy(array).to(self._device)
            for array in (batch.item_idx, batch.gap_bucket, batch.index_bucket, batch.place)
        )
        states = self._network.trunk(functional.embedding(item_idx, vectors), gap, index)  # (b, length, d)
        return states.reshape(-1, states.shape[-1]).index_select(0, place)

    def _note(self, epoch: int, train_loss: float) -> None:
        """Add a point to the curve, and keep the state if none before was better."""
        point = {"epoch": float(epoch + 1), "train_loss": train_loss}
        if len(self._held_out):
            loss, gain = self._judge()
            point |= {"valid_loss": loss, f"valid_ndcg@{_CUTOFF}": gain}
            self._n_stale += 1
            if loss < self._best_loss:
                self._best_loss, self._n_stale = loss, 0
                self._best = {name: value.detach().clone() for name, value in self._network.state_dict().items()}
        self.curve.append(point | {"seconds": self.pace.seconds})

    @torch.no_grad()
    def _judge(self) -> tuple[float, float]:
        """Return loss and NDCG@10 of what is held out, among all items that the user did not have."""
        self._network.eval()
        vectors, bias = self._network.items(), self._network.items.bias
        losses, gains = [], []
        windows = self._data.windows_before(self._held_out, self._config.max_length)
        for part in batches(windows, self._config.batch_tokens, np.random.default_rng(0)):
            batch = self._data.batch(part, self._is_held_out)
            hidden = self._hidden(vectors, batch)
            rows, columns = self._softmax.all_columns(batch)
            with_one = torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)
            with_bias = torch.cat([vectors[rows], bias[rows, None]], dim=1)
            for start, stop in chunks(len(batch), len(rows), self._device):
                logits = masked_logits(with_one, with_bias, columns, start, stop)
                of_target = logits.gather(1, columns.target[start:stop, None])
                losses.append(torch.logsumexp(logits, 1) - of_target[:, 0])
                rank = (logits >= of_target).sum(1)
                gains.append(torch.where(rank <= _CUTOFF, 1 / torch.log2(1.0 + rank), 0.0))
        return float(torch.cat(losses).mean()), float(torch.cat(gains).mean())


class SoftmaxItems:
    """Which items the softmax of a step runs over: all with behaviour, or a sample where there are too many."""

    def __init__(self, log: InteractionLog, config: SequenceConfig, device: torch.device) -> None:
        counts = log.item_counts()
        self._items = np.flatnonzero(counts)
        self._share = counts / max(1, counts.sum())
        self._n_negatives = config.n_negatives if len(self._items) > config.max_softmax_items else None
        self._device = device

    def columns(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, Columns]:
        """Return the items of a training step's softmax, int64 `(c,)`, and the columns of the batch among them.

        A sample is the batch's targets and uniformly drawn items; each is divided by its chance to be in it.
        """
        if self._n_negatives is None or self._n_negatives >= len(self._items):
            return self.all_columns(batch)
        drawn = rng.choice(self._items, self._n_negatives, replace=False)
        items = np.union1d(batch.target, drawn)
        missed_by_targets = np.exp(len(batch) * np.log1p(-np.minimum(self._share[items], 1 - 1e-6)))
        chance = 1.0 - missed_by_targets * (1.0 - self._n_negatives / len(self._items))
        return self._columns(batch, items, -np.log(chance))

    def all_columns(self, batch: Batch) -> tuple[Tensor, Columns]:
        """Return all items with behaviour, and the columns of the batch among them."""
        return self._columns(batch, self._items, None)

    def _columns(
        self, batch: Batch, items: Int64, correction: npt.NDArray[np.float64] | None
    ) -> tuple[Tensor, Columns]:
        column_of = np.full(len(self._share), -1, np.int64)
        column_of[items] = np.arange(len(items))
        masked, masked_from, masked_to = _masked_columns(batch, column_of)
        target, masked_t, from_t, to_t, items_t = (
            torch.from_numpy(array).to(self._device)
            for array in (column_of[batch.target], masked, masked_from, masked_to, items)
        )
        added = None if correction is None else torch.from_numpy(correction).float().to(self._device)
        return items_t, Columns(target, masked_t, from_t, to_t, added)


def _masked_columns(batch: Batch, column_of: Int64) -> tuple[Int64, Int64, Int64]:
    """Return the columns that users of a batch had, and where those of each target begin and end, as in `Columns`.

    column_of: int64 `(n_items,)`, -1 for what is no column.
    """
    begin, user = np.unique(batch.had_from, return_inverse=True)  # one stretch of `had` per user
    end = np.zeros_like(begin)
    np.maximum.at(end, user, batch.had_to)
    shift = np.cumsum(end - begin) - (end - begin) - begin  # from a place of `had` to one of the users' stretches
    masked = column_of[batch.had[np.arange((end - begin).sum()) - np.repeat(shift, end - begin)]]
    kept = masked >= 0
    n_kept = np.concatenate([[0], np.cumsum(kept)])
    return masked[kept], n_kept[batch.had_from + shift[user]], n_kept[batch.had_to + shift[user]]


def _rate(done: float, warmup_share: float) -> float:
    """Return the learning rate as a share of its peak: up linearly, then down to nothing along a cosine."""
    if done < warmup_share:
        return max(done, 1e-3) / warmup_share
    left = min(1.0, (done - warmup_share) / max(1e-9, 1.0 - warmup_share))
    return float(0.5 * (1.0 + np.cos(np.pi * left)))


def _held_out(data: SequenceData, rng: np.random.Generator) -> Int64:
    """Return the log rows that are held out: the last ones of half the users, 2,000 at most."""
    rows = data.last_targets()
    return np.sort(rng.permutation(rows)[: min(_MAX_HELD_OUT, round(_HELD_OUT_SHARE * len(rows)))])


def _adamw(network: SequenceNetwork, config: SequenceConfig) -> torch.optim.AdamW:
    parameters = list(network.named_parameters())
    decays = [value for name, value in parameters if value.ndim >= 2]
    others = [value for name, value in parameters if value.ndim < 2]
    return torch.optim.AdamW(
        [{"params": decays, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
