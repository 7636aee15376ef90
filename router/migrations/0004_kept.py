"""What is kept between requests: answers under an idempotency key, stored responses, conversations, opaque parts by tool call."""

import sqlalchemy as sa
from alembic import op

revision = "0004_kept"
down_revision = "0003_purposes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("worker", sa.String(40), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency"),
    )
    op.create_index("ix_idempotency_expires_at", "idempotency", ["expires_at"])
    op.create_index("ix_idempotency_request_id", "idempotency", ["request_id"])
    op.create_table(
        "kept_responses",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("previous_id", sa.String(64)),
        sa.Column("conversation", sa.String(64)),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_kept_responses"),
    )
    op.create_index("ix_kept_responses_expires_at", "kept_responses", ["expires_at"])
    op.create_index("ix_kept_responses_tenant_created_at", "kept_responses", ["tenant", "created_at"])
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("last_position", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
    )
    op.create_index("ix_conversations_expires_at", "conversations", ["expires_at"])
    op.create_index("ix_conversations_tenant_created_at", "conversations", ["tenant", "created_at"])
    op.create_table(
        "conversation_items",
        sa.Column("conversation", sa.String(64), nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("conversation", "position", name="pk_conversation_items"),
        sa.ForeignKeyConstraint(["conversation"], ["conversations.id"], name="fk_conversation_items_conversation", ondelete="CASCADE"),
    )
    op.create_index("uq_conversation_items_conversation_id", "conversation_items", ["conversation", "id"], unique=True)
    op.create_table(
        "remembered_parts",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_remembered_parts"),
    )
    op.create_index("ix_remembered_parts_expires_at", "remembered_parts", ["expires_at"])


def downgrade() -> None:
    for table in ("remembered_parts", "conversation_items", "conversations", "kept_responses", "idempotency"):
        op.drop_table(table)
