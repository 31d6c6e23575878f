"""Asking peers: what they are told, what is kept, how their scores are measured. No peer's library is needed."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.peers.exchange import PeerTask
from benchmarks.peers.published import published_for
from benchmarks.peers.runner import (
    PeerError,
    PeerResult,
    Protocol,
    check_no_leak,
    measure,
    peer_task,
    run_peers,
    values_of,
)
from recsys.config import Config
from recsys.datasets.dataset import Dataset
from recsys.datasets.encoded import EncodedData, encode_dataset
from recsys.errors import DataError, LeakageError
from recsys.histories import MAX_REQUEST_HISTORY
from recsys.schema import TIMESTAMP
from recsys.splits import Fold, Split, make_split
from training.evaluation import measure_scores
from training.progress import Reporter
from training.requests import (
    LabelledRequest,
    cold_requests,
    fold_ends,
    held_out_requests,
    next_item_requests,
    shown_requests,
)

LOO = Protocol("toy-loo", "ndcg@10", 3)
N_USERS, N_ITEMS = 6, 12
SCRIPT = """
import argparse, json, os, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from benchmarks.peers.exchange import PeerTask, write_result
parser = argparse.ArgumentParser()
for name in ("--task", "--peer", "--out", "--settings"):
    parser.add_argument(name)
a = parser.parse_args()
task = PeerTask.read(Path(a.task))
with open({calls!r}, "a") as calls:
    calls.write(a.peer + "\\n")
if a.peer == "broken":
    print("the library says no")
    sys.exit(3)
n = len(task.requests)
wrong = 1 if a.peer == "short" else 0
popularity = np.bincount(task.train.item_idx, minlength=task.meta.n_items).astype(np.float32)
scores = np.tile(popularity, (n - wrong, 1))
if task.meta.kind == "given":
    scores = popularity[task.requests.candidates.values]
told = json.loads(a.settings) if a.settings else {{"found": True}}
write_result(Path(a.out), scores, {{"peer": a.peer, "threads": os.environ["OMP_NUM_THREADS"], "settings": told}})
"""


def films(seed: int = 0) -> Dataset:
    """A log in which every user meets eight of the items, one an hour."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{item:02d}", user * 100 + hour, float(rng.integers(1, 6)))
        for user in range(N_USERS)
        for hour, item in enumerate(rng.permutation(N_ITEMS)[:8])
    ]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "hours", "value"], orient="row").with_columns(
        (pl.col("hours") * 3_600_000_000).cast(pl.Int64).cast(TIMESTAMP).alias("timestamp"),
        event=pl.lit("rating"),
    )
    items = pl.DataFrame(
        {
            "item_id": [f"i{item:02d}" for item in range(N_ITEMS)],
            "title": [f"Film {item}" for item in range(N_ITEMS)],
            "categories": [["Drama", "Krimi"][: 1 + item % 2] for item in range(N_ITEMS)],
            "year": [1990.0 + item for item in range(N_ITEMS)],
        }
    )
    return Dataset(items, table.drop("hours").sort("timestamp"))


def leave_last(data: EncodedData) -> tuple[Split, list[LabelledRequest]]:
    config = Config().with_overrides({"split.kind": "leave_last", "split.n_label": 1})
    split = make_split(data.log, None, config.split)
    targets = np.flatnonzero(split.interaction_fold == Fold.TEST)
    ends = fold_ends(data.log, split)
    found = next_item_requests(data.log, targets, horizon=1, max_history=MAX_REQUEST_HISTORY, last_of_fold=ends)
    return split, list(found)


@pytest.fixture
def data() -> EncodedData:
    return encode_dataset(films(), Config().data)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    root = str(Path(__file__).resolve().parents[2])
    path = tmp_path / "fake_peer.py"
    path.write_text(SCRIPT.format(root=root, calls=str(tmp_path / "calls.txt")), encoding="utf-8")
    return path


def ask(
    task: PeerTask, requests: list[LabelledRequest], data: EncodedData, names: list[str], script: Path, work: Path
) -> dict[str, Any]:
    results, failed = asked_of(task, requests, data, names, script, work)
    assert failed == {}
    return results


def asked_of(
    task: PeerTask, requests: list[LabelledRequest], data: EncodedData, names: list[str], script: Path, work: Path
) -> tuple[dict[str, PeerResult], dict[str, PeerError]]:
    python = Path(sys.executable)
    return run_peers(task, requests, data.user_ids, names, work, Reporter(quiet=True), python=python, script=script)


def test_peers_are_told_everything_before_the_test_and_nothing_of_it(data: EncodedData) -> None:
    split, requests = leave_last(data)

    task = peer_task(data, split, requests, LOO)

    assert len(task.train) == int(split.known_before(Fold.TEST).sum()) == N_USERS * 7
    told = set(zip(task.train.user_idx.tolist(), task.train.item_idx.tolist(), strict=True))
    wanted = {(labelled.request.user_idx, int(labelled.relevant_idx[0])) for labelled in requests}
    assert len(wanted) == N_USERS
    assert not told & wanted
    assert all(wanted_item not in task.requests.history[user] for user, wanted_item in wanted)


def test_a_split_that_tells_the_test_is_refused(data: EncodedData) -> None:
    split, requests = leave_last(data)
    broken = Split(np.zeros_like(split.interaction_fold), None, None)

    with pytest.raises(LeakageError, match="6 wanted items of test requests are in what peers would be told"):
        peer_task(data, broken, requests, LOO)


def test_a_history_that_tells_the_test_is_refused(data: EncodedData) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)
    first = requests[0]
    told = replace(first, exclude=np.append(first.exclude, first.relevant_idx).astype(np.int32))

    check_no_leak(task, requests)
    with pytest.raises(LeakageError, match="1 wanted items"):
        check_no_leak(task, [told, *requests[1:]])


def test_a_click_on_something_read_before_is_no_leak_but_a_later_one_is(data: EncodedData) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)
    request = requests[2].request
    known = request.history.item_idx[:1]
    again = LabelledRequest(request, known, np.empty(0, np.int32))
    earlier = LabelledRequest(replace(request, as_of_us=0), known, np.empty(0, np.int32))

    check_no_leak(task, [again])
    with pytest.raises(LeakageError):
        check_no_leak(task, [earlier])


def test_nothing_in_the_folder_of_a_task_is_a_test_item(data: EncodedData, tmp_path: Path) -> None:
    """The items of the test are met by nobody else here, so that no array of any file may hold one."""
    dataset = films()
    last = dataset.interactions.group_by("user_id", maintain_order=True).last()
    hidden = dataset.interactions.join(last.select("item_id"), on="item_id", how="anti")
    data = encode_dataset(
        replace(dataset, interactions=pl.concat([hidden, last.select(hidden.columns)])), Config().data
    )
    split, requests = leave_last(data)
    wanted = {int(item) for labelled in requests for item in labelled.relevant_idx}

    peer_task(data, split, requests, LOO).write(tmp_path)

    for path in tmp_path.glob("*.npz"):
        with np.load(path) as stored:
            for name in stored.files:
                if name.endswith("item_idx"):
                    assert not wanted & set(stored[name].tolist()), f"{path.name}: {name}"


def test_settings_are_searched_on_the_interaction_before_the_last(data: EncodedData) -> None:
    split, requests = leave_last(data)

    task = peer_task(data, split, requests, LOO)

    assert len(task.valid_requests) == N_USERS
    assert task.is_valid.sum() == N_USERS
    for user in range(N_USERS):
        rows = task.train.item_idx[task.train.user_idx == user]
        assert task.valid_relevant[user].tolist() == [rows[-1]]
        assert task.valid_requests.history[user].tolist() == rows[:-1].tolist()


def test_a_split_without_a_validation_fold_holds_some_of_the_rest_out(data: EncodedData) -> None:
    fold = np.where(np.arange(len(data.log)) % 4 == 0, Fold.TEST, Fold.FIT).astype(np.int8)
    users = np.arange(N_USERS)
    requests = list(held_out_requests(data.log, fold == Fold.TEST, fold == Fold.FIT, users, max_history=1_000))

    task = peer_task(data, Split(fold, None, None), requests, replace(LOO, seed=3))
    other = peer_task(data, Split(fold, None, None), requests, replace(LOO, seed=4))

    assert 0 < task.is_valid.sum() < len(task.train) / 2
    assert not np.array_equal(task.is_valid, other.is_valid)
    for place in range(len(task.valid_requests)):
        assert not set(task.valid_relevant[place]) & set(task.valid_requests.history[place])


def test_settings_for_hidden_items_are_searched_on_hidden_items(data: EncodedData) -> None:
    cold = np.array([1, 5, 7], np.int32)
    fold = np.where(np.isin(data.log.item_idx, cold), Fold.TEST, Fold.FIT).astype(np.int8)
    requests = list(cold_requests(data.log, cold, np.arange(N_USERS), max_history=1_000))

    task = peer_task(data, Split(fold, None, None), requests, replace(LOO, hide_items=True))

    assert task.meta.kind == "given"
    hidden = task.valid_requests.candidates[0]
    assert len(hidden) == 3
    assert not set(hidden) & set(cold)
    assert not set(task.train.item_idx) & set(cold)
    assert not set(task.train.select(~task.is_valid).item_idx) & set(hidden)


def test_settings_for_shown_lists_are_searched_on_shown_lists(tiny_corpus: Any) -> None:
    data, split = tiny_corpus.data, tiny_corpus.split
    test = np.flatnonzero(split.request_fold == Fold.TEST)
    requests = list(shown_requests(data.impressions, data.log, test, max_history=1_000))

    task = peer_task(data, split, requests, Protocol("toy-shown", "auc", 10))

    n_valid = len(list(shown_requests(data.impressions, data.log, np.flatnonzero(split.request_fold == Fold.VALID),
                                      max_history=1_000)))  # fmt: skip
    assert len(task.valid_requests) == n_valid > 0
    assert task.valid_requests.as_of_us.max() < task.requests.as_of_us.min()
    assert all(len(task.valid_requests.candidates[place]) > 1 for place in range(n_valid))


def test_a_task_does_not_depend_on_the_order_of_the_requests(data: EncodedData) -> None:
    split, requests = leave_last(data)

    assert peer_task(data, split, requests[::-1], LOO).key() == peer_task(data, split, requests, LOO).key()


def test_a_suite_without_requests_is_refused(data: EncodedData) -> None:
    split, _ = leave_last(data)

    with pytest.raises(DataError, match="suite toy-loo has 42 interactions, 0 requests and 6 requests to validate on"):
        peer_task(data, split, [], LOO)


def test_items_are_described_by_text_features_and_numbers(data: EncodedData) -> None:
    split, requests = leave_last(data)

    items = peer_task(data, split, requests, LOO).items

    assert len(items) == N_ITEMS
    assert items[3]["title"] == "Film 3"
    assert items[3]["categories"] == ["Drama", "Krimi"]
    assert items[3]["features"] == ["categories=Drama", "categories=Krimi"]
    assert items[3]["numbers"] == {"year": 1993.0}
    json.dumps(items)


def test_ratings_reach_the_peers_in_the_order_of_the_log(data: EncodedData) -> None:
    dataset = films()
    split, requests = leave_last(data)

    values = values_of(dataset, data.log)
    task = peer_task(data, split, requests, LOO, values=values)

    assert values is not None
    rows = zip(task.train.user_idx, task.train.item_idx, task.train.value, strict=True)
    expected = {
        (user, item): value for user, item, value in dataset.interactions.select("user_id", "item_id", "value").rows()
    }
    for user, item, value in rows:
        assert expected[f"u{user}", f"i{item:02d}"] == value
    assert values_of(replace(dataset, interactions=dataset.interactions.drop("value")), data.log) is None


def test_scores_are_measured_as_our_own_are(data: EncodedData) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)
    scores = np.random.default_rng(1).integers(0, 4, (len(requests), N_ITEMS)).astype(np.float32)
    shuffled = [requests[place] for place in (3, 0, 5, 1, 4, 2)]

    metrics, lists = measure(task, scores, shuffled, data.user_ids)

    assert list(metrics.user_ids) == [f"u{labelled.request.user_idx}" for labelled in shuffled]
    for place, labelled in enumerate(shuffled):
        user = labelled.request.user_idx  # the peers' requests are in the order of users
        expected, best = measure_scores(scores[user].copy(), labelled, LOO.k, as_lists=False)
        assert {name: column[place] for name, column in metrics.arrays().items()} == expected
        assert lists[place].tolist() == best.tolist()


def test_equal_scores_count_against_a_peer(data: EncodedData) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    metrics, _ = measure(task, np.zeros((N_USERS, N_ITEMS), np.float32), requests, data.user_ids)

    assert metrics.arrays()["mrr"].tolist() == [1 / (N_ITEMS - 7)] * N_USERS


def test_scores_of_candidates_are_measured_among_the_candidates(data: EncodedData) -> None:
    cold = np.array([1, 5, 7], np.int32)
    fold = np.where(np.isin(data.log.item_idx, cold), Fold.TEST, Fold.FIT).astype(np.int8)
    requests = list(cold_requests(data.log, cold, np.arange(N_USERS), max_history=1_000))
    task = peer_task(data, Split(fold, None, None), requests, replace(LOO, hide_items=True))
    perfect = [np.isin(cold, labelled.relevant_idx) for labelled in requests]

    metrics, lists = measure(task, np.concatenate(perfect).astype(np.float32), requests, data.user_ids)

    assert metrics.arrays()["ndcg@3"].tolist() == [1.0] * len(requests)
    assert set(lists.ravel()) <= {*cold.tolist(), -1}


def test_a_peer_that_finished_is_not_run_again(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)
    calls = tmp_path / "calls.txt"

    first = ask(task, requests, data, ["one", "two"], script, tmp_path / "work")
    again = ask(task, requests, data, ["one", "two"], script, tmp_path / "work")

    assert sorted(calls.read_text().split()) == ["one", "two"]
    assert first["one"].report == again["one"].report
    assert first["one"].report["settings"] == {"found": True}
    assert first["one"].metrics.arrays()["ndcg@3"].tolist() == again["one"].metrics.arrays()["ndcg@3"].tolist()

    other = peer_task(data, split, requests[1:], LOO)
    ask(other, requests[1:], data, ["one"], script, tmp_path / "work")
    assert sorted(calls.read_text().split()) == ["one", "one", "two"]


def test_a_peer_that_fails_says_what_it_said(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    results, failed = asked_of(task, requests, data, ["broken"], script, tmp_path / "work")

    assert results == {}
    assert str(failed["broken"]).startswith(
        "peer broken ended with exit code 3: the library says no; all it said is in"
    )
    assert (tmp_path / "work" / "toy-loo-42" / "broken.log").read_text().strip() == "the library says no"


def test_a_peer_that_fails_stops_no_other(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    names = ["broken", "one", "two", "three"]
    results, failed = asked_of(task, requests, data, names, script, tmp_path / "work")
    ask(task, requests, data, names[1:], script, tmp_path / "work")

    assert list(results) == names[1:]
    assert list(failed) == ["broken"]
    assert sorted((tmp_path / "calls.txt").read_text().split()) == sorted(names)


def test_two_peers_share_the_processors(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    found = ask(task, requests, data, ["one"], script, tmp_path / "work")

    assert found["one"].report["threads"] == str(max(1, (os.cpu_count() or 1) // 2))


def test_a_result_that_does_not_fit_is_refused(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    results, failed = asked_of(task, requests, data, ["short"], script, tmp_path / "work")

    assert results == {}
    assert re.match(r"peer short left no usable result: .* has shape \(5, 12\)", str(failed["short"]))


def test_an_environment_that_is_not_there_is_named(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    results, failed = run_peers(
        task,
        requests,
        data.user_ids,
        ["one"],
        tmp_path / "work",
        Reporter(quiet=True),
        python=tmp_path / "nowhere",
        script=script,
    )

    assert results == {}
    assert "nowhere does not exist; run `make bench-peers`" in str(failed["one"])


def test_settings_that_were_found_before_are_told_to_the_peer(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    def settings(chosen: dict[str, Any]) -> list[Any]:
        reporter, python, work = Reporter(quiet=True), Path(sys.executable), tmp_path / "work"
        found, _ = run_peers(
            task, requests, data.user_ids, ["one", "two"], work, reporter, chosen=chosen, python=python, script=script
        )
        return [result.report["settings"] for result in found.values()]

    assert settings({}) == [{"found": True}, {"found": True}]
    assert settings({"two": {"factors": 64, "sizes": [300]}}) == [{"found": True}, {"factors": 64, "sizes": [300]}]
    assert sorted((tmp_path / "calls.txt").read_text().split()) == ["one", "two", "two"]


def test_a_peer_of_ratings_is_left_out_where_there_are_none(data: EncodedData, script: Path, tmp_path: Path) -> None:
    split, requests = leave_last(data)
    task = peer_task(data, split, requests, LOO)

    assert ask(task, requests, data, ["lenskit-biasedmf"], script, tmp_path / "work") == {}
    rated = peer_task(data, split, requests, LOO, values=values_of(films(), data.log))
    assert list(ask(rated, requests, data, ["lenskit-biasedmf"], script, tmp_path / "work")) == ["lenskit-biasedmf"]


def test_published_rows_are_marked_and_say_where_they_are_from() -> None:
    rows = published_for("ml-100k-random")

    best = max(rows, key=lambda row: row["metrics"]["ndcg@10"])
    assert (best["system"], best["metrics"]["ndcg@10"]) == ("BiVAE", 0.4751)
    assert all(row["published"] is True and row["source"] and row["caveat"] for row in rows)
    assert all(row["comparable"] for row in rows)
    assert not any(row["comparable"] for row in published_for("ml-1m-loo"))
    assert published_for("no such suite") == []
