"""What was used and spent, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from sqlalchemy import Connection, func, select

from adapters.cost import usd_float
from router.storage.tables import ledger_openings
from router.tables import UNCAPPED, budgets, ledger


class UsageLine(Struct, frozen=True, kw_only=True):
    """One tenant's use of one backend. `requests` counts settled requests, corrections apart; `estimated` how many rows are estimates."""

    tenant: str
    backend: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    estimated: int


class BudgetLine(Struct, frozen=True, kw_only=True):
    """One tenant's period (`day:2026-11-21`, `month:2026-11`): USD spent, set aside for requests in flight, and the cap if there is one."""

    tenant: str
    period: str
    spent_usd: float
    reserved_usd: float
    cap_usd: float | None


def usage(connection: Connection, *, tenant: str | None = None, since: float | None = None, until: float | None = None) -> list[UsageLine]:
    """Totals by tenant, backend and model over `[since, until)`, in seconds since the epoch. An archived month lies at its first instant."""
    is_estimate = ledger.c.usage_source == "estimated"
    # An opening row stands for many; beside it no row of the ledger does.
    requests = func.count(func.distinct(ledger.c.request_id)).filter(ledger_openings.c.id.is_(None)) + func.coalesce(func.sum(ledger_openings.c.requests), 0)
    estimated = func.coalesce(func.sum(func.coalesce(ledger_openings.c.rows, 1)).filter(is_estimate), 0)
    query = (
        select(
            ledger.c.tenant,
            ledger.c.backend,
            ledger.c.model,
            requests.label("requests"),
            func.sum(ledger.c.input_tokens).label("input_tokens"),
            func.sum(ledger.c.output_tokens).label("output_tokens"),
            func.sum(ledger.c.cost).label("cost"),
            estimated.label("estimated"),
        )
        .join_from(ledger, ledger_openings, ledger.c.id == ledger_openings.c.id, isouter=True)
        .group_by(ledger.c.tenant, ledger.c.backend, ledger.c.model)
        .order_by(ledger.c.tenant, ledger.c.backend, ledger.c.model)
    )
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    if since is not None:
        query = query.where(ledger.c.ended_at >= since)
    if until is not None:
        query = query.where(ledger.c.ended_at < until)
    return [
        UsageLine(
            tenant=row.tenant,
            backend=row.backend,
            model=row.model,
            requests=int(row.requests),
            input_tokens=int(row.input_tokens),
            output_tokens=int(row.output_tokens),
            cost_usd=usd_float(int(row.cost)),
            estimated=int(row.estimated),
        )
        for row in connection.execute(query)
    ]


def budget_lines(connection: Connection, tenant: str | None = None) -> list[BudgetLine]:
    """The counters of every period, newest first."""
    query = select(budgets).order_by(budgets.c.tenant, budgets.c.period.desc())
    if tenant is not None:
        query = query.where(budgets.c.tenant == tenant)
    return [
        BudgetLine(
            tenant=row.tenant,
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
    """Every row that ended in `[since, until)`, oldest first, with the cost also in USD. Read from the database as it is consumed."""
    query = select(ledger).order_by(ledger.c.ended_at, ledger.c.id)
    if tenant is not None:
        query = query.where(ledger.c.tenant == tenant)
    if since is not None:
        query = query.where(ledger.c.ended_at >= since)
    if until is not None:
        query = query.where(ledger.c.ended_at < until)
    for row in connection.execute(query.execution_options(yield_per=1000)).mappings():
        yield {**row, "cost_usd": usd_float(row["cost"])}
