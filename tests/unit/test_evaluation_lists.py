"""What lists of recommendations look like beyond accuracy, against values worked by hand, and every error."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from recsys.evaluation.metrics import EvaluationError, coverage, gini_of_exposure, intra_list_diversity, novelty

LISTS = np.array([[0, 1, 2], [0, 3, -1], [-1, -1, -1]], dtype=np.int32)


def test_coverage_counts_recommended_items_once_and_padding_never() -> None:
    assert coverage(LISTS, 8) == 4 / 8
    assert coverage(LISTS[2:], 8) == 0.0
    assert math.isnan(coverage(LISTS[2:], 0))


@pytest.mark.parametrize(
    ("lists", "n_items", "gini"),
    [
        ([[0, 1], [2, 3]], 4, 0.0),
        ([[2, 2], [2, -1]], 4, 3 / 4),  # everything on one item of four
        ([[0, 1], [0, 2]], 3, (1 * -2 + 1 * 0 + 2 * 2) / (3 * 4)),  # exposures 1, 1, 2
    ],
)
def test_gini_of_exposure_equals_the_hand_worked_fraction(lists: list[list[int]], n_items: int, gini: float) -> None:
    assert gini_of_exposure(np.array(lists, np.int32), n_items) == pytest.approx(gini)


def test_gini_of_nothing_recommended_is_undefined() -> None:
    assert math.isnan(gini_of_exposure(LISTS[2:], 5))


def test_novelty_is_the_mean_surprise_in_bits_with_one_more_interaction_each() -> None:
    counts = np.array([7, 3, 1, 0, 0])  # with one more each: 8, 4, 2, 1, 1 of 16

    result = novelty(LISTS, counts)

    assert result.tolist() == pytest.approx([(1 + 2 + 3) / 3, (1 + 4) / 2, math.nan], nan_ok=True)


def test_diversity_is_the_mean_cosine_distance_over_pairs() -> None:
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.5, 0.0]], np.float32)
    lists = np.array([[0, 1, 2], [0, 3, -1], [0, 2, -1], [1, -1, -1]], dtype=np.int32)

    result = intra_list_diversity(lists, embeddings)

    assert result.tolist() == pytest.approx([(1 + 2 + 1) / 3, 0.0, 2.0, math.nan], nan_ok=True)


def test_an_item_without_embedding_is_at_distance_one_from_everything() -> None:
    embeddings = np.array([[0.0, 0.0], [0.0, 3.0], [0.0, 1.0]], np.float32)

    assert intra_list_diversity(np.array([[0, 1, 2]]), embeddings)[0] == pytest.approx((1 + 1 + 0) / 3)


def test_diversity_is_the_same_however_the_lists_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    lists, embeddings = rng.integers(0, 20, (11, 3)), rng.normal(size=(20, 6))
    whole = intra_list_diversity(lists, embeddings)

    monkeypatch.setattr("recsys.evaluation.metrics._CHUNK_VALUES", 40)

    assert intra_list_diversity(lists, embeddings).tolist() == pytest.approx(whole.tolist())


def test_lists_of_an_empty_catalogue_have_no_value() -> None:
    empty = np.full((2, 3), -1)

    assert np.isnan(novelty(empty, np.zeros(0, np.int64))).all()
    assert np.isnan(intra_list_diversity(empty, np.zeros((0, 4)))).all()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (np.array([[0, 4], [-2, 9]]), r"3 recommended rows are outside 0..3, the first: \[4, -2, 9\]"),
        (np.array([0, 1]), r"recommended has shape \(2,\)"),
        (np.array([[0.0, 1.0]]), "dtype float64; pass integers"),
    ],
)
def test_lists_that_are_none_are_refused(lists: npt.NDArray[np.generic], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        coverage(lists, 4)
    with pytest.raises(EvaluationError, match=message):
        gini_of_exposure(lists, 4)
    with pytest.raises(EvaluationError, match=message):
        novelty(lists, np.ones(4, np.int64))
    with pytest.raises(EvaluationError, match=message):
        intra_list_diversity(lists, np.ones((4, 2)))
