from dataclasses import dataclass

import numpy as np
import pytest

from recsys.config import RetrievalConfig
from recsys.histories import History, Request
from recsys.retrieval.blend import Candidates, blend

REQUEST = Request(History.empty(), 0)
NOTHING = np.empty(0, np.int32)


@dataclass
class Source:
    """Proposes a fixed list and remembers how much it was asked for."""

    name: str
    rows: list[int]
    asked: int = 0

    def retrieve(self, request: Request, n: int, allowed: np.ndarray | None = None) -> np.ndarray:
        self.asked = n
        rows = [row for row in self.rows if allowed is None or allowed[row]]
        return np.array(rows[:n], np.int32)

    def score_all(self, request: Request) -> np.ndarray:
        raise NotImplementedError


def _blend(sources: list[Source], *, exclude: list[int] | None = None, **settings: int) -> Candidates:
    config = RetrievalConfig.model_validate({"n_candidates": 10, "per_source": 5} | settings)
    return blend(sources, REQUEST, config, n_items=8, exclude=np.array(exclude or [], np.int32))


def test_what_several_sources_propose_comes_before_what_one_does() -> None:
    found = _blend([Source("one", [7, 1]), Source("two", [5, 1])])

    # 1: 1/62 + 1/62; 5 and 7: 1/61, a tie that goes to the lower row
    assert found.item_idx.tolist() == [1, 5, 7]
    assert found.item_idx.dtype == np.int32
    assert [found.names_of(place) for place in range(3)] == [["one", "two"], ["two"], ["one"]]
    assert found.source_names == ("one", "two")
    assert len(found) == 3


def test_a_better_rank_in_one_source_decides_between_two() -> None:
    found = _blend([Source("one", [3, 4, 6]), Source("two", [4, 6, 3])])

    # 3: 1/61 + 1/63, 4: 1/62 + 1/61, 6: 1/63 + 1/62
    assert found.item_idx.tolist() == [4, 3, 6]


def test_only_the_best_are_kept() -> None:
    assert _blend([Source("one", [7, 6, 5]), Source("two", [6, 7])], n_candidates=2).item_idx.tolist() == [6, 7]


def test_excluded_items_never_return_and_the_source_proposes_others_instead() -> None:
    source = Source("one", [7, 6, 5, 4, 3, 2])
    found = _blend([source], exclude=[7, 5, 0], per_source=3)

    assert found.item_idx.tolist() == [6, 4, 3]
    assert source.asked == 3


def test_what_is_not_allowed_never_returns_and_the_caller_keeps_the_mask() -> None:
    allowed = np.array([1, 1, 1, 0, 0, 0, 1, 1], np.bool_)
    found = blend(
        [Source("one", [7, 6, 5, 4, 3, 2])],
        REQUEST,
        RetrievalConfig(per_source=2),
        n_items=8,
        exclude=np.array([6], np.int32),
        allowed=allowed,
    )

    assert found.item_idx.tolist() == [7, 2]
    assert allowed.tolist() == [1, 1, 1, 0, 0, 0, 1, 1]


def test_no_source_may_propose_more_than_its_share() -> None:
    found = _blend([Source("one", [1, 2, 3, 4]), Source("two", [7])], exclude=[0], per_source=2)

    assert found.item_idx.tolist() == [1, 7, 2]


def test_a_caller_who_wants_more_than_the_settings_gets_more() -> None:
    one, two = Source("one", [7, 6, 5, 4]), Source("two", [7, 3, 2, 1])
    config = RetrievalConfig(n_candidates=3, per_source=2)

    def rows(at_least: int) -> list[int]:
        found = blend([one, two], REQUEST, config, n_items=8, exclude=NOTHING, at_least=at_least)
        return found.item_idx.tolist()

    assert rows(0) == rows(2) == [7, 3, 6]
    assert (one.asked, two.asked) == (2, 2)
    assert rows(5) == [7, 3, 6, 2, 5]
    assert (one.asked, two.asked) == (5, 5)
    assert len(rows(100)) == 7


def test_nothing_proposed_gives_nothing() -> None:
    found = _blend([Source("one", []), Source("two", [])])

    assert found.item_idx.tolist() == []
    assert (found.item_idx.dtype, found.sources.dtype) == (np.int32, np.uint8)


def test_everything_excluded_gives_nothing() -> None:
    assert len(_blend([Source("one", [1, 2])], exclude=[1, 2])) == 0


@pytest.mark.parametrize(("given", "expected"), [([5, 2, 7], [5, 2, 7]), ([4, 4, 1, 4, 0, 1], [4, 1, 0]), ([], [])])
def test_a_request_with_candidates_of_its_own_gets_exactly_those(given: list[int], expected: list[int]) -> None:
    request = Request(History.empty(), 0, candidates=np.array(given, np.int64))
    source = Source("one", [1, 2])
    found = blend([source], request, RetrievalConfig(n_candidates=1), n_items=8, exclude=np.array([5, 1], np.int32))

    assert found.item_idx.tolist() == expected
    assert found.item_idx.dtype == np.int32
    assert not found.sources.any()
    assert source.asked == 0
