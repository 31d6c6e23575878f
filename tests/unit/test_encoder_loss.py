"""The contrastive loss against closed forms and a slow second implementation."""

import math

import numpy as np
import pytest
import torch

from training.encoder_loss import ContrastiveBatch, contrastive_loss, known_pairs, make_batch
from training.pairs import NO_ITEM, EncoderPairs

NO_KNOWN = np.empty(0, np.int64)


def pairs_of(anchor: list[int], positive: list[int], hard: list[int] | None = None, n_items: int = 12) -> EncoderPairs:
    columns = (anchor, positive, hard or [NO_ITEM] * len(anchor))
    return EncoderPairs.from_items(*(np.asarray(column, np.int32) for column in columns), n_items)


def whole(pairs: EncoderPairs, *, known: np.ndarray = NO_KNOWN, strength: float = 0.0) -> ContrastiveBatch:
    return make_batch(pairs, np.arange(len(pairs)), known, strength)


def unit(*rows: list[float]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def slow_loss(vectors: np.ndarray, pairs: EncoderPairs, temperature: float, strength: float) -> float:
    """The definition, one logit at a time; no column may have to be masked."""
    hard = [item for item in pairs.hard_negative if item != NO_ITEM]
    columns = [*pairs.positive, *hard]
    losses = []
    for i, anchor in enumerate(pairs.anchor):
        logits = [vectors[anchor] @ vectors[c] / temperature - strength * pairs.log_frequency[c] for c in columns]
        losses.append(-logits[i] + math.log(sum(math.exp(logit) for logit in logits)))
    for i, positive in enumerate(pairs.positive):
        logits = [
            vectors[a] @ vectors[positive] / temperature - strength * pairs.anchor_log_frequency[a]
            for a in pairs.anchor
        ]
        losses.append(-logits[i] + math.log(sum(math.exp(logit) for logit in logits)))
    return float(np.mean(losses))


def test_loss_equals_the_definition() -> None:
    pairs = pairs_of([0, 1, 2], [3, 4, 5], [6, NO_ITEM, 7])
    vectors = np.random.default_rng(2).standard_normal((12, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    batch = whole(pairs, strength=0.7)
    assert batch.masked.shape == (3, 5)
    loss = contrastive_loss(torch.from_numpy(vectors[batch.items]), batch, 0.2)
    assert loss.item() == pytest.approx(slow_loss(vectors, pairs, 0.2, 0.7), rel=1e-5)


def test_correction_takes_popularity_out_of_the_odds() -> None:
    # All cosines are equal. Item 4 is three of the four positives drawn, item 5 one; with one added to each count
    # their shares are 4/10 and 2/10 of six items.
    pairs = pairs_of([0, 1, 2, 3], [4, 4, 4, 5], n_items=6)
    batch = make_batch(pairs, np.asarray([0, 3]), NO_KNOWN, 1.0)
    loss = contrastive_loss(unit(*[[1.0, 0.0]] * len(batch.items)), batch, 0.1)
    popular, rare = math.log(1 + 4 / 2), math.log(1 + 2 / 4)
    # The anchors occur once each, so the way back has even odds.
    assert loss.item() == pytest.approx(((popular + rare) / 2 + math.log(2)) / 2, rel=1e-5)


def test_correction_pushes_a_popular_negative_away_less() -> None:
    pairs = pairs_of([0, 1, 2, 3], [4, 4, 4, 5], n_items=6)
    push = []
    for strength in (0.0, 1.0):
        batch = make_batch(pairs, np.asarray([3, 0]), NO_KNOWN, strength)  # for anchor 3 the popular 4 is the negative
        embeddings = torch.eye(4)[: len(batch.items)].requires_grad_()
        contrastive_loss(embeddings, batch, 1.0).backward()
        row = batch.items.tolist().index(3)
        push.append(float(embeddings.grad[batch.items.tolist().index(4), row]))
    assert push[0] > push[1] > 0


def test_hard_negative_close_to_its_anchor_costs_more_than_one_far_away() -> None:
    pairs = pairs_of([0, 1], [2, 3], [4, NO_ITEM])
    losses = []
    for hard in ([1.0, 0.1], [-1.0, 0.1]):
        embeddings = unit([1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.2, 1.0], hard)
        losses.append(contrastive_loss(embeddings, whole(pairs), 0.1).item())
    assert losses[0] > losses[1] + 0.15


def test_hard_negatives_count_for_every_row() -> None:
    batch = whole(pairs_of([0, 1, 2], [3, 4, 5], [NO_ITEM, 6, NO_ITEM]))
    assert batch.items[batch.columns].tolist() == [3, 4, 5, 6]
    assert not batch.masked.any()


def test_repeated_positives_and_anchors_are_no_negatives() -> None:
    batch = whole(pairs_of([0, 1, 2], [5, 5, 1]))
    expected = [[False, True, False], [True, False, True], [False, False, False]]
    assert batch.masked.tolist() == expected
    assert batch.items.tolist() == [0, 1, 2, 5]


def test_known_pairs_are_no_negatives_either_way_round() -> None:
    epoch = pairs_of([0, 1, 3, 4], [3, 4, 1, 0])
    batch = make_batch(epoch, np.asarray([0, 1]), known_pairs(epoch), 0.0)
    # 0 goes with 4 and 1 with 3, which other pairs of the epoch say.
    assert batch.masked.tolist() == [[False, True], [True, False]]
    embeddings = unit([1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0])
    assert contrastive_loss(embeddings, batch, 0.05).item() == pytest.approx(0.0, abs=1e-6)


def test_hard_negative_that_is_known_to_fit_is_masked() -> None:
    epoch = pairs_of([0, 0, 1], [3, 5, 4], [5, NO_ITEM, NO_ITEM])
    batch = make_batch(epoch, np.asarray([0, 2]), known_pairs(epoch), 0.0)
    assert batch.items[batch.columns].tolist() == [3, 4, 5]
    assert batch.masked.tolist() == [[False, False, True], [False, False, False]]


def test_lower_temperature_makes_a_right_order_cost_less() -> None:
    batch = whole(pairs_of([0, 1], [2, 3]))
    embeddings = unit([1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.2, 1.0])
    assert contrastive_loss(embeddings, batch, 0.05) < contrastive_loss(embeddings, batch, 0.5)


def test_gradient_is_the_same_to_the_bit_each_time() -> None:
    rng = np.random.default_rng(0)
    pairs = EncoderPairs.from_items(
        rng.integers(0, 40, 300).astype(np.int32),
        rng.integers(40, 80, 300).astype(np.int32),
        np.full(300, NO_ITEM, np.int32),
        80,
    )
    batch = make_batch(pairs, np.arange(300), known_pairs(pairs), 1.0)
    values = torch.from_numpy(rng.standard_normal((len(batch.items), 512)).astype(np.float32))
    gradients = set()
    n_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(40):
            embeddings = torch.nn.functional.normalize(values).requires_grad_()
            contrastive_loss(embeddings, batch, 0.05).backward()
            assert embeddings.grad is not None
            gradients.add(embeddings.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(n_threads)

    assert len(gradients) == 1
