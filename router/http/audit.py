"""The audit log over HTTP: who changed and read what, and whether the log still says all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import get
from litestar.params import FromQuery
from msgspec import Struct

from router.audit import reading
from router.audit.chain import Problem, parse_head
from router.audit.log import Subject
from router.audit.reading import AuditEntry, Wanted
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.errors import ApiError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from router.audit.chain import Verdict

MOST = 1_000
LAST = 2**63 - 1
"""Positions have 64 bits."""


class AuditPage(Struct, frozen=True):
    """Newest first. `next` is the `before` of the page after this one; None at the end."""

    data: tuple[AuditEntry, ...]
    has_more: bool
    next: int | None


class Verification(Struct, frozen=True):
    """`head` is the last entry's position and hash, to be kept elsewhere; `found` counts every problem, `problems` lists the first hundred."""

    ok: bool
    rows: int
    head: str
    found: int
    problems: tuple[Problem, ...]


@get("/admin/audit", tags=["audit"], summary="Who changed and read what, newest first")
async def get_audit(
    request: HttpRequest,
    tenant: FromQuery[str | None] = None,
    action: FromQuery[str | None] = None,
    actor: FromQuery[str | None] = None,
    object_id: FromQuery[str | None] = None,
    request_id: FromQuery[str | None] = None,
    since: FromQuery[float | None] = None,
    until: FromQuery[float | None] = None,
    before: FromQuery[int | None] = None,
    limit: FromQuery[int] = 100,
) -> AuditPage:
    """A tenant sees what is its own. `actor` is a key's or a user's id, `cli`, `file` or `system`; times are seconds since the epoch. Recorded itself."""
    gateway = gateway_of(request)
    if not 1 <= limit <= MOST:
        raise ApiError(400, "invalid_request", f"limit: must be from 1 to {MOST}.", param="limit")
    if before is not None and not 0 < before <= LAST:
        raise ApiError(400, "invalid_request", "before: is no position; take the `next` of the page before.", param="before")
    texts = {"tenant": own_tenant(principal_of(request), tenant), "action": action, "actor": actor, "object_id": object_id, "request_id": request_id}
    wanted = Wanted(**texts, since=since, until=until)
    found, more = await gateway.database.read(lambda connection: reading.entries(connection, wanted, limit=limit, before=before))
    await gateway.audit.note(actor_of(request), "audit.read", wanted.subject(rows=len(found)))
    return AuditPage(tuple(found), more, found[-1].seq if more else None)


@get("/admin/audit/verify", tags=["audit"], summary="Whether any entry was changed, removed, added or moved")
async def verify_audit(request: HttpRequest, head: FromQuery[str | None] = None) -> Verification:
    """Reads the whole log. `head` is one that was kept elsewhere, `POSITION:HASH`: the log must still hold it. It is one log of all tenants."""
    gateway = gateway_of(request)
    try:
        anchor = None if head is None else parse_head(head)
    except ValueError as error:
        raise ApiError(400, "invalid_request", f"head: {error}.", param="head") from error

    def work(connection: Connection) -> Verdict:
        reading.as_of_now(connection)
        return reading.verify_chain(connection, gateway.audit.key, anchor)

    verdict = await gateway.database.read(work)
    await gateway.audit.note(actor_of(request), "audit.read", Subject("audit", "", "", {"verified": verdict.ok, "rows": verdict.rows}))
    return Verification(verdict.ok, verdict.rows, str(verdict.head), verdict.found, verdict.problems)


handlers: tuple[Any, ...] = (get_audit, verify_audit)
