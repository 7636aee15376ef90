"""What was used and spent: totals from the sums by day, rows from the ledger.

Whole days are read from `usage_days`; what a period takes of its first and last day only in part, from the ledger's rows. Both give the same sums.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, literal_column, or_, select
from sqlalchemy.sql.elements import ColumnElement

from adapters.cost import PICODOLLARS, usd, usd_float
from router.money.periods import DAY_S
from router.money.rollup import COUNTED_AS, MEASURES, usage_days
from router.money.tabular import csv_text
from router.storage.tables import require_rows
from router.tables import UNCAPPED, budgets, ledger

GROUPINGS = {
    "tenant": "tenant",
    "team": "team",
    "user": "user_id",
    "key": "key_id",
    "provider": "provider",
    "backend": "backend",
    "model": "model",
    "rule": "rule",
    "purpose": "purpose",
    "day": "day",
    "month": "SUBSTR(day, 1, 7)",
}
"""What totals may be grouped by, and its expression over `usage_days`."""

DEFAULT_GROUPS = ("tenant", "backend", "model")

_MONEY = ("cost", "list_cost", "estimated_cost", "correction_cost")


class UnknownGroup(ValueError):
    """Nothing is grouped by that; the message says what may be."""


class UsageLine(Struct, frozen=True, kw_only=True):
    """The use of one group. `by` holds its names in the order they were asked for; `sums` what `MEASURES` name, money in picodollars."""

    by: dict[str, str]
    sums: dict[str, int]

    @property
    def avoided(self) -> int:
        """What routing avoided, in picodollars: the list cost (of the dearest backend that each request could have gone to) less the cost."""
        return self.sums["list_cost"] - self.sums["cost"]

    def shown(self) -> dict[str, object]:
        """As it is answered: `cost` in whole picodollars, all other money in USD."""
        counts = {name: self.sums[name] for name in MEASURES if name not in _MONEY}
        money = {f"{name}_usd": usd_float(value) for name, value in self._money()}
        return {**self.by, **counts, "cost": self.sums["cost"], **money}

    def exact(self) -> dict[str, object]:
        """The same with USD as exact decimals, for a table."""
        return {**self.shown(), **{f"{name}_usd": usd(value) for name, value in self._money()}}

    def _money(self) -> tuple[tuple[str, int], ...]:
        sums = self.sums
        return (
            ("cost", sums["cost"]),
            ("list_cost", sums["list_cost"]),
            ("avoided", self.avoided),
            ("estimated", sums["estimated_cost"]),
            ("correction", sums["correction_cost"]),
        )


def usage_csv(by: Sequence[str], lines: Sequence[UsageLine]) -> str:
    """The lines as a table of all their sums."""
    empty = UsageLine(by=dict.fromkeys(by, ""), sums=dict.fromkeys(MEASURES, 0))
    return csv_text(list(empty.exact()), (list(line.exact().values()) for line in lines))


class BudgetLine(Struct, frozen=True, kw_only=True):
    """One budget's period (`day:2026-11-21`, `month:2026-11`): USD spent, set aside for requests in flight, and the cap if there is one.

    `scope` is empty for the tenant's own budget, else the one inside it: `team:ID`, `key:ID` or `model:NAME`.
    """

    tenant: str
    scope: str
    period: str
    spent_usd: float
    reserved_usd: float
    cap_usd: float | None


def grouping(text: str | None) -> tuple[str, ...]:
    """`tenant,day` as names of `GROUPINGS`, each once; without any the default. Raises `UnknownGroup`."""
    names = tuple(dict.fromkeys(name.strip() for name in (text or "").split(","))) if text and text.strip() else DEFAULT_GROUPS
    for name in names:
        if name not in GROUPINGS:
            raise UnknownGroup(f"nothing is grouped by {name!r}; choose from {', '.join(GROUPINGS)}")
    return names


def usage(
    connection: Connection, *, tenant: str | None = None, since: float | None = None, until: float | None = None, by: Sequence[str] = DEFAULT_GROUPS
) -> list[UsageLine]:
    """Totals over `[since, until)` (seconds since the epoch), grouped by names of `GROUPINGS` and in their order.

    Raises `Archived` for a part of a day whose rows have left the ledger.
    """
    totals: dict[tuple[str, ...], list[int]] = {}
    first, last, edges = _parts(since, until)
    if first is None or last is None or first < last:
        _add(totals, _days(connection, tenant, first, last, by))
    for start, end in edges:
        _add(totals, _edge(connection, tenant, start, end, by))
    return [UsageLine(by=dict(zip(by, key, strict=True)), sums=dict(zip(MEASURES, sums, strict=True))) for key, sums in sorted(totals.items())]


def _parts(since: float | None, until: float | None) -> tuple[int | None, int | None, list[tuple[float, float]]]:
    """The whole days of a period, as `[first, last)` in days since the epoch, and what it takes of others; each edge lies within one day."""
    first = None if since is None else math.ceil(since / DAY_S)
    last = None if until is None else math.floor(until / DAY_S)
    if since is not None and until is not None and first is not None and last is not None and first > last:
        return first, last, [(since, until)] if since < until else []
    edges = []
    if since is not None and first is not None and since < first * DAY_S and (until is None or since < until):
        edges.append((since, float(first * DAY_S)))
    if until is not None and last is not None and last * DAY_S < until and (since is None or since < until):
        edges.append((float(last * DAY_S), until))
    return first, last, edges


def _days(connection: Connection, tenant: str | None, first: int | None, last: int | None, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    groups: list[ColumnElement[str]] = [literal_column(GROUPINGS[name]) for name in by]
    query = select(*groups, *_sums({name: name for name in MEASURES})).select_from(usage_days).group_by(*groups)
    if tenant is not None:
        query = query.where(usage_days.c.tenant == tenant)
    if first is not None:
        query = query.where(usage_days.c.day >= _day(first))
    if last is not None:
        query = query.where(usage_days.c.day < _day(last))
    for row in connection.execute(query):
        yield tuple(map(str, row[: len(by)])), _joined(row[len(by) :])


def _edge(connection: Connection, tenant: str | None, start: float, end: float, by: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    """The same from the rows of a part of one day."""
    day = _day(int(start) // DAY_S)
    require_rows(connection, day[:7])
    of_a_row = {"day": day, "month": day[:7]}
    names = [name for name in by if name not in of_a_row]
    groups: list[ColumnElement[str]] = [literal_column(GROUPINGS[name]) for name in names]
    sums = _sums({name: COUNTED_AS.get(name, name) for name in MEASURES})
    query = select(*groups, *sums).select_from(ledger).where(ledger.c.ended_at >= start, ledger.c.ended_at < end).group_by(*groups)
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    for row in connection.execute(query):
        if row[len(names)] is None:  # without groups there is a row of no rows, too
            continue
        found = {**of_a_row, **dict(zip(names, map(str, row), strict=False))}
        yield tuple(found[name] for name in by), _joined(row[len(names) :])


def _sums(expressions: dict[str, str]) -> list[ColumnElement[int]]:
    """Money is added up in dollars and the rest: SQLite's sums have 64 bits, and those are nine million dollars."""
    columns: list[ColumnElement[int]] = []
    for name, expression in expressions.items():
        if name in _MONEY:
            columns += [literal_column(f"SUM(({expression}) / {PICODOLLARS})"), literal_column(f"SUM(({expression}) % {PICODOLLARS})")]
        else:
            columns.append(literal_column(f"SUM({expression})"))
    return columns


def _joined(values: Iterable[Any]) -> list[int]:
    numbers = iter([int(value) for value in values])
    return [next(numbers) * PICODOLLARS + next(numbers) if name in _MONEY else next(numbers) for name in MEASURES]


def _add(totals: dict[tuple[str, ...], list[int]], lines: Iterable[tuple[tuple[str, ...], list[int]]]) -> None:
    for key, sums in lines:
        known = totals.get(key)
        totals[key] = sums if known is None else [one + other for one, other in zip(known, sums, strict=True)]


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).strftime("%Y-%m-%d")


def budget_lines(
    connection: Connection, tenant: str | None = None, *, since: float | None = None, until: float | None = None, now: float | None = None
) -> list[BudgetLine]:
    """The counters of the days and months that `[since, until)` touches, newest first; without either those of the current day and month."""
    if since is None and until is None:
        since = time.time() if now is None else now
        until = math.nextafter(since, math.inf)
    if since is not None and until is not None and since >= until:
        return []
    first = "0000-00-00" if since is None else _day(math.floor(since / DAY_S))
    last = "9999-12-31" if until is None else _day(math.ceil(until / DAY_S) - 1)
    touched = or_(budgets.c.period.between(f"day:{first}", f"day:{last}"), budgets.c.period.between(f"month:{first[:7]}", f"month:{last[:7]}"))
    query = select(budgets).where(touched).order_by(budgets.c.tenant, budgets.c.scope, budgets.c.period.desc())
    if tenant is not None:
        query = query.where(budgets.c.tenant == tenant)
    return [
        BudgetLine(
            tenant=row.tenant,
            scope=row.scope,
            period=row.period,
            spent_usd=usd_float(row.spent),
            reserved_usd=usd_float(row.reserved),
            cap_usd=usd_float(row.cap) if row.cap < UNCAPPED else None,
        )
        for row in connection.execute(query)
    ]


def ledger_rows(connection: Connection, *, tenant: str | None = None, request_id: str | None = None, limit: int = 100) -> list[dict[str, object]]:
    """Rows as they stand, newest first, with the cost also in USD."""
    query = select(ledger).order_by(ledger.c.ended_at.desc(), ledger.c.id).limit(limit)
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    if request_id is not None:
        query = query.where(ledger.c.request_id == request_id)
    return [{**row, "cost_usd": usd_float(row["cost"])} for row in connection.execute(query).mappings()]


def ledger_export(connection: Connection, *, tenant: str | None = None, since: float | None = None, until: float | None = None) -> Iterator[dict[str, object]]:
    """Every row that ended in `[since, until)`, oldest first, with the cost also in USD. Read from the database as it is consumed, in the order of an index."""
    query = select(ledger).order_by(ledger.c.ended_at, ledger.c.id)
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    if since is not None:
        query = query.where(ledger.c.ended_at >= since)
    if until is not None:
        query = query.where(ledger.c.ended_at < until)
    found = connection.execute(query.execution_options(yield_per=1000))
    names, cost = [*found.keys(), "cost_usd"], list(found.keys()).index("cost")
    for row in found:  # a mapping of each row would take five times as long
        yield dict(zip(names, (*row, usd_float(row[cost])), strict=True))
