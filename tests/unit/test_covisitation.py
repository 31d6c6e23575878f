import numpy as np
import pytest

from recsys.config import CovisitationConfig
from recsys.histories import History, InteractionLog
from recsys.models.covisitation import Covisitation


def _log(sequences: list[list[int]], n_items: int = 5, weights: list[list[float]] | None = None) -> InteractionLog:
    user = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    item = np.concatenate([np.array(sequence, np.int32) for sequence in sequences])
    weight = np.concatenate([np.array(row) for row in weights]) if weights else np.ones(len(item))
    return InteractionLog.from_arrays(
        user.astype(np.int32), item, np.arange(len(item)), weight, n_users=len(sequences), n_items=n_items
    )


def _config(**changes: object) -> CovisitationConfig:
    settings = {"window": 2, "decay": 0.5, "normalisation": 0.0, "history_length": 3, "history_decay": 0.5}
    return CovisitationConfig.model_validate(settings | changes)


def _history(items: list[int]) -> History:
    return History(np.array(items, np.int32), np.arange(len(items)), np.ones(len(items), np.float32))


def test_transitions_have_a_direction_and_fade_with_distance() -> None:
    model = Covisitation.fit(_log([[0, 1, 2, 3]]), _config())

    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 2] = expected[2, 3] = 1.0
    expected[0, 2] = expected[1, 3] = 0.5
    assert model.transitions.toarray().tolist() == expected.tolist()
    assert model.transitions.dtype == np.float32


def test_users_sequences_do_not_run_into_each_other() -> None:
    model = Covisitation.fit(_log([[0, 1], [2, 3], [4]]), _config())

    assert sorted(zip(*(part.tolist() for part in model.transitions.nonzero()), strict=True)) == [(0, 1), (2, 3)]


def test_a_transition_weighs_what_was_turned_to() -> None:
    model = Covisitation.fit(_log([[0, 1, 2]], weights=[[8.0, 2.0, 4.0]]), _config())

    assert [model.transitions[0, 1], model.transitions[1, 2], model.transitions[0, 2]] == [2.0, 4.0, 2.0]


def test_a_step_to_the_same_item_is_none() -> None:
    model = Covisitation.fit(_log([[0, 0, 1, 0]]), _config())

    assert model.transitions.diagonal().tolist() == [0] * 5
    assert model.transitions[0, 1] == 1.5
    assert model.transitions[1, 0] == 1.0


def test_frequent_targets_are_divided_down() -> None:
    # item 1 occurs four times, item 2 once; both follow item 0 once.
    log = _log([[0, 1], [0, 2], [1], [1], [1]])
    model = Covisitation.fit(log, _config(normalisation=0.5))

    assert model.transitions[0, 1] == pytest.approx(0.5)
    assert model.transitions[0, 2] == 1.0


def test_each_row_keeps_its_strongest_and_of_equal_ones_the_lower_columns() -> None:
    log = _log([[0, 4], [0, 4], [0, 3], [0, 2], [0, 1], [1, 2]])
    model = Covisitation.fit(log, _config(max_neighbours=2, window=1))

    assert model.transitions.toarray()[0].tolist() == [0, 1, 0, 0, 2]
    assert model.transitions.toarray()[1].tolist() == [0, 0, 1, 0, 0]


def test_the_latest_items_vote_and_earlier_votes_count_less() -> None:
    model = Covisitation.fit(_log([[0, 1], [2, 1], [2, 3]]), _config(window=1))

    # newest is 2: it points to 1 and 3; before it 0 points to 1 at half the weight
    assert model.score(_history([0, 2])).tolist() == [0, 1.5, 0, 1.0, 0]
    assert model.score(_history([2, 0])).tolist() == [0, 1.5, 0, 0.5, 0]
    assert model.score(_history([0, 2])).dtype == np.float32


def test_items_beyond_the_history_length_have_no_vote() -> None:
    model = Covisitation.fit(_log([[0, 1], [2, 3]]), _config(window=1, history_length=2))

    assert model.score(_history([0, 2, 4])).tolist() == [0, 0, 0, 0.5, 0]


def test_a_repeated_item_votes_each_time() -> None:
    model = Covisitation.fit(_log([[0, 1]]), _config(window=1))

    assert model.score(_history([0, 0])).tolist() == [0, 1.5, 0, 0, 0]


def test_no_history_and_items_that_were_never_seen_point_nowhere() -> None:
    model = Covisitation.fit(_log([[0, 1]]), _config())

    assert not model.score(History.empty()).any()
    assert not model.score(_history([4])).any()


def test_between_items_stands_what_the_first_alone_points_to() -> None:
    model = Covisitation.fit(_log([[0, 1, 3], [0, 1]]), _config())

    assert model.between(0, np.array([3, 0, 1, 4], np.int32)).tolist() == [0.5, 0, 2.0, 0]
    assert model.between(4, np.array([3, 0], np.int32)).tolist() == [0, 0]


@pytest.mark.parametrize("sequences", [[[0]], [[0], [1], [2]], [[3, 3, 3]]])
def test_a_log_without_transitions_fits_to_nothing(sequences: list[list[int]]) -> None:
    model = Covisitation.fit(_log(sequences), _config(window=10))

    assert model.transitions.shape == (5, 5)
    assert model.transitions.nnz == 0
    assert not model.score(_history([0, 3])).any()


def test_fitting_twice_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    log = _log([rng.integers(0, 30, 12).tolist() for _ in range(40)], n_items=30, weights=rng.random((40, 12)).tolist())
    one, other = (Covisitation.fit(log, _config(normalisation=0.3, max_neighbours=7)).transitions for _ in range(2))

    assert one.indices.tolist() == other.indices.tolist()
    assert one.data.tobytes() == other.data.tobytes()
