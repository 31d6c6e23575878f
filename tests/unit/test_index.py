import numpy as np
import pytest

from recsys.retrieval.index import ExactIndex, InvertedIndex, build_index, top_n

INF = np.inf


@pytest.mark.parametrize(
    ("scores", "n", "expected"),
    [
        ([0.1, 0.9, 0.5], 2, [1, 2]),
        ([0.1, 0.9, 0.5], 3, [1, 2, 0]),
        ([0.1, 0.9, 0.5], 99, [1, 2, 0]),
        ([1.0, 2.0, 1.0, 1.0], 2, [1, 0]),
        ([1.0, 2.0, 1.0, 1.0], 3, [1, 0, 2]),
        ([5.0] * 6, 4, [0, 1, 2, 3]),
        ([0.0, -0.0, 0.0], 2, [0, 1]),
        ([-INF, 3.0, -INF, 1.0], 3, [1, 3]),
        ([-INF, -INF], 1, []),
        ([INF, 0.0, INF], 2, [0, 2]),
        ([0.5], 0, []),
        ([0.5], -3, []),
        ([], 4, []),
    ],
)
def test_the_best_rows_come_first_and_ties_go_to_the_lower_row(
    scores: list[float], n: int, expected: list[int]
) -> None:
    rows = top_n(np.array(scores, np.float32), n)

    assert rows.tolist() == expected
    assert rows.dtype == np.int32


def test_the_exact_index_orders_by_inner_product_and_not_by_angle() -> None:
    vectors = np.array([[1, 0], [5, 5], [0, -3], [2, 0]], np.float32)

    assert ExactIndex(vectors).search(np.array([1.0, 0.0], np.float32), 3).tolist() == [1, 3, 0]
    assert ExactIndex(vectors).search(np.array([0.0, -1.0], np.float32), 1).tolist() == [2]


def test_the_approximate_index_finds_what_the_exact_one_finds_in_a_small_catalogue() -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 12)).astype(np.float32)
    queries = np.random.default_rng(1).normal(size=(20, 12)).astype(np.float32)
    exact, approximate = ExactIndex(vectors), InvertedIndex(vectors)

    shared = [len(np.intersect1d(exact.search(q, 10), approximate.search(q, 10))) for q in queries]
    assert np.mean(shared) >= 9.5


@pytest.mark.parametrize("make", [ExactIndex, InvertedIndex])
def test_more_than_there_is_gives_all_there_is(make: type) -> None:
    rows = make(np.eye(3, 5, dtype=np.float32)).search(np.array([3, 1, 2, 0, 0], np.float32), 10)

    assert rows.tolist() == [0, 2, 1]
    assert rows.dtype == np.int32


@pytest.mark.parametrize(("n", "expected"), [(9, ExactIndex), (10, InvertedIndex), (11, InvertedIndex)])
def test_size_decides_which_index_is_built(n: int, expected: type) -> None:
    assert type(build_index(np.ones((n, 2), np.float32), exact_below=10)) is expected
