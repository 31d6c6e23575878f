"""The network of the sequence model: item vectors from text and a residual, and a causal transformer over a history."""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import SequenceConfig
from recsys.models.sequence import N_GAP_BUCKETS, N_INDEX_BUCKETS
from training.sequence_batches import rounded_up

_N_EXACT_DISTANCES: Final = 16
_N_DISTANCE_BUCKETS: Final = 32
_INITIAL_STD: Final = 0.1
_N_BYTES: Final = 256


class Dropout(nn.Module):
    """Dropout in steps of 1/256: it draws a byte per number, many times faster on a processor than PyTorch's own."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._n_dropped = round(share * _N_BYTES)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the numbers with a share of them set to zero and the rest scaled up; as they are outside training."""
        if not self.training or not self._n_dropped:
            return hidden
        n = hidden.numel()
        words = torch.empty(-(-n // 8), dtype=torch.int64, device=hidden.device).random_(-(2**63), None)
        kept = words.view(torch.uint8)[:n].view(hidden.shape) >= self._n_dropped
        return hidden * kept.to(hidden.dtype).mul_(_N_BYTES / max(1, _N_BYTES - self._n_dropped))


class ItemTable(nn.Module):
    """Vectors of all items, float32 `(n_items, d)`: a linear map of the text embedding plus a residual.

    An item without text (a zero embedding) has its residual alone; an item without behaviour its text alone, since
    nothing ever moves its residual away from zero.
    """

    text: Tensor
    has_text: Tensor

    def __init__(self, text: Tensor, has_text: Tensor, embedding_size: int) -> None:
        super().__init__()
        n_items, width = text.shape
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("has_text", has_text[:, None].to(text.dtype), persistent=False)
        self.projection = nn.Linear(width, embedding_size)
        nn.init.normal_(self.projection.weight, std=_INITIAL_STD)
        nn.init.zeros_(self.projection.bias)
        self.residual = nn.Parameter(torch.zeros(n_items, embedding_size))
        self.bias = nn.Parameter(torch.zeros(n_items))

    def forward(self, keep: Tensor | None = None) -> Tensor:
        """Return the vectors; `keep`, float `(n_items, 1)`, multiplies the residuals."""
        residual = self.residual if keep is None else self.residual * keep
        return self.projection(self.text) * self.has_text + residual


class Block(nn.Module):
    """A pre-norm transformer block: causal attention with a learned bias per distance, then a feed-forward layer."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.n_heads = config.n_heads
        self.norm_attention = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.distance_bias = nn.Parameter(torch.zeros(_N_DISTANCE_BUCKETS, config.n_heads))
        self.norm_feedforward = nn.LayerNorm(size)
        inner = config.feedforward * size
        self.feedforward = nn.Sequential(nn.Linear(size, inner), nn.GELU(), nn.Linear(inner, size))
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, distance_bucket: Tensor, future: Tensor) -> Tensor:
        """Return the states `(b, length, d)`; `distance_bucket` and `future` (bool) are `(length, length)`."""
        return self.attend(hidden, self.bias(distance_bucket, future))

    def bias(self, distance_bucket: Tensor, future: Tensor) -> Tensor:
        """Return what is added to the attention, `(heads, length, length)`: by distance, -inf for what lies ahead."""
        bias = functional.embedding(distance_bucket, self.distance_bias).permute(2, 0, 1)
        return bias.masked_fill(future, float("-inf"))

    def attend(self, hidden: Tensor, bias: Tensor, n_asked: int = 0) -> Tensor:
        """Return the states `(b, length, d)`; of the last `n_asked` places alone where that is not 0.

        bias: `(heads, places asked, length)`.
        """
        batch, length, size = hidden.shape
        normed = self.norm_attention(hidden)
        if n_asked:
            hidden = hidden[:, -n_asked:]
            query = functional.linear(normed[:, -n_asked:], self.qkv.weight[:size], self.qkv.bias[:size])
            others = functional.linear(normed, self.qkv.weight[size:], self.qkv.bias[size:])
            key, value = others.view(batch, length, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            query = query.view(batch, n_asked, self.n_heads, -1).transpose(1, 2)
        else:
            qkv = self.qkv(normed).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = qkv.unbind(0)  # (b, heads, length, d / heads)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2) + bias  # (b, heads, places asked, length)
        attention = functional.softmax(scores, dim=-1)
        mixed = (attention @ value).transpose(1, 2).reshape(batch, -1, size)
        hidden = hidden + self.dropout(self.out(mixed))
        return hidden + self.dropout(self.feedforward(self.norm_feedforward(hidden)))


class Trunk(nn.Module):
    """Turns the vectors of a history into what comes next at each of its places."""

    distance_bucket: Tensor

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.norm_input = nn.LayerNorm(size)
        self.gap = nn.Embedding(N_GAP_BUCKETS, size)
        self.index = nn.Embedding(N_INDEX_BUCKETS, size)
        nn.init.normal_(self.gap.weight, std=_INITIAL_STD)
        nn.init.normal_(self.index.weight, std=_INITIAL_STD)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm_output = nn.LayerNorm(size)
        self.register_buffer("distance_bucket", _distance_buckets(rounded_up(config.max_length)), persistent=False)

    def forward(self, vectors: Tensor, gap_bucket: Tensor, index_bucket: Tensor) -> Tensor:
        """Return user vectors `(b, length, d)`, each from the places up to its own.

        vectors: `(b, length, d)` of the items. gap_bucket, index_bucket: int64 `(b, length)`. Padding stands at the
        end, where no place before it looks.
        """
        hidden = self.dropout(self.enter(vectors, gap_bucket, index_bucket))
        length = hidden.shape[1]
        buckets = self.distance_bucket[:length, :length]
        for block in self.blocks:
            hidden = block(hidden, buckets.clamp(min=0), buckets < 0)
        normed: Tensor = self.norm_output(hidden)
        return normed

    def enter(self, vectors: Tensor, gap_bucket: Tensor, index_bucket: Tensor) -> Tensor:
        """Return what the first block reads, `(b, length, d)`."""
        entered: Tensor = self.norm_input(vectors) + self.gap(gap_bucket) + self.index(index_bucket)
        return entered


class LastPlace(nn.Module):
    """The trunk as it is served: one history in, one user vector `(d,)` out, equal to the trunk's at the last place.

    Nothing reads the other places of the last block, so they are not computed; what attention adds by distance is laid
    out once.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        buckets = trunk.distance_bucket
        for number, block in enumerate(self._blocks):
            with torch.no_grad():
                bias = block.bias(buckets.clamp(min=0), buckets < 0)
            self.register_buffer(f"bias_{number}", bias.contiguous(), persistent=False)

    @property
    def _blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.trunk.blocks)

    def forward(self, vectors: Tensor, gap_bucket: Tensor, index_bucket: Tensor) -> Tensor:
        """vectors: `(1, length, d)` of the items. gap_bucket, index_bucket: int64 `(1, length)`."""
        hidden = self.trunk.enter(vectors, gap_bucket, index_bucket)
        length, last = hidden.shape[1], len(self.trunk.blocks) - 1
        for number, block in enumerate(self._blocks):
            bias = self.get_buffer(f"bias_{number}")[:, :length, :length]
            hidden = block.attend(hidden, bias[:, -1:], 1) if number == last else block.attend(hidden, bias)
        state: Tensor = self.trunk.norm_output(hidden)[0, 0]
        return state


class SequenceNetwork(nn.Module):
    """Item table and trunk."""

    def __init__(self, text: Tensor, has_text: Tensor, config: SequenceConfig) -> None:
        super().__init__()
        self.items = ItemTable(text, has_text, config.embedding_size)
        self.trunk = Trunk(config)


def _distance_buckets(max_length: int) -> Tensor:
    """Return the bucket of how far a place looks back, int64 `(max_length, max_length)`; -1 where it lies ahead."""
    places = torch.arange(max_length)
    distance = places[:, None] - places[None, :]
    far = torch.log(distance.clamp(min=1) / _N_EXACT_DISTANCES) / torch.log(torch.tensor(2.0)) * 4
    buckets = torch.where(distance < _N_EXACT_DISTANCES, distance, _N_EXACT_DISTANCES + far.long())
    return torch.where(distance < 0, -1, buckets.clamp(max=_N_DISTANCE_BUCKETS - 1))
