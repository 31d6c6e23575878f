import numpy as np
import pytest

from recsys.errors import UnknownIdError
from recsys.ids import UNKNOWN_IDX, IdMap

IDS = ["b", "a", "é", "", "a b"]


def test_the_place_of_an_id_is_its_row() -> None:
    id_map = IdMap(IDS)

    assert [id_map.get(id_) for id_ in IDS] == [0, 1, 2, 3, 4]
    assert id_map.id_of(3) == ""
    assert list(id_map.ids) == IDS
    assert (len(id_map), repr(id_map)) == (5, "IdMap(5 ids)")


def test_a_generator_of_ids_is_read_once() -> None:
    assert list(IdMap(str(i) for i in range(3)).ids) == ["0", "1", "2"]


def test_ids_that_look_alike_are_different_ids() -> None:
    composed, decomposed = "\u00e9", "e\u0301"

    assert IdMap([composed, decomposed, "E", "e"]).lookup([decomposed, "e"], unknown="error").tolist() == [1, 3]


def test_membership_and_equality_go_by_the_ids_and_their_order() -> None:
    assert "a" in IdMap(IDS)
    assert "z" not in IdMap(IDS)
    assert 0 not in IdMap(IDS)
    assert IdMap(IDS) == IdMap(tuple(IDS))
    assert IdMap(IDS) != IdMap(IDS[::-1])
    assert IdMap(IDS) != IDS


def test_lookup_keeps_order_and_repeats() -> None:
    rows = IdMap(IDS).lookup(["é", "b", "é"], unknown="error")

    assert rows.tolist() == [2, 0, 2]
    assert rows.dtype == np.int32


@pytest.mark.parametrize(("unknown", "expected"), [("drop", [1, 0]), ("mark", [UNKNOWN_IDX, 1, UNKNOWN_IDX, 0])])
def test_the_caller_says_what_an_unknown_id_means(unknown: str, expected: list[int]) -> None:
    rows = IdMap(IDS).lookup(["x", "a", "y", "b"], unknown=unknown)  # type: ignore[arg-type]

    assert rows.tolist() == expected
    assert rows.dtype == np.int32


def test_unknown_ids_are_counted_and_the_first_three_named() -> None:
    message = r"4 of 6 ids are not in the catalogue, the first: \['w', 'x', 'y'\]; add them"
    with pytest.raises(UnknownIdError, match=message):
        IdMap(IDS).lookup(["w", "a", "x", "y", "b", "z"], unknown="error")


@pytest.mark.parametrize("unknown", ["error", "drop", "mark"])
def test_looking_up_nothing_gives_an_empty_int32_array(unknown: str) -> None:
    rows = IdMap([]).lookup(iter(()), unknown=unknown)  # type: ignore[arg-type]

    assert rows.shape == (0,)
    assert rows.dtype == np.int32


def test_a_repeated_id_is_refused_with_the_first_repeat() -> None:
    with pytest.raises(UnknownIdError, match=r"id 'b' occurs twice; .*drop the duplicates"):
        IdMap(["c", "a", "b", "b", "a"])


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_outside_the_map_is_refused(row: int) -> None:
    with pytest.raises(UnknownIdError, match=rf"row {row} is outside 0\.\.4"):
        IdMap(IDS).id_of(row)


def test_ids_of_rows_come_in_their_order() -> None:
    assert IdMap(IDS).ids_of(np.array([4, 0, 4], np.int32)) == ["a b", "b", "a b"]


def test_extending_leaves_the_present_rows_as_they_are() -> None:
    first = IdMap(IDS)
    longer = first.extended(["n", "m"])

    assert [longer.get(id_) for id_ in [*IDS, "n", "m"]] == list(range(7))
    assert len(first) == 5


def test_extending_by_a_present_id_is_refused() -> None:
    with pytest.raises(UnknownIdError, match="id 'a' occurs twice"):
        IdMap(IDS).extended(["n", "a"])
