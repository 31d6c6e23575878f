"""Search through vectors in bytes: the rows that it keeps always hold the best ones, whatever the vectors are."""

import numpy as np
import numpy.typing as npt
import pytest

from recsys.retrieval.byte_rows import ByteRows
from recsys.retrieval.index import ExactIndex, top_n

Float32 = npt.NDArray[np.float32]
ALL = np.empty(0, np.bool_)


def vectors_of(kind: str, rng: np.random.Generator, n: int = 700, size: int = 24) -> Float32:
    vectors = rng.standard_normal((n, size)).astype(np.float32)
    if kind == "of very different lengths":
        vectors *= np.exp(3 * rng.standard_normal((n, 1))).astype(np.float32)
    if kind == "nearly equal":
        vectors = vectors[:1] + np.float32(1e-3) * vectors
    if kind == "with one large number each":
        vectors[np.arange(n), rng.integers(0, size, n)] = 100.0
    if kind == "with zero rows and repeats":
        vectors[::3] = 0.0
        vectors[1::3] = vectors[1]
    return vectors


@pytest.mark.parametrize(
    "kind", ["usual", "of very different lengths", "nearly equal", "with one large number each",
             "with zero rows and repeats"],
)  # fmt: skip
@pytest.mark.parametrize("share_allowed", [1.0, 0.3, 0.0])
def test_none_of_the_best_is_passed_over(kind: str, share_allowed: float) -> None:
    rng = np.random.default_rng(7)
    vectors = vectors_of(kind, rng)
    rows = ByteRows(vectors)
    for n in (1, 20, 2_000):
        query = rng.standard_normal(vectors.shape[1]).astype(np.float32)
        allowed = ALL if share_allowed == 1.0 else rng.random(len(vectors)) < share_allowed
        n_used = len(vectors) - 50
        found = rows.may_be_best(query, n, allowed, n_used)

        scores = (vectors[:n_used].astype(np.float64) @ query).astype(np.float32)
        best = top_n(scores, n, None if not len(allowed) else allowed[:n_used])
        assert np.isin(best, found).all()
        assert (np.diff(found) > 0).all()
        assert found.dtype == np.int32
        assert len(allowed) == 0 or allowed[found].all()
        assert not len(found) or found[-1] < n_used


def test_most_rows_are_passed_over() -> None:
    rng = np.random.default_rng(3)
    vectors = vectors_of("usual", rng, n=5_000, size=64)
    found = ByteRows(vectors).may_be_best(vectors[5], 50, ALL, len(vectors))
    assert 50 <= len(found) < 200


def test_query_of_zeros_leaves_every_allowed_row() -> None:
    rows = ByteRows(np.ones((4, 3), np.float32))
    allowed = np.array([True, False, True, True])
    assert rows.may_be_best(np.zeros(3, np.float32), 2, allowed, 3).tolist() == [0, 2]


def test_large_exact_index_returns_what_scoring_every_vector_returns_before_and_after_a_change() -> None:
    rng = np.random.default_rng(5)
    vectors = np.zeros((3_000, 200), np.float32)
    vectors[:2_900] = vectors_of("usual", rng, n=2_900, size=200)
    index = ExactIndex(vectors, 2_900)
    query = rng.standard_normal(200).astype(np.float32)
    assert index.search(query, 30).tolist() == top_n(vectors[:2_900] @ query, 30).tolist()

    vectors[2_900] = 2 * query
    index.touch(np.array([2_900], np.int32))
    assert index.search(query, 30)[0] == 2_900
    vectors[2_900] = -query
    index.touch(np.array([2_900], np.int32))
    assert 2_900 not in index.search(query, 30)
