"""Whether the books hold together: the ledger against the budgets' counters, reservations against what is set aside, corrections against what they correct."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from msgspec import Struct
from sqlalchemy import Connection, case, func, select, text

from router.audit.tables import APPEND_ONLY
from router.tables import budgets, ledger, reservations

READ_AT_ONCE = 5_000
NEAR_S = 5.0
"""A request is reserved for a moment before its attempt's `started_at` is taken: so near to midnight it may belong to either day."""


class Finding(Struct, frozen=True):
    """What does not hold. `row` names the row of `table`; amounts are picodollars."""

    table: str
    row: str
    column: str
    message: str
    expected: str
    found: str


def check_ledger(connection: Connection) -> list[Finding]:
    """Every problem of the books, as they are at one moment. Blocking; reads every row of the ledger once."""
    return [*_triggers(connection), *_counters(connection), *_reservations(connection), *_attempts(connection)]


def _triggers(connection: Connection) -> Iterator[Finding]:
    """Tables that can only be added to say so themselves."""
    if connection.dialect.name == "sqlite":
        there = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars())
    else:
        there = set(connection.execute(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'")).scalars())
    for table in APPEND_ONLY:
        for trigger in (f"{table}_no_update", f"{table}_no_delete"):
            if trigger not in there:
                yield Finding(table, trigger, "", "the trigger that refuses changes is missing or switched off", "there", "missing")


def _counters(connection: Connection) -> Iterator[Finding]:
    """What each tenant's budget counts as spent is the sum of its rows. A request counts where it was reserved, which near midnight is not told by its row."""
    booked: dict[tuple[str, str], int] = defaultdict(int)
    unsure: dict[tuple[str, str], int] = defaultdict(int)
    began = func.min(ledger.c.started_at).over(partition_by=(ledger.c.request_id, ledger.c.purpose))
    query = select(ledger.c.tenant, ledger.c.started_at, ledger.c.cost, began.label("began")).execution_options(yield_per=READ_AT_ONCE)
    for row in connection.execute(query):
        for near in _periods(row.began):
            booked[row.tenant, near] += row.cost
        possible = {period for at in (row.began - NEAR_S, row.began + NEAR_S, row.started_at) for period in _periods(at)}
        if len(possible) > 2:
            for period in possible:
                unsure[row.tenant, period] += abs(row.cost)
    counted = {(row.tenant, row.period): row.spent for row in connection.execute(select(budgets.c.tenant, budgets.c.period, budgets.c.spent))}
    for place in sorted({*booked, *counted}):
        expected, found = booked.get(place, 0), counted.get(place, 0)
        if abs(expected - found) > unsure.get(place, 0):
            yield Finding("budgets", f"{place[0]} {place[1]}", "spent", "is not the sum of the ledger's rows", str(expected), str(found))
    for tenant in sorted({tenant for tenant, _ in counted}):
        days = sum(spent for (whose, period), spent in counted.items() if whose == tenant and period.startswith("day:"))
        months = sum(spent for (whose, period), spent in counted.items() if whose == tenant and period.startswith("month:"))
        if days != months:
            yield Finding("budgets", tenant, "spent", "the days together are not the months together", str(months), str(days))


def _periods(at: float) -> tuple[str, str]:
    moment = datetime.fromtimestamp(at, UTC)
    return f"day:{moment:%Y-%m-%d}", f"month:{moment:%Y-%m}"


def _reservations(connection: Connection) -> Iterator[Finding]:
    """What is set aside is what open reservations say, and never less than nothing."""
    open_ones: dict[tuple[str, str], int] = defaultdict(int)
    for row in connection.execute(select(reservations.c.request_id, reservations.c.tenant, reservations.c.day, reservations.c.month, reservations.c.amount)):
        for period in (row.day, row.month):
            open_ones[row.tenant, period] += row.amount
        if row.amount < 0:
            yield Finding("reservations", row.request_id, "amount", "is negative", "0 or more", str(row.amount))
    counted = {(row.tenant, row.period): row.reserved for row in connection.execute(select(budgets.c.tenant, budgets.c.period, budgets.c.reserved))}
    for place in sorted({*open_ones, *counted}):
        expected, found = open_ones.get(place, 0), counted.get(place, 0)
        if expected != found:
            yield Finding("budgets", f"{place[0]} {place[1]}", "reserved", "is not the sum of the open reservations", str(expected), str(found))


def _attempts(connection: Connection) -> Iterator[Finding]:
    """Each attempt is settled once, a correction corrects something, and no attempt costs less than nothing in the end."""
    first = func.sum(case((ledger.c.entry == "correction", 0), else_=1))
    attempt = (ledger.c.request_id, ledger.c.attempt, ledger.c.purpose)
    query = (
        select(*attempt, first.label("firsts"), func.sum(ledger.c.cost).label("cost")).group_by(*attempt).having((first != 1) | (func.sum(ledger.c.cost) < 0))
    )
    for row in connection.execute(query.order_by(*attempt)):
        name = f"{row.request_id} {row.purpose} {row.attempt}"
        if row.firsts == 0:
            yield Finding("ledger", name, "entry", "a correction of an attempt that was never booked", "a settlement or recovery", "only corrections")
        elif row.firsts > 1:
            yield Finding("ledger", name, "entry", "the attempt is booked more than once", "1 settlement or recovery", str(row.firsts))
        if row.cost < 0:
            yield Finding("ledger", name, "cost", "the attempt's rows together cost less than nothing", "0 or more", str(row.cost))
