"""Teams and users; what narrows a key: its routes, stores, data class and networks; who it acts for, and the key that follows it."""

import sqlalchemy as sa
from alembic import op

revision = "0007_identity"
down_revision = "0006_time"
branch_labels = None
depends_on = None

KEYS = ("team", "user", "scopes", "networks", "replaced_by")


def upgrade() -> None:
    op.create_table(
        "teams",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("archived_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_teams"),
    )
    op.create_index("uq_teams_tenant_name", "teams", ["tenant", "name"], unique=True)
    op.create_table(
        "users",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("team", sa.String(40)),
        sa.Column("subject", sa.String(255)),
        sa.Column("email", sa.String(320)),
        sa.Column("display_name", sa.String(200)),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("disabled_at", sa.Double),
        sa.Column("erased_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
    )
    op.create_index("ix_users_team", "users", ["team"])
    op.create_index("uq_users_tenant_subject", "users", ["tenant", "subject"], unique=True)
    op.add_column("keys", sa.Column("team", sa.String(40)))
    op.add_column("keys", sa.Column("user", sa.String(40)))
    op.add_column("keys", sa.Column("scopes", sa.Text))
    op.add_column("keys", sa.Column("networks", sa.Text))
    op.add_column("keys", sa.Column("replaced_by", sa.String(40)))
    op.create_index("ix_keys_user", "keys", ["user"])
    op.add_column("files", sa.Column("uploaded_by", sa.String(40)))


def downgrade() -> None:
    """A narrowed key is revoked: the older release would let it do more than it may. So is one of a disabled user or an archived team."""
    keys = sa.table("keys", *(sa.column(name) for name in ("team", "user", "scopes", "networks", "revoked_at", "created_at")))
    users = sa.table("users", *(sa.column(name) for name in ("id", "team", "disabled_at", "erased_at")))
    teams = sa.table("teams", sa.column("id"), sa.column("archived_at"))
    archived = sa.select(teams.c.id).where(teams.c.archived_at.is_not(None))
    dead = sa.select(users.c.id).where(users.c.disabled_at.is_not(None) | users.c.erased_at.is_not(None) | users.c.team.in_(archived))
    narrowed = keys.c.scopes.is_not(None) | keys.c.networks.is_not(None)
    away = keys.c.team.in_(archived) | keys.c.user.in_(dead)
    op.execute(keys.update().where(keys.c.revoked_at.is_(None), narrowed | away).values(revoked_at=keys.c.created_at))
    op.drop_column("files", "uploaded_by")
    op.drop_index("ix_keys_user", "keys")
    for name in reversed(KEYS):
        op.drop_column("keys", name)
    op.drop_table("users")
    op.drop_table("teams")
