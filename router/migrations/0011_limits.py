"""Limits that replicas share: the levels of buckets, and what every worker holds of a concurrency."""

import sqlalchemy as sa
from alembic import op

revision = "0011_limits"
down_revision = "0010_reports"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nothing of it matters for longer than minutes: no log of it is written, and no commit waits for the disk.
    unlogged = ["UNLOGGED"] if op.get_bind().dialect.name == "postgresql" else []
    op.create_table(
        "limit_buckets",
        sa.Column("scope", sa.String(400), nullable=False),
        sa.Column("level", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("scope", name="pk_limit_buckets"),
        prefixes=unlogged,
    )
    op.create_index("ix_limit_buckets_at", "limit_buckets", ["at"])
    op.create_table(
        "limit_slots",
        sa.Column("scope", sa.String(400), nullable=False),
        sa.Column("worker", sa.String(40), nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("scope", "worker", name="pk_limit_slots"),
        prefixes=unlogged,
    )
    op.create_index("ix_limit_slots_worker", "limit_slots", ["worker"])


def downgrade() -> None:
    op.drop_table("limit_slots")
    op.drop_table("limit_buckets")
