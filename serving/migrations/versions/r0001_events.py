"""Events alone, as they were before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table of events."""
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("timestamp_us", sa.BigInteger, nullable=False),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("received_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_events_user", "events", ["user_id", "timestamp_us", "seq"])
    op.create_index("ix_events_time", "events", ["timestamp_us", "seq"])
