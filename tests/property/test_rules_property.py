"""Filters and slates against slow, obvious second implementations."""

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from serving.attribute_columns import LabelColumn
from serving.attributes import AttributeIndex
from serving.filters import AnyOf, Between, Filter, filter_mask
from serving.placing import Adjustment, Cap, build_slate
from serving.rules import Exploration, Rule

TAGS = st.lists(st.sampled_from("abcd"), max_size=3)
NUMBERS = st.one_of(st.none(), st.integers(0, 5).map(float))
ITEM = st.tuples(TAGS, NUMBERS)
CHANGES = st.lists(st.tuples(st.integers(0, 9), ITEM), max_size=8)


def _index(items: list[Any], n_rows: int = 10) -> AttributeIndex:
    table = pl.DataFrame(
        {
            "item_id": [str(i) for i in range(len(items))],
            "categories": [tags for tags, _ in items],
            "price": [price for _, price in items],
        },
        schema={"item_id": pl.String, "categories": pl.List(pl.String), "price": pl.Float64},
    )
    return AttributeIndex.from_table(table, n_rows)


@given(st.lists(ITEM, max_size=7), CHANGES, st.integers(0, 8), st.lists(st.sampled_from("abcx"), min_size=1))
def test_masks_are_those_of_a_loop_however_rows_are_replaced(
    items: list[Any], changes: list[Any], built_at: int, wanted: list[str]
) -> None:
    index = _index(items)
    rows: dict[int, Any] = dict(enumerate(items))
    for number, (row, (tags, price)) in enumerate(changes):
        if number == built_at:
            index.column("categories")
            index.column("price")
        index.set_row(row, {"category": tags, "price": price})
        rows[row] = (tags, price)

    wish = Filter((("category", AnyOf(tuple(wanted))),), (("price", Between(2.0, 3.0)),))
    expected = [
        any(tag in wanted for tag in rows.get(row, ([], None))[0])
        and not (rows.get(row, ([], None))[1] is not None and 2 <= rows[row][1] <= 3)
        for row in range(10)
    ]
    assert filter_mask(wish, index).tolist() == expected
    column = index.column("categories")
    assert isinstance(column, LabelColumn)
    asked = np.array([9, 0, 4, 2], np.int32)
    places, codes = column.codes(asked)
    found = [{int(code) for code in codes[places == place]} for place in range(len(asked))]
    assert [len(each) for each in found] == [len(set(rows.get(int(row), ([], None))[0])) for row in asked]
    assert sorted(places.tolist()) == places.tolist()


def _slow_slate(order: list[int], tags: list[list[str]], n: int, limit: int, pins: dict[int, int]) -> list[int]:
    counts = Counter(tag for row in pins.values() for tag in set(tags[row]))
    slate: list[int] = []
    for row in order:
        if row in pins.values() or len(slate) == n - len(pins):
            continue
        if all(counts[tag] < limit for tag in set(tags[row])):
            slate.append(row)
            counts.update(set(tags[row]))
    for position in sorted(pins):
        slate.insert(position - 1, pins[position])
    return slate


@given(st.lists(TAGS, min_size=3, max_size=12), st.data())
def test_slates_are_those_of_a_loop(tags: list[list[str]], data: st.DataObject) -> None:
    n_items = len(tags)
    n = data.draw(st.integers(1, 6))
    limit = data.draw(st.integers(1, 3))
    by = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=n_items, max_size=n_items)), np.float64)
    positions = data.draw(st.lists(st.integers(1, n), unique=True, max_size=min(n, 3)))
    pinned = data.draw(st.permutations(range(n_items)))
    pins = dict(zip(positions, pinned, strict=False))
    score = -np.arange(n_items, dtype=np.float32)

    order = sorted(range(n_items), key=lambda row: (-(score[row] + by[row]), row))
    placed = build_slate(
        np.arange(n_items, dtype=np.int32),
        score,
        n,
        adjustment=Adjustment(by, by != 0),
        caps=[_cap(tags, limit, list(pins.values()))],
        pins=pins,
    )

    assert placed.item_idx.tolist() == _slow_slate(order, tags, n, limit, pins)
    assert placed.places.tolist() == placed.item_idx.tolist()
    for row, rule in zip(placed.item_idx.tolist(), placed.rules, strict=True):
        assert rule == (Rule.PIN if row in pins.values() else Rule.BOOST if by[row] else Rule.RANKING)


def _cap(tags: list[list[str]], limit: int, pinned: list[int]) -> Cap:
    pairs = np.array([(place, ord(tag)) for place, own in enumerate(tags) for tag in sorted(set(own))], np.int64)
    pairs = pairs.reshape(-1, 2)
    of_pins = np.array([ord(tag) for row in pinned for tag in sorted(set(tags[row]))], np.int64)
    return Cap(limit, pairs[:, 0], pairs[:, 1], of_pins)


@given(st.lists(TAGS, min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 9))
def test_drawn_items_keep_the_caps_and_say_their_chance(
    tags: list[list[str]], n: int, slots: int, is_shuffled: bool, seed: int
) -> None:
    slots = min(slots, n)
    exploration = Exploration(slots, pool=n + 3, is_shuffled=is_shuffled)
    rows = np.arange(len(tags), dtype=np.int32)
    placed = build_slate(
        rows, -rows.astype(np.float32), n, caps=[_cap(tags, 1, [])], exploration=exploration,
        rng=np.random.default_rng(seed),
    )  # fmt: skip

    slate = placed.item_idx.tolist()
    assert len(set(slate)) == len(slate) <= n
    assert max(Counter(tag for row in slate for tag in set(tags[row])).values(), default=0) <= 1
    counts = Counter(tag for row, rule in zip(slate, placed.rules, strict=True) if rule == Rule.RANKING
                     for tag in set(tags[row]))  # fmt: skip
    drawn = [place for place, rule in enumerate(placed.rules) if rule == Rule.EXPLORATION]
    if drawn and len(slate) - len(drawn) == n - slots:
        before = {row for row, rule in zip(slate, placed.rules, strict=True) if rule == Rule.RANKING}
        for place in drawn:
            left = [row for row in range(min(n + 3, len(tags))) if row not in before
                    and all(counts[tag] < 1 for tag in tags[row])]  # fmt: skip
            assert placed.propensity[place] == 1 / len(left)
            before.add(slate[place])
            counts.update(set(tags[slate[place]]))
    assert all(placed.propensity[place] == 1.0 for place in range(len(slate)) if place not in drawn)
