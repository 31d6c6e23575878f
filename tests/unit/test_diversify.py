"""Maximal marginal relevance against hand-worked choices and a slow second implementation."""

import math

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from recsys.catalogue import Catalogue
from recsys.errors import RequestError
from recsys.evaluation import intra_list_diversity
from recsys.retrieval.diversify import category_matrix, diversified, pool_size


def unit(rows: list[list[float]]) -> np.ndarray:
    """Return rows scaled to norm 1, those of zeros as they are."""
    matrix = np.array(rows, np.float32).reshape(-1, len(rows[0]) if rows else 3)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def categories(sets: list[set[int]], n: int = 3) -> sp.csr_matrix:
    """Return a category matrix from the categories of each item."""
    return sp.csr_matrix(np.array([[float(g in own) for g in range(n)] for own in sets], np.float32).reshape(-1, n))


def similarity(embeddings: np.ndarray, sets: list[set[int]], i: int, j: int) -> float:
    """Return the similarity of two items, the slow way."""
    parts = []
    if embeddings[i].any() and embeddings[j].any():
        parts.append(max(float(embeddings[i] @ embeddings[j]), 0.0))
    if sets[i] and sets[j]:
        parts.append(len(sets[i] & sets[j]) / math.sqrt(len(sets[i]) * len(sets[j])))
    return sum(parts) / len(parts) if parts else 0.0


def worths(embeddings: np.ndarray, sets: list[set[int]], before: list[int], diversity: float) -> dict[int, float]:
    """Return the marginal relevance of every item that is not in the list yet, the slow way."""
    return {
        i: (1 - diversity) / math.log2(2 + i)
        - diversity * max([similarity(embeddings, sets, i, j) for j in before], default=0.0)
        for i in range(len(sets))
        if i not in before
    }


# The second item is the first one again, the third is half alike, the fourth is something else.
TEXTS = unit([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0]])
NO_CATEGORIES = sp.csr_matrix((5, 0), dtype=np.float32)


def test_without_diversity_the_order_of_the_ranker_stands() -> None:
    assert diversified(TEXTS, NO_CATEGORIES, 4, 0.0).tolist() == [0, 1, 2, 3]
    assert diversified(TEXTS, NO_CATEGORIES, 9, 0.0).tolist() == [0, 1, 2, 3, 4]


def test_an_item_that_repeats_a_better_one_gives_way() -> None:
    # At .5: rank 4 has ½·.431 - 0, rank 5 ½·.387 - 0, the half alike ½·.5 - ½·.707 and the repeat ½·.631 - ½ less.
    assert diversified(TEXTS, NO_CATEGORIES, 5, 0.5).tolist() == [0, 3, 4, 2, 1]
    # At .2 the repeat is still worth .8·.631 - .2 = .305, the half alike .8·.5 - .2·.707 = .259, rank 4 .8·.431 = .345.
    assert diversified(TEXTS, NO_CATEGORIES, 3, 0.2).tolist() == [0, 3, 4]
    assert diversified(TEXTS, NO_CATEGORIES, 3, 0.1).tolist() == [0, 1, 3]


def test_at_full_diversity_rank_only_breaks_ties() -> None:
    assert diversified(TEXTS, NO_CATEGORIES, 5, 1.0).tolist() == [0, 3, 4, 2, 1]


def test_categories_count_as_much_as_text() -> None:
    # Texts all alike: of the others only the last has no category of the first.
    texts = unit([[1, 0]] * 4)
    sets = [{0}, {0, 1}, {0}, {2}]

    assert diversified(texts, categories(sets), 2, 0.7).tolist() == [0, 3]
    assert diversified(texts, categories(sets), 4, 1.0).tolist() == [0, 3, 1, 2]


def test_opposite_texts_are_no_more_different_than_unrelated_ones() -> None:
    assert diversified(unit([[1, 0], [0, 1], [-1, 0]]), sp.csr_matrix((3, 0)), 2, 1.0).tolist() == [0, 1]


def test_where_one_item_lacks_text_or_categories_the_other_kind_decides() -> None:
    texts = unit([[1, 0], [0, 0], [1, 0], [0, 0]])
    sets = [{0}, {0}, set(), set()]

    # Item 1 has the category of item 0, item 2 its text, and nothing is known of item 3.
    assert diversified(texts, categories(sets), 4, 1.0).tolist() == [0, 3, 1, 2]


@given(
    data=st.data(),
    m=st.integers(0, 8),
    n=st.integers(1, 9),
    diversity=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 1.0]),
)
def test_every_choice_is_the_best_by_the_slow_implementation(
    data: st.DataObject, m: int, n: int, diversity: float
) -> None:
    vectors = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=m, max_size=m))
    sets = data.draw(st.lists(st.sets(st.integers(0, 2)), min_size=m, max_size=m))
    embeddings = unit([[float(x) for x in row] for row in vectors])

    found = diversified(embeddings, categories(sets), n, diversity).tolist()

    assert len(found) == len(set(found)) == min(m, n)
    for place, item in enumerate(found):
        worth = worths(embeddings, sets, found[:place], diversity)
        assert worth[item] == pytest.approx(max(worth.values()), abs=1e-6)
        # Of clearly equal ones, such as two items of which nothing is known, the better rank comes first.
        assert not [i for i in worth if i < item and worth[i] > worth[item] + 1e-6]


def test_more_diversity_never_lowers_the_diversity_of_topical_lists() -> None:
    # Five topics whose items differ a little, the ranker's order goes topic by topic, longer ones first.
    topics = np.repeat(np.arange(5), [12, 9, 6, 4, 3])
    rng = np.random.default_rng(2)
    embeddings = unit((np.eye(5)[topics] + 0.05 * rng.random((len(topics), 5))).tolist())
    none = sp.csr_matrix((len(topics), 0))

    lists = [diversified(embeddings, none, 5, share / 20) for share in range(21)]
    measured = [intra_list_diversity(found[None, :], embeddings)[0] for found in lists]

    assert np.diff(measured).min() >= -1e-3
    assert [len(set(topics[found])) for found in lists] == sorted(len(set(topics[found])) for found in lists)
    assert len(set(topics[lists[0]])) == 1
    assert len(set(topics[lists[-1]])) == 5


def test_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    rng = np.random.default_rng(3)
    embeddings = unit(rng.normal(size=(40, 5)).tolist())
    own = categories([set(rng.integers(0, 3, 2).tolist()) for _ in range(40)])

    longer = diversified(embeddings, own, 20, 0.4)

    assert diversified(embeddings, own, 7, 0.4).tolist() == longer[:7].tolist()


@pytest.mark.parametrize("diversity", [-0.1, 1.01, float("nan"), float("inf")])
def test_a_diversity_that_is_no_share_is_refused(diversity: float) -> None:
    with pytest.raises(RequestError, match=rf"diversity must be between 0 and 1 \(got {diversity}\)") as caught:
        diversified(TEXTS, NO_CATEGORIES, 3, diversity)

    assert caught.value.field == "diversity"


@pytest.mark.parametrize(("n", "size"), [(1, 200), (100, 200), (101, 202), (1_000, 2_000)])
def test_a_list_is_chosen_from_the_best_of_the_ranking(n: int, size: int) -> None:
    assert pool_size(n) == size


def test_the_category_matrix_has_the_categories_alone() -> None:
    table = pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "maker": ["x", "x", "y"],
            "categories": [["war", "sea"], ["sea", "war"], ["sea"]],
            "studio": ["s", "s", None],
        }
    )

    assert category_matrix(Catalogue.from_items(table, ())).toarray().tolist() == [[1, 1], [1, 1], [1, 0]]
    assert category_matrix(Catalogue.from_items(table.drop("categories"), ())).shape == (3, 0)
    assert category_matrix(Catalogue.from_items(table.select("item_id"), ())).shape == (3, 0)
