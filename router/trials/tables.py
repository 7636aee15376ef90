"""The tables of canaries and of pairs of answers. Times are seconds since the epoch.

A canary's row is one rule's in one version of the policy; `reason` is JSON (a `Verdict` and both sides' figures) while it is rolled back. Each of its
two sides has a row with its sums: all of them, and those of the window that the guard looks at.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, LargeBinary, String, Table, Text

from router.tables import metadata

canaries = Table(
    "canaries",
    metadata,
    Column("policy_version", Integer, primary_key=True, autoincrement=False),
    Column("rule", String(64), primary_key=True),
    Column("policy_hash", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("since", Double, nullable=False),
    Column("began_at", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("window", Integer, nullable=False),
    Column("window_began_at", Double, nullable=False),
)

canary_sides = Table(
    "canary_sides",
    metadata,
    Column("policy_version", Integer, primary_key=True, autoincrement=False),
    Column("rule", String(64), primary_key=True),
    Column("side", String(16), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("log_ms", Double, nullable=False),
    Column("log_ms_squared", Double, nullable=False),
    Column("cost", Double, nullable=False),
    Column("cost_squared", Double, nullable=False),
    Column("window_requests", BigInteger, nullable=False),
    Column("window_errors", BigInteger, nullable=False),
    Column("window_log_ms", Double, nullable=False),
    Column("window_log_ms_squared", Double, nullable=False),
    Column("window_cost", Double, nullable=False),
    Column("window_cost_squared", Double, nullable=False),
)
"""Latencies in milliseconds, costs in USD."""

routing_pairs = Table(
    "routing_pairs",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("user_id", String(64)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
    Column("features", Text, nullable=False),
    Column("embedding", LargeBinary),
    Column("weak_backend", Text, nullable=False),
    Column("strong_backend", Text, nullable=False),
    Column("weak_score", Double, nullable=False),
    Column("strong_score", Double, nullable=False),
    Column("judge", Text, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Index("ix_routing_pairs_tenant_created_at", "tenant", "created_at"),
    Index("ix_routing_pairs_user_id", "user_id"),
)
"""What a weak and a strong backend made of the same question, from 0 to 1, and nothing of its text. `cost` is the pair's beyond the answer, in picodollars."""
