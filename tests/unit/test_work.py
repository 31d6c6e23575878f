from pathlib import Path

import numpy as np
import pytest

from training.work import WorkFolder, code_fingerprint, content_hash, stage_key


def _finish(work: WorkFolder, stage: str, key: str, text: str = "result") -> None:
    with work.writing(stage, key) as folder:
        (folder / "result.txt").write_text(text, encoding="utf-8")


def test_a_stage_is_finished_under_the_key_it_was_written_with(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "a" / "b")
    assert not work.is_finished("rows", "k1")

    _finish(work, "rows", "k1")

    assert work.is_finished("rows", "k1")
    assert not work.is_finished("rows", "k2")
    assert not work.is_finished("other", "k1")
    assert (work.folder / "rows" / "result.txt").read_text(encoding="utf-8") == "result"


def test_a_work_folder_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    _finish(WorkFolder(tmp_path), "rows", "k1")

    assert WorkFolder(tmp_path).is_finished("rows", "k1")


def _fail(work: WorkFolder, stage: str, key: str, error: BaseException) -> None:
    with work.writing(stage, key) as folder:
        assert list(folder.iterdir()) == []
        (folder / "half.txt").write_text("half", encoding="utf-8")
        raise error


def test_an_interrupted_stage_is_not_finished_and_is_begun_afresh(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _fail(work, "rows", "k1", KeyboardInterrupt())
    assert not work.is_finished("rows", "k1")

    _finish(work, "rows", "k1")

    assert not (tmp_path / "rows" / "half.txt").exists()
    assert work.is_finished("rows", "k1")


def test_writing_again_takes_the_old_result_away_before_the_new_one_is_there(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    _finish(work, "rows", "k1")

    with pytest.raises(ValueError, match="no luck"):
        _fail(work, "rows", "k2", ValueError("no luck"))

    assert not work.is_finished("rows", "k1")


@pytest.mark.parametrize("content", ["", "{", "[]", '"k1"', "{}", "7", "null"])
def test_a_damaged_mark_is_no_mark(tmp_path: Path, content: str) -> None:
    work = WorkFolder(tmp_path)
    _finish(work, "rows", "k1")
    (tmp_path / "rows" / "done.json").write_text(content, encoding="utf-8")

    assert not work.is_finished("rows", "k1")


def test_removing_takes_everything(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "work")
    _finish(work, "rows", "k1")
    work.remove()
    work.remove()

    assert list(tmp_path.iterdir()) == []


def test_a_key_depends_on_content_and_order_of_its_parts_but_not_on_the_order_of_mappings() -> None:
    one = stage_key("data", {"a": 1, "b": [2, 3]})

    assert one == stage_key("data", {"b": [2, 3], "a": 1})
    assert len({one, stage_key({"a": 1, "b": [2, 3]}, "data"), stage_key("data", {"a": 1, "b": [3, 2]})}) == 3
    assert len(one) == 64


def test_a_key_takes_paths_as_text(tmp_path: Path) -> None:
    assert stage_key(tmp_path) == stage_key(str(tmp_path))


def test_a_stage_of_other_code_is_not_taken_up(tmp_path: Path) -> None:
    _finish(WorkFolder(tmp_path, code="old"), "rows", "k1")

    assert WorkFolder(tmp_path, code="old").is_finished("rows", "k1")
    assert not WorkFolder(tmp_path, code="new").is_finished("rows", "k1")
    assert not WorkFolder(tmp_path).is_finished("rows", "k1")


def test_the_fingerprint_of_code_changes_with_what_is_written_and_where(tmp_path: Path) -> None:
    def fingerprint(name: str, source: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        (folder / "inner").mkdir(parents=True)
        (folder / name).write_text(source, encoding="utf-8")
        (folder / "notes.txt").write_text(folder.name, encoding="utf-8")
        return code_fingerprint(folder)

    same = {fingerprint("a.py", "x = 1"), fingerprint("a.py", "x = 1")}
    others = {fingerprint("a.py", "x = 2"), fingerprint("b.py", "x = 1"), fingerprint("inner/a.py", "x = 1")}
    assert (len(same), len(others), len(same | others)) == (1, 3, 4)
    assert code_fingerprint() == code_fingerprint()


def test_the_hash_of_arrays_depends_on_their_types_shapes_and_values_alone() -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = content_hash(matrix, np.empty(0, np.int32))

    assert content_hash(np.asfortranarray(matrix), np.empty(0, np.int32)) == same
    others = [
        content_hash(matrix),
        content_hash(matrix.ravel(), np.empty(0, np.int32)),
        content_hash(matrix.view(np.int32), np.empty(0, np.int32)),
        content_hash(matrix + 1, np.empty(0, np.int32)),
        content_hash(np.empty(0, np.int32), matrix),
    ]
    assert same not in others
    assert len(set(others)) == len(others)
