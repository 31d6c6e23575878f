"""The choices objective: the text learns whom an item is for and how many they are, from nothing that is held out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import torch
from encoder_toys import TOPICS as WORDS
from encoder_toys import held_out_items, topic_margin, write_tiny_bert

from recsys.config import CollaborativeConfig, EncoderConfig
from recsys.histories import InteractionLog
from training.encoder import tune_encoder
from training.encoder_choices import ChoiceBatch, ChoiceObjective, ChoiceSource
from training.encoder_export import encode_with_network
from training.encoder_module import LoadedEncoder, load_pretrained, set_dropout

TOPICS = np.repeat([0, 1, 2], [60, 45, 30])
_FILLER = ["old", "new", "long", "short", "first", "last", "good", "bad"]


def texts_of(topics: npt.NDArray[np.int64]) -> list[str]:
    """Return texts of six words, three of them from the item's topic."""
    rng = np.random.default_rng(4)
    words = [all_words.split() for all_words in WORDS.values()]
    chosen = [[*rng.choice(words[topic], 3, replace=False), *rng.choice(_FILLER, 3)] for topic in topics]
    return [" ".join(rng.permutation(some)) for some in chosen]


TEXTS = texts_of(TOPICS)
COLD = held_out_items(TOPICS)
N_USERS = 90
MAX_LENGTH = 16
FACTORS = CollaborativeConfig(factors=6, iterations=8, regularization=0.1, alpha=5.0)
SETTINGS = EncoderConfig(
    kind="pretrained",
    max_length=MAX_LENGTH,
    tune="full",
    batch_size=16,
    learning_rate=2e-3,
    epochs=12,
    dropout=0.0,
    patience=99,
    mixed_precision="off",
    device="cpu",
)
Float = npt.NDArray[np.float32]


def log_of(choices: npt.NDArray[np.bool_]) -> InteractionLog:
    users, items = np.nonzero(choices)
    return InteractionLog.from_arrays(
        users.astype(np.int32),
        items.astype(np.int32),
        np.arange(len(users), dtype=np.int64),
        np.ones(len(users), np.float32),
        n_users=choices.shape[0],
        n_items=choices.shape[1],
    )


def topical_choices() -> npt.NDArray[np.bool_]:
    """Return who chose what, bool: users keep to one topic, half of them to the first, a third to the second."""
    rng = np.random.default_rng(8)
    taste = np.repeat([0, 1, 2], [N_USERS // 2, N_USERS // 3, N_USERS - N_USERS // 2 - N_USERS // 3])
    chance = np.where(taste[:, None] == TOPICS[None, :], 0.7, 0.03)
    return (rng.random((N_USERS, len(TEXTS))) < chance) & ~COLD


def source_of(choices: npt.NDArray[np.bool_], seed: int = 1) -> ChoiceSource:
    return ChoiceSource(log_of(choices), FACTORS, np.random.SeedSequence(seed))


def objective_of(choices: npt.NDArray[np.bool_], has_text: npt.NDArray[np.bool_] | None = None) -> ChoiceObjective:
    everywhere = np.ones(choices.shape[1], np.bool_) if has_text is None else has_text
    return source_of(choices).objective(everywhere, SETTINGS, np.random.default_rng(0))


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny", TEXTS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def tuned(folder: Path, seed: int = 1) -> tuple[LoadedEncoder, list[dict[str, float | None]]]:
    loaded = load_pretrained(folder, MAX_LENGTH)
    set_dropout(loaded.module, SETTINGS.dropout)
    device = torch.device("cpu")
    source = source_of(topical_choices())
    return loaded, tune_encoder(loaded, TEXTS, source, SETTINGS, seed, device, lambda *_: None)[0]


def margin(embeddings: Float, topics: npt.NDArray[np.int64]) -> float:
    """Return the margin of embeddings about their mean: a linear map does not mind what all have in common."""
    centred = embeddings - embeddings.mean(axis=0)
    return topic_margin(centred / np.linalg.norm(centred, axis=1, keepdims=True), topics)


def test_tuning_draws_together_items_for_the_same_people_that_it_never_saw(tiny_bert: Path) -> None:
    untuned = encode_with_network(load_pretrained(tiny_bert, MAX_LENGTH), TEXTS, MAX_LENGTH)[COLD]
    loaded, curve = tuned(tiny_bert)
    embeddings = encode_with_network(loaded, TEXTS, MAX_LENGTH)[COLD]
    assert margin(untuned, TOPICS[COLD]) < 0.25
    assert margin(embeddings, TOPICS[COLD]) > 0.5
    assert min(point["valid_loss"] for point in curve) < curve[0]["valid_loss"] - 0.03


def test_same_seed_gives_the_same_encoder(tiny_bert: Path) -> None:
    first, again = (encode_with_network(tuned(tiny_bert)[0], TEXTS, MAX_LENGTH) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_loss_is_the_log_likelihood_worked_by_hand() -> None:
    objective = objective_of(topical_choices())
    objective.head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        objective.head.weight.copy_(torch.tensor([[0.2, 0.0], [0.0, 0.4]]))
        objective.head.bias.copy_(torch.tensor([0.0, 0.2]))
    # Items lie at (0.2, 0.2), (0, 0.6), (0, 0.2); times 5, user 0 scores 1, 0, 0 and user 1 scores 2, 6, 2.
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    chosen = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    batch = ChoiceBatch(np.arange(3), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), chosen)
    first = np.log(np.exp(1) + 2)
    second = np.log(np.exp(6) + 2 * np.exp(2))
    expected = ((first - 1) + (first - 0) + (second - 6)) / 3
    assert objective.loss(embeddings, batch).item() == pytest.approx(expected, rel=1e-5)


def test_head_starts_as_the_regression_of_the_factors() -> None:
    objective = objective_of(topical_choices())
    factors = objective._item_factors
    places = np.random.default_rng(2).standard_normal((len(TEXTS), 20)).astype(np.float32)
    mixing = np.random.default_rng(3).standard_normal((20, factors.shape[1])).astype(np.float32)
    objective._item_factors = places @ mixing + 0.5
    parameters = objective.begin(lambda items: torch.from_numpy(places[items]), torch.device("cpu"))
    assert [parameter.requires_grad for parameter in parameters] == [True, True]
    np.testing.assert_allclose(objective.head.weight.detach().numpy(), mixing.T, atol=0.1)


def test_popular_items_are_told_from_others_by_people_of_the_same_taste(tiny_bert: Path) -> None:
    """Within one taste, nothing but the word "first" tells the popular items."""
    rng = np.random.default_rng(5)
    texts = [
        f"{word} {noun}"
        for noun in ["boat", "wave", "harbour", "sailor", "anchor", "island", "storm", "fish"]
        for word in ("first", "last")
    ]
    popular = np.arange(len(texts)) % 2 == 0
    choices = rng.random((60, len(texts))) < np.where(popular, 0.8, 0.2)
    loaded = load_pretrained(tiny_bert, MAX_LENGTH)
    set_dropout(loaded.module, 0.0)
    source = source_of(choices)
    tune_encoder(loaded, texts, source, SETTINGS, 1, torch.device("cpu"), lambda *_: None)
    embeddings = encode_with_network(loaded, texts, MAX_LENGTH)
    assert margin(embeddings, popular.astype(np.int64)) > 0.1


def test_held_out_items_enter_neither_batches_nor_factors() -> None:
    choices = topical_choices()
    objective = objective_of(choices)
    rng = np.random.default_rng(1)
    (held_out,) = objective.held_out(rng)
    trained = np.concatenate([batch.items for batch in objective.batches(0, 3, rng)])
    warm = np.flatnonzero(~COLD)
    assert sorted([*trained, *held_out.items]) == warm.tolist()
    assert len(held_out) == round(0.1 * len(warm))
    changed = choices.copy()
    changed[:, held_out.items] = ~changed[:, held_out.items]
    again = objective_of(changed)
    np.testing.assert_array_equal(again._user_factors, objective._user_factors)
    np.testing.assert_array_equal(again._train, objective._train)


def test_items_without_text_or_with_few_interactions_teach_nothing() -> None:
    choices = topical_choices()
    rare, silent = np.flatnonzero(~COLD)[[0, 1]]
    choices[:, rare] = False
    choices[:4, rare] = True
    objective = objective_of(choices, np.arange(len(TEXTS)) != silent)
    rng = np.random.default_rng(1)
    used = [batch.items for batch in (*objective.batches(0, 2, rng), *objective.held_out(rng))]
    assert not np.isin([rare, silent], np.concatenate(used)).any()


def test_batch_holds_the_users_who_chose_one_of_its_items() -> None:
    choices = topical_choices()
    objective = objective_of(choices)
    batch = next(objective.batches(0, 4, np.random.default_rng(1)))
    users = np.flatnonzero(choices[:, batch.items].any(axis=1))
    np.testing.assert_array_equal(batch.chosen.numpy(), choices[np.ix_(users, batch.items)])
    np.testing.assert_array_equal(batch.user_factors.numpy(), objective._user_factors[users])


def test_a_batch_takes_some_of_the_users_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.encoder_choices._MAX_USERS", 7)
    batch = next(objective_of(topical_choices()).batches(0, 1, np.random.default_rng(1)))
    assert batch.chosen.shape == (7, len(batch))
    assert batch.chosen.sum(axis=1).min() >= 1


def test_an_epoch_takes_other_items_when_there_are_too_many() -> None:
    config = SETTINGS.model_copy(update={"max_pairs": 6})
    everywhere = np.ones(len(TEXTS), np.bool_)
    objective = source_of(topical_choices()).objective(everywhere, config, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    epochs = [set(next(objective.batches(epoch, 1, rng)).items.tolist()) for epoch in range(2)]
    assert objective.n_examples == 6
    assert [len(items) for items in epochs] == [6, 6]
    assert epochs[0] != epochs[1]


def test_nothing_to_learn_from_leaves_the_encoder_as_it_is(tiny_bert: Path) -> None:
    loaded = load_pretrained(tiny_bert, MAX_LENGTH)
    source = source_of(np.zeros((4, len(TEXTS)), np.bool_))
    result = tune_encoder(loaded, TEXTS, source, SETTINGS, 1, torch.device("cpu"), lambda *_: None)
    assert result == ([], "not tuned")
    assert sp.issparse(source.log.matrix())
