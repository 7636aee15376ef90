"""What an auditor sees of a request, and what a tenant's administrators see of stored prompts."""

from __future__ import annotations

from typing import Any, cast

from litestar import delete, get
from litestar.params import FromPath
from sqlalchemy import Connection

from adapters.backend import DataClass
from retrieval.values import NotFound
from router.audit.feedback import Opinion, sees_comments
from router.audit.log import Subject
from router.audit.paths import DecisionPath, RecordedDecision, path_of
from router.audit.prompts import StoredPrompt, delete_prompt, read_prompt
from router.http.context import HttpRequest, actor_of, gateway_of, own_tenant, principal_of
from router.http.listing import Deleted, missing
from router.kept.keeping import require_id


@get("/admin/decisions/{request_id:str}", tags=["audit"], summary="Why a request went where it went: its decision, its attempts, who looked at it")
async def get_decision(request: HttpRequest, request_id: FromPath[str]) -> DecisionPath:
    """Without the prompt. A tenant sees its own requests, and its administrators what users wrote of the answer. Recorded itself."""
    gateway, principal = gateway_of(request), principal_of(request)
    tenant = own_tenant(principal, None)
    await gateway.recorder.flush()

    def work(connection: Connection) -> DecisionPath | None:
        def opinions(made: RecordedDecision) -> tuple[Opinion, ...]:
            comments = sees_comments(principal, cast(DataClass, made.data_class))
            return gateway.feedback.of(connection, made.tenant, made.request_id, comments=comments)

        return path_of(connection, wanted, tenant, opinions)

    try:
        wanted = require_id("decision", request_id)
        found = await gateway.database.read(work)
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
    await gateway.recorder.flush()
    try:
        wanted = require_id("prompt", request_id)
        found = await gateway.database.read(lambda connection: read_prompt(connection, gateway.sealer, principal.tenant, wanted, principal.max_data_class))
    except NotFound as error:
        raise missing(error) from error
    await gateway.audit.note(actor_of(request), "prompt.read", Subject("prompt", request_id, principal.tenant))
    return found


@delete("/admin/prompts/{request_id:str}", status_code=200, tags=["audit"], summary="Delete a stored prompt")
async def remove_prompt(request: HttpRequest, request_id: FromPath[str]) -> Deleted:
    gateway, principal = gateway_of(request), principal_of(request)
    await gateway.recorder.flush()
    try:
        wanted, most = Subject("prompt", require_id("prompt", request_id), principal.tenant), principal.max_data_class
        await gateway.audit.change(actor_of(request), "prompt.delete", wanted, lambda connection: delete_prompt(connection, wanted.tenant, wanted.id, most))
    except NotFound as error:
        raise missing(error) from error
    return Deleted(request_id, "prompt")


handlers: tuple[Any, ...] = (get_decision, get_prompt, remove_prompt)
