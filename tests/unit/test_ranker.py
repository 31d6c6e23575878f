from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from features.path import RankingPath
from recsys.config import RankerConfig
from recsys.errors import BundleError, DataError
from recsys.histories import History, Request
from recsys.models.ranker import Ranker
from recsys.retrieval.blend import Candidates
from training.ranker import RankerFit, RankerRows, build_rows, gains_of, train_ranker
from training.requests import LabelledRequest
from training.side_by_side import BLOCK

NAMES = ("item", "noise", "gap")


@dataclass
class ToyPath:
    """Retrieves the items 0 … n-1 but those excluded; an item's first feature is its row."""

    n_retrieved: int = 8
    models: Any = None
    feature_names: tuple[str, ...] = NAMES
    asked: list[list[int]] = field(default_factory=list)

    def candidates(self, request: Request, *, exclude: Any) -> Candidates:
        rows = request.candidates
        if rows is None:
            rows = np.setdiff1d(np.arange(self.n_retrieved, dtype=np.int32), exclude)
        return Candidates(rows, np.zeros(len(rows), np.uint8), ())

    def rows(self, request: Request, candidate_idx: np.ndarray) -> np.ndarray:
        self.asked.append(candidate_idx.tolist())
        columns = [candidate_idx, np.full(len(candidate_idx), request.as_of_us), np.full(len(candidate_idx), np.nan)]
        return np.column_stack(columns).astype(np.float32)


def _labelled(
    relevant: Sequence[int],
    *,
    candidates: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    exclude: Sequence[int] = (),
    time: int = 0,
) -> LabelledRequest:
    given = None if candidates is None else np.array(candidates, np.int32)
    return LabelledRequest(
        Request(History.empty(), time, 0, given),
        np.array(relevant, np.int32),
        np.array(exclude, np.int32),
        None if positions is None else np.array(positions, np.int32),
    )


def _why_none(n_requests: int) -> str:
    return f"nothing of {n_requests} requests"


def _build(requests: list[LabelledRequest], *, path: ToyPath | None = None, **settings: Any) -> RankerRows:
    config = RankerConfig.model_validate({"negatives_per_request": 4} | settings)
    return build_rows(
        cast(RankingPath, path or ToyPath()), requests, config, np.random.default_rng(0), why_none=_why_none
    )


def test_shown_items_are_all_kept_in_their_order_with_their_labels_and_positions() -> None:
    rows = _build(
        [
            _labelled([5], candidates=[7, 5, 1], positions=[3, 1, 2], time=10),
            _labelled([0, 2], candidates=[2, 9, 0, 4, 6, 8], positions=[1, 2, 3, 4, 5, 6], time=20),
        ],
        negatives_per_request=1,
    )

    assert rows.features[:, 0].tolist() == [7, 5, 1, 2, 9, 0, 4, 6, 8]
    assert rows.features[:, 1].tolist() == [10] * 3 + [20] * 6
    assert rows.label.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 0]
    assert rows.group.tolist() == [3, 6]
    assert rows.position is not None
    assert rows.position.tolist() == [3, 1, 2, 1, 2, 3, 4, 5, 6]
    assert rows.feature_names == NAMES
    assert (rows.features.dtype, rows.label.dtype, rows.group.dtype) == (np.float32, np.float32, np.int32)


@pytest.mark.parametrize("positions", [None, [0, 2]])
def test_positions_are_none_unless_every_row_has_one(positions: list[int] | None) -> None:
    rows = _build(
        [_labelled([5], candidates=[7, 5], positions=[1, 2]), _labelled([5], candidates=[5, 6], positions=positions)]
    )

    assert rows.position is None


def test_features_are_computed_over_all_candidates_before_negatives_are_drawn() -> None:
    path = ToyPath(n_retrieved=40)
    rows = _build([_labelled([30], exclude=[0, 1])], path=path)

    assert path.asked == [list(range(2, 40))]
    assert rows.group.tolist() == [5]
    kept = rows.features[:, 0].tolist()
    assert kept == sorted(kept)
    assert 30 in kept
    assert rows.label.tolist() == [float(item == 30) for item in kept]


def test_well_retrieved_negatives_are_kept_no_more_often_than_others() -> None:
    kept = _build([_labelled([30], exclude=[0, 1])] * 400, path=ToyPath(n_retrieved=40)).features[:, 0]

    counts = np.bincount(kept.astype(int), minlength=40)[[item for item in range(2, 40) if item != 30]]
    assert counts.sum() == 400 * 4
    assert abs(counts[:19].sum() - counts[19:].sum()) < 200  # of 1,600: the better and the worse half, five deviations


def test_no_negative_is_kept_twice() -> None:
    kept = _build([_labelled([8])] * 40, path=ToyPath(n_retrieved=9)).features[:, 0].reshape(40, 5)

    assert all(len(set(row)) == 5 for row in kept.tolist())
    assert set(kept.ravel().tolist()) == set(range(9))


def test_of_candidates_that_were_given_but_not_shown_negatives_are_drawn_from_all() -> None:
    given = list(range(100, 140))
    kept = _build([_labelled([105], candidates=given)] * 30).features[:, 0].reshape(30, 5)

    assert (kept == 105).sum() == 30
    assert (kept[:, :2] != [100, 101]).any()  # the order of the candidates says nothing
    assert len(np.unique(kept)) > 30


def test_all_negatives_are_kept_where_there_are_few() -> None:
    assert _build([_labelled([1], exclude=[0, 2, 3])]).features[:, 0].tolist() == [1, 4, 5, 6, 7]


def test_requests_whose_relevant_items_were_not_retrieved_give_no_rows() -> None:
    path = ToyPath()
    rows = _build([_labelled([99]), _labelled([3, 99])], path=path)

    assert rows.group.tolist() == [5]
    assert len(path.asked) == 1


@pytest.mark.parametrize("n_requests", [0, 2])
def test_without_any_row_it_is_said_of_how_many_requests_there_were(n_requests: int) -> None:
    with pytest.raises(DataError, match=f"nothing of {n_requests} requests"):
        _build([_labelled([99])] * n_requests)


def test_progress_is_told_after_every_block_of_requests() -> None:
    seen: list[int] = []
    requests = [_labelled([1]), _labelled([99]), _labelled([2])] * 100
    path = cast(RankingPath, ToyPath())
    build_rows(path, requests, RankerConfig(), np.random.default_rng(0), seen.append, why_none=_why_none)

    assert sorted(seen) in ([50, 300], [250, 300])  # as either of the two ends first


def test_rows_do_not_depend_on_how_many_processes_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [_labelled([number % 5]) for number in range(2 * BLOCK + 1)]
    made = []
    for n in ("1", "2", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", n)
        made.append(_build(requests))

    for rows in made[1:]:
        assert rows.features.tobytes() == made[0].features.tobytes()
        assert rows.label.tolist() == made[0].label.tolist()
        assert rows.group.tolist() == made[0].group.tolist()


@pytest.mark.parametrize("position", [None, np.array([1, 2], np.int32)])
def test_rows_that_were_saved_come_back_bit_for_bit(tmp_path: Path, position: np.ndarray | None) -> None:
    features = np.array([[0.1, np.nan, -0.0], [1e-40, 3.0, np.inf]], np.float32)
    rows = RankerRows(features, np.array([0, 1], np.float32), np.array([2], np.int32), position, ("a", "b é", "c"))
    rows.save(tmp_path / "rows.npz")
    loaded = RankerRows.load(tmp_path / "rows.npz")

    assert loaded.features.tobytes() == features.tobytes()
    assert loaded.label.tolist() == [0, 1]
    assert loaded.group.tolist() == [2]
    assert loaded.feature_names == ("a", "b é", "c")
    assert (loaded.position is None) == (position is None)
    if position is not None and loaded.position is not None:
        assert loaded.position.tolist() == position.tolist()


def _learnable(n_requests: int, seed: int, *, positions: bool = False) -> RankerRows:
    """Lists of six in which the item with the highest second feature is relevant."""
    rng = np.random.default_rng(seed)
    features = rng.random((n_requests * 6, 3)).astype(np.float32)
    best = features[:, 1].reshape(-1, 6).argmax(axis=1)
    label = np.zeros((n_requests, 6), np.float32)
    label[np.arange(n_requests), best] = 1
    position = np.tile(np.arange(1, 7, dtype=np.int32), n_requests) if positions else None
    return RankerRows(features, label.ravel(), np.full(n_requests, 6, np.int32), position, NAMES)


def _train(rows: RankerRows, valid: RankerRows, seed: int = 0, **settings: Any) -> RankerFit:
    config = RankerConfig.model_validate({"n_trees": 40, "num_leaves": 7, "min_data_in_leaf": 5} | settings)
    return train_ranker(rows, valid, config, np.random.SeedSequence(seed))


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
def test_a_ranker_learns_what_tells_relevant_items(objective: str) -> None:
    fit = _train(_learnable(200, 1), _learnable(60, 2), objective=objective)
    unseen = _learnable(100, 3)
    scores = fit.ranker.score(unseen.features).reshape(-1, 6)

    assert (scores.argmax(axis=1) == unseen.label.reshape(-1, 6).argmax(axis=1)).mean() > 0.8
    assert scores.dtype == np.float32
    assert fit.ranker.gain().argmax() == 1
    assert fit.ranker.feature_names == NAMES
    assert list(fit.curve) == (["ndcg@10"] if objective == "lambdarank" else ["auc"])
    assert 1 <= fit.n_trees <= 40


@pytest.mark.parametrize(("graded", "labels"), [(False, [0, 1, 1, 0]), (True, [0, 4, 1.5, 0])])
def test_graded_labels_are_what_an_item_was_worth(graded: bool, labels: list[float]) -> None:
    labelled = _labelled([6, 5], candidates=[7, 5, 6, 1], positions=[1, 2, 3, 4])
    labelled = replace(labelled, worth=np.array([1.5, 4], np.float32))

    assert _build([labelled], graded=graded).label.tolist() == labels


def test_labels_stay_alike_where_nothing_is_known_of_their_worth() -> None:
    assert _build([_labelled([5], candidates=[7, 5])], graded=True).label.tolist() == [0, 1]


def test_grades_have_their_worth_as_gain() -> None:
    assert gains_of(np.array([0, 1, 4, 0, 1.5]), np.array([0, 2.5])).tolist() == [0, 1, 1.5, 2.5, 4]
    assert gains_of(np.zeros(3), np.ones(1)).tolist() == [0, 1]


def test_many_different_worths_share_grades_between_which_gains_rise() -> None:
    worth = np.random.default_rng(0).lognormal(size=5_000)
    gains = gains_of(worth.astype(np.float32), np.zeros(3, np.float32))

    assert len(gains) == 31
    assert gains[0] == 0
    assert (np.diff(gains) > 0).all()
    assert worth.min() < gains[1] < gains[-1] < worth.max()


def _bought_or_clicked(n_requests: int, seed: int) -> tuple[RankerRows, np.ndarray]:
    """Lists of six: the highest first feature is clicked, the highest second one bought, where that is another item."""
    rng = np.random.default_rng(seed)
    features = rng.random((n_requests * 6, 3)).astype(np.float32)
    lists, request = features.reshape(-1, 6, 3), np.arange(n_requests)
    worth = np.zeros((n_requests, 6), np.float32)
    worth[request, lists[:, :, 0].argmax(axis=1)] = 1
    worth[request, lists[:, :, 1].argmax(axis=1)] = 20
    return RankerRows(features, worth.ravel(), np.full(n_requests, 6, np.int32), None, NAMES), worth


def test_a_graded_ranker_puts_what_is_worth_more_first() -> None:
    train, _ = _bought_or_clicked(300, 1)
    valid, _ = _bought_or_clicked(80, 2)
    unseen, worth = _bought_or_clicked(200, 3)

    def share_bought(rows: RankerRows, stop: RankerRows) -> float:
        scores = _train(rows, stop).ranker.score(unseen.features).reshape(-1, 6)
        return float((worth[np.arange(200), scores.argmax(axis=1)] == 20).mean())

    alike = [replace(rows, label=(rows.label > 0).astype(np.float32)) for rows in (train, valid)]
    assert share_bought(train, valid) > share_bought(alike[0], alike[1]) + 0.1


def test_grades_are_refused_where_nothing_learns_from_them() -> None:
    with pytest.raises(ValueError, match="graded needs objective lambdarank"):
        RankerConfig.model_validate({"graded": True, "objective": "binary"})


def test_training_stops_early_where_nothing_can_be_learnt() -> None:
    noise = _learnable(60, 1)
    rng = np.random.default_rng(2)
    shuffled = RankerRows(rng.permuted(noise.features, axis=0), noise.label, noise.group, None, NAMES)
    fit = _train(shuffled, _learnable(40, 3), n_trees=200, early_stopping=5)

    assert len(fit.curve["ndcg@10"]) < 200
    assert fit.n_trees == int(np.argmax(fit.curve["ndcg@10"])) + 1


def test_the_same_seed_gives_the_same_ranker_and_another_seed_another() -> None:
    rows, valid = _learnable(80, 1), _learnable(30, 2)
    one, same, other = (_train(rows, valid, seed).ranker.score(valid.features) for seed in (1, 1, 2))

    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()


def test_position_bias_is_estimated_only_from_positions_and_only_by_lambdarank() -> None:
    rows, valid = _learnable(80, 1, positions=True), _learnable(30, 2)
    without = RankerRows(rows.features, rows.label, rows.group, None, NAMES)

    def text(train: RankerRows, objective: str) -> bytes:
        return _train(train, valid, objective=objective).ranker.score(valid.features).tobytes()

    assert text(rows, "lambdarank") != text(without, "lambdarank")
    assert text(rows, "binary") == text(without, "binary")


def test_a_loaded_ranker_scores_bit_for_bit_as_before(tmp_path: Path) -> None:
    fit = _train(_learnable(80, 1), _learnable(30, 2))
    fit.ranker.save(tmp_path / "ranker.txt")
    loaded = Ranker.load(tmp_path / "ranker.txt", list(NAMES))
    rows = _learnable(50, 4).features
    rows[::7, 1] = np.nan

    assert loaded.score(rows).tobytes() == fit.ranker.score(rows).tobytes()
    assert loaded.n_trees == fit.n_trees
    assert loaded.gain().shape == (3,)


def test_several_seeds_are_averaged_and_survive_a_file(tmp_path: Path) -> None:
    rows, valid = _learnable(80, 1), _learnable(30, 2)
    both = _train(rows, valid, n_seeds=2)
    one = _train(rows, valid)
    both.ranker.save(tmp_path / "ranker.txt")
    loaded = Ranker.load(tmp_path / "ranker.txt", NAMES)
    each = [booster.predict(valid.features) for booster in both.ranker.boosters]

    assert len(loaded.boosters) == 2
    assert each[0].tolist() == one.ranker.boosters[0].predict(valid.features).tolist()
    assert each[0].tolist() != each[1].tolist()
    assert loaded.score(valid.features) == pytest.approx(np.mean(each, axis=0), rel=1e-6)


def test_no_rows_have_no_scores() -> None:
    ranker = _train(_learnable(20, 1), _learnable(20, 2)).ranker

    assert ranker.score(np.empty((0, 3), np.float32)).shape == (0,)


@pytest.mark.parametrize("names", [("item", "noise", "other"), ("noise", "item", "gap"), ("item", "noise")])
def test_a_ranker_of_other_features_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    _train(_learnable(20, 1), _learnable(20, 2)).ranker.save(tmp_path / "ranker.txt")

    with pytest.raises(BundleError, match=r"ranker.txt was trained on other features .*train again"):
        Ranker.load(tmp_path / "ranker.txt", names)


def test_what_is_no_ranker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ranker.txt").write_text("tree\nbroken", encoding="utf-8")

    with pytest.raises(BundleError, match=r"ranker\.txt is no LightGBM model"):
        Ranker.load(tmp_path / "ranker.txt", NAMES)
    with pytest.raises(BundleError, match=r"nothing\.txt is no LightGBM model"):
        Ranker.load(tmp_path / "nothing.txt", NAMES)
