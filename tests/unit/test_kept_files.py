"""Files that processes share: made once, mapped by all, never half, and no worse than nothing where they cannot be."""

import logging
import multiprocessing
import os
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from recsys.models.fitted import FittedModels
from recsys.models.kept_files import KeptFiles
from recsys.models.room import with_room
from recsys.retrieval.index import Indexes

Float32 = npt.NDArray[np.float32]
VECTORS = np.arange(60, dtype=np.float32).reshape(20, 3)


def never() -> Float32:
    raise AssertionError("it was made a second time")


def ask_for_it(folder: Path, queue: "multiprocessing.Queue[int]") -> None:
    made = []

    def make() -> Float32:
        made.append(1)
        return VECTORS

    array = KeptFiles(folder).array("vectors", 25, make)
    assert array[:20].tolist() == VECTORS.tolist()
    queue.put(len(made))


def test_array_is_made_once_with_room_behind_it(tmp_path: Path) -> None:
    first = KeptFiles(tmp_path / "one").array("vectors", 25, lambda: VECTORS)
    again = KeptFiles(tmp_path / "one").array("vectors", 25, never)
    for array in (first, again):
        assert array.shape == (25, 3)
        assert array.dtype == np.float32
        assert array[:20].tolist() == VECTORS.tolist()
        assert not array[20:].any()


def test_what_is_written_to_an_array_stays_with_its_writer(tmp_path: Path) -> None:
    mine = KeptFiles(tmp_path / "one").array("vectors", 25, lambda: VECTORS)
    other = KeptFiles(tmp_path / "one").array("vectors", 25, never)
    mine[24] = 7.0
    assert not other[24].any()
    assert not KeptFiles(tmp_path / "one").array("vectors", 25, never)[24].any()


def test_of_several_processes_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=ask_for_it, args=(tmp_path / "one", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    counts = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(counts) == [0, 0, 0, 1]


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_damaged_file_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    KeptFiles(tmp_path / "one").array("vectors", 25, lambda: VECTORS)
    path = tmp_path / "one" / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes({"cut": content[:-40], "changed": content, "emptied": b""}[damage])

    with caplog.at_level(logging.WARNING):
        array = KeptFiles(tmp_path / "one").array("vectors", 25, lambda: VECTORS)
    assert array[:20].tolist() == VECTORS.tolist()
    assert "is damaged and is made anew" in caplog.text
    assert KeptFiles(tmp_path / "one").array("vectors", 25, never)[:20].tolist() == VECTORS.tolist()


def test_folder_that_cannot_be_made_leaves_every_process_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        kept = KeptFiles(tmp_path / "file" / "one")
        arrays = [kept.array(name, 25, lambda: VECTORS) for name in ("a", "b")]
    assert all(array[:20].tolist() == VECTORS.tolist() for array in arrays)
    assert caplog.text.count("are not shared with other processes") == 1


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_disk_that_is_full_leaves_no_part_of_a_file(
    kind: type[Exception], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise kind("No space left on device")

    kept = KeptFiles(tmp_path / "one")
    with caplog.at_level(logging.WARNING):
        assert kept.file("index", write, lambda path: "read", lambda: "made") == "made"
    assert "No space left" in caplog.text
    assert [path.name for path in (tmp_path / "one").iterdir()] == [".lock"]


def test_the_latest_two_versions_are_left(tmp_path: Path) -> None:
    for number in range(4):
        KeptFiles(tmp_path / f"version-{number}").array("vectors", 20, lambda: VECTORS)
        os.utime(tmp_path / f"version-{number}", (number, number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version-2", "version-3"]


def test_models_with_kept_arrays_are_those_without(tiny_models: FittedModels, tmp_path: Path) -> None:
    own, kept = with_room(tiny_models, 9), with_room(tiny_models, 9, KeptFiles(tmp_path / "one"))
    for name in ("own", "content", "placed", "unit_placed", "is_warm"):
        assert np.array_equal(getattr(own.factors, name), getattr(kept.factors, name)), name
    assert np.array_equal(own.item_embeddings, kept.item_embeddings)
    if own.sequence is not None and kept.sequence is not None:
        assert np.array_equal(own.sequence.biased_vectors, kept.sequence.biased_vectors)


def test_lists_are_built_once_and_find_what_own_ones_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((4_000, 16)).astype(np.float32)
    query = vectors[9]

    def indexes() -> Indexes:
        return Indexes(1_000, len(vectors), KeptFiles(tmp_path / "one"))

    own = Indexes(1_000, len(vectors)).of("text", vectors).search(query, 50)
    assert indexes().of("text", vectors).search(query, 50).tolist() == own.tolist()
    monkeypatch.setattr("recsys.retrieval.index.build_lists", lambda _: pytest.fail("they were built a second time"))
    again = indexes().of("text", vectors)
    assert again.search(query, 50).tolist() == own.tolist()
    assert isinstance(faiss.read_index(str(tmp_path / "one" / "text.faiss")), faiss.Index)


def test_lists_of_other_vectors_are_built_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((4_000, 16)).astype(np.float32)
    vectors[3_999] *= 10
    Indexes(1_000, 3_000, KeptFiles(tmp_path / "one")).of("text", vectors)
    index = Indexes(1_000, 4_000, KeptFiles(tmp_path / "one")).of("text", vectors)
    assert index.search(vectors[3_999], 1).tolist() == [3_999]
