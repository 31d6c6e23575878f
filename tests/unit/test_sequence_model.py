"""The fitted sequence model: what it hands its graph, how it scores, how new items enter, and its files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recsys.errors import BundleError
from recsys.histories import History
from recsys.models.sequence import ARRAYS_FILE, FILES, GRAPH_FILE, SequenceModel, gap_buckets, index_buckets

SECOND = 1_000_000


def toy_graph() -> bytes:
    """Return a graph whose user vector is the sum of the vectors, plus the sums of the gap and the index buckets."""
    nodes = [
        helper.make_node("ReduceSum", ["vectors", "axes"], ["summed"], keepdims=0),
        helper.make_node("Cast", ["gap_bucket"], ["gaps"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["index_bucket"], ["indexes"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["gaps"], ["gap"], keepdims=0),
        helper.make_node("ReduceSum", ["indexes"], ["index"], keepdims=0),
        helper.make_node("Unsqueeze", ["gap", "first"], ["gap_1"]),
        helper.make_node("Unsqueeze", ["index", "first"], ["index_1"]),
        helper.make_node("Concat", ["gap_1", "index_1"], ["both"], axis=0),
        helper.make_node("Add", ["summed", "both"], ["user_vector"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("vectors", TensorProto.FLOAT, [1, "length", 2]),
            helper.make_tensor_value_info("gap_bucket", TensorProto.INT64, [1, "length"]),
            helper.make_tensor_value_info("index_bucket", TensorProto.INT64, [1, "length"]),
        ],
        [helper.make_tensor_value_info("user_vector", TensorProto.FLOAT, [2])],
        [
            numpy_helper.from_array(np.array([0, 1], np.int64), "axes"),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def toy_model(max_length: int = 2) -> SequenceModel:
    return SequenceModel(
        item_vectors=np.array([[1, 0], [0, 10], [100, 0]], np.float32),
        item_bias=np.array([0.5, 0.0, -1.0], np.float32),
        projection=np.array([[1, 2], [3, 4], [5, 6]], np.float32),
        offset=np.array([-1, 1], np.float32),
        new_item_bias=-2.0,
        max_length=max_length,
        graph=toy_graph(),
    )


def history(items: list[int], seconds: list[int]) -> History:
    times = np.array(seconds, np.int64) * SECOND
    return History(np.array(items, np.int32), times, np.ones(len(items), np.float32))


def test_gap_is_the_logarithm_of_the_seconds_and_zero_where_there_was_none_before() -> None:
    gaps = np.array([-1, 0, SECOND - 1, SECOND, 3 * SECOND, 7 * SECOND, 10**18], np.int64)
    assert gap_buckets(gaps).tolist() == [0, 1, 1, 2, 3, 4, 31]


def test_index_is_twice_the_logarithm_of_the_place() -> None:
    assert index_buckets(np.array([0, 1, 2, 3, 7, 10**9])).tolist() == [0, 2, 3, 4, 6, 31]


def test_graph_reads_the_newest_items_with_their_gaps_and_places() -> None:
    # The two newest of three: vectors (1, 0) + (0, 10); gaps of 3 and 1 s: 3 + 2; places 1 and 2: 2 + 3.
    vector = toy_model().user_vector(history([2, 0, 1], [0, 3, 4]))
    assert vector.dtype == np.float32
    assert vector.tolist() == [1 + 5, 10 + 5]


def test_first_interaction_has_no_gap() -> None:
    assert toy_model().user_vector(history([0], [1_000])).tolist() == [1, 0]


def test_score_is_the_product_with_the_item_vectors_plus_the_bias() -> None:
    model = toy_model()
    scores = model.score(history([0], [5]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [1.5, 0.0, 99.0]


def test_empty_history_scores_nothing() -> None:
    model = toy_model()
    assert model.user_vector(History.empty()).tolist() == [0, 0]
    assert model.score(History.empty()).tolist() == [0, 0, 0]


def test_new_items_are_placed_by_their_text_and_items_without_text_nowhere() -> None:
    placed = toy_model().place(np.array([[1, 0, 2], [0, 0, 0]], np.float32))
    assert placed.dtype == np.float32
    assert placed.tolist() == [[10, 15], [0, 0]]


def test_new_items_join_with_the_bias_of_the_unknown() -> None:
    model = toy_model()
    larger = model.with_items(np.array([[1, 0, 2]], np.float32))
    scores = larger.score(history([0], [5]))
    assert scores.tolist() == [1.5, 0.0, 99.0, 8.0]
    assert larger.user_vector(history([3], [5])).tolist() == [10, 15]
    assert len(model.item_vectors) == 3


def test_threads_share_one_model() -> None:
    model = toy_model(max_length=5)
    histories = [history([n % 3] * (1 + n % 5), list(range(1 + n % 5))) for n in range(40)]
    expected = [toy_model(max_length=5).score(one) for one in histories[:15]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(model.score, histories))
    for n, scores in enumerate(found):
        np.testing.assert_array_equal(scores, expected[n % 15])


def test_files_bring_the_model_back(tmp_path: Path) -> None:
    model = toy_model()
    model.save(tmp_path / "deep" / "sequence")
    assert sorted(path.name for path in (tmp_path / "deep" / "sequence").iterdir()) == sorted(FILES)
    loaded = SequenceModel.load(tmp_path / "deep" / "sequence")
    one = history([2, 0, 1], [0, 3, 4])
    np.testing.assert_array_equal(loaded.score(one), model.score(one))
    texts = np.array([[1, 0, 2]], np.float32)
    np.testing.assert_array_equal(loaded.with_items(texts).score(one), model.with_items(texts).score(one))
    assert (loaded.max_length, loaded.new_item_bias) == (2, -2.0)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    toy_model().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=f"the sequence model in .* lacks {name}; train it again"):
        SequenceModel.load(tmp_path)


def test_missing_array_is_named(tmp_path: Path) -> None:
    toy_model().save(tmp_path)
    np.savez(tmp_path / ARRAYS_FILE, item_vectors=np.zeros((1, 2), np.float32))
    with pytest.raises(BundleError, match=f"{ARRAYS_FILE} lacks the arrays item_bias, projection"):
        SequenceModel.load(tmp_path)


def test_graph_file_is_the_graph(tmp_path: Path) -> None:
    model = toy_model()
    model.save(tmp_path)
    assert (tmp_path / GRAPH_FILE).read_bytes() == model.graph
