"""Whether the books hold together: the ledger against the budgets' counters, reservations against what is set aside, corrections against what they correct."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, case, func, select, text

from router.audit.level_scopes import LevelScopes
from router.audit.triggers import APPEND_ONLY, triggers_of
from router.money.accounting import DAY_S, periods_of
from router.money.batch import counters_of
from router.money.settlement import Counter
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
        for trigger in triggers_of(table, connection.dialect.name):
            if trigger not in there:
                yield Finding(table, trigger, "", "the trigger that refuses changes is missing or switched off", "there", "missing")


def _counters(connection: Connection) -> Iterator[Finding]:
    """What a tenant's budget counts as spent is the sum of its rows; what a level inside it counts, between what they surely and may have moved.

    A request counts where it was reserved, which near midnight is not told by its row.
    """
    counted = {Counter(row.tenant, row.scope, row.period): row.spent for row in connection.execute(select(budgets))}
    sums = _sums(connection, counted)
    for place in sorted({*counted, *(place for place, amount in sums.surely.items() if amount)}):
        found, surely, slack = counted.get(place, 0), sums.surely[place], sums.unsure[place]
        if place.scope.startswith("team:"):  # a row does not say which team it was
            most = sums.surely[place._replace(scope="")] + sums.unsure[place._replace(scope="")]
        else:
            most = sums.possibly[place] if place.scope else surely
        if not surely - slack <= found <= most + slack:
            expected = str(surely) if surely == most else f"{surely} to {most}"
            yield Finding("budgets", _named(place), "spent", "is not the sum of the ledger's rows", expected, str(found))
    for tenant in sorted({place.tenant for place in counted}):
        own = [(place.period, spent) for place, spent in counted.items() if place.tenant == tenant and not place.scope]
        days, months = (sum(spent for period, spent in own if period.startswith(kind)) for kind in ("day:", "month:"))
        if days != months:
            yield Finding("budgets", tenant, "spent", "the days together are not the months together", str(months), str(days))


class _Sums(Struct):
    """Of each counter: what the rows have surely moved, what they may have (of levels only), and what is unsure near midnight."""

    surely: dict[Counter, int]
    possibly: dict[Counter, int]
    unsure: dict[Counter, int]


def _sums(connection: Connection, counted: Iterable[Counter]) -> _Sums:
    models: dict[str, set[str]] = defaultdict(set)
    for place in counted:
        if place.scope.startswith("model:"):
            models[place.tenant].add(place.scope)
    levels, sums = LevelScopes(connection, models), _Sums(defaultdict(int), defaultdict(int), defaultdict(int))
    began = func.min(ledger.c.started_at).over(partition_by=(ledger.c.request_id, ledger.c.purpose)).label("began")
    row_of = (ledger.c.tenant, ledger.c.key_id, ledger.c.backend, ledger.c.model, ledger.c.policy_version, ledger.c.started_at, ledger.c.cost, began)
    for row in connection.execute(select(*row_of).execution_options(yield_per=READ_AT_ONCE)):
        day, month = _periods(row.began)
        moved = levels.of(row.policy_version, row.tenant, row.key_id, row.backend, row.model)
        for period, sure in ((day, [each.scope for each in moved if each.day]), (month, [each.scope for each in moved if each.month])):
            for scope in ("", *sure):
                sums.surely[Counter(row.tenant, scope, period)] += row.cost
            for each in moved:
                sums.possibly[Counter(row.tenant, each.scope, period)] += row.cost
        near = {period for at in (row.began - NEAR_S, row.began + NEAR_S, row.started_at) for period in _periods(at)}
        if len(near) > 2:
            for period in near:
                for scope in ("", *(each.scope for each in moved)):
                    sums.unsure[Counter(row.tenant, scope, period)] += abs(row.cost)
    return sums


def _periods(at: float) -> tuple[str, str]:
    return periods_of(int(at // DAY_S))


def _reservations(connection: Connection) -> Iterator[Finding]:
    """What is set aside is what open reservations say, and never less than nothing."""
    open_ones: dict[Counter, int] = defaultdict(int)
    for row in connection.execute(select(reservations)):
        try:
            moved = counters_of(row)
        except msgspec.MsgspecError:
            yield Finding("reservations", row.request_id, "counters", "cannot be read", "pairs of scope and period", row.counters[:100])
            continue
        for place in moved:
            open_ones[place] += row.amount
        if row.amount < 0:
            yield Finding("reservations", row.request_id, "amount", "is negative", "0 or more", str(row.amount))
    counted = {Counter(row.tenant, row.scope, row.period): row.reserved for row in connection.execute(select(budgets))}
    for place in sorted({*open_ones, *counted}):
        expected, found = open_ones.get(place, 0), counted.get(place, 0)
        if expected != found:
            yield Finding("budgets", _named(place), "reserved", "is not the sum of the open reservations", str(expected), str(found))


def _named(place: Counter) -> str:
    return " ".join(part for part in place if part)


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
