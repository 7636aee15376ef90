"""Heads in service: the table of what was calibrated, and in each worker the head that serves each tenant.

The newest row of a tenant says whether a head serves it. The head itself is a file in the state folder's `heads`; a worker reads it before the
first request that needs it, and follows a change within a second. Where it cannot be read the rules serve, and the log says why.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from msgspec import Struct
from sqlalchemy import Boolean, Column, Connection, Double, Index, Integer, String, Table, func, insert, select

from config.database import STATE_LOCK, Database, exclusively
from router.audit.log import Actor, AuditAction, AuditLog, Entry, Subject
from router.tables import metadata
from router.trials.tables import routing_pairs

if TYPE_CHECKING:
    from policies.complexity.gate import Verdict
    from policies.complexity.head import Head
    from policies.complexity.pairs import Pair

log = structlog.get_logger("headgate.heads")

heads = Table(
    "heads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("hash", String(32), nullable=False),
    Column("pairs", Integer, nullable=False),
    Column("apgr", Double, nullable=True),
    Column("low", Double, nullable=True),
    Column("high", Double, nullable=True),
    Column("rules", Double, nullable=True),
    Column("promoted", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("ix_heads_tenant_id", "tenant", "id"),
)

FOLDER = "heads"

TEXT_FEATURES, SPACE = "text_features", "space"
"""Where a pair's features, in JSON, hold the numbers about its question's text, and the embedder that its embedding is of."""


class HeadRow(Struct, frozen=True):
    """A calibration. `hash` is empty where there was nothing to learn from."""

    tenant: str
    hash: str
    pairs: int
    apgr: float | None
    low: float | None
    high: float | None
    rules: float | None
    promoted: bool
    created_at: float


def newest(connection: Connection) -> dict[str, HeadRow]:
    """The newest calibration of every tenant."""
    last = select(func.max(heads.c.id)).group_by(heads.c.tenant)
    rows = connection.execute(select(*(heads.c[name] for name in HeadRow.__struct_fields__)).where(heads.c.id.in_(last)))
    return {row.tenant: HeadRow(*row) for row in rows}


def last_change(connection: Connection) -> int:
    return connection.execute(select(func.max(heads.c.id))).scalar() or 0


def record(audit: AuditLog, actor: Actor, tenant: str, hash: str, verdict: Verdict) -> Any:
    """Work that writes a calibration down. An entry in the audit log says when a head begins to serve, is replaced, or serves no longer."""

    def work(connection: Connection) -> HeadRow:
        exclusively(connection, STATE_LOCK)
        before = newest(connection).get(tenant)
        apgr = verdict.apgr
        low, high = (None, None) if apgr is None else (apgr.low, apgr.high)
        row = HeadRow(tenant, hash, verdict.pairs, None if apgr is None else apgr.value, low, high, verdict.rules, verdict.promoted, time.time())
        connection.execute(insert(heads), {name: getattr(row, name) for name in HeadRow.__struct_fields__})
        served = before.hash if before is not None and before.promoted else None
        action: AuditAction | None = "head.promote" if verdict.promoted and served != hash else "head.withdraw" if served and not verdict.promoted else None
        if action is not None:
            details = {"reason": verdict.reason, "pairs": verdict.pairs, "before": served}
            audit.append(connection, Entry(actor, action, Subject("head", hash or str(served), tenant, details)))
        return row

    return work


def logged_pairs(connection: Connection, tenant: str, space: str) -> list[Pair]:
    """The tenant's pairs in the table `routing_pairs`, oldest first. Left out are those without an embedding of this embedder (`space`), and those of
    other features than this version's.
    """
    import msgspec

    from policies.complexity.features import FEATURES
    from policies.complexity.pairs import Pair

    found = []
    pairs = routing_pairs.c
    query = select(pairs.features, pairs.embedding, pairs.weak_score, pairs.strong_score).where(pairs.tenant == tenant).order_by(pairs.created_at)
    for features, embedding, weak, strong in connection.execute(query):
        known = msgspec.json.decode(features)
        numbers = known.get(TEXT_FEATURES, ())
        if embedding is None or known.get(SPACE) != space or len(numbers) != len(FEATURES):
            continue
        found.append(Pair(weak=weak, strong=strong, embedding=bytes(embedding), features=tuple(map(float, numbers))))
    return found


class Heads:
    """One worker's heads. `refresh` follows the table; `of` is asked by requests and does not wait."""

    def __init__(self, database: Database, home: Path) -> None:
        self._database = database
        self._folder = home / FOLDER
        self._seen = -1
        self._serving: dict[str, Head] = {}

    async def refresh(self) -> None:
        """Load what is newly promoted, drop what is withdrawn."""
        last = await self._database.read(last_change)
        if last == self._seen:
            return
        rows = await self._database.read(newest)
        serving: dict[str, Head] = {}
        for tenant, row in rows.items():
            if not row.promoted:
                continue
            known = self._serving.get(tenant)
            head = known if known is not None and known.hash == row.hash else await asyncio.to_thread(self._load, tenant, row.hash)
            if head is not None:
                serving[tenant] = head
        self._serving, self._seen = serving, last

    def of(self, tenant: str) -> Head | None:
        """The head that serves the tenant, or None: then the rules do."""
        return self._serving.get(tenant)

    def _load(self, tenant: str, hash: str) -> Head | None:
        try:
            from policies.complexity.head import HeadError, load
        except ImportError:
            log.error("head_unavailable", tenant=tenant, head=hash, reason="a head needs numpy: pip install 'headgate[documents]'")
            return None
        try:
            return load(self._folder / f"{hash}.json")
        except HeadError as error:
            log.error("head_unavailable", tenant=tenant, head=hash, reason=str(error))
            return None
