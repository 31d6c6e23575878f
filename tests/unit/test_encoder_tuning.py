"""What embeds items during the tuning: caching, chunking and recomputing change the speed and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_toys import toy_catalogue, write_tiny_bert

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import tokenise
from training import encoder_tuning
from training.encoder_module import LoadedEncoder, load_pretrained, set_dropout
from training.encoder_tuning import ItemEmbedder, choose_device, choose_tuned, train_tuned_parts, use_bfloat16

TEXTS = [*toy_catalogue()[0][:9], "boat", "judge judge bread"]
ITEMS = np.asarray([10, 3, 9, 0, 7, 8])
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny", toy_catalogue()[0], n_layers=3)


def load(folder: Path, tune: str = "full", **settings: object) -> tuple[LoadedEncoder, ItemEmbedder]:
    loaded = load_pretrained(folder, 16)
    set_dropout(loaded.module, 0.0)
    frozen = choose_tuned(loaded.module, EncoderConfig(tune=tune, **settings))
    tokens = tokenise(loaded.tokenizer, TEXTS, 16)
    return loaded, ItemEmbedder(loaded.module, tokens, loaded.pad_id, CPU, use_bfloat16=False, frozen=frozen)


def one_by_one(loaded: LoadedEncoder) -> torch.Tensor:
    rows = [torch.from_numpy(ids)[None] for ids in tokenise(loaded.tokenizer, [TEXTS[item] for item in ITEMS], 16)]
    with torch.no_grad():
        return torch.cat([loaded.module(row, torch.ones_like(row)) for row in rows])


def test_items_come_back_in_their_order_however_they_are_chunked(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_tuning, "_TOKENS_PER_CHUNK", 20)
    loaded, embed = load(tiny_bert)
    assert len(list(embed._chunks(ITEMS))) > 2
    torch.testing.assert_close(embed(ITEMS).detach(), one_by_one(loaded), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cache_bytes", "tolerance"), [(10**9, 0.02), (0, 1e-5)])
def test_top_layers_give_the_whole_network_with_and_without_cache(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, cache_bytes: int, tolerance: float
) -> None:
    monkeypatch.setattr(encoder_tuning, "_CACHE_BYTES", cache_bytes)
    loaded, embed = load(tiny_bert, "top_layers", n_top_layers=1)
    first, again = embed(ITEMS).detach(), embed(ITEMS[::-1].copy()).detach()
    torch.testing.assert_close(first, one_by_one(loaded), rtol=0, atol=tolerance)
    torch.testing.assert_close(first, again.flip(0), rtol=0, atol=1e-5)


def test_cached_items_pass_through_the_lower_layers_once(tiny_bert: Path) -> None:
    loaded, embed = load(tiny_bert, "top_layers", n_top_layers=2)
    calls: list[int] = []
    loaded.module.layers[0].attention.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        embed(ITEMS)
    assert len(calls) == 1
    embed(np.asarray([1, 2]))
    assert len(calls) == 2


def test_recomputed_activations_give_the_same_gradients(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for room in (10**9, 0):
        monkeypatch.setattr(encoder_tuning, "_ACTIVATION_BYTES", room)
        loaded, embed = load(tiny_bert)
        set_dropout(loaded.module, 0.3)
        train_tuned_parts(loaded.module)
        torch.manual_seed(8)
        embed(ITEMS)[:, :5].sum().backward()
        gradients.append(loaded.module.layers[1].output.dense.weight.grad)
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1])


def test_all_layers_as_top_layers_leave_the_embeddings_alone(tiny_bert: Path) -> None:
    loaded = load_pretrained(tiny_bert, 16)
    assert choose_tuned(loaded.module, EncoderConfig(tune="top_layers", n_top_layers=9)) is None
    tuned = {name for name, value in loaded.module.named_parameters() if value.requires_grad}
    assert any(".layer.0." in name for name in tuned)
    assert not any("embeddings" in name for name in tuned)


def test_dropout_is_set_everywhere_or_left_as_it_was(tiny_bert: Path) -> None:
    loaded = load_pretrained(tiny_bert, 16)

    def shares() -> set[float]:
        return {part.p for part in loaded.module.modules() if isinstance(part, torch.nn.Dropout)}

    set_dropout(loaded.module, None)
    assert shares() == {0.1}
    set_dropout(loaded.module, 0.4)
    assert shares() == {0.4}


def test_dropout_stays_off_in_frozen_layers(tiny_bert: Path) -> None:
    loaded = load_pretrained(tiny_bert, 16)
    choose_tuned(loaded.module, EncoderConfig(tune="top_layers", n_top_layers=1))
    train_tuned_parts(loaded.module)
    assert [layer.attention.self.dropout.training for layer in loaded.module.layers] == [False, False, True]
    assert not loaded.module.transformer.embeddings.dropout.training


def test_too_long_texts_for_the_model_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(EncoderError, match=r"max_length is 41, and the encoder in .* reads 40 tokens; lower it"):
        load_pretrained(tiny_bert, 41)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="cannot be read as a SentenceTransformer"):
        load_pretrained(tmp_path, 16)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"encoder\.device 'abacus' cannot be used here .*; set it to auto or cpu"):
        choose_device("abacus")
    assert choose_device("cpu") == CPU


def test_bfloat16_can_be_forced_either_way() -> None:
    assert use_bfloat16("on", CPU)
    assert not use_bfloat16("off", CPU)
    assert use_bfloat16("auto", torch.device("meta")) is False
