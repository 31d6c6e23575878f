"""The encoder learnt from the catalogue's own text: vocabulary without spaces, latent semantics, titles as teachers."""

import numpy as np
import pytest
import torch

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import tokenise
from training.encoder import tune_encoder
from training.encoder_export import encode_with_network
from training.encoder_objectives import PairSource
from training.small_encoder import (
    PAD_ID,
    UNKNOWN_ID,
    TokenBag,
    build_small_encoder,
    latent_semantic_embeddings,
    learn_tokenizer,
    pretraining_config,
    title_pairs,
)

CHINESE = ["圖書館的新書", "圖書館關門了", "市長參觀圖書館", "市長的演講", "新書的演講", "市長關門了"]
CONFIG = EncoderConfig(small_vocabulary=100, small_embedding_size=8, max_length=32, device="cpu")


def test_words_are_found_without_spaces_between_them() -> None:
    tokens = learn_tokenizer(CHINESE, 100).encode("市長在圖書館").tokens
    assert "圖書館" in tokens
    assert "市長" in tokens


def test_width_and_case_of_letters_do_not_matter() -> None:
    tokenizer = learn_tokenizer(["boat at sea", "boat in harbour"], 100)
    assert tokenizer.encode("ＢＯＡＴ").ids == tokenizer.encode("boat").ids


def test_vocabulary_has_the_size_that_is_set() -> None:
    texts = [f"{a}{b}{c} {c}{a}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuv"]
    assert learn_tokenizer(texts, 100).get_vocab_size() == 100
    assert learn_tokenizer(texts, 115).get_vocab_size() == 115


def test_sums_of_token_embeddings_are_the_latent_semantic_analysis() -> None:
    rng = np.random.default_rng(5)
    n_texts, n_tokens, size = 40, 25, 6
    tokens = [rng.integers(2, n_tokens, rng.integers(3, 9)) for _ in range(n_texts)]
    embeddings = latent_semantic_embeddings(tokens, n_tokens, size, np.random.default_rng(0))
    counts = np.stack([np.bincount(ids, minlength=n_tokens) for ids in tokens]).astype(float)
    weighted = counts * np.log((1 + n_texts) / (1 + (counts > 0).sum(axis=0)))
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    left, singular, _ = np.linalg.svd(weighted, full_matrices=False)
    expected = left[:, :size] * np.sqrt(singular[:size])
    found = counts @ embeddings

    def cosines(rows: np.ndarray) -> np.ndarray:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    np.testing.assert_allclose(cosines(found), cosines(expected), atol=0.03)


def test_embeddings_wider_than_the_text_has_rank_are_filled_up() -> None:
    tokens = [np.asarray([2, 3]), np.asarray([3, 4]), np.asarray([4])]
    embeddings = latent_semantic_embeddings(tokens, 5, 12, np.random.default_rng(0))
    assert embeddings.shape == (5, 12)
    assert embeddings.dtype == np.float32
    assert np.isfinite(embeddings).all()
    assert (embeddings[[PAD_ID, UNKNOWN_ID]] == 0).all()


def test_training_and_encoding_sum_alike() -> None:
    rng = np.random.default_rng(1)
    table = rng.standard_normal((9, 4)).astype(np.float32)
    table[[PAD_ID, UNKNOWN_ID]] = 5.0  # must not count
    bag = TokenBag(table)
    ids = torch.tensor([[2, 3, UNKNOWN_ID, 4], [8, PAD_ID, PAD_ID, PAD_ID]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    in_training, at_work = bag.train()(ids, mask), bag.eval()(ids, mask)
    torch.testing.assert_close(in_training, at_work)
    expected = table[[2, 3, 4]].sum(axis=0)
    np.testing.assert_allclose(at_work[0].detach(), expected / np.linalg.norm(expected), rtol=1e-5)


def test_text_of_unknown_characters_embeds_to_zero() -> None:
    loaded = build_small_encoder(CHINESE, CONFIG, np.random.default_rng(1))
    embeddings = encode_with_network(loaded, ["圖書館", "ж"], 32)
    assert np.linalg.norm(embeddings[0]) == pytest.approx(1.0, abs=1e-5)
    assert (embeddings[1] == 0).all()


def test_dropout_leaves_out_whole_tokens() -> None:
    bag = TokenBag(np.eye(12, dtype=np.float32), dropout=0.5).train()
    torch.manual_seed(0)
    seen = bag(torch.arange(2, 12).repeat(50, 1), torch.ones(50, 10, dtype=torch.int64)).detach()
    kept = (seen[:, 2:] > 0).float().mean()
    assert 0.4 < kept < 0.6


def test_same_seed_builds_the_same_encoder() -> None:
    first, again = (build_small_encoder(CHINESE, CONFIG, np.random.default_rng(3)) for _ in range(2))
    torch.testing.assert_close(first.module.embeddings, again.module.embeddings, rtol=0, atol=0)
    assert first.tokenizer.to_str() == again.tokenizer.to_str()


def test_catalogue_without_text_is_an_error() -> None:
    with pytest.raises(EncoderError, match="none of the 3 items has any text to learn an encoder from"):
        build_small_encoder(["", " ", "\n"], CONFIG, np.random.default_rng(1))


def test_titles_are_paired_with_their_own_descriptions() -> None:
    titles = ["a", "b", "", "d", "e", "f"]
    descriptions = ["long a", "same", "no title", "", "same", "f"]
    texts, pairs = title_pairs(titles, descriptions)
    assert [(texts[i], texts[j]) for i, j in zip(pairs.anchor, pairs.positive, strict=True)] == [
        ("a", "long a"),
        ("b", "same"),
        ("e", "same"),
    ]
    assert len(texts) == len(set(texts))
    assert len(title_pairs([], [])[1]) == 0


def test_pretraining_draws_titles_to_their_descriptions() -> None:
    words = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    rng = np.random.default_rng(2)
    # Word 2k stands in titles where word 2k + 1 stands in descriptions; the two never share a text.
    chosen = rng.integers(0, 50, (120, 2))
    titles = [" ".join(words[2 * k] for k in row) for row in chosen]
    descriptions = [" ".join(words[2 * k + 1] for k in row) for row in chosen]
    config = CONFIG.model_copy(update={"small_vocabulary": 140, "small_embedding_size": 32, "small_epochs": 40})
    loaded = build_small_encoder([*titles, *descriptions], config, np.random.default_rng(1))

    def margin() -> float:
        title_rows = encode_with_network(loaded, titles, 32)
        cosine = title_rows @ encode_with_network(loaded, descriptions, 32).T
        return float(np.diag(cosine).mean() - cosine.mean())

    before = margin()
    texts, pairs = title_pairs(titles, descriptions)
    source = PairSource(lambda rng: pairs)
    tune_encoder(loaded, texts, source, pretraining_config(config), 1, torch.device("cpu"), lambda *_: None)
    assert before < 0.1
    assert margin() > before + 0.3


def test_pretraining_is_switched_off_by_no_epochs() -> None:
    loaded = build_small_encoder(CHINESE, CONFIG, np.random.default_rng(1))
    before = loaded.module.embeddings.detach().clone()
    texts, pairs = title_pairs(CHINESE, CHINESE[::-1])
    config = pretraining_config(CONFIG.model_copy(update={"small_epochs": 0}))
    result = tune_encoder(loaded, texts, PairSource(lambda rng: pairs), config, 1, torch.device("cpu"), lambda *_: None)
    assert result == ([], "not tuned")
    assert torch.equal(loaded.module.embeddings, before)


def test_tokens_are_cut_at_the_length_that_is_set() -> None:
    tokenizer = learn_tokenizer(CHINESE, 100)
    assert len(tokenise(tokenizer, ["市長" * 50], 7)[0]) == 7
