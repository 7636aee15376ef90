"""The alerts in the database: found, claimed by one worker, delivered or tried again.

Guarantees, on SQLite and PostgreSQL alike, over all workers and replicas:

- a receiver has one row for each thing it is told in a period, whoever finds it;
- while a worker's lease runs no other delivers the row; when the worker dies, the next one does at once;
- what was delivered is not sent again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from sqlalchemy import ColumnElement, Connection, Double, and_, cast, delete, literal, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from policies.alerting import reached
from policies.load import Policy, Receiver
from router.alerts.events import Alert, EventType
from router.alerts.tables import budget_alerts as table
from router.ids import fresh_id
from router.money.books import Short
from router.money.settlement import Counter
from router.tables import UNCAPPED, budgets, workers

LEASE_S = 60.0
"""How long a worker that lives has a row for itself; far more than a try takes, so that clocks of replicas may differ."""

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 3_600.0
GIVEN_UP_AFTER_S = 86_400.0
KEPT_S = 400 * 86_400.0
"""How long a row is kept: longer than any period, in which it must not be made again."""

AT_ONCE = 32

Key: TypeAlias = tuple[Counter, EventType, float, str]
"""What there is one row for: a counter, what is told of it, and whom."""


def found(connection: Connection, policy: Policy, periods: Collection[str], refused: Mapping[Counter, Short], now: float) -> list[Alert]:
    """What there is to tell and has no row yet: shares that the counters of these periods have reached, and first refusals."""
    wanted: dict[Key, Alert] = {}
    for counter, spent, reserved, cap in _counters(connection, periods, min(policy.shares or (), default=None)):
        for receiver, alerts in policy.receivers(counter.tenant).items():
            for share in reached(spent, cap, alerts.at):
                wanted[counter, "budget.threshold", share, receiver] = _new(counter, "budget.threshold", share, receiver, (spent, reserved, cap), now)
    for counter, spent in _spent(connection, refused):
        short = refused[counter]
        spent = min(spent, short.taken)
        for receiver in policy.receivers(counter.tenant):
            amounts = (spent, short.taken - spent, short.cap)
            wanted[counter, "budget.exhausted", 0.0, receiver] = _new(counter, "budget.exhausted", 0.0, receiver, amounts, now)
    known = _known(connection, {counter.period for counter, *_ in wanted})
    return [alert for key, alert in wanted.items() if key not in known]


def _new(counter: Counter, kind: EventType, share: float, receiver: Receiver, amounts: tuple[int, int, int], now: float) -> Alert:
    spent, reserved, cap = amounts
    return Alert(
        id=fresh_id(),
        type=kind,
        tenant=counter.tenant,
        scope=counter.scope,
        period=counter.period,
        share=share,
        receiver=receiver,
        spent=spent,
        reserved=reserved,
        cap=cap,
        state="pending",
        tries=0,
        next_try_at=now,
        worker="",
        error=None,
        created_at=now,
        delivered_at=None,
    )


def _counters(connection: Connection, periods: Collection[str], lowest: float | None) -> Iterable[tuple[Counter, int, int, int]]:
    """The capped counters of which the lowest share may be reached, with spent, set aside and cap."""
    if lowest is None:
        return
    near = cast(budgets.c.spent, Double) >= cast(budgets.c.cap, Double) * literal(lowest * 0.999, Double)  # roughly: `reached` is exact
    query = select(budgets).where(budgets.c.period.in_(periods), budgets.c.cap < UNCAPPED, budgets.c.spent > 0, near)
    for row in connection.execute(query):
        yield Counter(row.tenant, row.scope, row.period), row.spent, row.reserved, row.cap


def _spent(connection: Connection, counters: Collection[Counter]) -> Iterable[tuple[Counter, int]]:
    some = sorted(counters)
    for start in range(0, len(some), 100):
        query = select(budgets).where(tuple_(budgets.c.tenant, budgets.c.scope, budgets.c.period).in_(some[start : start + 100]))
        for row in connection.execute(query):
            yield Counter(row.tenant, row.scope, row.period), row.spent


def _known(connection: Connection, periods: Collection[str]) -> set[Key]:
    query = select(table.c.tenant, table.c.scope, table.c.period, table.c.type, table.c.share, table.c.receiver).where(table.c.period.in_(periods))
    return {(Counter(row.tenant, row.scope, row.period), row.type, row.share, row.receiver) for row in connection.execute(query)} if periods else set()


def write_down(connection: Connection, alerts: Sequence[Alert]) -> None:
    """Make the rows that no other worker has made meanwhile."""
    insert = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    connection.execute(insert.on_conflict_do_nothing(), [msgspec.structs.asdict(alert) for alert in alerts])


def due(connection: Connection, now: float, limit: int = AT_ONCE) -> list[Alert]:
    """Rows that may be claimed now, those that have waited longest first."""
    query = select(table).where(table.c.state == "pending", _free(now), table.c.created_at > now - GIVEN_UP_AFTER_S)
    return [Alert(**row) for row in connection.execute(query.order_by(table.c.next_try_at).limit(limit)).mappings()]


def claim(connection: Connection, alert: Alert, worker: str, now: float) -> Alert | None:
    """Take a row that is due for `LEASE_S`. None where another worker was quicker."""
    taken = msgspec.structs.replace(alert, worker=worker, tries=alert.tries + 1, next_try_at=now + LEASE_S)
    mine = (table.c.id == alert.id, table.c.state == "pending", table.c.tries == alert.tries, _free(now))
    values = {"worker": taken.worker, "tries": taken.tries, "next_try_at": taken.next_try_at}
    return taken if connection.execute(update(table).where(*mine).values(values)).rowcount else None


def delivered(connection: Connection, alert: Alert, now: float) -> None:
    """The receiver took it: it is never sent again, whoever holds the row by now."""
    values = {"state": "delivered", "delivered_at": now, "worker": "", "error": None}
    connection.execute(update(table).where(table.c.id == alert.id).values(values))


def failed(connection: Connection, claimed: Alert, error: str, now: float) -> None:
    """Give the row back, to be tried again after a pause that doubles. Does nothing where the lease is another's by now."""
    mine = (table.c.id == claimed.id, table.c.state == "pending", table.c.tries == claimed.tries)  # each claim counts a try: it is the lease's number
    connection.execute(update(table).where(*mine).values(worker="", error=error, next_try_at=now + pause_s(claimed.tries)))


def pause_s(tries: int) -> float:
    """How long after a failed try the next one comes."""
    return min(FIRST_PAUSE_S * 2.0 ** min(tries - 1, 20), LONGEST_PAUSE_S)


def give_up(connection: Connection, now: float) -> int:
    """Give up what could not be delivered for a day, and delete what is long over. Returns how many were given up."""
    old = (table.c.state == "pending", table.c.created_at <= now - GIVEN_UP_AFTER_S, _free(now))
    connection.execute(delete(table).where(table.c.created_at <= now - KEPT_S))
    return connection.execute(update(table).where(*old).values(state="failed", worker="")).rowcount


def listed(connection: Connection, tenant: str | None = None, limit: int = 100) -> list[Alert]:
    """The newest alerts, of all tenants or of one."""
    query = select(table).order_by(table.c.created_at.desc(), table.c.id).limit(limit)
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    return [Alert(**row) for row in connection.execute(query).mappings()]


def _free(now: float) -> ColumnElement[bool]:
    """Whether nobody holds the row: its pause or lease is over, or whoever held it is dead."""
    dead = and_(table.c.worker != "", table.c.worker.not_in(select(workers.c.id)))
    return or_(table.c.next_try_at <= now, dead)
