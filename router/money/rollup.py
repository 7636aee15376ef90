"""The ledger's sums by day, kept beside it: what reports read instead of millions of rows.

Guarantee: the sums equal those of the ledger's rows at every moment, for `roll_up` runs in the transaction that books them. Every sum is additive: a row
adds to one line, and lines may be added up over any of their dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from operator import add, itemgetter
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Index, String, Table, Text

from router.tables import metadata

DIMENSIONS = ("day", "tenant", "team", "user_id", "key_id", "provider", "backend", "model", "rule", "purpose")
"""What a line is of. `day` is the UTC day in which the attempt ended (YYYY-MM-DD)."""

SUMMED = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "audio_cache_read_input_tokens",
    "cost",
    "list_cost",
)
"""Columns of the ledger that are added up as they are."""

_CORRECTS = "entry = 'correction'"
_ESTIMATED = f"NOT {_CORRECTS} AND usage_source = 'estimated'"
COUNTED_AS = {
    "requests": f"CASE WHEN NOT {_CORRECTS} AND attempt = 1 AND purpose IN ('answer', 'embedding') THEN 1 ELSE 0 END",
    "attempts": f"CASE WHEN NOT {_CORRECTS} THEN 1 ELSE 0 END",
    "errors": f"CASE WHEN NOT {_CORRECTS} AND outcome IN ('error', 'timeout', 'crashed') THEN 1 ELSE 0 END",
    "estimated": f"CASE WHEN {_ESTIMATED} THEN 1 ELSE 0 END",
    "estimated_cost": f"CASE WHEN {_ESTIMATED} THEN cost ELSE 0 END",
    "corrections": f"CASE WHEN {_CORRECTS} THEN 1 ELSE 0 END",
    "correction_cost": f"CASE WHEN {_CORRECTS} THEN cost ELSE 0 END",
}
"""What is counted of the ledger's rows, and how the database counts it; `counts` does the same."""

COUNTED = tuple(COUNTED_AS)

MEASURES = (*COUNTED, *SUMMED)

usage_days = Table(
    "usage_days",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("day", String(10), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("team", String(40), nullable=False),
    Column("user_id", String(40), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("provider", Text, nullable=False),
    Column("backend", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("purpose", String(16), nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in MEASURES),
    Index("ix_usage_days_day", "day", "tenant"),
    Index("ix_usage_days_tenant_day", "tenant", "day"),
)

_COLUMNS = ("id", *DIMENSIONS, *MEASURES)


def _upsert(places: Iterable[str]) -> str:
    return (
        f"INSERT INTO usage_days ({', '.join(_COLUMNS)}) VALUES ({', '.join(places)}) "  # noqa: S608 - names of our own
        f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = usage_days.{name} + excluded.{name}' for name in MEASURES)}"
    )


# The driver's own statements: SQLAlchemy's handling of so many parameters by name would cost three times the statement.
_UPSERTS = {"sqlite": _upsert("?" * len(_COLUMNS)), "postgresql": _upsert(f"${number}" for number in range(1, len(_COLUMNS) + 1))}
_DIMENSIONS_OF = itemgetter(*DIMENSIONS[1:])
_SUMMED_OF = itemgetter(*SUMMED)


def roll_up(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add ledger rows to their days' sums, in the transaction that books them.

    Comes last in it, once: lines are locked in the order of their ids, so of two transactions that add to the same lines none waits for the other in a circle.
    """
    lines: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in rows:
        dimensions = (day_of(row["ended_at"]), *_DIMENSIONS_OF(row))
        measures = (*counts(row), *_SUMMED_OF(row))
        known = lines.get(dimensions)
        lines[dimensions] = measures if known is None else tuple(map(add, known, measures))
    if lines:
        values = sorted([(line_id(dimensions), *dimensions, *measures) for dimensions, measures in lines.items()])
        connection.exec_driver_sql(_UPSERTS[connection.dialect.name], values)


def counts(row: Mapping[str, Any]) -> tuple[int, ...]:
    """The row's share in each of `COUNTED`.

    A request is counted with the first attempt at its answer (or embedding), so no sum counts it twice. `estimated` are rows booked at an estimate, and
    `estimated_cost` is theirs, also where a correction has put the truth in their place since; `corrections` are those entries, and `correction_cost` is the
    difference they made.
    """
    corrects = row["entry"] == "correction"
    first = not corrects and row["attempt"] == 1 and row["purpose"] in ("answer", "embedding")
    failed = not corrects and row["outcome"] in ("error", "timeout", "crashed")
    estimated = not corrects and row["usage_source"] == "estimated"
    cost = row["cost"]
    return (int(first), int(not corrects), int(failed), int(estimated), cost if estimated else 0, int(corrects), cost if corrects else 0)


def day_of(moment: float) -> str:
    """The UTC day of a moment in seconds since the epoch."""
    return _day(int(moment) // 86_400)


@lru_cache(maxsize=1024)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86_400, UTC).strftime("%Y-%m-%d")


@lru_cache(maxsize=4096)
def line_id(dimensions: tuple[str, ...]) -> str:
    """The id of a line: a hash, for a provider's names are longer than an index takes."""
    return hashlib.blake2b(msgspec.json.encode(dimensions), digest_size=16).hexdigest()
