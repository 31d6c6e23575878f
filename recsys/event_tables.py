"""The tables of the service's database. The service writes them; `recsys.datasets.database` reads them for training.

Times are microseconds UTC, JSON is kept as text. A change here needs a migration in `serving/migrations/versions`.
"""

from typing import Final

import sqlalchemy as sa

# MLflow names its own table alembic_version and may share the database.
VERSION_TABLE: Final = "recsys_schema_version"
# The newest migration that this code knows.
SCHEMA_REVISION: Final = "0002"

EVENTS_FEED: Final = "events"
ITEMS_FEED: Final = "items"
SLATES_FEED: Final = "slates"

metadata: Final = sa.MetaData()

# The last number that each feed has given out. Who writes to a feed raises its number first and so holds the row until
# the commit: numbers become visible in their order, and a reader who has seen one has seen all before it.
feeds_table: Final = sa.Table(
    "feeds",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last", sa.BigInteger, nullable=False),
)

events_table: Final = sa.Table(
    "events",
    metadata,
    # Order of arrival, which settles the order of events with equal times. Never given twice.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("value", sa.Double),
    sa.Column("timestamp_us", sa.BigInteger, nullable=False),
    sa.Column("recommendation_id", sa.Text),
    sa.Column("text", sa.Text),
    sa.Column("received_us", sa.BigInteger, nullable=False),
    sa.Index("ix_events_user", "user_id", "timestamp_us", "seq"),
    sa.Index("ix_events_user_seq", "user_id", "seq"),
    sa.Index("ix_events_time", "timestamp_us", "seq"),
)

# Users whose events and slates were deleted. `seq` comes from the feed of events.
deleted_users_table: Final = sa.Table(
    "deleted_users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("deleted_us", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
)

# One row per item that was ever put or deleted here; `is_deleted` marks what is left of a deleted one.
items_table: Final = sa.Table(
    "items",
    metadata,
    sa.Column("item_id", sa.Text, primary_key=True),
    sa.Column("change", sa.BigInteger, nullable=False, unique=True),
    sa.Column("title", sa.Text),
    sa.Column("description", sa.Text),
    sa.Column("categories", sa.Text, nullable=False),  # JSON array of strings
    sa.Column("created_at_us", sa.BigInteger),
    sa.Column("attributes", sa.Text, nullable=False),  # JSON object
    sa.Column("updated_us", sa.BigInteger, nullable=False),
    sa.Column("is_deleted", sa.Boolean, nullable=False),
)

slates_table: Final = sa.Table(
    "slates",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
    sa.Column("user_id", sa.Text),
    sa.Column("timestamp_us", sa.BigInteger, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("rung", sa.Text),  # null where the whole model answered
    sa.Column("items", sa.Text, nullable=False),  # JSON array of [item_id, position, propensity or null]
    sa.Index("ix_slates_user", "user_id"),
    sa.Index("ix_slates_time", "timestamp_us", "seq"),
)

api_keys_table: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # JSON array of strings
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("revoked_us", sa.BigInteger),
)
