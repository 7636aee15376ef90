"""Canaries of the policy in force: how they do, and letting one run again that its guard rolled back."""

from __future__ import annotations

import time
from typing import Any

from litestar import get, post
from litestar.params import FromPath
from msgspec import Struct
from sqlalchemy import Connection

from policies.canary import canaries_of
from router.audit.log import Subject
from router.http.context import HttpRequest, actor_of, gateway_of
from router.http.errors import ApiError, decode_body
from router.trials import store
from router.trials.shown import shown


class Resumption(Struct, frozen=True, forbid_unknown_fields=True):
    """No fields: the path says which."""


class _Running(Exception):
    """The canary is not rolled back."""


@get("/admin/canaries", tags=["policy"], summary="The canaries of the policy in force, both sides with their figures")
async def get_canaries(request: HttpRequest) -> dict[str, Any]:
    """Which run, which were rolled back and why; of each side all its requests in this version of the policy, and those that the guard looks at."""
    gateway = gateway_of(request)
    active = gateway.policy.current
    rows = await gateway.database.read(lambda connection: store.listed(connection, active.version))
    return {"data": shown(active.policy, active.version, rows)}


@post("/admin/canaries/{rule:str}/resume", status_code=200, tags=["policy"], summary="Let a canary run again that was rolled back")
async def resume_canary(request: HttpRequest, rule: FromPath[str]) -> dict[str, Any]:
    """It is judged by what comes from now on. All workers follow within a second."""
    gateway = gateway_of(request)
    active = gateway.policy.current
    decode_body(await request.body() or b"{}", Resumption)
    if rule not in canaries_of(active.policy):
        raise ApiError(404, "canary_not_found", f"No rule {rule[:80]!r} with a canary in the policy in force. See GET /admin/canaries.", param="rule")

    def work(connection: Connection) -> None:
        if store.resume(connection, active.version, rule, time.time()) is None:
            raise _Running

    subject = Subject("rule", rule, "", {"policy_version": active.version})
    try:
        await gateway.audit.change(actor_of(request), "policy.canary_resumed", subject, work)
    except _Running as error:
        raise ApiError(409, "canary_running", f"The canary of rule {rule!r} is not rolled back: it runs.", param="rule") from error
    await gateway.canaries.read(active)
    rows = await gateway.database.read(lambda connection: store.listed(connection, active.version))
    return next(each for each in shown(active.policy, active.version, rows) if each["rule"] == rule)


handlers = (get_canaries, resume_canary)
