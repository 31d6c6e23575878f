import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import UnknownIdError
from recsys.ids import UNKNOWN_IDX, IdMap

# Any Unicode, lone surrogates included: an id is the caller's.
IDS = st.lists(st.text(alphabet=st.characters(exclude_categories=())), unique=True, max_size=30)


@given(IDS)
def test_ids_come_back_from_their_rows(ids: list[str]) -> None:
    id_map = IdMap(ids)

    assert id_map.ids_of(np.arange(len(ids))) == ids
    assert id_map.lookup(ids, unknown="error").tolist() == list(range(len(ids)))
    assert all(id_ in id_map for id_ in ids)


@given(IDS, st.data())
def test_marking_and_dropping_agree_with_a_look_up_one_by_one(ids: list[str], data: st.DataObject) -> None:
    known = set(data.draw(st.lists(st.sampled_from(ids)))) if ids else set()
    asked = data.draw(st.permutations(ids))
    id_map = IdMap(sorted(known))
    marked = id_map.lookup(asked, unknown="mark").tolist()

    assert marked == [id_map.get(id_) for id_ in asked]
    assert id_map.lookup(asked, unknown="drop").tolist() == [row for row in marked if row != UNKNOWN_IDX]
    assert [id_ for id_, row in zip(asked, marked, strict=True) if row == UNKNOWN_IDX] == [
        id_ for id_ in asked if id_ not in known
    ]


@given(IDS, st.data())
def test_any_repeat_is_refused(ids: list[str], data: st.DataObject) -> None:
    if ids:
        place = data.draw(st.integers(0, len(ids)))
        with pytest.raises(UnknownIdError, match="occurs twice"):
            IdMap([*ids[:place], data.draw(st.sampled_from(ids)), *ids[place:]])


@given(IDS, st.integers(0, 30))
def test_extending_in_two_steps_is_the_same_as_at_once(ids: list[str], place: int) -> None:
    assert IdMap(ids[:place]).extended(ids[place:]) == IdMap(ids)
