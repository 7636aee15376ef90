"""Budgets inside a tenant's: counters of teams, keys and models, and which of them a reservation moved."""

import sqlalchemy as sa
from alembic import op

revision = "0005_money"
down_revision = "0004_kept"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("budgets") as table:
        table.drop_constraint("pk_budgets", type_="primary")
        table.add_column(sa.Column("scope", sa.String(200), nullable=False, server_default=""))
        table.create_primary_key("pk_budgets", ["tenant", "scope", "period"])
    for column in (sa.Column("team", sa.String(40)), sa.Column("user_id", sa.String(40))):
        column.nullable, column.server_default = False, sa.DefaultClause("")
        op.add_column("reservations", column)
    op.add_column("reservations", sa.Column("counters", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("reservations") as table:
        for column in ("team", "user_id", "counters"):
            table.drop_column(column)
    op.execute("DELETE FROM budgets WHERE scope <> ''")
    with op.batch_alter_table("budgets") as table:
        table.drop_constraint("pk_budgets", type_="primary")
        table.drop_column("scope")
        table.create_primary_key("pk_budgets", ["tenant", "period"])
