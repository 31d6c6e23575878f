"""Slates in SQL: rows in and out. Functions that write work on a connection within a transaction."""

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from recsys.event_tables import SLATES_FEED, slates_table
from serving.database import next_numbers
from serving.sql_catalogue import as_json
from serving.sql_events import by_time, deletions_of, insert_for
from serving.stored import ShownItem, StoredSlate

_COLUMNS: Final = ("recommendation_id", "user_id", "timestamp_us", "model_version", "items", "rung")
_NEVER_US: Final = -(2**63)

SELECT_SLATES: Final = sa.select(*(slates_table.c[name] for name in _COLUMNS), slates_table.c.seq)
SLATES_AFTER: Final = (
    SELECT_SLATES.where(slates_table.c.seq > sa.bindparam("after"))
    .order_by(slates_table.c.seq)
    .limit(sa.bindparam("max_rows"))
)
SLATES_BY_TIME: Final = by_time(SELECT_SLATES, slates_table)


def add_slates(connection: sa.Connection, batch: Sequence[StoredSlate]) -> None:
    """Store slates; see `EventStore.add_slates`."""
    first_seq = next_numbers(connection, SLATES_FEED, len(batch))
    deleted_us = deletions_of(connection, {slate.user_id for slate in batch if slate.user_id is not None})
    rows = [
        {
            "recommendation_id": slate.recommendation_id,
            "user_id": slate.user_id,
            "timestamp_us": slate.timestamp_us,
            "model_version": slate.model_version,
            "items": as_json([list(item) for item in slate.items]),
            "rung": slate.rung,
            "seq": first_seq + number,
        }
        for number, slate in enumerate(batch)
        if slate.user_id is None or slate.timestamp_us > deleted_us.get(slate.user_id, _NEVER_US)
    ]
    if rows:
        insert = insert_for(connection)(slates_table)
        connection.execute(insert.on_conflict_do_nothing(index_elements=["recommendation_id"]), rows)


def slate_of(row: Sequence[Any]) -> StoredSlate:
    """Return the slate of a row of `SELECT_SLATES`."""
    recommendation_id, user_id, timestamp_us, model_version, items, rung, *_ = row
    shown = tuple(ShownItem(*item) for item in json.loads(items))
    return StoredSlate(recommendation_id, user_id, timestamp_us, model_version, shown, rung)
