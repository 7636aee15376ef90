"""What an attempt was for: one request may hold a reservation for its answer, one for a hedge, one for a summary."""

import sqlalchemy as sa
from alembic import op

revision = "0003_purposes"
down_revision = "0002_documents"
branch_labels = None
depends_on = None


def upgrade() -> None:
    purpose = sa.Column("purpose", sa.String(16), nullable=False, server_default="answer")
    with op.batch_alter_table("reservations") as table:
        table.drop_constraint("pk_reservations", type_="primary")
        table.add_column(purpose)
        table.create_primary_key("pk_reservations", ["request_id", "purpose"])
    op.add_column("ledger", sa.Column("purpose", sa.String(16), nullable=False, server_default="answer"))


def downgrade() -> None:
    with op.batch_alter_table("ledger") as table:
        table.drop_column("purpose")
    with op.batch_alter_table("reservations") as table:
        table.drop_constraint("pk_reservations", type_="primary")
        table.drop_column("purpose")
        table.create_primary_key("pk_reservations", ["request_id"])
