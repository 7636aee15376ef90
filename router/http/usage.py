"""What was used and spent: totals and the ledger's rows."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

from litestar import Response, get, post
from litestar.params import FromQuery

from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError
from router.http.scope import tenant_scope
from router.money import reports
from router.money.exports import InvalidExport, parse_export
from router.money.periods import parse_moment
from router.money.reconciliation import NoSuchProvider, NotByRequest, Reconciliation, reconcile

if TYPE_CHECKING:
    from config.database import Database

CSV = "text/csv; charset=utf-8"


@get("/admin/usage", tags=["usage"], summary="Tokens and cost, grouped as asked, and the budgets' counters")
async def get_usage(
    request: HttpRequest,
    tenant: FromQuery[str | None] = None,
    since: FromQuery[str | None] = None,
    until: FromQuery[str | None] = None,
    group_by: FromQuery[str | None] = None,
    format: FromQuery[str] = "json",
) -> Response[Any]:
    """Totals of the ledger over `[since, until)` (dates, times, or seconds since the epoch). `group_by` names any of tenant, team, user, key, provider,
    backend, model, rule, purpose, day and month, separated by commas. `format` is json or csv. A tenant sees its own.
    """
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "usage.read")
    scope = tenant_scope(principal, tenant)
    start, end = moment_of("since", since), moment_of("until", until)
    try:
        by = reports.grouping(group_by)
    except reports.UnknownGroup as error:
        raise ApiError(400, "invalid_request", f"group_by: {error}.", param="group_by") from error
    require_format(format, ("json", "csv"))
    lines = await gateway.database.read(lambda connection: reports.usage(connection, tenant=scope, since=start, until=end, by=by))
    if format == "csv":
        return Response(reports.usage_csv(by, lines), media_type=CSV, headers={"content-disposition": 'attachment; filename="usage.csv"'})
    counters = await gateway.database.read(lambda connection: reports.budget_lines(connection, scope))
    return Response({"data": [line.shown() for line in lines], "budgets": counters})


@get("/admin/ledger", tags=["usage"], summary="The ledger's newest rows")
async def get_ledger(
    request: HttpRequest, tenant: FromQuery[str | None] = None, request_id: FromQuery[str | None] = None, limit: FromQuery[int] = 100
) -> dict[str, Any]:
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "ledger.read")
    scope, rows = tenant_scope(principal, tenant), max(1, min(limit, 1000))
    return {"data": await gateway.database.read(lambda connection: reports.ledger_rows(connection, tenant=scope, request_id=request_id, limit=rows))}


@post("/admin/ledger/reconcile", status_code=200, tags=["usage"], summary="Compare the ledger with a provider's usage export")
async def reconcile_ledger(request: HttpRequest, provider: FromQuery[str], apply: FromQuery[bool] = False, all: FromQuery[bool] = False) -> Reconciliation:
    """The body is CSV. With `apply=true` the estimates among the rows become equal to the provider's report, by corrections; with `all=true` also what
    the provider had reported otherwise. The same file books nothing the second time.
    """
    gateway = gateway_of(request)
    gateway.require(principal_of(request), "ledger.write")
    if all and not apply:
        raise ApiError(400, "invalid_request", "all: only says something together with apply=true.", param="all")
    body = await request.body()
    try:
        return await asyncio.to_thread(_reconcile, gateway.database, body, provider, apply, all)
    except InvalidExport as error:
        raise ApiError(400, "invalid_export", f"The body cannot be read as a usage export: {error}.") from error
    except NotByRequest as error:
        raise ApiError(400, "invalid_request", f"apply: {error}.", param="apply") from error
    except NoSuchProvider as error:
        raise ApiError(404, "provider_not_found", f"{error}.", param="provider") from error


def _reconcile(database: Database, body: bytes, provider: str, apply: bool, every: bool) -> Reconciliation:
    """Reading and comparing take a while: not on the loop."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidExport(f"it is not UTF-8: {error}") from error
    return reconcile(database, parse_export(io.StringIO(text, newline="")), provider, apply=apply, reported=every)


def moment_of(name: str, text: str | None) -> float | None:
    """A query parameter as a moment. Raises `ApiError` 400."""
    if text is None:
        return None
    try:
        return parse_moment(text.replace(" ", "+") if "T" in text else text)  # in a query a "+" that nobody escaped is a space
    except ValueError as error:
        raise ApiError(400, "invalid_request", f"{name}: {error}.", param=name) from error


def require_format(form: str, known: tuple[str, ...]) -> None:
    """Raises `ApiError` 400 for a format that there is not."""
    if form not in known:
        raise ApiError(400, "invalid_request", f"format: {form!r} is not one of {', '.join(known)}.", param="format")


handlers = (get_usage, get_ledger, reconcile_ledger)
