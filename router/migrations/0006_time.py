"""The ledger says how long an attempt ran, where that has a price."""

import sqlalchemy as sa
from alembic import op

revision = "0006_time"
down_revision = "0005_money"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ledger", sa.Column("billed_ms", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("ledger") as table:
        table.drop_column("billed_ms")
