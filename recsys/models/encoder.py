"""A fitted text encoder at work: tokenizer and ONNX graph, without the libraries that trained it."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from recsys.errors import EncoderError

DESCRIPTION_FILE: Final = "encoder.json"
MODEL_FILE: Final = "model.onnx"
TOKENIZER_FILE: Final = "tokenizer.json"
FILES: Final = (DESCRIPTION_FILE, MODEL_FILE, TOKENIZER_FILE)
INPUTS: Final = ("input_ids", "attention_mask")

_KEYS: Final = ("dim", "max_length", "kind", "base", "pooling", "quantised", "fingerprint")
# A text of n characters has no use for more than its first tokens; cutting it first keeps a text of megabytes cheap.
_CHARACTERS_PER_TOKEN: Final = 64
# Texts tokenised at a time: what the tokenizer returns of a text is many times the size of its ids.
_TEXTS_AT_ONCE: Final = 1_024

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[Int64]:
    """Return the token ids of each text, int64 `(at most max_length,)`, special tokens included.

    A text in which the tokenizer finds nothing but special tokens (an empty one, say) gives an array of length 0.
    """
    cut = max_length * _CHARACTERS_PER_TOKEN
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    tokens: list[Int64] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        # A lone surrogate has no UTF-8 form and cannot be handed to the tokenizer.
        clean = [
            text[:cut].encode("utf-8", "replace").decode("utf-8") for text in texts[start : start + _TEXTS_AT_ONCE]
        ]
        tokens += [
            np.asarray(encoding.ids if not all(encoding.special_tokens_mask) else [], dtype=np.int64)
            for encoding in tokenizer.encode_batch(clean)
        ]
    return tokens


def pad(tokens: Sequence[Int64], pad_id: int) -> tuple[Int64, Int64]:
    """Return token ids `(b, longest)` filled up with `pad_id`, and the mask, 1 where a token stands; both int64."""
    longest = max(len(ids) for ids in tokens)
    input_ids = np.full((len(tokens), longest), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(tokens), longest), dtype=np.int64)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask


def pad_id_of(tokenizer: Tokenizer) -> int:
    """Return the id of the padding token that the tokenizer declares, 0 where it declares none."""
    return int(tokenizer.padding["pad_id"]) if tokenizer.padding else 0


def fingerprint_of(folder: Path) -> str:
    """Return the SHA-256 over an encoder's files, the field `fingerprint` of its description left out.

    Raises:
        EncoderError: a file is missing or the description is no JSON object.
    """
    description = _read_description(folder)
    description.pop("fingerprint", None)
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in (MODEL_FILE, TOKENIZER_FILE):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _read_description(folder: Path) -> dict[str, Any]:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise EncoderError(
            f"the text encoder in {folder} lacks {', '.join(missing)}; an encoder is the files {', '.join(FILES)}, so "
            "train or export it again"
        )
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"{folder / DESCRIPTION_FILE} is no JSON ({error}); export the encoder again") from error
    if not isinstance(description, dict):
        raise EncoderError(f"{folder / DESCRIPTION_FILE} holds a {type(description).__name__}, not an object")
    return description


@dataclass(frozen=True)
class EncoderDescription:
    """What `encoder.json` says. `kind` is `pretrained` or `small`, `base` what the weights started from."""

    dim: int
    max_length: int
    kind: str
    base: str
    pooling: str
    quantised: bool
    fingerprint: str

    @staticmethod
    def load(folder: Path) -> "EncoderDescription":
        """Read the description and check the files against its fingerprint.

        Raises:
            EncoderError: a file or a key is missing, or the files changed since the encoder was written.
        """
        values = _read_description(folder)
        if missing := [key for key in _KEYS if key not in values]:
            raise EncoderError(f"{folder / DESCRIPTION_FILE} lacks {', '.join(missing)}; export the encoder again")
        found = fingerprint_of(folder)
        if found != values["fingerprint"]:
            raise EncoderError(
                f"the text encoder in {folder} has changed since it was written: fingerprint {found[:12]}…, expected "
                f"{str(values['fingerprint'])[:12]}…; restore its files or export it again"
            )
        return EncoderDescription(**{key: values[key] for key in _KEYS})


class TextEncoder:
    """Turns texts into unit-norm embeddings with the exported encoder; made by `load`."""

    def __init__(
        self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer, description: EncoderDescription
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._pad_id = pad_id_of(tokenizer)
        self.description = description

    @classmethod
    def load(cls, folder: Path, n_threads: int | None = None) -> "TextEncoder":
        """Read an encoder from its folder.

        Args:
            folder: holds `encoder.json`, `model.onnx` and `tokenizer.json`.
            n_threads: threads that one call may use; by default as many as there are processors.

        Raises:
            EncoderError: a file is missing, has changed, or does not fit the others.
        """
        folder = Path(folder)
        description = EncoderDescription.load(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        # Threads that spin while they wait bring little on a machine of their own and cost much on a shared one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), sess_options=options, providers=["CPUExecutionProvider"]
        )
        inputs = sorted(node.name for node in session.get_inputs())
        if inputs != sorted(INPUTS):
            raise EncoderError(
                f"{folder / MODEL_FILE} takes {', '.join(inputs)}; a text encoder takes {' and '.join(INPUTS)}"
            )
        width = session.get_outputs()[0].shape[-1]
        if width != description.dim:
            raise EncoderError(
                f"{folder / MODEL_FILE} gives embeddings of width {width}, {DESCRIPTION_FILE} says {description.dim}; "
                "these files are from different encoders"
            )
        return cls(session, Tokenizer.from_file(str(folder / TOKENIZER_FILE)), description)

    @property
    def fingerprint(self) -> str:
        """SHA-256 that tells this encoder from every other; stored with the embeddings that it makes."""
        return self.description.fingerprint

    @property
    def embedding_size(self) -> int:
        return self.description.dim

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Float32:
        """Return one embedding per text, float32 `(n, embedding_size)`, unit-norm, in the order of `texts`.

        A text without anything to read gives the zero vector, whose cosine with everything is 0.

        Raises:
            EncoderError: the graph cannot be run on these texts.
        """
        tokens = tokenise(self._tokenizer, texts, self.description.max_length)
        lengths = np.asarray([len(ids) for ids in tokens], dtype=np.int64)
        embeddings = np.zeros((len(texts), self.embedding_size), dtype=np.float32)
        # Texts of like length share a batch, so that little of it is padding.
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] > 0]
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = pad([tokens[row] for row in rows], self._pad_id)
            try:
                embeddings[rows] = self._session.run(None, dict(zip(INPUTS, batch, strict=True)))[0]
            except Exception as error:  # the runtime's own have no base in common
                raise EncoderError(
                    f"the text encoder failed on {len(rows)} text(s) of up to {batch[0].shape[1]} tokens: {error}; "
                    "try again, and if it stays so check the free memory and the encoder's files"
                ) from error
        return embeddings
