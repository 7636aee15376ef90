"""Whether the books hold together: the ledger against the budgets' counters, its sums by day and its archives, reservations against what is set aside,
corrections against what they correct, and every row against its seal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, case, func, select

from router.audit.chain import ChainKey
from router.audit.findings import Finding
from router.audit.level_scopes import LevelScopes
from router.audit.seal_check import check_seals
from router.audit.sums_check import check_archives, check_sums
from router.audit.triggers import APPEND_ONLY, triggers_of, triggers_there
from router.money.accounting import DAY_S, periods_of
from router.money.batch import counters_of
from router.money.rollup import day_of
from router.money.sealing import SealKey
from router.money.settlement import Counter
from router.storage.tables import OPENING, archives
from router.tables import budgets, ledger, reservations

READ_AT_ONCE = 5_000
NEAR_S = 5.0
"""A request is reserved for a moment before its attempt's `started_at` is taken: so near to midnight it may belong to either day."""


def check_ledger(connection: Connection, secret: bytes) -> list[Finding]:
    """Every problem of the books, as they are at one moment. Blocking; reads every row of the ledger a few times. `secret` is the service's."""
    checks = (_triggers, _counters, _reservations, _attempts, check_sums)
    books = [found for check in checks for found in check(connection)]
    return [*books, *check_archives(connection, ChainKey(secret)), *check_seals(connection, SealKey(secret))]


def _triggers(connection: Connection) -> Iterator[Finding]:
    """Tables that can only be added to say so themselves."""
    there = triggers_there(connection)
    for table in APPEND_ONLY:
        for trigger in triggers_of(table, connection.dialect.name):
            if trigger not in there:
                yield Finding(table, trigger, "", "the trigger that refuses changes is missing or switched off", "there", "missing")


def _counters(connection: Connection) -> Iterator[Finding]:
    """What a tenant's budget counts as spent is the sum of its rows; what a level inside it counts, between what they surely and may have moved.

    A request counts where it was reserved, which near midnight is not told by its row.
    """
    archived = connection.execute(select(func.max(archives.c.month))).scalar() or ""
    counted: dict[Counter, int] = defaultdict(int)
    for row in connection.execute(select(budgets)):
        counted[Counter(row.tenant, row.scope, _pooled(row.period, archived))] += row.spent
    sums = _sums(connection, counted, archived)
    for place in sorted({*counted, *(place for place, amount in sums.surely.items() if amount)}):
        found, slack = counted.get(place, 0), sums.unsure[place]
        least, most = sums.surely[place] + sums.less[place], sums.surely[place] + sums.more[place]
        if not least - slack <= found <= most + slack:
            expected = str(least) if least == most else f"{least} to {most}"
            yield Finding("budgets", _named(place), "spent", "is not the sum of the ledger's rows", expected, str(found))
    for tenant in sorted({place.tenant for place in counted}):
        own = [(place.period, spent) for place, spent in counted.items() if place.tenant == tenant and not place.scope]
        days, months = (sum(spent for period, spent in own if period.startswith(kind)) for kind in ("day:", "month:"))
        if days != months:
            yield Finding("budgets", tenant, "spent", "the days together are not the months together", str(months), str(days))


def _pooled(period: str, archived: str) -> str:
    """A period; all those up to the last archived month are one, for an opening row stands for rows of a whole month, and of which day none knows."""
    kind, _, name = period.partition(":")
    return f"{kind}:until {archived}" if name[:7] <= archived else period


class _Sums(Struct):
    """Of each counter: what rows have surely moved, what others may have added to a level's and taken from it, and what is unsure near midnight.

    A correction takes from the counters that its request moved; a level that came in between began with the estimate.
    """

    surely: dict[Counter, int]
    more: dict[Counter, int]
    less: dict[Counter, int]
    unsure: dict[Counter, int]


def _sums(connection: Connection, counted: Iterable[Counter], archived: str) -> _Sums:
    counted_of: dict[str, dict[str, set[str]]] = {"model": defaultdict(set), "team": defaultdict(set), "key": defaultdict(set), "": defaultdict(set)}
    for place in counted:
        counted_of[place.scope.partition(":")[0]][place.tenant].add(place.scope)
    levels = LevelScopes(connection, counted_of["model"], counted_of["team"])
    sums = _Sums(defaultdict(int), defaultdict(int), defaultdict(int), defaultdict(int))
    c = ledger.c
    began = func.min(c.started_at).over(partition_by=(c.request_id, c.purpose)).label("began")
    row_of = (c.tenant, c.team, c.key_id, c.backend, c.model, c.policy_version, c.started_at, c.cost, began)

    def periods(at: float) -> tuple[str, str]:
        day, month = periods_of(int(at // DAY_S))
        return _pooled(day, archived), _pooled(month, archived)

    for row in connection.execute(select(*row_of).execution_options(yield_per=READ_AT_ONCE)):
        day, month = periods(row.began)
        moved = levels.of(row.policy_version, row.tenant, row.team, row.key_id, row.backend, row.model)
        perhaps = sums.more if row.cost > 0 else sums.less
        for period, sure in ((day, {each.scope for each in moved if each.day}), (month, {each.scope for each in moved if each.month})):
            sums.surely[Counter(row.tenant, "", period)] += row.cost
            for each in moved:
                (sums.surely if each.scope in sure else perhaps)[Counter(row.tenant, each.scope, period)] += row.cost
        near = {period for at in (row.began - NEAR_S, row.began + NEAR_S, row.started_at) for period in periods(at)}
        if len(near) > 2:
            for period in near:
                for scope in ("", *(each.scope for each in moved)):
                    sums.unsure[Counter(row.tenant, scope, period)] += abs(row.cost)
    return sums


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
        select(*attempt, first.label("firsts"), func.sum(ledger.c.cost).label("cost"), func.min(ledger.c.started_at).label("began"))
        .where(ledger.c.entry != OPENING)
        .group_by(*attempt)
        .having((first != 1) | (func.sum(ledger.c.cost) < 0))
    )
    archived = connection.execute(select(func.max(archives.c.month))).scalar() or ""
    for row in connection.execute(query.order_by(*attempt)):
        name = f"{row.request_id} {row.purpose} {row.attempt}"
        if row.firsts == 0 and day_of(row.began)[:7] <= archived:  # what it corrects is in a file
            continue
        if row.firsts == 0:
            yield Finding("ledger", name, "entry", "a correction of an attempt that was never booked", "a settlement or recovery", "only corrections")
        elif row.firsts > 1:
            yield Finding("ledger", name, "entry", "the attempt is booked more than once", "1 settlement or recovery", str(row.firsts))
        if row.cost < 0:
            yield Finding("ledger", name, "cost", "the attempt's rows together cost less than nothing", "0 or more", str(row.cost))
