"""The tables of identity: tenants, teams, users and keys.

A key is kept as a keyed hash only. Times are seconds since the epoch. Teams, users and keys are never deleted: the ledger names them by id.
"""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, String, Table, Text

from router.tables import metadata

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
)

teams = Table(
    "teams",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("archived_at", Double),
    Index("uq_teams_tenant_name", "tenant", "name", unique=True),
)

users = Table(
    "users",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("team", String(40), index=True),
    Column("subject", String(255)),  # the identity provider's name for them; null for none, and once erased
    Column("email", String(320)),
    Column("display_name", String(200)),
    Column("role", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled_at", Double),
    Column("erased_at", Double),
    Index("uq_users_tenant_subject", "tenant", "subject", unique=True),
)

former_subjects = Table(
    "former_subjects",
    metadata,
    Column("mark", String(64), primary_key=True),
    Column("user", String(40), primary_key=True),
)
"""Keyed hashes of the subjects that users had and no longer have: by them the tokens of those that were erased are still refused."""

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False, index=True),
    Column("team", String(40)),
    Column("user", String(40), index=True),
    Column("role", String(16), nullable=False),
    Column("name", String(200), nullable=False),
    Column("prefix", String(16), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("models", Text),  # one a line
    Column("scopes", Text),  # JSON: routes, stores, max_data_class; null for none
    Column("networks", Text),  # one CIDR range a line
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("replaced_by", String(40)),
)
