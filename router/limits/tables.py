"""The tables of limits that replicas share through PostgreSQL. Unlogged there: what a crash of the database loses is a minute's counts."""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, Integer, String, Table

from router.tables import metadata

limit_buckets = Table(
    "limit_buckets",
    metadata,
    Column("scope", String(400), primary_key=True),
    Column("level", Double, nullable=False),
    Column("at", Double, nullable=False),
    Index("ix_limit_buckets_at", "at"),
)
"""A concurrency has a row too: it is what its counts are changed under."""

limit_slots = Table(
    "limit_slots",
    metadata,
    Column("scope", String(400), primary_key=True),
    Column("worker", String(40), primary_key=True),
    Column("held", Integer, nullable=False),
    Index("ix_limit_slots_worker", "worker"),
)
