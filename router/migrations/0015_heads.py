"""Heads that estimate how hard a tenant's questions are: what was calibrated, and which one serves."""

import sqlalchemy as sa
from alembic import op

revision = "0015_heads"
down_revision = "0014_canaries"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "heads",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(32), nullable=False),
        sa.Column("pairs", sa.Integer, nullable=False),
        sa.Column("apgr", sa.Double, nullable=True),
        sa.Column("low", sa.Double, nullable=True),
        sa.Column("high", sa.Double, nullable=True),
        sa.Column("rules", sa.Double, nullable=True),
        sa.Column("promoted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_heads_tenant_id", "heads", ["tenant", "id"])


def downgrade() -> None:
    op.drop_table("heads")
