"""Numbered feeds, items, slates, API keys and deleted users beside the events."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create what is new, and let the table of feeds number the events from here on."""
    op.create_table(
        "feeds",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.execute("INSERT INTO feeds (name, last) SELECT 'events', coalesce(max(seq), 0) FROM events")
    op.execute("INSERT INTO feeds (name, last) VALUES ('items', 0), ('slates', 0)")
    op.create_index("ix_events_user_seq", "events", ["user_id", "seq"])
    if op.get_bind().dialect.name == "postgresql":
        # A server of an older version must fail rather than number events in its own way.
        op.execute("ALTER TABLE events ALTER COLUMN seq DROP DEFAULT")
        op.execute("DROP SEQUENCE IF EXISTS events_seq_seq")
    op.create_table(
        "deleted_users",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("deleted_us", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
    )
    op.create_table(
        "items",
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("change", sa.BigInteger, nullable=False, unique=True),
        sa.Column("title", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("categories", sa.Text, nullable=False),
        sa.Column("created_at_us", sa.BigInteger),
        sa.Column("attributes", sa.Text, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("is_deleted", sa.Boolean, nullable=False),
    )
    op.create_table(
        "slates",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
        sa.Column("user_id", sa.Text),
        sa.Column("timestamp_us", sa.BigInteger, nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("rung", sa.Text),
        sa.Column("items", sa.Text, nullable=False),
    )
    op.create_index("ix_slates_user", "slates", ["user_id"])
    op.create_index("ix_slates_time", "slates", ["timestamp_us", "seq"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
    )
