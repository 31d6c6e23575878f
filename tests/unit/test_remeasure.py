"""Newer feedback in the rows of a system that was trained before it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from recsys.datasets.dataset import Dataset
from recsys.histories import InteractionLog
from recsys.models.fitted import FittedModels
from recsys.models.sentiment import RatingScale, SentimentHead
from recsys.schema import Col
from training.remeasure import _on_the_systems_rows

HOUR_US = 3_600_000_000
UNTIL_US = 1_893_456_000_000_000  # 2030-01-01T00:00:00Z
SCALE = {"data.rating_scale": [1.0, 5.0]}


@pytest.fixture(scope="module")
def models(tiny_models: FittedModels) -> FittedModels:
    """A system whose head takes the first item's text for a complaint, and whose user 7 complained of item 9."""
    assert tiny_models.encoder is not None
    against = -5.0 * tiny_models.item_embeddings[0]
    head = SentimentHead(against, 0.0, RatingScale(1.0, 5.0), tiny_models.encoder.fingerprint)
    seen = InteractionLog.from_arrays(
        np.array([7], np.int32), np.array([9], np.int32), np.array([5], np.int64), np.zeros(1, np.float32),
        n_users=len(tiny_models.user_ids), n_items=len(tiny_models.catalogue),
    )  # fmt: skip
    return replace(tiny_models, config=tiny_models.config.with_overrides(SCALE), sentiment=head, seen=seen)


def newer_feedback(models: FittedModels) -> Dataset:
    """Return a comment, two ratings and a click of two users that are new to the system and one that is not."""
    item_ids, known = models.catalogue.ids.ids, models.user_ids.id_of(3)
    rows = [
        ("zoe", item_ids[2], "comment", None, models.catalogue.texts[0]),
        (known, item_ids[5], "rating", 1.0, None),
        (known, item_ids[8], "click", None, None),
        ("adam", item_ids[4], "rating", 5.0, None),
    ]
    begin = datetime.fromtimestamp(UNTIL_US / 1_000_000, UTC) + timedelta(minutes=1)
    table = pl.DataFrame(
        [(user, item, begin + timedelta(hours=place), *rest) for place, (user, item, *rest) in enumerate(rows)],
        schema={
            Col.USER_ID: pl.String,
            Col.ITEM_ID: pl.String,
            Col.TIMESTAMP: pl.Datetime("us", "UTC"),
            Col.EVENT: pl.String,
            Col.VALUE: pl.Float64,
            Col.TEXT: pl.String,
        },
        orient="row",
    )
    return Dataset(models.catalogue.table, table, name="newer")


def pairs(log: InteractionLog | None) -> set[tuple[int, int]]:
    assert log is not None
    return set(zip(log.user_idx.tolist(), log.item_idx.tolist(), strict=True))


def test_complaints_of_newer_feedback_stand_in_the_systems_rows_beside_its_own(models: FittedModels) -> None:
    data, extended, n_new = _on_the_systems_rows(newer_feedback(models), models, models.config, until_us=UNTIL_US)
    adam, zoe = extended.user_ids.get("adam"), extended.user_ids.get("zoe")

    assert (n_new, {adam, zoe}) == (2, {80, 81})
    assert pairs(data.seen) == {(7, 9), (zoe, 2), (3, 5)}
    assert data.seen is not None
    assert data.seen.n_users == data.log.n_users == 82
    assert data.seen.history_of(7).item_idx.tolist() == [9]
    assert pairs(data.log) - pairs(models.log) <= {(3, 8), (adam, 4)}
    assert (adam, 4) in pairs(data.log)


def test_without_a_head_a_comment_counts_as_its_kind(models: FittedModels) -> None:
    mute = replace(models, sentiment=None, seen=None)
    data, extended, _ = _on_the_systems_rows(newer_feedback(models), mute, models.config, until_us=UNTIL_US)

    assert pairs(data.seen) == {(3, 5)}
    assert (extended.user_ids.get("zoe"), 2) in pairs(data.log)


def test_where_reviews_were_not_read_nobody_complains(models: FittedModels) -> None:
    off = replace(models, config=models.config.with_overrides({"data.sentiment": "off"}), seen=None)
    data, _, _ = _on_the_systems_rows(newer_feedback(models), off, off.config, until_us=UNTIL_US)

    assert pairs(data.seen) == set()
    assert len(data.log) == len(models.log) + 4


def shown_later(models: FittedModels, lists: list[tuple[str, int, float, list[int], list[int]]]) -> Dataset:
    """Return newer feedback with lists: of whom, request, hours after the training, rows of items, clicked ones."""
    newer = newer_feedback(models)
    ids = models.catalogue.ids
    rows = [
        (f"r{request}", user, UNTIL_US + int(hours * HOUR_US), ids.id_of(item), item in clicked)
        for user, request, hours, items, clicked in lists
        for item in items
    ]
    columns = (Col.REQUEST_ID, Col.USER_ID, Col.TIMESTAMP, Col.ITEM_ID, Col.CLICKED)
    table = pl.DataFrame(rows, schema=columns, orient="row")
    times = pl.col(Col.TIMESTAMP).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    nothing = pl.lit(None, pl.String).alias(Col.REQUEST_ID)
    return replace(newer, interactions=newer.interactions.with_columns(nothing), impressions=table.with_columns(times))


def read(models: FittedModels, kind: str, item: int, hours: float, window_hours: int | None = None) -> float:
    window_us = None if window_hours is None else window_hours * HOUR_US
    as_of_us = UNTIL_US + int(hours * HOUR_US)
    return float(models.counters.count(kind, np.array([item], np.int32), as_of_us, (window_us,))[0, 0])


def test_what_was_shown_and_clicked_later_is_counted_as_of_each_moment(models: FittedModels) -> None:
    user = models.user_ids.id_of(3)
    lists = [(user, 1, 1.5, [4, 6], [6]), ("adam", 2, 3.2, [6, 4], [6]), (user, 3, 3.9, [6, 8], [8])]
    _, later, _ = _on_the_systems_rows(shown_later(models, lists), models, models.config, until_us=UNTIL_US)
    before = {kind: read(models, kind, 6, 0) for kind in ("shown", "clicked")}

    assert before["shown"] > 0
    # Neither the list that is asked about nor one of the same hour counts, those of earlier hours do.
    for hours, shown, clicked in ((1.5, 0, 0), (1.99, 0, 0), (2.0, 1, 1), (3.2, 1, 1), (3.9, 1, 1), (4.0, 3, 2)):
        assert read(later, "shown", 6, hours) == before["shown"] + shown, hours
        assert read(later, "clicked", 6, hours) == before["clicked"] + clicked, hours
        assert read(later, "shown", 6, hours, 24) == shown, hours
    assert read(later, "shown", 4, 9) == read(models, "shown", 4, 9) + 2
    assert read(later, "clicked", 4, 9) == read(models, "clicked", 4, 9)


def test_a_list_that_the_training_counted_is_not_counted_twice(models: FittedModels) -> None:
    lists = [("adam", 1, 1.5, [4, 6], [6])]
    _, once, _ = _on_the_systems_rows(shown_later(models, lists), models, models.config, until_us=UNTIL_US)
    _, again, _ = _on_the_systems_rows(shown_later(models, lists), once, models.config, until_us=UNTIL_US)

    assert read(again, "shown", 6, 9) == read(once, "shown", 6, 9) == read(models, "shown", 6, 9) + 1
    assert read(again, "clicked", 6, 9) == read(models, "clicked", 6, 9) + 1


def test_a_complaint_about_a_list_shown_later_is_no_click(models: FittedModels) -> None:
    user = models.user_ids.id_of(3)
    newer = shown_later(models, [(user, 1, 1.0, [5, 8], [5, 8])])
    names = pl.when(pl.col(Col.USER_ID) == user).then(pl.lit("r1")).alias(Col.REQUEST_ID)  # a rating of 1 and a click
    newer = replace(newer, interactions=newer.interactions.with_columns(names))
    data, later, _ = _on_the_systems_rows(newer, models, models.config, until_us=UNTIL_US)

    assert data.impressions is not None
    assert data.impressions.item_idx[data.impressions.clicked].tolist() == [8]
    assert read(later, "clicked", 5, 9) == read(models, "clicked", 5, 9)
    assert read(later, "clicked", 8, 9) == read(models, "clicked", 8, 9) + 1
