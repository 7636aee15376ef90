"""The audit log with its heads and checkpoints, decisions, stored prompts; whose what is kept was; the ledger's seals; tables that only grow."""

import sqlalchemy as sa
from alembic import op

from router.audit.triggers import allow_changes, refuse_changes

revision = "0012_audit"
down_revision = "0011_limits"
branch_labels = None
depends_on = None

TABLES = ("audit_log", "audit_checkpoints", "ledger")
KEPT = ("idempotency", "kept_responses", "conversations", "remembered_parts")


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("actor_role", sa.String(16), nullable=False),
        sa.Column("actor_user", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("object_kind", sa.String(24), nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("prev_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "seq", name="pk_audit_log"),
        sa.UniqueConstraint("id", name="uq_audit_log_id"),
    )
    for column in ("tenant", "action", "actor"):
        op.create_index(f"ix_audit_log_{column}_seq", "audit_log", [column, "seq"])
    op.create_index("ix_audit_log_request_id", "audit_log", ["request_id"])
    op.create_table(
        "audit_heads",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", name="pk_audit_heads"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("until", sa.Double),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("mac", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "seq", name="pk_audit_checkpoints"),
    )
    op.create_table(
        "decisions",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(40), nullable=False),
        sa.Column("user_id", sa.String(64)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("policy_version", sa.Integer, nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("input_hash", sa.String(64), nullable=False),
        sa.Column("decision", sa.Text),
        sa.Column("state", sa.Text),
        sa.Column("citations", sa.Text, nullable=False),
        sa.Column("moderation", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_expires_at", "decisions", ["expires_at"])
    op.create_table(
        "decision_capabilities",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decision_capabilities"),
    )
    op.create_table(
        "prompts",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(64)),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_prompts"),
    )
    op.create_index("ix_prompts_expires_at", "prompts", ["expires_at"])
    op.create_index("ix_prompts_user_id", "prompts", ["user_id"])
    for table in KEPT:
        op.add_column(table, sa.Column("user_id", sa.String(64)))
        op.create_index(f"ix_{table}_user_id", table, ["user_id"])
    op.create_table(
        "former_subjects",
        sa.Column("mark", sa.String(64), nullable=False),
        sa.Column("user", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("mark", "user", name="pk_former_subjects"),
    )
    op.add_column("ledger", sa.Column("chain", sa.String(32), nullable=False, server_default=""))
    op.add_column("ledger", sa.Column("position", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("ledger", sa.Column("seal", sa.String(32), nullable=False, server_default=""))
    op.create_table(
        "ledger_heads",
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("chain", name="pk_ledger_heads"),
    )
    op.create_table(
        "ledger_seals",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("chains", sa.BigInteger, nullable=False),
        sa.Column("unsealed", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("mac", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_seals"),
    )
    op.create_table(
        "ledger_archived",
        sa.Column("archive", sa.String(64), nullable=False),
        sa.Column("chain", sa.String(32), nullable=False),
        sa.Column("first", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("archive", "chain", "first", name="pk_ledger_archived"),
    )
    refuse_changes(op.get_bind(), *TABLES)


def downgrade() -> None:
    allow_changes(op.get_bind(), *TABLES)
    for table in KEPT:
        op.drop_index(f"ix_{table}_user_id", table)
        op.drop_column(table, "user_id")
    for column in ("seal", "position", "chain"):
        op.drop_column("ledger", column)
    for table in (
        "former_subjects",
        "ledger_archived",
        "ledger_seals",
        "ledger_heads",
        "prompts",
        "decision_capabilities",
        "decisions",
        "audit_checkpoints",
        "audit_heads",
        "audit_log",
    ):
        op.drop_table(table)
