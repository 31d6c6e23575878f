"""Tunes the text encoder on who chose which item: the text is to tell which people an item is for, and how many.

People stand as the user factors of a matrix factorisation, which a linear head meets with the embedding. So the space
of the embeddings takes up the collaborative space, in which items without behaviour are placed later on, popularity
included: cosines of embeddings cannot say that an item is popular, a linear map of them can.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import CollaborativeConfig, EncoderConfig
from recsys.histories import InteractionLog
from training.collaborative import fit_als
from training.encoder_objectives import Embed

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_HELD_OUT_SHARE: Final = 0.1
_MAX_HELD_OUT: Final = 1_000
_MIN_INTERACTIONS: Final = 5
_MAX_USERS: Final = 4_096  # of one batch
# Sharpness of the softmax. Factorised scores run from about 0 (not chosen) to 1 (chosen).
_SHARPNESS: Final = 5.0
# Ridge penalty per item of the head that training starts from; embeddings have unit norm.
_HEAD_PENALTY: Final = 2e-3


@dataclass(frozen=True)
class ChoiceSource:
    """What was chosen, for the encoder to tell from the text.

    log: what may be known. settings: of the user factors (implicit ALS). seed: of the held-out items and the factors.
    """

    log: InteractionLog
    settings: CollaborativeConfig
    seed: np.random.SeedSequence

    def objective(self, has_text: Bool, config: EncoderConfig, rng: np.random.Generator) -> "ChoiceObjective":
        """Return the objective; fits the factors.

        A tenth of the items is held out, whole: neither factors nor encoder see anything of them, as will be the case
        with the items that texts have to speak for. Items with fewer than 5 interactions or without text teach
        nothing, and are not held out.
        """
        own_rng = np.random.default_rng(self.seed)
        usable = np.flatnonzero((self.log.item_counts() >= _MIN_INTERACTIONS) & has_text)
        held_out = np.sort(own_rng.choice(usable, round(_HELD_OUT_SHARE * len(usable)), replace=False))
        train = np.setdiff1d(usable, held_out)
        choices = self.log.matrix()
        known = self.log.select(~np.isin(self.log.item_idx, held_out))
        if not len(train):
            return ChoiceObjective(choices.tocsc(), _no_factors(self.log), train, held_out, config)
        factors = fit_als(known, self.settings, int(own_rng.integers(2**31)))
        return ChoiceObjective(choices.tocsc(), factors, train, held_out, config)


Factors = tuple[Float32, Float32]  # of users (n_users, f) and of items (n_items, f)


def _no_factors(log: InteractionLog) -> Factors:
    return np.zeros((log.n_users, 0), np.float32), np.zeros((log.n_items, 0), np.float32)


@dataclass(frozen=True)
class ChoiceBatch:
    """Some items and the users that chose one of them at least.

    items: int64 `(u,)`. user_factors: float32 `(n, f)`. chosen: float32 `(n, u)`, 1 where the user chose the item.
    """

    items: Int64
    user_factors: Tensor
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device) -> "ChoiceBatch":
        """Return the batch with its tensors on a device."""
        return ChoiceBatch(self.items, self.user_factors.to(device), self.chosen.to(device))


class ChoiceObjective:
    """For every user, what they chose of a batch's items is to score above the batch's other items."""

    def __init__(
        self, choices: sp.csc_matrix, factors: Factors, train: Int64, held_out: Int64, config: EncoderConfig
    ) -> None:
        self._choices = choices  # (n_users, n_items)
        self._user_factors, self._item_factors = factors
        self._train, self._held_out = train, held_out
        self._max_items = config.max_pairs
        self.head = nn.Linear(1, 1)  # until `begin`

    @property
    def n_examples(self) -> int:
        return min(len(self._train), self._max_items)

    def begin(self, embed: Embed, device: torch.device) -> list[nn.Parameter]:
        """Return the weights of the head, at first a ridge regression from the embeddings onto the item factors.

        An item weighs by the logarithm of its interactions, as it does where embeddings are mapped for serving.
        """
        items = self._train[: self._max_items]
        with torch.no_grad():
            embeddings = embed(items).double().cpu()  # (n, d)
        counts = np.diff(self._choices.indptr)[items]
        weight = torch.from_numpy(np.log1p(counts))
        factors = torch.from_numpy(self._item_factors[items]).double()  # (n, f)
        self.head = _ridge_head(embeddings, factors, weight / weight.mean()).to(device)
        return list(self.head.parameters())

    def batches(self, epoch: int, n_batches: int, rng: np.random.Generator) -> Iterator[ChoiceBatch]:
        """Yield batches of items, each item once; where there are too many for an epoch, some of them."""
        for items in np.array_split(rng.permutation(self._train)[: self._max_items], n_batches):
            yield self._batch(items, rng)

    def held_out(self, rng: np.random.Generator) -> list[ChoiceBatch]:
        """Return one batch of at most 1,000 held-out items, or none."""
        items = rng.permutation(self._held_out)[:_MAX_HELD_OUT]
        return [self._batch(items, rng)] if len(items) else []

    def _batch(self, items: Int64, rng: np.random.Generator) -> ChoiceBatch:
        columns = self._choices[:, items]
        users = np.unique(columns.indices)
        if len(users) > _MAX_USERS:
            users = np.sort(rng.choice(users, _MAX_USERS, replace=False))
        chosen = (columns.tocsr()[users].toarray() > 0).astype(np.float32)
        return ChoiceBatch(items, torch.from_numpy(self._user_factors[users]), torch.from_numpy(chosen))

    def loss(self, embeddings: Tensor, batch: ChoiceBatch) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        The multinomial log-likelihood of Liang et al. (2018, eq. 2) with logits that are linear in the item's text:

            z_ui = sharpness * p_u . (W e_i + b)        l = - sum_ui x_ui log softmax_i(z_u) / sum_ui x_ui

        p_u is the user's factor, e_i the item's embedding, x_ui whether u chose i. Deviations: user factors are those
        of a matrix factorisation and stay as they are, the softmax runs over a batch's items, and the mean is taken
        over choices. It is no contrast that would have to be corrected for popularity: that one item is chosen more
        often than another is part of what is to be told.
        """
        scores = batch.user_factors @ self.head(embeddings.float()).T  # (n, u)
        log_share = functional.log_softmax(_SHARPNESS * scores, dim=1)
        return -(batch.chosen * log_share).sum() / batch.chosen.sum().clamp(min=1.0)


def _ridge_head(embeddings: Tensor, factors: Tensor, weight: Tensor) -> nn.Linear:
    """Return the weighted ridge regression of factors `(n, f)` on embeddings `(n, d)` as a layer."""
    total = weight.sum()
    mean, factor_mean = weight @ embeddings / total, weight @ factors / total
    x, y = embeddings - mean, factors - factor_mean
    gram = x.T @ (x * weight[:, None]) + _HEAD_PENALTY * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, x.T @ (y * weight[:, None]))  # (d, f)
    head = nn.Linear(x.shape[1], y.shape[1])
    with torch.no_grad():
        head.weight.copy_(weights.T)
        head.bias.copy_(factor_mean - mean @ weights)
    return head
