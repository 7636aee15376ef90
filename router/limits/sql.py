"""Limits in the database: rows that are locked in one order, changed by the arithmetic that everything else uses, at the database's time.

A worker's slots count while it is registered (`router.tables.workers`): whoever buries a dead worker takes them back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select, text, update

from config.database import Database
from router.limits.tables import limit_buckets, limit_slots
from router.limits.values import Levels, Operation, Verdict
from router.tables import workers

KEPT_S = 3600.0
"""How long a row that nobody touches is kept: by then every bucket is full."""

_ENSURE = text("INSERT INTO limit_buckets (scope, level, at) VALUES (:scope, :level, :at) ON CONFLICT (scope) DO NOTHING")
_SET = update(limit_buckets).where(limit_buckets.c.scope == bindparam("b_scope")).values(level=bindparam("b_level"), at=bindparam("b_at"))
_HOLD = text("INSERT INTO limit_slots (scope, worker, held) VALUES (:scope, :worker, :held) ON CONFLICT (scope, worker) DO UPDATE SET held = excluded.held")
_NEW = -1.0
"""The time of a row that nobody has filled yet."""


class SqlTransport:
    """Runs every batch as one transaction."""

    name = "database"

    def __init__(self, database: Database, worker: str, clock: Callable[[], float] | None = None) -> None:
        """`clock` is in place of the database's own, for tests."""
        self._database = database
        self._worker = worker
        self._clock = clock
        self._known: set[str] = set()
        self._swept = 0.0

    async def run(self, operations: Sequence[Operation], held: Mapping[str, int] | None) -> tuple[list[Verdict], int]:
        return await self._database.write(lambda connection: self._run(connection, operations, held))

    async def aclose(self) -> None:
        """The database is the gateway's."""

    def _run(self, connection: Connection, operations: Sequence[Operation], held: Mapping[str, int] | None) -> tuple[list[Verdict], int]:
        buckets = {charge.scope.id for operation in operations for charge in operation.charges}
        concurrencies = {scope.id for operation in operations for scope in operation.slots}
        names = sorted(buckets | concurrencies | set(held or ()))
        found, now = self._locked(connection, names)
        if held is not None:
            self._hold(connection, held)
        others, own = self._slots(connection, sorted(concurrencies))
        levels = Levels({name: state for name, state in found.items() if name in buckets and state[1] != _NEW}, others, own)
        before = dict(own)
        verdicts = [levels.run(operation, now) for operation in operations]
        changed = [{"b_scope": name, "b_level": levels.levels[name][0], "b_at": now} for name in sorted(levels.touched) if name in buckets]
        changed += [{"b_scope": name, "b_level": 0.0, "b_at": now} for name in sorted(concurrencies & set(levels.touched))]
        if changed:
            connection.execute(_SET, changed)
        self._hold(connection, {name: count for name, count in levels.held.items() if before.get(name, 0) != count})
        return verdicts, 0 if held is None else self._beat(connection, now)

    def _locked(self, connection: Connection, names: list[str]) -> tuple[dict[str, tuple[float, float]], float]:
        """The rows of these scopes, ours until the commit. Rows are made, and locked, in the order of their names: no two wait in a circle."""
        for _ in range(2):
            missing = [name for name in names if name not in self._known]
            if missing:
                connection.execute(_ENSURE, [{"scope": name, "level": 0.0, "at": _NEW} for name in missing])
            clock: Any = literal_column("extract(epoch from clock_timestamp())") if connection.dialect.name == "postgresql" else literal_column("0")
            query = select(limit_buckets.c.scope, limit_buckets.c.level, limit_buckets.c.at, clock.label("clock")).where(limit_buckets.c.scope.in_(names))
            rows = connection.execute(query.order_by(limit_buckets.c.scope).with_for_update()).all() if names else []
            if len(rows) == len(names):
                self._known.update(names)
                if len(self._known) > 100_000:
                    self._known.clear()
                now = self._clock() if self._clock is not None else max((float(row.clock) for row in rows), default=0.0) or time.time()
                return {row.scope: (row.level, row.at) for row in rows}, now
            self._known.difference_update(names)  # a sweep took some
        raise LookupError("the rows of the limits are swept while they are used")

    def _slots(self, connection: Connection, names: list[str]) -> tuple[dict[str, int], dict[str, int]]:
        """What living workers hold: all others together, and this one."""
        others: dict[str, int] = {}
        own: dict[str, int] = {}
        if names:
            query = select(limit_slots).join(workers, workers.c.id == limit_slots.c.worker).where(limit_slots.c.scope.in_(names))
            for row in connection.execute(query):
                if row.worker == self._worker:
                    own[row.scope] = row.held
                else:
                    others[row.scope] = others.get(row.scope, 0) + row.held
        return others, own

    def _hold(self, connection: Connection, held: Mapping[str, int]) -> None:
        if held:
            connection.execute(_HOLD, [{"scope": name, "worker": self._worker, "held": count} for name, count in sorted(held.items())])

    def _beat(self, connection: Connection, now: float) -> int:
        """Sweep once in a while. How many workers live."""
        if now - self._swept > KEPT_S / 10:
            self._swept = now
            connection.execute(delete(limit_buckets).where(limit_buckets.c.at < now - KEPT_S, limit_buckets.c.at != _NEW))
            connection.execute(delete(limit_slots).where(limit_slots.c.held == 0, limit_slots.c.worker == self._worker))
            connection.execute(delete(limit_slots).where(limit_slots.c.worker.not_in(select(workers.c.id))))
        return connection.execute(select(func.count()).select_from(workers)).scalar_one()


def forget_worker(connection: Connection, worker: str) -> None:
    """A dead worker runs no requests."""
    connection.execute(delete(limit_slots).where(limit_slots.c.worker == worker))
