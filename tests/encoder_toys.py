"""A toy catalogue with three topics, behaviour within a topic, and a transformer small enough to tune in a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from training.pairs import NO_ITEM, EncoderPairs

TOPICS = {
    "sea": "boat wave harbour sailor anchor island storm fish",
    "court": "judge trial witness lawyer verdict crime jury prison",
    "kitchen": "bread oven salt butter recipe chef dinner spoon",
}
_ITEMS_PER_TOPIC = {"sea": 15, "court": 12, "kitchen": 9}
_FILLER = ["old", "new", "long", "short", "first", "last", "good", "bad"]
EMBEDDING_SIZE = 32


def toy_catalogue() -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return 36 texts of seven words, four of them from the item's topic, and the topic of each."""
    rng = np.random.default_rng(4)
    texts, topics = [], []
    for topic, (name, words) in enumerate(TOPICS.items()):
        for _ in range(_ITEMS_PER_TOPIC[name]):
            chosen = [*rng.choice(words.split(), 4, replace=False), *rng.choice(_FILLER, 3)]
            texts.append(" ".join(rng.permutation(chosen)))
            topics.append(topic)
    return texts, np.asarray(topics)


def held_out_items(topics: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which items never occur in a training pair: every third."""
    return np.arange(len(topics)) % 3 == 0


def topic_pairs(topics: npt.NDArray[np.int64], usable: npt.NDArray[np.bool_], n: int) -> Callable[..., EncoderPairs]:
    """Return a drawer of `n` pairs of different usable items of one topic."""

    def draw(rng: np.random.Generator) -> EncoderPairs:
        anchor = rng.choice(np.flatnonzero(usable), n)
        positive = np.asarray(
            [rng.choice(np.flatnonzero(usable & (topics == topics[a]) & (np.arange(len(topics)) != a))) for a in anchor]
        )
        no_hard = np.full(n, NO_ITEM, np.int32)
        return EncoderPairs.from_items(anchor.astype(np.int32), positive.astype(np.int32), no_hard, len(topics))

    return draw


def topic_margin(embeddings: npt.NDArray[np.float32], topics: npt.NDArray[np.int64]) -> float:
    """Return how much higher the mean cosine of two items of one topic is than of two items of different topics."""
    cosine = embeddings @ embeddings.T
    same = topics[:, None] == topics[None, :]
    different_items = ~np.eye(len(topics), dtype=bool)
    return float(cosine[same & different_items].mean() - cosine[~same].mean())


def write_tiny_bert(folder: Path, texts: list[str], *, n_layers: int = 2) -> Path:
    """Write a BERT of 32 dimensions with random weights, and a word-piece tokenizer of the texts' words and letters.

    The library's own trainer of word pieces gives another vocabulary in every process.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))})
    letters = sorted({letter for word in words for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    wordpiece = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    wordpiece.normalizer, wordpiece.pre_tokenizer = normalizer, splitter
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=wordpiece, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)
    config = BertConfig(
        vocab_size=wordpiece.get_vocab_size(),
        hidden_size=EMBEDDING_SIZE,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder
