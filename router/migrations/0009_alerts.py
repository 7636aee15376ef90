"""Alerts on budgets, and an index by which the counters of a period are found."""

import sqlalchemy as sa
from alembic import op

revision = "0009_alerts"
down_revision = "0008_storage"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budget_alerts",
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("scope", sa.String(200), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("receiver", sa.String(16), nullable=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("cap", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_try_at", sa.Double, nullable=False),
        sa.Column("worker", sa.String(40), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("delivered_at", sa.Double),
        sa.PrimaryKeyConstraint("period", "tenant", "scope", "type", "share", "receiver", name="pk_budget_alerts"),
        sa.UniqueConstraint("id", name="uq_budget_alerts_id"),
    )
    op.create_index("ix_budget_alerts_state_next_try_at", "budget_alerts", ["state", "next_try_at"])
    op.create_index("ix_budgets_period", "budgets", ["period"])


def downgrade() -> None:
    op.drop_index("ix_budgets_period", "budgets")
    op.drop_table("budget_alerts")
