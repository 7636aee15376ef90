"""The service's tables: policy versions, reservations, budgets and the ledger. Those of identity stand in `router.identity.tables`.

Money is in picodollars (1e-12 USD, integers); times are seconds since the epoch. The ledger is append only: a row is one attempt's
outcome, and a later truth is another row (`entry = 'correction'`), never an update.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, String, Table, Text, text

from config.database import new_metadata

metadata = new_metadata()

UNCAPPED = 9 * 10**18
"""The cap of a period without one, in picodollars."""

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=True),
    Column("hash", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("source", String(16), nullable=False),
    Column("author", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("comment", Text, nullable=False, server_default=""),
    Index("uq_policy_versions_active", "active", unique=True, sqlite_where=text("active"), postgresql_where=text("active")),  # at most one is
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("instance", String(40), nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("started_at", Double, nullable=False),
)

reservations = Table(
    "reservations",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("purpose", String(16), primary_key=True, server_default="answer"),
    Column("worker", String(40), nullable=False, index=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("day", String(16), nullable=False),
    Column("month", String(16), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("plan", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("team", String(40), nullable=False, server_default=""),
    Column("user_id", String(40), nullable=False, server_default=""),
    Column("counters", Text, nullable=False, server_default="[]"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("scope", String(200), primary_key=True, server_default=""),
    Column("period", String(16), primary_key=True),
    Column("cap", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Index("ix_budgets_period", "period"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("request_id", String(64), nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("purpose", String(16), nullable=False, server_default="answer"),
    Column("entry", String(16), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("team", String(40), nullable=False, server_default=""),
    Column("user_id", String(40), nullable=False, server_default=""),
    Column("key_id", String(40), nullable=False),
    Column("backend", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider_request_id", Text),
    Column("outcome", String(16), nullable=False),
    Column("error", Text),
    Column("usage_source", String(16), nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_input_tokens", BigInteger, nullable=False),
    Column("cache_creation_input_tokens", BigInteger, nullable=False),
    Column("reasoning_output_tokens", BigInteger, nullable=False),
    Column("audio_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("audio_output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("audio_cache_read_input_tokens", BigInteger, nullable=False, server_default="0"),
    Column("delivered_characters", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("list_cost", BigInteger, nullable=False, server_default="0"),
    Column("reserved", BigInteger, nullable=False),
    Column("price", Text, nullable=False),
    Column("price_version", Text, nullable=False, server_default=""),
    Column("rule", Text, nullable=False),
    Column("policy_version", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("billed_ms", BigInteger, nullable=False, server_default="0"),
    Column("booked_at", Double, nullable=False, server_default="0"),
    Column("chain", String(32), nullable=False, server_default=""),
    Column("position", BigInteger, nullable=False, server_default="0"),
    Column("seal", String(32), nullable=False, server_default=""),
    Index("ix_ledger_tenant_ended_at", "tenant", "ended_at"),
    Index("ix_ledger_ended_at", "ended_at", "id"),
)
