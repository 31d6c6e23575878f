"""The folder through which peers are asked: what is written comes back, and what does not fit is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.exchange import (
    META,
    REPORT,
    ExchangeError,
    Interactions,
    Meta,
    PeerTask,
    Ragged,
    Requests,
    read_result,
    write_result,
)

N_USERS, N_ITEMS = 3, 5


def make_task(kind: str = "whole") -> PeerTask:
    train = Interactions(
        np.array([0, 0, 1, 2, 2], np.int32),
        np.array([4, 1, 2, 0, 3], np.int32),
        np.array([10, 20, 5, 7, 9], np.int64),
        np.array([1.0, 2.0, 1.0, 1.0, 0.5], np.float32),
        np.array([5.0, np.nan, 3.0, 1.0, 4.0], np.float32),
    )
    candidates = [[0, 2], [3, 0, 1]] if kind == "given" else [[], []]
    requests = Requests(
        np.array([0, 2], np.int32),
        np.array([30, 40], np.int64),
        Ragged.of([np.array([4, 1]), np.array([0, 3])]),
        Ragged.of([np.array([1, 4]), np.array([0, 3])]),
        Ragged.of([np.array(row, np.int32) for row in candidates]),
    )
    return PeerTask(
        Meta("toy", N_USERS, N_ITEMS, kind, "ndcg@10", 10),  # type: ignore[arg-type]
        train,
        np.array([False, True, False, False, True]),
        requests,
        Ragged.of([np.array([2]), np.array([1, 2])]),
        requests,
        [{"title": f"Wollsocken Größe {number}", "features": ["colour=grün"]} for number in range(N_ITEMS)],
    )


def test_a_task_comes_back_from_its_folder(tmp_path: Path) -> None:
    task = make_task("given")

    task.write(tmp_path / "task")
    back = PeerTask.read(tmp_path / "task")

    assert back.meta == task.meta
    assert back.items == task.items
    assert back.key() == task.key()
    assert back.requests.candidates[1].tolist() == [3, 0, 1]
    assert np.array_equal(back.train.value, task.train.value, equal_nan=True)


def test_a_task_folder_holds_no_pickle(tmp_path: Path) -> None:
    make_task().write(tmp_path)

    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".jsonl", ".npz", ".npz", ".npz"]
    for path in tmp_path.glob("*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            assert [stored[name].dtype.kind for name in stored.files]


def test_texts_with_line_separators_stay_one_item(tmp_path: Path) -> None:
    task = replace(make_task(), items=[{"title": "a\u2028b\x85c", "features": []}] * N_ITEMS)

    task.write(tmp_path)

    assert PeerTask.read(tmp_path).items == task.items


@pytest.mark.parametrize("part", ["user_idx", "item_idx", "timestamp_us", "weight", "value"])
def test_the_key_changes_with_the_interactions(part: str) -> None:
    task = make_task()
    changed = getattr(task.train, part).copy()
    changed[0] += 1

    other = replace(task, train=replace(task.train, **{part: changed}))

    assert other.key() != task.key()


def test_the_key_leaves_out_what_a_peer_does_not_read() -> None:
    task = make_task()
    texts = replace(task, items=[])
    values = replace(task, train=replace(task.train, value=np.zeros(5, np.float32)))

    assert texts.key(with_items=False) == task.key(with_items=False)
    assert values.key(with_values=False) == task.key(with_values=False)
    assert texts.key() != task.key()
    assert values.key() != task.key()


def test_the_key_changes_with_the_requests_and_the_protocol() -> None:
    task = make_task()

    assert replace(task, requests=task.requests.take(np.array([1, 0]))).key() != task.key()
    assert replace(task, meta=replace(task.meta, seed=7)).key() != task.key()
    assert replace(task, is_valid=~task.is_valid).key() != task.key()


def test_lists_are_taken_in_the_order_asked_for() -> None:
    lists = Ragged.of([np.array([7]), np.array([], np.int32), np.array([1, 2])])

    taken = lists.take(np.array([2, 0]))

    assert [taken[0].tolist(), taken[1].tolist()] == [[1, 2], [7]]
    assert lists.owner.tolist() == [0, 2, 2]
    assert len(Ragged.of([])) == 0


@pytest.mark.parametrize(("kind", "shape"), [("whole", (2, N_ITEMS)), ("given", (5,))])
def test_scores_come_back_in_the_shape_of_the_task(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    task = make_task(kind)
    scores = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    write_result(tmp_path, scores, {"train_seconds": 1.5})
    back, report = read_result(tmp_path, task.meta, task.requests)

    assert np.array_equal(back, scores)
    assert report == {"train_seconds": 1.5}


def test_a_figure_that_is_no_number_is_null_in_the_report(tmp_path: Path) -> None:
    task = make_task()
    written = {"curve": [[0.5, math.nan]], "search": [{"loss": math.inf}]}
    told = {"curve": [[0.5, None]], "search": [{"loss": None}]}

    write_result(tmp_path, np.zeros((2, N_ITEMS), np.float32), written)
    text = (tmp_path / REPORT).read_text(encoding="utf-8")
    assert (json.loads(text, parse_constant=pytest.fail), read_result(tmp_path, task.meta, task.requests)[1]) == (
        told,
        told,
    )

    (tmp_path / REPORT).write_text(json.dumps(written), encoding="utf-8")  # as reports were once written, and kept
    assert read_result(tmp_path, task.meta, task.requests)[1] == told


def test_scores_of_another_shape_are_refused(tmp_path: Path) -> None:
    task = make_task()
    write_result(tmp_path, np.zeros((2, N_ITEMS - 1), np.float32), {})

    with pytest.raises(ExchangeError, match=r"shape \(2, 4\) and dtype float32; task toy needs float32 \(2, 5\)"):
        read_result(tmp_path, task.meta, task.requests)


def test_scores_that_are_not_a_number_are_refused(tmp_path: Path) -> None:
    task = make_task()
    scores = np.zeros((2, N_ITEMS), np.float32)
    scores[1, 3] = np.nan
    write_result(tmp_path, scores, {})

    with pytest.raises(ExchangeError, match="holds 1 NaN; give items that cannot be scored -inf"):
        read_result(tmp_path, task.meta, task.requests)


def test_the_description_of_a_task_is_readable(tmp_path: Path) -> None:
    make_task().write(tmp_path)

    assert json.loads((tmp_path / META).read_text(encoding="utf-8"))["metric"] == "ndcg@10"
