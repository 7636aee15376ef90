"""The tables of what is kept between requests. Every content is encrypted (`router.kept.sealing`); times are seconds since the epoch.

Every row carries its tenant, the user for whom its key acted (if it did for one), and an expiry after which a sweep deletes it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, LargeBinary, String, Table, Text

from router.tables import metadata

idempotency = Table(
    "idempotency",
    metadata,
    Column("id", String(64), primary_key=True),  # of tenant, route and key, hashed
    Column("tenant", String(64), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("worker", String(40), nullable=False),
    Column("request_id", String(64), nullable=False, index=True),
    Column("user_id", String(64), index=True),
    Column("done", Boolean, nullable=False),
    Column("answer", LargeBinary),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)

kept_responses = Table(
    "kept_responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("previous_id", String(64)),
    Column("conversation", String(64)),
    Column("user_id", String(64), index=True),
    Column("data_class", String(16), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Index("ix_kept_responses_tenant_created_at", "tenant", "created_at"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("metadata", Text, nullable=False),
    Column("user_id", String(64), index=True),
    Column("data_class", String(16), nullable=False),
    Column("last_position", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Index("ix_conversations_tenant_created_at", "tenant", "created_at"),
)

conversation_items = Table(
    "conversation_items",
    metadata,
    Column("conversation", String(64), ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(200), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("uq_conversation_items_conversation_id", "conversation", "id", unique=True),
)
"""Positions rise in the order in which the items were added, with gaps where some were deleted."""

remembered_parts = Table(
    "remembered_parts",
    metadata,
    Column("id", String(64), primary_key=True),  # of tenant and tool call, hashed
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(64), index=True),
    Column("content", LargeBinary, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
