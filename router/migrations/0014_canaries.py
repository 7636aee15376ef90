"""Canaries with their sums, and scored pairs of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0014_canaries"
down_revision = "0013_outcomes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "canaries",
        sa.Column("policy_version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("policy_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("began_at", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("window", sa.Integer, nullable=False),
        sa.Column("window_began_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("policy_version", "rule", name="pk_canaries"),
    )
    sums = [
        column
        for part in ("", "window_")
        for column in (
            *(sa.Column(f"{part}{name}", sa.BigInteger, nullable=False) for name in ("requests", "errors")),
            *(sa.Column(f"{part}{name}", sa.Double, nullable=False) for name in ("log_ms", "log_ms_squared", "cost", "cost_squared")),
        )
    ]
    op.create_table(
        "canary_sides",
        sa.Column("policy_version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("side", sa.String(16), nullable=False),
        *sums,
        sa.PrimaryKeyConstraint("policy_version", "rule", "side", name="pk_canary_sides"),
    )
    op.create_table(
        "routing_pairs",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("weak_backend", sa.Text, nullable=False),
        sa.Column("strong_backend", sa.Text, nullable=False),
        sa.Column("weak_score", sa.Double, nullable=False),
        sa.Column("strong_score", sa.Double, nullable=False),
        sa.Column("judge", sa.Text, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_routing_pairs"),
    )
    op.create_index("ix_routing_pairs_tenant_created_at", "routing_pairs", ["tenant", "created_at"])
    op.create_index("ix_routing_pairs_user_id", "routing_pairs", ["user_id"])
    op.create_index("ix_routing_pairs_expires_at", "routing_pairs", ["expires_at"])


def downgrade() -> None:
    op.drop_table("routing_pairs")
    op.drop_table("canary_sides")
    op.drop_table("canaries")
