"""Text embeddings without any neural network: TF-IDF over character n-grams and its latent semantic analysis.

What a text encoder has to beat. Character n-grams need no words, so every script will do.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Float32 = npt.NDArray[np.float32]
UInt64 = npt.NDArray[np.uint64]

_SIZES: Final = (2, 3, 4, 5)  # characters of an n-gram
_MAX_TERMS: Final = 100_000
_MAX_TEXTS: Final = 20_000
_MAX_CHARACTERS: Final = 2_000  # of one text
_POWER_ITERATIONS: Final = 4
_OVERSAMPLING: Final = 10
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


@dataclass(frozen=True)
class TextBaseline:
    """A fitted baseline; made by `fit_text_baseline`.

    terms: uint64 `(n_terms,)`, sorted hashes of the n-grams in use. idf: float32 `(n_terms,)`. components: float32
    `(n_terms, d)`, orthonormal columns.
    """

    terms: UInt64
    idf: Float32
    components: Float32

    def encode(self, texts: Sequence[str]) -> Float32:
        """Return one embedding per text, float32 `(n, d)`, unit-norm; zero for a text without any known n-gram."""
        projected = np.asarray(_weigh([_n_grams(text) for text in texts], self.terms, self.idf) @ self.components)
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        return (projected / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def fit_text_baseline(texts: Sequence[str], *, n_components: int = 256, rng: np.random.Generator) -> TextBaseline:
    """Return the baseline learnt from a catalogue's texts; of more than 20,000, that many are drawn.

    An n-gram weighs `(1 + log count) * idf`, idf as smoothed by scikit-learn; texts have unit norm before the
    decomposition. N-grams that only one text has are left out, as are all but the 100,000 most widespread. The
    components are the right singular vectors by randomised subspace iteration (Halko et al. 2011, algorithm 4.4, on
    the side of the n-grams).

    Args:
        texts: any language; empty ones teach nothing.
        n_components: width of the embeddings at most; fewer where texts or n-grams are fewer.
        rng: draws the texts and the start of the iteration.
    """
    filled = np.flatnonzero([bool(text.strip()) for text in texts])
    if len(filled) > _MAX_TEXTS:
        filled = np.sort(rng.choice(filled, _MAX_TEXTS, replace=False))
    grams = [_n_grams(texts[int(i)]) for i in filled]
    found, n_containing = np.unique(_joined([np.unique(keys) for keys in grams]), return_counts=True)
    shared = np.flatnonzero(n_containing >= 2)
    shared = np.sort(shared[np.argsort(-n_containing[shared], kind="stable")][:_MAX_TERMS])
    terms, n_containing = found[shared], n_containing[shared]
    idf = (1.0 + np.log((1.0 + len(grams)) / (1.0 + n_containing))).astype(np.float32)
    weighted = _weigh(grams, terms, idf)
    size = min(n_components, *weighted.shape)
    if not size:
        return TextBaseline(terms, idf, np.zeros((len(terms), 0), np.float32))
    width = min(size + _OVERSAMPLING, *weighted.shape)
    basis = rng.standard_normal((len(terms), width), dtype=np.float32)  # (n_terms, k)
    for _ in range(_POWER_ITERATIONS):
        basis, _ = np.linalg.qr(weighted.T @ (weighted @ basis))
    _, _, right = np.linalg.svd(weighted @ basis, full_matrices=False)  # (k, k)
    return TextBaseline(terms, idf, np.ascontiguousarray(basis @ right[:size].T))


def _n_grams(text: str) -> UInt64:
    """Return the hashes of a text's n-grams, in order, repeats included.

    The text is brought to NFKC and lower case; whatever is neither letter nor number is one space, so that n-grams
    tell the edge of a word from its middle.
    """
    # A lone surrogate has no encoding.
    clean = unicodedata.normalize("NFKC", text[:_MAX_CHARACTERS].encode("utf-8", "replace").decode("utf-8")).lower()
    words = "".join(character if character.isalnum() else " " for character in clean).split()
    if not words:
        return np.empty(0, np.uint64)
    padded = f" {' '.join(words)} "
    points = np.frombuffer(padded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    keys = np.zeros(len(points), np.uint64)
    parts: list[UInt64] = []
    for n in range(1, max(_SIZES) + 1):
        # Each further character is mixed in; the product wraps round at 2^64 as it should.
        keys = (keys[: len(points) - n + 1] + points[n - 1 :]) * _MULTIPLIER
        keys ^= keys >> np.uint64(29)
        if n in _SIZES:
            parts.append(keys)
    return np.concatenate(parts)


def _weigh(grams: Sequence[UInt64], terms: UInt64, idf: Float32) -> sp.csr_matrix:
    """Return the TF-IDF matrix of texts, float32 CSR `(n_texts, n_terms)`, rows of unit norm or empty."""
    keys = _joined(grams)
    rows = np.repeat(np.arange(len(grams)), [len(part) for part in grams])
    if not len(terms):
        return sp.csr_matrix((len(grams), 0), dtype=np.float32)
    columns = np.minimum(np.searchsorted(terms, keys), len(terms) - 1)
    known = terms[columns] == keys
    counts = sp.csr_matrix(
        (np.ones(int(known.sum()), np.float32), (rows[known], columns[known])), shape=(len(grams), len(terms))
    )
    counts.sum_duplicates()
    counts.data = (1.0 + np.log(counts.data)) * idf[counts.indices]
    norms = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1))).ravel()
    norms[norms == 0] = 1.0
    counts.data /= np.repeat(norms, np.diff(counts.indptr)).astype(np.float32)
    return counts


def _joined(parts: Sequence[UInt64]) -> UInt64:
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
