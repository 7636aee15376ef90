"""What was used and spent: totals and the ledger's rows."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from litestar import MediaType, Response, get, post
from litestar.params import FromPath, FromQuery

from router.audit.changes import recorded_corrections
from router.audit.log import Subject
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.errors import ApiError
from router.launch import installed
from router.money import reports
from router.money.exports import InvalidExport, parse_export
from router.money.periods import Month, parse_moment, parse_month
from router.money.reconciliation import Booked, NoSuchProvider, NotByRequest, Reconciliation, reconcile
from router.money.sealing import SealKey
from router.money.statement import NoSuchTenant, make_statement
from router.money.statement_markdown import inside, markdown
from router.storage.tables import Archived

if TYPE_CHECKING:
    from config.database import Database

CSV = "text/csv; charset=utf-8"

_ONE_AT_A_TIME = ThreadPoolExecutor(1, "headgate-statements")
"""Of a worker: statements of large months wait for each other, and nothing else waits for them."""


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
    backend, model, rule, purpose, day and month, separated by commas. `format` is json or csv. `budgets` are the counters of the days
    and months that the period touches; without a period, of the current ones. A tenant sees its own.
    """
    gateway, principal = gateway_of(request), principal_of(request)
    scope = own_tenant(principal, tenant)
    start, end = moment_of("since", since), moment_of("until", until)
    try:
        by = reports.grouping(group_by)
    except reports.UnknownGroup as error:
        raise ApiError(400, "invalid_request", f"group_by: {error}.", param="group_by") from error
    require_format(format, ("json", "csv"))
    try:
        lines = await gateway.database.read(lambda connection: reports.usage(connection, tenant=scope, since=start, until=end, by=by))
    except Archived as error:
        raise _archived(error) from error
    if format == "csv":
        return Response(reports.usage_csv(by, lines), media_type=CSV, headers={"content-disposition": 'attachment; filename="usage.csv"'})
    counters = await gateway.database.read(lambda connection: reports.budget_lines(connection, scope, since=start, until=end))
    return Response({"data": [line.shown() for line in lines], "budgets": counters})


@get("/admin/ledger", tags=["usage"], summary="The ledger's newest rows")
async def get_ledger(
    request: HttpRequest, tenant: FromQuery[str | None] = None, request_id: FromQuery[str | None] = None, limit: FromQuery[int] = 100
) -> dict[str, Any]:
    gateway, principal = gateway_of(request), principal_of(request)
    scope, rows = own_tenant(principal, tenant), max(1, min(limit, 1000))
    found = await gateway.database.read(lambda connection: reports.ledger_rows(connection, tenant=scope, request_id=request_id, limit=rows))
    await gateway.audit.note(actor_of(request), "ledger.read", Subject("ledger", request_id or "", scope or "", {"rows": len(found)}))
    return {"data": found}


@get("/admin/statements/{tenant:str}/{month:str}", tags=["usage"], summary="A tenant's statement of a month", media_type=MediaType.TEXT)
async def get_statement(request: HttpRequest, tenant: FromPath[str], month: FromPath[str], format: FromQuery[str] = "json") -> Response[Any]:
    """Cost by team, model and day, the budget, what is estimated, and a hash of the ledger's rows. `month` is as 2026-11; `format` is json, md (with its plot
    inside) or pdf. A tenant sees its own.
    """
    gateway, principal = gateway_of(request), principal_of(request)
    scope = own_tenant(principal, tenant)
    require_format(format, ("json", "md", "pdf"))
    try:
        wanted = parse_month(month)
    except ValueError as error:
        raise ApiError(400, "invalid_request", f"month: {error}.", param="month") from error
    if format == "pdf" and not installed("reportlab"):
        raise ApiError(503, "reports_unavailable", "PDF cannot be made here: install headgate[reports] and restart.")
    assert scope is not None
    try:
        content = await asyncio.get_running_loop().run_in_executor(_ONE_AT_A_TIME, _statement, gateway.database, scope, wanted, format)
    except NoSuchTenant as error:
        raise ApiError(404, "tenant_not_found", f"No tenant {tenant!r}.", param="tenant") from error
    except Archived as error:
        raise _archived(error) from error
    if format == "json":
        return Response(content, media_type=MediaType.JSON)
    name = {"content-disposition": f'attachment; filename="statement-{scope}-{wanted.name}.{format}"'}
    return Response(content, media_type="application/pdf" if format == "pdf" else "text/markdown; charset=utf-8", headers=name)


def _archived(error: Archived) -> ApiError:
    return ApiError(409, "month_archived", f"{str(error).capitalize()}. Ask for whole days, or read the archive.")


def _statement(database: Database, tenant: str, month: Month, form: str) -> Any:
    """Reading and hashing a month of rows takes a while: not on the loop."""
    made = database.read_blocking(lambda connection: make_statement(connection, tenant, month))
    if form == "json":
        return made.shown()
    if form == "pdf":
        from router.money.statement_pdf import pdf

        return pdf(made)
    plot = None
    if installed("reportlab"):
        from router.money.spend_plot import svg

        plot = inside(svg(made))
    return markdown(made, plot)


@post("/admin/ledger/reconcile", status_code=200, tags=["usage"], summary="Compare the ledger with a provider's usage export")
async def reconcile_ledger(
    request: HttpRequest, provider: FromQuery[str], apply: FromQuery[bool] = False, all: FromQuery[bool] = False, unbilled: FromQuery[bool] = False
) -> Reconciliation:
    """The body is CSV. With `apply=true` the estimates among the rows become equal to the provider's report, by corrections; with `all=true` also what
    the provider had reported otherwise; with `unbilled=true` to nothing, what the export does not have of its own days. The same file books nothing
    the second time.
    """
    gateway = gateway_of(request)
    for name, wanted in (("all", all), ("unbilled", unbilled)):
        if wanted and not apply:
            raise ApiError(400, "invalid_request", f"{name}: only says something together with apply=true.", param=name)
    body = await request.body()
    booked = recorded_corrections(gateway.audit, actor_of(request), provider)
    try:
        return await asyncio.to_thread(_reconcile, gateway.database, body, provider, SealKey(gateway.secret), apply, all, unbilled, booked)
    except InvalidExport as error:
        raise ApiError(400, "invalid_export", f"The body cannot be read as a usage export: {error}.") from error
    except NotByRequest as error:
        raise ApiError(400, "invalid_request", f"apply: {error}.", param="apply") from error
    except NoSuchProvider as error:
        raise ApiError(404, "provider_not_found", f"{error}.", param="provider") from error


def _reconcile(database: Database, body: bytes, provider: str, seals: SealKey, apply: bool, every: bool, unbilled: bool, booked: Booked) -> Reconciliation:
    """Reading and comparing take a while: not on the loop."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidExport(f"it is not UTF-8: {error}") from error
    return reconcile(database, parse_export(io.StringIO(text, newline="")), provider, seals, apply=apply, reported=every, unbilled=unbilled, booked=booked)


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


handlers = (get_usage, get_ledger, get_statement, reconcile_ledger)
