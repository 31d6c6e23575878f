"""Rules on toy catalogues whose right answers are worked by hand, and the examples of docs/rules.md."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from pydantic import TypeAdapter, ValidationError

from recsys.catalogue import NO_TIME
from recsys.errors import RequestError
from recsys.models.ranker import Ranker
from serving.attributes import AttributeIndex
from serving.explain import EvidenceKind, explain_scores, find_evidence
from serving.faults import as_request_error
from serving.filters import AnyOf, Filter, FilterMasks, filter_mask
from serving.placing import adjust, build_slate, score_unit
from serving.rules import Exploration, Freshness, Pin, Rule, Rules, SeenWindow
from serving.schemas_rules import EvidenceOut, ExcludeSeen, PlacementOut, RulesIn
from serving.seen import seen_rows

DAY_US = 86_400 * 1_000_000
DOCS = Path(__file__).parents[2] / "docs" / "rules.md"


def _index() -> AttributeIndex:
    table = pl.DataFrame(
        {
            "item_id": ["i0", "i1", "i2", "i3"],
            "title": ["a", "b", "c", "d"],
            "categories": [["socks", "wool"], ["hats"], [], ["socks"]],
            "created_at": [datetime(2026, 1, day, tzinfo=UTC) if day else None for day in (1, 2, 0, 3)],
            "brand": ["x", "y", None, "z"],
            "price": [3.0, 10.0, None, 4.5],
            "in_stock": [True, False, True, None],
        },
        schema_overrides={"created_at": pl.Datetime("us", "UTC"), "categories": pl.List(pl.String)},
    )
    return AttributeIndex.from_table(table, 6)


def _rows(wish: dict[str, Any], index: AttributeIndex | None = None) -> list[int]:
    rules = RulesIn.model_validate({"filter": wish}).rules()
    assert rules.filter is not None
    return np.flatnonzero(filter_mask(rules.filter, index or _index())[:4]).tolist()


@pytest.mark.parametrize(
    ("wish", "rows"),
    [
        ({"category": "socks"}, [0, 3]),
        ({"categories": ["hats", "wool", "none such"]}, [0, 1]),
        ({"price": {"min": 3, "max": 4.5}}, [0, 3]),
        ({"price": [10, 3]}, [0, 1]),
        ({"in_stock": True}, [0, 2]),
        ({"in_stock": [True, False]}, [0, 1, 2]),
        ({"created_at": {"after": "2026-01-02T00:00:00Z", "before": "2026-01-03T00:00:00Z"}}, [1]),
        ({"not": {"category": ["hats"], "brand": "x"}}, [2, 3]),
        ({"category": "socks", "not": {"brand": ["z"]}}, [0]),
        ({}, [0, 1, 2, 3]),
    ],
)
def test_a_filter_lets_in_what_it_says(wish: dict[str, Any], rows: list[int]) -> None:
    assert _rows(wish) == rows


@pytest.mark.parametrize(
    ("wish", "field", "message"),
    [
        ({"colour": "red"}, "filter.colour", "no attribute 'colour'; there is: categories, created_at, brand"),
        ({"not": {"title": "a"}}, "filter.not.title", "no attribute 'title'"),
        ({"price": "3"}, "filter.price", r"asks for '3', but 'price' holds numbers; give a number"),
        ({"price": True}, "filter.price", "holds numbers"),
        ({"in_stock": 1}, "filter.in_stock", "give true or false"),
        ({"brand": {"min": 1}}, "filter.brand", "holds text; give a text"),
        ({"created_at": "2026-01-01"}, "filter.created_at", 'holds times; give bounds such as {"after"'),
    ],
)
def test_a_filter_that_fits_no_attribute_is_refused_by_name(wish: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        _rows(wish)
    assert caught.value.field == field


def test_masks_are_kept_until_a_row_changes_and_true_is_not_one() -> None:
    index = _index()
    masks = FilterMasks(index)
    stocked = RulesIn.model_validate({"filter": {"in_stock": True}}).rules().filter
    counted = RulesIn.model_validate({"filter": {"in_stock": 1}}).rules().filter
    assert stocked is not None
    assert counted is not None

    first = masks.mask(stocked)
    assert masks.mask(stocked) is first
    assert not first.flags.writeable
    with pytest.raises(RequestError, match="give true or false"):
        masks.mask(counted)
    index.set_row(1, {"in_stock": True})
    assert np.flatnonzero(masks.mask(stocked)).tolist() == [0, 1, 2]


def test_kept_masks_are_few_and_no_larger_for_long_filters() -> None:
    masks = FilterMasks(_index())
    for number in range(1_030):
        masks.mask(Filter(unwanted=(("brand", AnyOf((f"author {number}",))),)))
    masks.mask(Filter(unwanted=(("brand", AnyOf(tuple(f"author {number}" for number in range(1_000)))),)))

    assert len(masks._masks) == 1_024
    assert {len(digest) for digest, _ in masks._masks} == {16}


def test_different_filters_have_masks_of_their_own() -> None:
    masks = FilterMasks(_index())
    wishes = [Filter(wanted=(("brand", AnyOf((brand,))),)) for brand in ("x", "y", "\udc80", "é")]

    assert len({id(masks.mask(wish)) for wish in wishes}) == len(wishes)
    assert (
        np.flatnonzero(masks.mask(wishes[0])).tolist() == np.flatnonzero(filter_mask(wishes[0], masks.index)).tolist()
    )


def test_a_refused_row_changes_nothing_and_new_rows_and_attributes_are_found() -> None:
    index = _index()
    with pytest.raises(RequestError, match="attribute 'price' is 'dear'; a finite number is expected"):
        index.set_row(1, {"brand": "x", "price": "dear"})
    assert _rows({"brand": "x"}, index) == [0]
    assert index.version == 0

    index.set_row(3, {"category": ["hats"], "season": "winter", "created_at": "2026-01-05T00:00:00Z"})
    assert _rows({"season": "winter", "category": "hats", "created_at": {"after": 1767571200}}, index) == [3]
    assert index.values_of(3) == {"categories": ["hats"], "season": ["winter"], "created_at": 1767571200 * 1_000_000}
    assert index.values_of(1)["price"] == 10.0
    with pytest.raises(ValueError, match=r"row 6 is outside 0\.\.5"):
        index.set_row(6, {})


def test_boosts_and_freshness_are_in_units_of_the_spread() -> None:
    score = np.array([6.0, 2.0], np.float32)  # spread 2
    masks = [(np.array([False, True]), 1.5), (np.array([True, True]), -0.5)]
    created = np.array([NO_TIME, 3 * DAY_US], np.int64)

    added = adjust(score, masks, created, Freshness(half_life_days=2.0, weight=0.5), as_of_us=7 * DAY_US)

    assert added.by.tolist() == [-1.0, (1.5 - 0.5 + 0.5 * 0.25) * 2.0]
    assert added.is_boosted.tolist() == [True, True]
    assert score_unit(np.array([3.0, 3.0], np.float32)) == 1.0


def test_diversity_sees_the_adjusted_order_and_caps_its_result() -> None:
    score = np.array([3.0, 2.0, 1.0], np.float32)
    seen: list[list[int]] = []

    def reverse(order: Any, n: int) -> Any:
        seen.append(order.tolist())
        return order[::-1][:n]

    added = adjust(score, [(np.array([False, False, True]), 10.0)])
    placed = build_slate(np.array([7, 8, 9], np.int32), score, 2, adjustment=added, diversify=reverse)

    assert seen == [[2, 0, 1]]
    assert placed.item_idx.tolist() == [8, 7]


def test_pins_without_a_place_in_the_ranking_stand_all_the_same() -> None:
    ranked = np.array([5, 3, 8], np.int32)
    placed = build_slate(ranked, np.array([3, 2, 1], np.float32), 3, pins={2: 40, 3: 5})

    assert placed.item_idx.tolist() == [3, 40, 5]
    assert placed.places.tolist() == [1, -1, 0]
    assert placed.rules == (Rule.RANKING, Rule.PIN, Rule.PIN)


def test_exploration_draws_evenly_from_the_ranks_behind_the_slate() -> None:
    rows = np.arange(9, dtype=np.int32)
    rng = np.random.default_rng(4)
    last = [build_slate(rows, -rows.astype(np.float32), 3, exploration=Exploration(1, 6), rng=rng) for _ in range(400)]

    assert {tuple(placed.item_idx[:2].tolist()) for placed in last} == {(0, 1)}
    counts = np.bincount([placed.item_idx[2] for placed in last], minlength=9)
    assert counts[2:6].min() > 70  # of 100 expected, more than three deviations off otherwise
    assert counts.sum() == counts[2:6].sum()
    assert last[0].propensity.tolist() == [1.0, 1.0, 0.25]


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (Rules(pins=(Pin("a", 4),)), "pins.0.position"),
        (Rules(pins=(Pin("a", 2), Pin("b", 2))), "pins.1.position"),
        (Rules(pins=(Pin("a", 2), Pin("a", 1))), "pins.1.item_id"),
        (Rules(pins=(Pin("a", 2),), exploration=Exploration(3, 50)), "exploration.slots"),
        (Rules(exploration=Exploration(1, 3)), "exploration.pool"),
    ],
)
def test_rules_that_fit_no_slate_are_refused(rules: Rules, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        rules.check(3)
    assert caught.value.field == field


def test_seen_is_what_the_window_names() -> None:
    items = np.array([4, 1, 2, 3, 1], np.int32)
    kinds = ["purchase", "view", "purchase", "", "purchase"]
    times = np.array([1, 9, 5, 6, 4], np.int64) * DAY_US

    def seen(window: SeenWindow) -> list[int]:
        return seen_rows(items, kinds, times, window, as_of_us=9 * DAY_US).tolist()

    assert seen(SeenWindow(("purchase",), 4.0)) == [2, 3]
    assert seen(SeenWindow(("purchase",))) == [1, 2, 3, 4]
    assert seen(SeenWindow((), 3.0)) == [1, 3]


def test_parts_of_the_score_add_up_to_it_and_the_sequence_counts_as_collaborative() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4)).astype(np.float32)
    target = rows @ np.array([1.0, -2.0, 0.5, 3.0])
    options = {"objective": "regression", "verbose": -1, "num_leaves": 7, "num_threads": 1}
    names = ("a", "b", "c", "d")
    boosters = tuple(
        lgb.train(options | {"seed": seed, "bagging_fraction": 0.5, "bagging_freq": 1},
                  lgb.Dataset(rows, target, feature_name=list(names)), 20) for seed in (1, 2)
    )  # fmt: skip
    ranker = Ranker(boosters, names)
    groups = {"a": "text", "b": "collaborative", "c": "sequence", "d": "item"}

    explained = explain_scores(ranker, rows[:9], groups)

    assert [part.group for part in explained[0]] == ["text", "collaborative", "item", "base"]
    sums = [sum(part.contribution for part in parts) for parts in explained]
    np.testing.assert_allclose(sums, ranker.score(rows[:9]), atol=1e-5)
    both = ranker.contributions(rows[:9])
    np.testing.assert_allclose([parts[1].contribution for parts in explained], both[:, 1] + both[:, 2])
    assert explain_scores(ranker, rows[:0], groups) == ()


def _evidence(history: list[int], kinds: list[str | None], items: list[int]) -> list[Any]:
    embeddings = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0], [0, 0]], np.float32)
    transitions = sp.csr_matrix(np.array([[0, 0, 0, 4, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 3]], np.float32))
    found = find_evidence(
        np.array(items, np.int32), np.array(history, np.int32), kinds, embeddings, transitions,
        lambda row: (f"i{row}", f"Title {row}"), is_popular=np.array([item == 1 for item in items]),
    )  # fmt: skip
    return list(found)


def test_evidence_is_the_nearest_item_of_the_history_in_text_or_in_what_followed() -> None:
    by_text, follows, weak, nothing = _evidence([0, 2, 3], ["purchase", None, "view"], [1, 4, 3, 2])

    assert (by_text.kind, by_text.item_id, by_text.sentence) == (
        EvidenceKind.TEXT,
        "i0",
        "Because you bought “Title 0”",
    )
    assert by_text.strength == pytest.approx(0.8)
    assert (follows.kind, follows.item_id, follows.strength) == (EvidenceKind.COVISITATION, "i2", 1.0)
    assert follows.sentence == "Because of “Title 2”"
    assert (weak.kind, weak.item_id) == (EvidenceKind.COVISITATION, "i0")
    assert nothing is None  # itself is no reason, and nothing else is near


def test_without_a_history_what_popularity_proposed_is_popular_and_nothing_else() -> None:
    popular, other = _evidence([], [], [1, 2])

    assert (popular.kind, popular.item_id, popular.sentence) == (EvidenceKind.POPULARITY, None, "Popular right now")
    assert other is None


def test_the_examples_of_the_docs_fit_the_schemas() -> None:
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)]
    fields: set[str] = set()
    for example in examples:
        fields |= set(example)
        if "evidence" in example:
            PlacementOut.model_validate(example)
            EvidenceOut.model_validate(example["evidence"])
        elif "exclude_seen" in example:
            seen = TypeAdapter(ExcludeSeen).validate_python(example["exclude_seen"])
            assert RulesIn().rules(seen).exclude_seen == SeenWindow(("purchase",), 30)
        elif "explain" not in example:
            assert RulesIn.model_validate(example).rules() != Rules()
    assert fields >= set(RulesIn.model_fields) | {"exclude_seen", "explain"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filter": {"price": {"min": 1, "after": 1e9}}}, "filter.price"),
        ({"filter": {"price": [1, "x"]}}, "filter.price"),
        ({"filter": {f"a{i}": 1 for i in range(22)}}, "filter"),
        ({"boosts": [{"by": 1.0}]}, "boosts.0"),
        ({"caps": {"category": 0}}, "caps.category"),
        ({"exploration": {"position": "first"}}, "exploration.position"),
        ({"freshness": {"half_life_days": 0, "weight": 1}}, "freshness.half_life_days"),
    ],
)
def test_a_body_that_breaks_the_rules_names_the_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RulesIn.model_validate(body)
    assert as_request_error(caught.value).field == field
