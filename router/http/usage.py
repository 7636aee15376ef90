"""What was used and spent: totals and the ledger's rows."""

from __future__ import annotations

from typing import Any

from litestar import Response, get
from litestar.params import FromQuery

from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError
from router.http.scope import tenant_scope
from router.money import reports
from router.money.periods import parse_moment

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


handlers = (get_usage, get_ledger)
