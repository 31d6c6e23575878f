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
    begin = datetime(2030, 1, 1, tzinfo=UTC)
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
    data, extended, n_new = _on_the_systems_rows(newer_feedback(models), models, models.config)
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
    data, extended, _ = _on_the_systems_rows(newer_feedback(models), mute, models.config)

    assert pairs(data.seen) == {(3, 5)}
    assert (extended.user_ids.get("zoe"), 2) in pairs(data.log)


def test_where_reviews_were_not_read_nobody_complains(models: FittedModels) -> None:
    off = replace(models, config=models.config.with_overrides({"data.sentiment": "off"}), seen=None)
    data, _, _ = _on_the_systems_rows(newer_feedback(models), off, off.config)

    assert pairs(data.seen) == set()
    assert len(data.log) == len(models.log) + 4
