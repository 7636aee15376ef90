"""Archives of the ledger's closed months, and the opening rows that stand for them."""

import sqlalchemy as sa
from alembic import op

revision = "0008_storage"
down_revision = "0007_identity"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("month", sa.String(16), nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("archived_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_archives"),
    )
    op.create_table(
        "ledger_openings",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("archive", sa.String(64), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_openings"),
    )
    op.create_index("ix_ledger_openings_archive", "ledger_openings", ["archive"])


def downgrade() -> None:
    op.drop_table("ledger_openings")
    op.drop_table("archives")
