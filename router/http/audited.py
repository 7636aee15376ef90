"""What an auditor sees of a request, what a tenant's administrators see of stored prompts, and the erasing of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import delete, get, post
from litestar.params import FromPath
from msgspec import Struct

from retrieval.values import NotFound
from router.audit.erasing import Erased, erase_user
from router.audit.log import Subject
from router.audit.paths import DecisionPath, path_of
from router.audit.prompts import StoredPrompt, delete_prompt, read_prompt
from router.http.context import HttpRequest, actor_of, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.http.listing import Deleted, missing
from router.kept.keeping import require_id

if TYPE_CHECKING:
    from sqlalchemy import Connection


class EraseUser(Struct, frozen=True, forbid_unknown_fields=True):
    """`tenant` is whose user it is; a tenant's own keys may leave it out."""

    tenant: str | None = None


@get("/admin/decisions/{request_id:str}", tags=["audit"], summary="Why a request went where it went: its decision, its attempts, who looked at it")
async def get_decision(request: HttpRequest, request_id: FromPath[str]) -> DecisionPath:
    """Without the prompt. A tenant sees its own requests. Recorded itself."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "decisions.read")
    await gateway.recorder.flush()
    tenant = None if principal.platform else principal.tenant
    try:
        wanted = require_id("decision", request_id)
        found = await gateway.database.read(lambda connection: path_of(connection, wanted, tenant))
        if found is None:
            raise NotFound("decision", request_id[:200])
    except NotFound as error:
        raise missing(error) from error
    await gateway.audit.note(actor_of(request), "decision.read", Subject("decision", request_id, found.decision.tenant))
    return found


@get("/admin/prompts/{request_id:str}", tags=["audit"], summary="What a request asked, where its tenant stores prompts")
async def get_prompt(request: HttpRequest, request_id: FromPath[str]) -> StoredPrompt:
    """Redacted as the tenant's policy says. Only the tenant's own owners and admins; recorded itself."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "prompts.read")
    await gateway.recorder.flush()
    try:
        wanted = require_id("prompt", request_id)
        found = await gateway.database.read(lambda connection: read_prompt(connection, gateway.sealer, principal.tenant, wanted))
    except NotFound as error:
        raise missing(error) from error
    await gateway.audit.note(actor_of(request), "prompt.read", Subject("prompt", request_id, principal.tenant))
    return found


@delete("/admin/prompts/{request_id:str}", status_code=200, tags=["audit"], summary="Delete a stored prompt")
async def remove_prompt(request: HttpRequest, request_id: FromPath[str]) -> Deleted:
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "prompts.write")
    await gateway.recorder.flush()
    try:
        wanted = Subject("prompt", require_id("prompt", request_id), principal.tenant)
        await gateway.audit.change(actor_of(request), "prompt.delete", wanted, lambda connection: delete_prompt(connection, wanted.tenant, wanted.id))
    except NotFound as error:
        raise missing(error) from error
    return Deleted(request_id, "prompt")


@post("/admin/users/{user_id:str}/erase", status_code=200, tags=["tenants"], summary="Erase what is kept of a user")
async def erase(request: HttpRequest, user_id: FromPath[str]) -> Erased:
    """Stored prompts, responses, conversations and answers kept for retries go. The platform's keys name the `tenant`; a tenant's erase their own users."""
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "users.erase")
    tenant = decode_body(await request.body() or b"{}", EraseUser).tenant
    if principal.platform and tenant is None:
        raise ApiError(400, "invalid_request", "tenant: name the tenant whose user this is.", param="tenant")
    whose = tenant if principal.platform and tenant is not None else principal.tenant
    if tenant is not None and tenant != whose:
        raise ApiError(404, "tenant_not_found", f"No tenant {tenant!r}.", param="tenant")
    await gateway.recorder.flush()
    try:
        user = require_id("user", user_id)
    except NotFound as error:
        raise ApiError(404, "user_not_found", f"No user {user_id[:200]!r}.") from error

    def work(connection: Connection) -> Erased:
        return erase_user(connection, whose, user)

    return await gateway.audit.change(actor_of(request), "user.erase", lambda done: Subject("user", user, whose, {"deleted": done.deleted}), work)


handlers: tuple[Any, ...] = (get_decision, get_prompt, remove_prompt, erase)
