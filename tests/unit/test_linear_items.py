"""The closed-form item models, against slow second implementations and hand-worked cases."""

import numpy as np
import pytest

from recsys.config import EaseConfig, NextItemConfig
from recsys.histories import History, InteractionLog
from recsys.models.linear_items import Ease, NextItem

SEQUENCES = [[0, 1, 2, 3], [1, 2, 0], [4, 1, 2], [3, 0], [2, 4, 0, 1]]


def _log(sequences: list[list[int]], n_items: int = 6, weights: list[float] | None = None) -> InteractionLog:
    user = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences]).astype(np.int32)
    item = np.concatenate([np.array(sequence, np.int32) for sequence in sequences])
    weight = np.ones(len(item), np.float32) if weights is None else np.array(weights, np.float32)
    return InteractionLog.from_arrays(user, item, np.arange(len(item)), weight, n_users=len(sequences), n_items=n_items)


def _history(items: list[int], weights: list[float] | None = None) -> History:
    weight = np.ones(len(items)) if weights is None else np.array(weights)
    return History(np.array(items, np.int32), np.arange(len(items)), weight.astype(np.float32))


def _plain_ease(sequences: list[list[int]], n_items: int, penalty: float) -> np.ndarray:
    """EASE by its definition: column by column, the ridge regression of an item on all others."""
    seen = np.array([[item in sequence for item in range(n_items)] for sequence in sequences], float)
    weights = np.zeros((n_items, n_items))
    for target in range(n_items):
        others = [item for item in range(n_items) if item != target]
        gram = seen[:, others].T @ seen[:, others] + penalty * np.eye(len(others))
        weights[others, target] = np.linalg.solve(gram, seen[:, others].T @ seen[:, target])
    return weights


def test_ease_is_a_ridge_regression_of_every_item_on_the_others() -> None:
    model = Ease.fit(_log(SEQUENCES, n_items=5), EaseConfig(min_interactions=1, regularization=2.0, nearness=0.0))

    assert model.weights.toarray() == pytest.approx(_plain_ease(SEQUENCES, 5, 2.0), abs=1e-6)
    assert model.weights.dtype == np.float32


def test_an_item_speaks_once_however_often_it_was_turned_to() -> None:
    model = Ease.fit(_log(SEQUENCES), EaseConfig(min_interactions=1, regularization=2.0, nearness=0.0))
    weights = model.weights.toarray()

    assert model.score(_history([3, 1, 3])) == pytest.approx(weights[1] + weights[3], abs=1e-6)
    assert not model.score(_history([])).any()


def test_items_turned_to_together_speak_louder_for_each_other_than_the_same_items_far_apart() -> None:
    # 0 and 1 always lie next to each other, 0 and 2 always far apart; all three occur equally often.
    far = [3, 4, 5, 6, 7, 8, 9]
    log = _log([[0, 1, *far, 2], [1, 0, *far, 2], [2, *far, 0, 1]], n_items=10)

    plain = Ease.fit(log, EaseConfig(min_interactions=1, regularization=5.0, nearness=0.0)).weights.toarray()
    near = Ease.fit(
        log, EaseConfig(min_interactions=1, regularization=5.0, nearness=0.8, nearness_steps=2.0)
    ).weights.toarray()

    assert plain[0, 1] == pytest.approx(plain[0, 2], abs=1e-6)
    assert near[0, 1] > 2 * near[0, 2]


def test_nearness_counts_pairs_of_one_user_by_their_distance() -> None:
    log = _log([[0, 1, 2], [2, 0]], n_items=3)
    model = Ease.fit(log, EaseConfig(min_interactions=1, regularization=1.0, nearness=1.0, nearness_steps=1.0))
    step = np.exp(-1.0)
    gram = np.array([[2, step, step**2 + step], [step, 1, step], [step**2 + step, step, 2]]) + np.eye(3)
    precision = np.linalg.inv(gram)
    expected = -precision / np.diag(precision)
    np.fill_diagonal(expected, 0.0)

    assert model.weights.toarray() == pytest.approx(expected, abs=1e-6)


def _plain_nearness(sequences: list[list[int]], n_items: int, steps: float) -> np.ndarray:
    """Pair by pair and user by user, the fading of the smallest distance at which they lie."""
    total = np.zeros((n_items, n_items))
    for sequence in sequences:
        for one in range(n_items):
            for other in range(n_items):
                distances = [
                    abs(i - j) for i, a in enumerate(sequence) for j, b in enumerate(sequence) if (a, b) == (one, other)
                ]
                if one != other and distances and min(distances) <= 3 * steps + 1:
                    total[one, other] += np.exp(-min(distances) / steps)
    return total


@pytest.mark.parametrize("chunk_rows", [7, 100_000])
def test_nearness_counts_a_pair_of_a_user_once_at_its_smallest_distance(
    chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.models.linear_items._CHUNK_ROWS", chunk_rows)
    rng = np.random.default_rng(0)
    sequences = [[], *(rng.integers(0, 5, n).tolist() for n in (1, 9, 14, 3)), [0, 1, 2, 3], [], [4, 4, 4], [3, 0] * 6]
    log = _log(sequences, n_items=5)
    model = Ease.fit(log, EaseConfig(min_interactions=1, regularization=2.0, nearness=0.6, nearness_steps=1.5))
    seen = np.array([[item in sequence for item in range(5)] for sequence in sequences], float)
    gram = 0.4 * seen.T @ seen + 0.6 * _plain_nearness(sequences, 5, 1.5)
    np.fill_diagonal(gram, seen.sum(axis=0) + 2.0)
    precision = np.linalg.inv(gram)
    expected = -precision / np.diag(precision)
    np.fill_diagonal(expected, 0.0)

    assert model.weights.toarray() == pytest.approx(expected, abs=1e-6)


def test_distance_is_counted_over_items_that_take_no_part() -> None:
    config = EaseConfig(min_interactions=2, regularization=1.0, nearness=1.0, nearness_steps=1.0)
    weights = Ease.fit(_log([[0, 2, 1], [0, 3, 1]], n_items=4), config).weights.toarray()
    gram = np.array([[3.0, 2 * np.exp(-2.0)], [2 * np.exp(-2.0), 3.0]])

    assert weights[0, 1] == pytest.approx(gram[0, 1] / gram[0, 0], abs=1e-6)


def test_items_that_are_replayed_all_day_keep_a_positive_definite_matrix(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    replays = [np.tile(rng.permutation(10), 20).tolist() for _ in range(60)]
    weights = Ease.fit(_log(replays, n_items=10), EaseConfig(min_interactions=1)).weights.toarray()
    once = Ease.fit(_log([replay[:10] for replay in replays], n_items=10), EaseConfig(min_interactions=1, nearness=0.0))

    assert not caplog.records
    assert weights.max() < 1.2 * once.weights.max()
    assert (weights[~np.eye(10, dtype=bool)] > 0).all()


def test_a_matrix_that_is_not_positive_definite_is_noticed_and_nearness_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # 1 lies next to 0 and next to 2, which lie far from each other, with items between that take no part.
    sequences = [[0, 1, *range(3 + 40 * user, 43 + 40 * user), 1, 2] for user in range(3)]
    log = _log(sequences, n_items=123)
    config = EaseConfig(min_interactions=2, regularization=0.1, nearness=1.0, nearness_steps=10.0)
    fitted = Ease.fit(log, config).weights.toarray()
    plain = Ease.fit(log, config.model_copy(update={"nearness": 0.0})).weights.toarray()

    assert fitted.tolist() == plain.tolist()
    assert fitted[0, 2] > 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "ease.nearness 1 leaves no positive definite matrix under ease.regularization 0.1" in caplog.text


def test_only_the_most_frequent_items_take_part() -> None:
    model = Ease.fit(
        _log([[0, 1], [0, 1], [0, 2], [1, 3]]), EaseConfig(min_interactions=1, regularization=1.0, max_items=2)
    )

    taking_part = np.flatnonzero(np.abs(model.weights.toarray()).sum(axis=0))
    assert taking_part.tolist() == [0, 1]


def test_items_that_hardly_occur_take_no_part() -> None:
    log = _log([[0, 1], [0, 1], [0, 2], [1, 3]])
    ease = Ease.fit(log, EaseConfig(regularization=1.0, min_interactions=3))
    following = NextItem.fit(log, NextItemConfig(regularization=1.0, min_interactions=2))

    assert np.flatnonzero(np.abs(ease.weights.toarray()).sum(axis=0)).tolist() == [0, 1]
    assert following.score(_history([0])).argmax() == 1
    assert not following.weights[:, [2, 3]].nnz


def test_the_largest_weights_in_size_are_kept_negative_ones_too() -> None:
    whole = Ease.fit(
        _log(SEQUENCES, n_items=5), EaseConfig(min_interactions=1, regularization=0.5, nearness=0.0)
    ).weights.toarray()
    kept = Ease.fit(
        _log(SEQUENCES, n_items=5), EaseConfig(min_interactions=1, regularization=0.5, nearness=0.0, max_neighbours=2)
    ).weights.toarray()

    for row in range(5):
        largest = np.sort(np.argsort(-np.abs(whole[row]))[:2])
        assert np.flatnonzero(kept[row]).tolist() == largest.tolist()
        assert kept[row, largest] == pytest.approx(whole[row, largest])
    assert (kept < 0).any()


@pytest.mark.parametrize("model", [Ease, NextItem])
def test_what_was_not_liked_teaches_nothing(model: type[Ease] | type[NextItem]) -> None:
    config = (
        EaseConfig(min_interactions=1, regularization=1.0)
        if model is Ease
        else NextItemConfig(min_interactions=1, regularization=1.0)
    )
    disliked = model.fit(_log([[0, 1, 2], [0, 2]], weights=[1, 0, 1, 1, 1]), config)  # type: ignore[arg-type]
    without = model.fit(_log([[0, 2], [0, 2]]), config)  # type: ignore[arg-type]

    assert disliked.weights.toarray().tolist() == without.weights.toarray().tolist()
    assert disliked.score(_history([0, 1], [1.0, -1.0])).tolist() == disliked.score(_history([0])).tolist()


@pytest.mark.parametrize("model", [Ease, NextItem])
def test_an_empty_log_gives_no_weights(model: type[Ease] | type[NextItem]) -> None:
    nothing = np.empty(0, np.int32)
    log = InteractionLog.from_arrays(nothing, nothing, nothing, nothing, n_users=2, n_items=3)
    fitted = model.fit(log, EaseConfig() if model is Ease else NextItemConfig())  # type: ignore[arg-type]

    assert fitted.weights.shape == (3, 3)
    assert not fitted.score(_history([0, 2])).any()


def _plain_next_item(
    sequences: list[list[int]], n_items: int, penalty: float, window: int, fading: float
) -> np.ndarray:
    """The regression of what comes next on what came before, interaction by interaction."""
    before, after = [], []
    for sequence in sequences:
        for place, item in enumerate(sequence):
            row = np.zeros(n_items)
            for steps_back in range(1, min(place, window) + 1):
                row[sequence[place - steps_back]] += steps_back**-fading
            before.append(row)
            after.append(np.eye(n_items)[item])
    x, y = np.array(before), np.array(after)
    return np.linalg.solve(x.T @ x + penalty * np.eye(n_items), x.T @ y)


@pytest.mark.parametrize(("window", "fading"), [(1, 0.7), (2, 0.7), (30, 1.5)])
def test_next_item_weights_regress_each_item_on_those_before_it(window: int, fading: float) -> None:
    config = NextItemConfig(min_interactions=1, regularization=1.5, window=window, fading=fading)
    model = NextItem.fit(_log(SEQUENCES, n_items=5), config)

    assert model.weights.toarray() == pytest.approx(_plain_next_item(SEQUENCES, 5, 1.5, window, fading), abs=1e-6)


def test_the_log_is_read_in_parts_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    config = NextItemConfig(min_interactions=1, regularization=1.0)
    whole = NextItem.fit(_log(SEQUENCES), config).weights.toarray()
    monkeypatch.setattr("recsys.models.linear_items._CHUNK_ROWS", 3)

    assert NextItem.fit(_log(SEQUENCES), config).weights.toarray() == pytest.approx(whole, abs=1e-6)


def test_the_direction_of_a_transition_matters() -> None:
    model = NextItem.fit(_log([[0, 1], [0, 1], [2, 0]]), NextItemConfig(min_interactions=1, regularization=0.1))

    assert model.score(_history([0])).argmax() == 1
    assert model.score(_history([1])).max() == 0.0


def test_newer_items_of_a_history_speak_louder_and_old_ones_not_at_all() -> None:
    model = NextItem.fit(_log(SEQUENCES), NextItemConfig(min_interactions=1, regularization=1.0, window=2, fading=1.0))
    weights = model.weights.toarray()

    assert model.score(_history([3, 4, 0])) == pytest.approx(weights[0] + weights[4] / 2, abs=1e-6)
