"""The export: what the files say is what the network says, or nothing is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_toys import EMBEDDING_SIZE, toy_catalogue, write_tiny_bert

from recsys.errors import EncoderError
from recsys.models.encoder import FILES, TextEncoder
from training import encoder_export
from training.encoder_export import encode_with_network, export_encoder
from training.encoder_module import LoadedEncoder, load_pretrained
from training.small_encoder import TokenBag, learn_tokenizer

TEXTS = toy_catalogue()[0]


def test_transformer_speaks_alike_in_torch_and_onnx(tmp_path: Path) -> None:
    loaded = load_pretrained(write_tiny_bert(tmp_path / "bert", TEXTS), 16)
    export_encoder(loaded, tmp_path / "out", kind="pretrained", base="tiny", max_length=16, texts=TEXTS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)
    encoder = TextEncoder.load(tmp_path / "out", n_threads=1)
    texts = [*TEXTS, "boat", "of words it does not know", " ".join(TEXTS), ""]
    expected = encode_with_network(loaded, texts, 16)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-4)
    assert expected.shape == (len(texts), EMBEDDING_SIZE)
    assert (expected[-1] == 0).all()
    description = json.loads((tmp_path / "out" / "encoder.json").read_text())
    assert description.pop("fingerprint") == encoder.fingerprint
    assert description == {
        "dim": 32,
        "max_length": 16,
        "kind": "pretrained",
        "base": "tiny",
        "pooling": "mean",
        "quantised": False,
    }


def bag_of_words() -> LoadedEncoder:
    tokenizer = learn_tokenizer(TEXTS, 100)
    table = np.random.default_rng(0).standard_normal((tokenizer.get_vocab_size(), 6)).astype(np.float32)
    return LoadedEncoder(TokenBag(table), tokenizer, 0, "mean")


def test_export_replaces_the_folder_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "stale").write_text("old")
    export_encoder(bag_of_words(), out, kind="small", base="text", max_length=16, texts=[])
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_files_that_say_something_else_are_refused_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def turned(loaded: LoadedEncoder, texts: list[str], max_length: int) -> np.ndarray:
        return encode_with_network(loaded, texts, max_length) + np.float32(0.01)

    monkeypatch.setattr(encoder_export, "encode_with_network", turned)
    with pytest.raises(EncoderError, match=r"differs from the trained one: by 0\.01 for the text '.*', 0\.0001 is"):
        export_encoder(bag_of_words(), tmp_path / "out", kind="small", base="text", max_length=16, texts=TEXTS)
    assert list(tmp_path.iterdir()) == []


def test_network_is_left_able_to_train(tmp_path: Path) -> None:
    loaded = bag_of_words()
    export_encoder(loaded, tmp_path / "out", kind="small", base="text", max_length=16, texts=TEXTS)
    loaded.module(torch.tensor([[2, 3]]), torch.tensor([[1, 1]])).sum().backward()
    assert loaded.module.embeddings.grad is not None
