"""An encoder learnt from nothing but the catalogue's own text, for languages and machines without a pretrained one.

A vocabulary is learnt from the text (characters that stand together often, so that no spaces are needed), each token
starts from latent semantic analysis of the catalogue, and titles are then drawn towards their own descriptions.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import tokenise
from training.encoder_module import LoadedEncoder
from training.pairs import NO_ITEM, EncoderPairs

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

PAD_ID: Final = 0
UNKNOWN_ID: Final = 1
_SPECIAL: Final = ["[PAD]", "[UNK]"]
_MAX_TOKEN_LENGTH: Final = 16
_MAX_TEXTS: Final = 100_000
_MAX_CHARACTERS: Final = 2_000  # of one text, when the vocabulary is learnt

_POWER_ITERATIONS: Final = 4
_OVERSAMPLING: Final = 10
# Root mean square of the starting embeddings. Pooled embeddings are normalised, so their size means nothing but how
# far a step of AdamW moves them; this one lets learning rates made for transformers move them as well.
_EMBEDDING_RMS: Final = 0.03
_PRETRAIN_RATE: Final = 3e-3
_PRETRAIN_TEMPERATURE: Final = 0.1
_PRETRAIN_BATCH: Final = 512


class TokenBag(nn.Module):
    """The mean of the token embeddings, brought to unit norm. Unknown tokens and padding embed to zero.

    Dropout leaves out whole tokens.
    """

    def __init__(self, embeddings: Float32, dropout: float = 0.0) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.from_numpy(embeddings))
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return `(b, d)` unit-norm embeddings of int64 token ids `(b, length)` and their mask."""
        known = attention_mask * (input_ids != UNKNOWN_ID)  # (b, length)
        weights = self.dropout(known.to(self.embeddings.dtype))
        if self.training:  # the same sum without the (b, length, d) in between; ONNX has no such operator
            pooled = functional.embedding_bag(input_ids, self.embeddings, mode="sum", per_sample_weights=weights)
        else:
            tokens = functional.embedding(input_ids, self.embeddings)  # (b, length, d)
            pooled = (tokens * weights.unsqueeze(-1)).sum(dim=1)
        return functional.normalize(pooled, dim=1)  # (b, d); the norm takes care of the division by the length


def learn_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Return a tokenizer with at most `vocabulary` tokens learnt from the texts by byte-pair merges of characters.

    Text is brought to NFKC and lower case. Tokens do not reach over white space and punctuation, and need no white
    space between them.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=_SPECIAL[UNKNOWN_ID]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=_SPECIAL,
        limit_alphabet=vocabulary // 2,
        max_token_length=_MAX_TOKEN_LENGTH,
        show_progress=False,
    )
    clean = (text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for text in texts)
    tokenizer.train_from_iterator(clean, trainer)
    return tokenizer


def latent_semantic_embeddings(tokens: Sequence[Int64], n_tokens: int, size: int, rng: np.random.Generator) -> Float32:
    """Return token embeddings `(n_tokens, size)` whose sum over a text is its latent semantic embedding.

    With X the matrix of token counts times inverse document frequency, rows at unit norm, and X ~ U S V' its truncated
    singular value decomposition, token t gets idf_t V_t / sqrt(S): text embeddings are then the rows of U sqrt(S),
    which stand between the raw components (dominated by the first few) and the whitened ones (noise counts as much as
    content). Randomised subspace iteration: Halko et al. 2011, algorithm 4.4, on the side of the tokens. Components
    beyond the rank of X are filled with small noise, so that training can make use of them.
    """
    lengths = [len(ids) for ids in tokens]
    documents = np.repeat(np.arange(len(tokens)), lengths)
    columns = np.concatenate(tokens) if tokens else np.empty(0, np.int64)
    counts = sp.csr_matrix((np.ones(len(columns), np.float32), (documents, columns)), shape=(len(tokens), n_tokens))
    counts.sum_duplicates()
    n_containing = np.bincount(counts.indices, minlength=n_tokens)
    idf = np.log((1.0 + len(tokens)) / (1.0 + n_containing)).astype(np.float32)
    idf[[PAD_ID, UNKNOWN_ID]] = 0.0
    weighted = counts @ sp.diags(idf)
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1))).ravel()
    weighted = (sp.diags(1.0 / np.maximum(norms, 1e-9)) @ weighted).astype(np.float32).tocsr()
    basis = rng.standard_normal((n_tokens, size + _OVERSAMPLING), dtype=np.float32)  # (n_tokens, k)
    for _ in range(_POWER_ITERATIONS):
        basis, _ = np.linalg.qr(weighted.T @ (weighted @ basis))
    _, singular, right = np.linalg.svd(weighted @ basis, full_matrices=False)
    singular, right = singular[:size], (basis @ right.T)[:, :size]  # (size,), (n_tokens, size)
    present = singular > 1e-4 * max(float(singular[0]), 1e-9)
    embeddings = np.zeros((n_tokens, size), np.float32)
    embeddings[:, : len(singular)][:, present] = idf[:, None] * right[:, present] / np.sqrt(singular[present])
    embeddings *= _EMBEDDING_RMS / max(float(np.sqrt(np.mean(embeddings**2))), 1e-9)
    noise = 0.01 * _EMBEDDING_RMS * rng.standard_normal(embeddings.shape, dtype=np.float32)
    noise[[PAD_ID, UNKNOWN_ID]] = 0.0
    return embeddings + noise


def build_small_encoder(texts: Sequence[str], config: EncoderConfig, rng: np.random.Generator) -> LoadedEncoder:
    """Return an encoder whose vocabulary and embeddings come from the texts, not yet trained.

    Of a catalogue with more than 100,000 texts that many are drawn to learn from.

    Raises:
        EncoderError: the texts hold nothing to learn from.
    """
    filled = np.flatnonzero([bool(text.strip()) for text in texts])
    if len(filled) > _MAX_TEXTS:
        filled = np.sort(rng.choice(filled, _MAX_TEXTS, replace=False))
    sample = [texts[int(i)] for i in filled]
    tokenizer = learn_tokenizer(sample, config.small_vocabulary)
    tokens = [ids for ids in tokenise(tokenizer, sample, config.max_length) if len(ids)]
    if not tokens:
        raise EncoderError(
            f"none of the {len(texts)} items has any text to learn an encoder from; fill title or description, or set "
            "encoder.kind to pretrained"
        )
    embeddings = latent_semantic_embeddings(tokens, tokenizer.get_vocab_size(), config.small_embedding_size, rng)
    return LoadedEncoder(TokenBag(embeddings, config.dropout or 0.0), tokenizer, PAD_ID, "mean")


def title_pairs(titles: Sequence[str], descriptions: Sequence[str]) -> tuple[list[str], EncoderPairs]:
    """Return different texts, and pairs of rows of them: each title with its own description.

    Items that lack one of the two, or whose two are the same, make no pair. Equal texts are one row, so that an equal
    description is no negative.
    """
    rows: dict[str, int] = {}
    pairs = [
        (rows.setdefault(title, len(rows)), rows.setdefault(description, len(rows)))
        for title, description in zip(titles, descriptions, strict=True)
        if title.strip() and description.strip() and title != description
    ]
    columns = np.asarray(pairs, np.int32).reshape(-1, 2)
    no_hard = np.full(len(columns), NO_ITEM, np.int32)
    return list(rows), EncoderPairs.from_items(columns[:, 0], columns[:, 1], no_hard, len(rows))


def pretraining_config(config: EncoderConfig) -> EncoderConfig:
    """Return the settings under which titles are drawn towards their descriptions."""
    return config.model_copy(
        update={
            "epochs": config.small_epochs,
            "batch_size": _PRETRAIN_BATCH,
            "gradient_accumulation": 1,
            "learning_rate": _PRETRAIN_RATE,
            "temperature": _PRETRAIN_TEMPERATURE,
            "popularity_correction": 0.0,
            "max_train_seconds": float("inf"),
        }
    )
