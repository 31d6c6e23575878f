"""A small simulated corpus, an ONNX encoder of hashed words, and a bundle trained on both in seconds, without torch."""

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from features.path import RankingPath
from recsys.bundle import write_bundle
from recsys.config import Config
from recsys.datasets.encoded import encode_dataset
from recsys.datasets.simulated import SimulationConfig, simulate
from recsys.models.encoder import DESCRIPTION_FILE, INPUTS, MODEL_FILE, TOKENIZER_FILE, TextEncoder, fingerprint_of
from recsys.models.fitted import FittedModels
from recsys.splits import Fold, make_split
from training.desk import Desk
from training.fits import Fits
from training.fitting import Corpus, requests_of
from training.progress import Reporter
from training.ranker import build_rows, train_ranker
from training.timings import StageClock
from training.work import WorkFolder

Float32 = npt.NDArray[np.float32]

EMBEDDING_SIZE = 24
SIMULATION = SimulationConfig(n_users=80, n_items=150, n_days=8, sessions_per_user=6.0)
CONFIG = {
    "collaborative.factors": 8,
    "collaborative.iterations": 5,
    "sequence.embedding_size": 8,
    "sequence.n_layers": 1,
    "sequence.n_heads": 1,
    "sequence.max_length": 16,
    "sequence.epochs": 1,
    "cold.min_interactions": 3,
    "retrieval.n_candidates": 60,
    "retrieval.per_source": 30,
    "features.max_history": 60,
    "features.windows_hours": [6.0, 24.0, 96.0],
    "ranker.n_trees": 30,
    "ranker.num_leaves": 7,
    "ranker.min_data_in_leaf": 10,
    "ranker.early_stopping": 30,
    "evaluation.n_bootstrap": 50,
}


def word_vector(word: str, size: int, seed: int) -> Float32:
    """Return the random direction that a word is hashed to, float32 `(size,)`."""
    rng = np.random.default_rng([seed, zlib.crc32(word.encode())])
    return rng.standard_normal(size).astype(np.float32)


def write_toy_encoder(folder: Path, texts: Sequence[str], *, size: int = EMBEDDING_SIZE, seed: int = 0) -> Path:
    """Write an encoder whose embedding of a text is the unit-norm sum of its words' hashed directions."""
    folder.mkdir(parents=True)
    words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: place + 2 for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / TOKENIZER_FILE))
    table = np.zeros((len(vocabulary), size), np.float32)
    for word, row in vocabulary.items():
        if row > 1:
            table[row] = word_vector(word, size, seed)
    onnx.save(_bag_of_words(table), str(folder / MODEL_FILE))
    description = {
        "dim": size,
        "max_length": 64,
        "kind": "small",
        "base": "hashed words",
        "pooling": "sum",
        "quantised": False,
    }
    for _ in range(2):  # the fingerprint leaves its own field out
        (folder / DESCRIPTION_FILE).write_text(json.dumps(description), encoding="utf-8")
        description["fingerprint"] = fingerprint_of(folder)
    return folder


def _bag_of_words(table: Float32) -> onnx.ModelProto:
    constants = {
        "table": table,
        "last_axis": np.array([2], np.int64),
        "token_axis": np.array([1], np.int64),
        "tiny": np.array(1e-9, np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", INPUTS[0]], ["tokens"]),  # (b, length, d)
        helper.make_node("Cast", [INPUTS[1]], ["present"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["present", "last_axis"], ["weights"]),
        helper.make_node("Mul", ["tokens", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "token_axis"], ["pooled"], keepdims=0),  # (b, d)
        helper.make_node("Mul", ["pooled", "pooled"], ["squares"]),
        helper.make_node("ReduceSum", ["squares", "token_axis"], ["squared_norm"], keepdims=1),
        helper.make_node("Sqrt", ["squared_norm"], ["norm"]),
        helper.make_node("Max", ["norm", "tiny"], ["divisor"]),
        helper.make_node("Div", ["pooled", "divisor"], ["embeddings"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in INPUTS]
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", table.shape[1]])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bag of words", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def build_tiny_corpus(encoder_folder: Path) -> Corpus:
    """Return a simulated corpus split by time; its encoder is written to `encoder_folder`."""
    config = Config().with_overrides(CONFIG)
    data = encode_dataset(simulate(SIMULATION, 7).dataset, config.data)
    encoder = TextEncoder.load(write_toy_encoder(encoder_folder, data.catalogue.texts), n_threads=1)
    return Corpus(
        data=data,
        split=make_split(data.log, data.impressions, config.split),
        config=config,
        item_embeddings=encoder.encode(data.catalogue.texts),
        encoder=encoder,
        pseudo_cold_idx=np.empty(0, np.int32),
    )


def train_tiny_models(corpus: Corpus, work: Path) -> FittedModels:
    """Return models of everything, with a ranker that was trained out of fold."""
    rng = np.random.default_rng(4)
    with StageClock() as clock:
        fits = Fits(corpus, Desk(WorkFolder(work), Reporter(quiet=True), clock))
        path = RankingPath(fits.models(Fold.LABEL))
        train, valid = (
            build_rows(path, requests_of(corpus, fold, 300, rng), corpus.config.ranker, rng, why_none=str)
            for fold in (Fold.LABEL, Fold.VALID)
        )
        fit = train_ranker(train, valid, corpus.config.ranker, np.random.SeedSequence(5))
        return fits.models(None).with_ranker(fit.ranker)


def write_tiny_bundle(models: FittedModels, encoder_folder: Path, folder: Path) -> Path:
    """Write the models as a bundle and return its folder."""
    write_bundle(
        models,
        encoder_folder,
        folder,
        data={"name": "simulated", "format": "tables", "items": len(models.catalogue)},
        metrics={"auc": 0.625},
    )
    return folder
