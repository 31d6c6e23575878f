"""Writes a trained encoder as the three files that serving reads, and checks that they say what the network says."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from recsys.errors import EncoderError
from recsys.models.encoder import (
    DESCRIPTION_FILE,
    INPUTS,
    MODEL_FILE,
    TOKENIZER_FILE,
    TextEncoder,
    fingerprint_of,
    pad,
    tokenise,
)
from training.encoder_module import LoadedEncoder

_OPSET: Final = 20  # the first with Gelu as one operator, which ONNX Runtime computes faster than its parts
_MAX_DIFFERENCE: Final = 1e-4
_CHECKED_TEXTS: Final = 32
# Used where the catalogue has no text to check with.
_FALLBACK_TEXTS: Final = ("a", "two words")


def export_encoder(
    loaded: LoadedEncoder, folder: Path, *, kind: str, base: str, max_length: int, texts: Sequence[str]
) -> None:
    """Write `encoder.json`, `model.onnx` and `tokenizer.json` to a folder, which is replaced as a whole.

    Args:
        loaded: the network, on the CPU in float32, and its tokenizer.
        folder: where to; its parent is made if need be.
        kind: `pretrained` or `small`.
        base: what the weights started from.
        max_length: tokens that are read of a text.
        texts: the catalogue's; some of them are encoded by both the network and the files.

    Raises:
        EncoderError: the embeddings of the two differ by more than 1e-4; the folder is then left as it was.
    """
    checked = [text for text in texts if text.strip()] or list(_FALLBACK_TEXTS)
    checked = checked[:: -(-len(checked) // _CHECKED_TEXTS)]
    expected = encode_with_network(loaded, checked, max_length)
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write_graph(loaded, part / MODEL_FILE)
        tokenizer = loaded.tokenizer
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding(pad_id=loaded.pad_id, pad_token=tokenizer.id_to_token(loaded.pad_id) or "[PAD]")
        tokenizer.save(str(part / TOKENIZER_FILE))
        _write_description(
            part,
            {
                "dim": expected.shape[1],
                "max_length": max_length,
                "kind": kind,
                "base": base,
                "pooling": loaded.pooling,
                "quantised": False,
            },
        )
        _check_parity(part, checked, expected)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@torch.no_grad()
def encode_with_network(loaded: LoadedEncoder, texts: Sequence[str], max_length: int) -> npt.NDArray[np.float32]:
    """Return the embeddings `(n, d)` of the network itself, one text at a time; zero where nothing is to be read."""
    loaded.module.eval()
    rows: list[npt.NDArray[np.float32]] = []
    for tokens in tokenise(loaded.tokenizer, texts, max_length):
        batch = pad([tokens if len(tokens) else np.zeros(1, np.int64)], loaded.pad_id)
        row = loaded.module(*(torch.from_numpy(array) for array in batch)).numpy()[0]
        rows.append(row if len(tokens) else np.zeros_like(row))
    return np.stack(rows)


def _write_graph(loaded: LoadedEncoder, file: Path) -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shape = {0: batch, 1: length}
    example = torch.full((2, 8), loaded.pad_id + 1, dtype=torch.int64)
    loaded.module.eval()
    with _without_remarks():
        torch.onnx.export(
            loaded.module,
            (example, torch.ones_like(example)),
            str(file),
            input_names=list(INPUTS),
            output_names=["unit_embeddings"],
            dynamic_shapes=dict.fromkeys(INPUTS, shape),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep back what the exporter says of its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    file = folder / DESCRIPTION_FILE
    file.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    description["fingerprint"] = fingerprint_of(folder)
    file.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_parity(folder: Path, texts: Sequence[str], expected: npt.NDArray[np.float32]) -> None:
    found = TextEncoder.load(folder).encode(texts)
    difference = np.abs(found - expected).max(axis=1)
    if not (difference <= _MAX_DIFFERENCE).all():
        worst = int(np.argmax(difference))
        raise EncoderError(
            f"the exported encoder differs from the trained one: by {difference[worst]:.2g} for the text "
            f"{texts[worst][:60]!r}, {_MAX_DIFFERENCE} is allowed; choose another encoder.model"
        )
