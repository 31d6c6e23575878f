import numpy as np
import pytest

from recsys.histories import History
from recsys.models.factors import ItemFactors

ALPHA, REGULARIZATION = 10.0, 0.5
OWN = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [0.0, 0.0]], np.float32)
CONTENT = np.array([[9.0, 9.0], [9.0, 9.0], [1.0, -1.0], [0.5, 0.25]], np.float32)
WARM = np.array([True, True, False, False])


def _factors() -> ItemFactors:
    return ItemFactors(OWN, CONTENT, WARM, REGULARIZATION, ALPHA)


def _history(items: list[int], weights: list[float]) -> History:
    return History(np.array(items, np.int32), np.arange(len(items), dtype=np.int64), np.array(weights, np.float32))


def test_warm_items_keep_their_own_place_and_the_others_go_where_content_says() -> None:
    assert _factors().placed.tolist() == [[1, 0], [0, 2], [1, -1], [0.5, 0.25]]
    assert _factors().placed.flags["C_CONTIGUOUS"]


def test_unit_rows_have_length_one_and_zero_rows_stay_zero() -> None:
    factors = ItemFactors(OWN, CONTENT, np.array([True, True, True, True]), REGULARIZATION, ALPHA)

    np.testing.assert_allclose(factors.unit_placed, [[1, 0], [0, 1], [0.5**0.5, 0.5**0.5], [0, 0]], rtol=1e-6)
    assert factors.unit_placed.dtype == np.float32


def test_an_empty_history_folds_in_to_zeros() -> None:
    user = _factors().fold_in(History.empty())

    assert user.tolist() == [0, 0]
    assert user.dtype == np.float32


def test_folding_in_solves_the_weighted_least_squares_of_all_items() -> None:
    history = _history([0, 2], [1.0, 0.5])
    placed = _factors().placed.astype(np.float64)
    # Every item of the catalogue with its own factor at confidence 1 and preference 0; the history's on top.
    confidence = np.array([ALPHA * 1.0, 0, ALPHA * 0.5, 0])
    left = OWN.astype(np.float64).T @ OWN + REGULARIZATION * np.eye(2)
    left += sum(confidence[i] * np.outer(placed[i], placed[i]) for i in range(4))
    right = (1 + confidence[0]) * placed[0] + (1 + confidence[2]) * placed[2]

    np.testing.assert_allclose(_factors().fold_in(history), np.linalg.solve(left, right), rtol=1e-6)


def test_one_item_one_dimension_by_hand() -> None:
    own = np.array([[2.0], [1.0]], np.float32)
    factors = ItemFactors(own, own, np.array([True, True]), 1.0, 4.0)

    # left = 2² + 1² + 1 + 4·2² = 22, right = (1 + 4)·2
    assert factors.fold_in(_history([0], [1.0])).tolist() == pytest.approx([10 / 22])


def test_repeats_count_as_one_interaction_of_their_summed_weight() -> None:
    repeated = _factors().fold_in(_history([1, 0, 1], [0.5, 1.0, 1.5]))

    np.testing.assert_allclose(repeated, _factors().fold_in(_history([0, 1], [1.0, 2.0])), rtol=1e-6)


def test_order_in_time_does_not_matter() -> None:
    one, other = _history([2, 0, 1], [1.0, 2.0, 4.0]), _history([1, 2, 0], [4.0, 1.0, 2.0])

    assert _factors().fold_in(one).tolist() == _factors().fold_in(other).tolist()


def test_more_weight_brings_the_users_score_of_an_item_nearer_to_one() -> None:
    factors = _factors()
    scores = [float(factors.placed[0] @ factors.fold_in(_history([0], [weight]))) for weight in (0.1, 1.0, 100.0)]

    assert scores[0] < scores[1] < scores[2]
    assert scores[2] == pytest.approx(1.0, abs=0.02)
