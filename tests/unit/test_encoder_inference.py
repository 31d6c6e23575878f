"""The exported encoder at work: order, empty texts, odd texts, and folders that are not what they say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from tokenizers import Encoding, Tokenizer

from recsys.config import EncoderConfig
from recsys.errors import EncoderError
from recsys.models.encoder import (
    DESCRIPTION_FILE,
    FILES,
    MODEL_FILE,
    TOKENIZER_FILE,
    TextEncoder,
    fingerprint_of,
    pad,
    tokenise,
)
from training.encoder_export import export_encoder
from training.small_encoder import build_small_encoder

TEXTS = [
    f"{colour} {thing} number {n}" for n, colour in enumerate(["red", "blue", "green"]) for thing in ("boat", "car")
]
MAX_LENGTH = 12


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders") / "small"
    config = EncoderConfig(small_vocabulary=120, small_embedding_size=8, max_length=MAX_LENGTH)
    loaded = build_small_encoder(TEXTS, config, np.random.default_rng(1))
    export_encoder(loaded, folder, kind="small", base="catalogue text", max_length=MAX_LENGTH, texts=TEXTS)
    return folder


@pytest.fixture(scope="module")
def encoder(exported: Path) -> TextEncoder:
    return TextEncoder.load(exported, n_threads=1)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def redescribe(folder: Path, **changes: object) -> None:
    """Change the description and give the folder the fingerprint that goes with it."""
    description = json.loads((folder / DESCRIPTION_FILE).read_text()) | changes
    for _ in range(2):
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description))
        description["fingerprint"] = fingerprint_of(folder)


class CountingTokenizer:
    """A tokenizer that notes how many texts it is given at a time."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: list[str]) -> list[Encoding]:
        self.sizes.append(len(texts))
        return self._tokenizer.encode_batch(texts)


def test_a_catalogue_is_tokenised_in_parts_without_a_seam(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.models.encoder._TEXTS_AT_ONCE", 4)
    texts = [*TEXTS, "", "boat"]
    tokenizer = CountingTokenizer(exported)
    tokens = tokenise(tokenizer, texts, MAX_LENGTH)  # type: ignore[arg-type]
    one_by_one = [
        tokenise(Tokenizer.from_file(str(exported / TOKENIZER_FILE)), [text], MAX_LENGTH)[0] for text in texts
    ]

    assert tokenizer.sizes == [4, 4]
    assert [ids.tolist() for ids in tokens] == [ids.tolist() for ids in one_by_one]
    assert tokens[6].dtype == np.int64
    assert not len(tokens[6])
    assert tokenise(tokenizer, [], MAX_LENGTH) == []  # type: ignore[arg-type]


def test_embeddings_are_float32_of_unit_norm(encoder: TextEncoder) -> None:
    embeddings = encoder.encode(TEXTS)
    assert embeddings.shape == (6, 8)
    assert encoder.embedding_size == 8
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)


def test_order_is_kept_though_lengths_differ(encoder: TextEncoder) -> None:
    texts = ["green car number 2 red boat number 0", "car", "red boat number 0", "", "blue", "blue car number 1"]
    together = encoder.encode(texts, batch_size=2)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b"])
def test_text_with_nothing_to_read_gives_the_zero_vector(encoder: TextEncoder, text: str) -> None:
    embeddings = encoder.encode(["red boat", text])
    assert (embeddings[1] == 0).all()
    assert (embeddings[0] != 0).any()


def test_no_texts_give_no_rows(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 8)


def test_lone_surrogate_is_read_as_a_character_of_no_meaning(encoder: TextEncoder) -> None:
    assert np.isfinite(encoder.encode(["red \ud800 boat"])).all()


def test_only_the_first_tokens_of_a_long_text_are_read(encoder: TextEncoder) -> None:
    start = "red boat number 0 " * MAX_LENGTH
    np.testing.assert_allclose(encoder.encode([start + "green car " * 500_000]), encoder.encode([start]), atol=1e-6)


def test_a_graph_that_cannot_be_run_is_an_error_of_the_encoder(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeException("out of memory")

    monkeypatch.setattr(encoder, "_session", Broken())

    with pytest.raises(
        EncoderError, match=r"failed on 2 text\(s\) of up to \d+ tokens: out of memory; try again, and if"
    ):
        encoder.encode(["red boat", "car"])
    assert encoder.encode(["", " "]).shape == (2, 8)


def test_padding_and_mask_are_rectangular() -> None:
    ids, mask = pad([np.asarray([5, 6, 7]), np.asarray([8])], pad_id=3)
    assert ids.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_two_loads_encode_alike(exported: Path, encoder: TextEncoder) -> None:
    again = TextEncoder.load(exported, n_threads=1)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.fingerprint == encoder.fingerprint
    assert len(encoder.fingerprint) == 64


@pytest.mark.parametrize("name", [MODEL_FILE, TOKENIZER_FILE])
def test_one_changed_byte_changes_the_fingerprint_and_is_refused(copy: Path, name: str) -> None:
    before = fingerprint_of(copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(bytes(content))
    assert fingerprint_of(copy) != before
    with pytest.raises(EncoderError, match=r"has changed since it was written: fingerprint \w{12}…, expected \w{12}…"):
        TextEncoder.load(copy)


def test_changed_description_is_refused(copy: Path) -> None:
    description = json.loads((copy / DESCRIPTION_FILE).read_text())
    (copy / DESCRIPTION_FILE).write_text(json.dumps(description | {"max_length": 13}))
    with pytest.raises(EncoderError, match="has changed since it was written"):
        TextEncoder.load(copy)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(EncoderError, match=f"lacks {name}; an encoder is the files"):
        TextEncoder.load(copy)


@pytest.mark.parametrize(("content", "problem"), [("{", "is no JSON"), ("[1]", "holds a list, not an object")])
def test_description_that_is_no_object_is_refused(copy: Path, content: str, problem: str) -> None:
    (copy / DESCRIPTION_FILE).write_text(content)
    with pytest.raises(EncoderError, match=problem):
        TextEncoder.load(copy)


def test_missing_keys_are_named(copy: Path) -> None:
    description = json.loads((copy / DESCRIPTION_FILE).read_text())
    del description["pooling"], description["dim"]
    (copy / DESCRIPTION_FILE).write_text(json.dumps(description))
    with pytest.raises(EncoderError, match="lacks dim, pooling"):
        TextEncoder.load(copy)


def test_model_of_another_width_is_refused(copy: Path) -> None:
    redescribe(copy, dim=9)
    with pytest.raises(EncoderError, match=r"gives embeddings of width 8, encoder\.json says 9"):
        TextEncoder.load(copy)


def test_model_with_other_inputs_is_refused(copy: Path) -> None:
    import onnx

    model = onnx.load(copy / MODEL_FILE)
    for node in model.graph.node:
        node.input[:] = ["words" if name == "input_ids" else name for name in node.input]
    next(value for value in model.graph.input if value.name == "input_ids").name = "words"
    onnx.save(model, copy / MODEL_FILE)
    redescribe(copy)
    with pytest.raises(EncoderError, match="takes attention_mask, words; a text encoder takes input_ids and"):
        TextEncoder.load(copy)


def test_encoding_loads_no_training_library() -> None:
    code = "import sys, recsys.models.encoder; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
