"""Items that come, change or go while real models serve."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from features.live import LiveItems
from features.path import RankingPath
from features.rungs import Rung
from recsys.counters import Counters
from recsys.errors import CatalogueFullError, DataError
from recsys.histories import History, Request
from recsys.models.fitted import FittedModels
from recsys.models.room import with_room

N_FREE = 3


@pytest.fixture(params=["exact", "inverted"])
def path(request: pytest.FixtureRequest, tiny_models: FittedModels) -> RankingPath:
    settings = {"retrieval.exact_below": 1_000_000 if request.param == "exact" else 1}
    models = replace(
        tiny_models, config=tiny_models.config.with_overrides(settings), counters=copy_of(tiny_models.counters)
    )
    return RankingPath(with_room(models, N_FREE))


def copy_of(counters: Counters) -> Counters:
    """Return counters that live events may be recorded in."""
    return Counters(counters.interactions, counters.shown, counters.clicked)


def put(path: RankingPath, live: LiveItems, **item: object) -> int:
    return int(live.apply(live.prepare([item]))[0])


def request_of(models: FittedModels, item_idx: list[int]) -> Request:
    as_of_us = int(models.log.timestamp_us.max()) + 10_000_000
    times = as_of_us - np.arange(len(item_idx), 0, -1) * 1_000_000
    return Request(History(np.array(item_idx, np.int32), times, np.ones(len(item_idx), np.float32)), as_of_us)


def twin_of(models: FittedModels, row: int) -> dict[str, object]:
    """Return what an item is, under another name."""
    values = models.catalogue.table.row(row, named=True)
    return values | {"item_id": "twin"}


def test_room_changes_no_list(tiny_models: FittedModels) -> None:
    plain, roomy = RankingPath(tiny_models), RankingPath(with_room(tiny_models, 50))
    for items in ([3, 17], [], [5, 9, 40, 41]):
        request = request_of(tiny_models, items)
        for rung in Rung:
            one, other = plain.rank(request, rung=rung), roomy.rank(request, rung=rung)
            assert one.item_idx.tolist() == other.item_idx.tolist()
            np.testing.assert_array_equal(one.score, other.score)
            np.testing.assert_array_equal(one.features, other.features)


def test_a_new_item_is_found_by_its_text_and_ranked(path: RankingPath) -> None:
    live = LiveItems(path)
    row = put(path, live, **twin_of(path.models, 20))

    assert row == path.n_fitted
    assert path.models.catalogue.ids.get("twin") == row
    found = path.rank(request_of(path.models, [20]), exclude=np.array([20], np.int32))
    assert row in found.item_idx
    assert "text" in found.source_names_of(found.item_idx.tolist().index(row))
    near, score = path.similar(20, 3)
    assert near[0] == row
    assert score[0] > 0.5


def test_a_new_item_has_the_features_of_its_twin_without_behaviour(path: RankingPath) -> None:
    live = LiveItems(path)
    row = put(path, live, **twin_of(path.models, 20))
    rows = path.rows(request_of(path.models, [3, 20, 33]), np.array([20, row], np.int32))

    for name, twin, new in zip(path.feature_names, *rows, strict=True):
        if name.startswith(
            ("text_profile", "text_session", "text_last", "text_max", "text_top3", "text_content_factor")
        ) and not name.endswith("share_below"):
            assert new == pytest.approx(twin, abs=1e-4), name
        if name in ("item_text_length", "item_n_attribute_values") or name.startswith(("user_match", "session_match")):
            assert new == twin, name


def test_its_own_clicks_count_from_then_on(path: RankingPath) -> None:
    live = LiveItems(path)
    row = put(path, live, item_id="fresh", title="Something nobody has read")
    request = request_of(path.models, [3])
    column = path.feature_names.index("popularity_all")
    before = path.rows(request, np.array([row], np.int32))[0, column]
    assert before == 0.0
    counters = path.models.counters
    counters.record(row, request.as_of_us - 2 * counters.interactions.bucket_us, kind="interactions", weight=5.0)
    assert path.rows(request, np.array([row], np.int32))[0, column] == pytest.approx(np.log(6.0))


def test_a_changed_item_keeps_its_row_and_gets_its_new_text(path: RankingPath) -> None:
    live = LiveItems(path)
    item_id = path.models.catalogue.ids.id_of(7)
    other = path.models.catalogue.table.row(20, named=True)
    factor = path.models.factors.placed[7].copy()

    assert put(path, live, **(other | {"item_id": item_id})) == 7

    np.testing.assert_allclose(path.models.item_embeddings[7], path.models.item_embeddings[20], atol=1e-5)
    if path.models.factors.is_warm[7]:
        np.testing.assert_array_equal(path.models.factors.placed[7], factor)
    assert live.title_of(7) == other["title"]
    assert live.n_free == N_FREE


def test_a_removed_item_is_in_no_list_until_it_is_put_again(path: RankingPath) -> None:
    live = LiveItems(path)
    request = request_of(path.models, [3, 17])
    first = path.rank(request)
    best = int(first.item_idx[0])
    item_id = path.models.catalogue.ids.id_of(best)

    live.remove([item_id, "no such item"])

    for rung in Rung:
        assert best not in path.rank(request, rung=rung).item_idx
    assert best not in path.similar(int(first.item_idx[1]), 100)[0]
    put(path, live, **path.models.catalogue.table.row(best, named=True))
    assert path.rank(request).item_idx.tolist() == first.item_idx.tolist()


def test_when_no_row_is_free_nothing_changes_and_the_remedy_is_named(path: RankingPath) -> None:
    live = LiveItems(path)
    for number in range(N_FREE):
        put(path, live, item_id=f"new{number}", title="A title")
    with pytest.raises(
        CatalogueFullError, match=r"1 new item\(s\) find no room, the first: 'more'; 0 of .*RECSYS_LIVE"
    ):
        put(path, live, item_id="more", title="A title")

    assert "more" not in path.models.catalogue.ids
    assert put(path, live, item_id="new1", title="Another title") == path.n_fitted + 1


@pytest.mark.parametrize(
    ("value", "message"), [("long", "is a number in this catalogue"), (True, "is a number in this catalogue")]
)
def test_a_value_that_does_not_fit_its_column_is_refused(path: RankingPath, value: object, message: str) -> None:
    models = path.models
    numeric = [*models.catalogue.numeric_fields]
    if not numeric:
        catalogue = replace(models.catalogue, numeric_fields=["minutes"], numeric=np.zeros((len(models.catalogue), 1)))
        with pytest.raises(DataError, match=message):
            catalogue.like([{"item_id": "x", "minutes": value}], ("title",))
        return
    with pytest.raises(DataError, match=message):
        LiveItems(path).prepare([{"item_id": "x", numeric[0]: value}])


def test_a_text_that_was_embedded_for_the_training_is_not_embedded_again(
    path: RankingPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = path.models.encoder
    assert encoder is not None
    read: list[str] = []
    encode: Callable[..., np.ndarray] = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: (read.extend(texts), encode(texts))[1])
    live = LiveItems(path)
    same = path.models.catalogue.table.row(4, named=True)

    put(path, live, **same)
    assert read == []
    put(path, live, **(same | {"title": "Another title altogether"}))
    put(path, live, **same)
    assert len(read) == 2


def test_what_is_not_allowed_is_in_no_list(path: RankingPath) -> None:
    allowed = np.zeros(path.models.n_rows, np.bool_)
    allowed[[5, 9, 30, 31, 77]] = True
    found = path.rank(request_of(path.models, [3, 17]), allowed=allowed, exclude=np.array([31], np.int32)).item_idx

    assert set(found.tolist()) <= {5, 9, 30, 77}
    assert len(found) >= 3
    assert path.rank(request_of(path.models, []), allowed=allowed).item_idx.tolist() != []
