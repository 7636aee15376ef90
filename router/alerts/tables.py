"""The table of alerts. Money is in picodollars, times are seconds since the epoch.

A row is one thing that one receiver is told once in a period. `state` is `pending`, `delivered` or `failed` (given up). While `worker` tries to
deliver it, `next_try_at` is the end of its lease.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table, Text

from router.tables import metadata

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("period", String(16), primary_key=True),
    Column("tenant", String(64), primary_key=True),
    Column("scope", String(200), primary_key=True),
    Column("type", String(32), primary_key=True),
    Column("share", Double, primary_key=True),
    Column("receiver", String(16), primary_key=True),
    Column("id", String(40), nullable=False, unique=True),
    Column("spent", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("cap", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_try_at", Double, nullable=False),
    Column("worker", String(40), nullable=False),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("delivered_at", Double),
    Index("ix_budget_alerts_state_next_try_at", "state", "next_try_at"),
)
