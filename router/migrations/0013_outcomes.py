"""What came of a decided request; what users thought of its answer; why a policy version was made."""

import sqlalchemy as sa
from alembic import op

revision = "0013_outcomes"
down_revision = "0012_audit"
branch_labels = None
depends_on = None

TEXTS = (("policy_hash", sa.String(64)), ("model", sa.Text()))
COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cost")


def upgrade() -> None:
    for name, kind in TEXTS:
        op.add_column("decisions", sa.Column(name, kind, nullable=False, server_default=""))
    op.add_column("decisions", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    for name in COUNTS:
        op.add_column("decisions", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    for name in ("latency_ms", "first_ms"):
        op.add_column("decisions", sa.Column(name, sa.Double))
    op.add_column("decisions", sa.Column("embedding", sa.LargeBinary))
    op.create_index("ix_decisions_created_at", "decisions", ["created_at"])
    embedded = sa.text("embedding IS NOT NULL")
    op.create_index("ix_decisions_embedded_user_id", "decisions", ["user_id"], sqlite_where=embedded, postgresql_where=embedded)
    op.create_table(
        "feedback",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("rater", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(64)),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("comment", sa.LargeBinary),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "rater", name="pk_feedback"),
    )
    op.create_index("ix_feedback_expires_at", "feedback", ["expires_at"])
    op.create_index("ix_feedback_user_id", "feedback", ["user_id"])
    op.add_column("policy_versions", sa.Column("comment", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("policy_versions", "comment")
    op.drop_table("feedback")
    op.drop_index("ix_decisions_embedded_user_id", "decisions")
    op.drop_index("ix_decisions_created_at", "decisions")
    for name in ("embedding", "first_ms", "latency_ms", *reversed(COUNTS), "attempts", *(name for name, _ in reversed(TEXTS))):
        op.drop_column("decisions", name)
