"""RecTools' SASRec and BERT4Rec with a softmax over all items, stopped by NDCG@10 of held-out last interactions.

Every setting is trained for a few epochs; the best one goes on from there until it has not improved for a while, and
the weights of its best epoch are kept. All along, every other user holds its last known interaction out: the model that
is measured has learnt from nearly everything that a system may see, and reads all of it in the histories.
"""

import copy
import logging
import math
import time
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytorch_lightning as pl
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel
from rectools.models.nn.transformers.base import TransformerModelBase
from rectools.models.nn.transformers.lightning import TransformerLightningModule

from benchmarks.peers.exchange import Float32, PeerTask, Requests
from benchmarks.peers.rectools_tables import interactions_table, scores_from_histories
from benchmarks.peers.search import Outcome, Run, Scorer, Settings, attempt, best_place, say
from training import sequence_loss

_CUTOFF: Final = 10
_HOLDS_OUT_EVERY: Final = 2


class SoftmaxWhereWanted(TransformerLightningModule):
    """RecTools' softmax loss, worked out at the places that have a target only, a cache-sized chunk at a time.

    The value and the gradients are those of RecTools' own loss, which also works out the scores of padding and of
    places that are not masked, and then leaves them out: several times the work on a processor.
    """

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the mean cross-entropy over the places with a target."""
        item_embeddings = self.torch_model.item_model.get_all_embeddings()
        sessions = self.torch_model.encode_sessions(batch, item_embeddings)  # (batch, length, d)
        wanted = batch["y"] != 0
        target = batch["y"][wanted]
        nothing = torch.zeros_like(target)  # no row leaves an item out
        columns = sequence_loss.Columns(target, nothing[:0], nothing, nothing)
        bias = item_embeddings.new_zeros(len(item_embeddings))
        loss = sequence_loss.softmax_loss(sessions[wanted], item_embeddings, bias, columns)
        self.log(self.train_loss_name, loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        """Return the loss and the scores `(batch, n_items + extra tokens)` behind the last place, all that is asked."""
        item_embeddings = self.torch_model.item_model.get_all_embeddings()
        last = self.torch_model.encode_sessions(batch, item_embeddings)[:, -1]
        scores = self.torch_model.similarity_module(last[None], item_embeddings, None)[0]
        loss = torch.nn.functional.cross_entropy(scores, batch["y"][:, 0])
        self.log(self.val_loss_name, loss, on_step=False, on_epoch=True)
        return {"loss": loss, "logits": scores}


class StopByNdcg(pl.Callback):
    """Keeps the weights of the epoch with the best NDCG@10 on held-out last interactions, and stops after it."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.best = -1.0
        self.best_epoch = 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.curve: list[tuple[float, float]] = []  # NaN once the training has diverged
        self._gains: list[float] = []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add the gain of each held-out item of a batch; ties go against the model, the history is left out."""
        scores = outputs["logits"].clone()  # (batch, n_items + extra tokens)
        target = batch["y"]  # (batch, 1)
        wanted = scores.gather(1, target)
        scores.scatter_(1, batch["x"], -math.inf)
        scores[:, : module.data_preparator.n_item_extra_tokens] = -math.inf
        scores.scatter_(1, target, -math.inf)
        rank = 1 + (scores >= wanted).sum(dim=1)
        gains = (1.0 / torch.log2(1.0 + rank)).where(rank <= _CUTOFF, torch.tensor(0.0))
        # No score is above NaN: a model that has diverged would have each wanted item at rank 1.
        self._gains.extend(gains.where(~scores.isnan().any(dim=1), torch.tensor(math.nan)).tolist())

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Keep the weights if they are the best so far; stop the training if they have not been for long."""
        gains, self._gains = self._gains, []
        if trainer.sanity_checking:
            return
        figure, loss = float(np.mean(gains)), float(trainer.callback_metrics["val_loss"])
        self.curve.append((round(figure, 4), round(loss, 4)))
        epoch = len(self.curve)
        say(f"epoch {epoch}: ndcg@{_CUTOFF} {figure:.4f}, loss {loss:.4f}")
        if figure > self.best:
            self.best, self.best_epoch = figure, epoch
            self.best_state = copy.deepcopy(module.state_dict())
        trainer.should_stop = epoch - self.best_epoch >= self.patience


def last_of_some_users(table: pd.DataFrame, every: int) -> npt.NDArray[np.bool_]:
    """Return the last row of each user whose number `every` divides, bool `(n,)`; rows are in order of time."""
    last = ~table.duplicated(Columns.User, keep="last")
    return (last & (table[Columns.User] % every == 0)).to_numpy()


def make_trainer(patience: int) -> pl.Trainer:
    """Return a silent trainer that measures after every epoch; how many there are is said when it is used."""
    return pl.Trainer(
        num_sanity_val_steps=0,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[StopByNdcg(patience)],
    )


def _make(kind: type[TransformerModelBase], settings: Settings, patience: int) -> TransformerModelBase:
    return kind(
        **settings,
        loss="softmax",
        lightning_module_type=SoftmaxWhereWanted,
        get_trainer_func=make_trainer,
        get_trainer_func_kwargs={"patience": patience},
        get_val_mask_func=last_of_some_users,
        get_val_mask_func_kwargs={"every": _HOLDS_OUT_EVERY},
    )


def _watch(model: TransformerModelBase) -> StopByNdcg:
    return next(one for one in model.fit_trainer.callbacks if isinstance(one, StopByNdcg))


def _run(
    task: PeerTask,
    settings: Settings | None = None,
    *,
    kind: type[TransformerModelBase],
    tries: list[Settings],
    search_epochs: int,
    epochs: int,
    patience: int,
) -> Outcome:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    dataset, tried = Dataset.construct(interactions_table(task.train)), []
    models: dict[int, TransformerModelBase] = {}
    tries = tries if settings is None else [settings]

    def train(one: Settings) -> float:
        pl.seed_everything(task.meta.seed)
        model = models[tries.index(one)] = _make(kind, one, patience)
        model.fit_partial(dataset, 1, search_epochs)
        watch = _watch(model)
        return watch.best if watch.best_state else math.nan

    for one in tries:
        say(f"{one}")
        tried.append({"epochs": search_epochs, **attempt(one, "ndcg@10", train)})
    chosen = best_place(tried, "ndcg@10")
    model, begun = models[chosen], time.perf_counter()
    say(f"goes on: {tries[chosen]}")
    model.fit_partial(dataset, 1, epochs - search_epochs)
    watch = _watch(model)
    model.lightning_model.load_state_dict(watch.best_state)
    train_seconds = tried[chosen]["seconds"] + time.perf_counter() - begun
    search_seconds = sum(row["seconds"] for place, row in enumerate(tried) if place != chosen)
    notes = {"best_epoch": watch.best_epoch, "epochs": len(watch.curve), "curve_ndcg_loss": watch.curve}
    return Outcome(_scorer(model, task.meta.n_items), tries[chosen], tried, search_seconds, train_seconds, notes)


def _scorer(model: TransformerModelBase, n_items: int) -> Scorer:
    def score(requests: Requests) -> Float32:
        return scores_from_histories(model, requests, n_items)

    return score


_SHARED: Final[Settings] = {
    "n_factors": 64,
    "n_blocks": 2,
    "n_heads": 1,
    "session_max_len": 100,
    "dropout_rate": 0.2,
    "batch_size": 64,
}
SASREC_TRIES: Final[list[Settings]] = [{**_SHARED, "lr": 0.001}, {**_SHARED, "lr": 0.002}]
BERT4REC_TRIES: Final[list[Settings]] = [
    {**_SHARED, "lr": 0.001, "mask_prob": 0.2},
    {**_SHARED, "lr": 0.001, "mask_prob": 0.4},
]
RUNS: Final[dict[str, Run]] = {
    "rectools-sasrec": partial(_run, kind=SASRecModel, tries=SASREC_TRIES, search_epochs=8, epochs=60, patience=8),
    "rectools-bert4rec": partial(
        _run, kind=BERT4RecModel, tries=BERT4REC_TRIES, search_epochs=8, epochs=60, patience=12
    ),
}
