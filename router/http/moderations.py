"""`POST /v1/moderations`: what the moderation of answers would find in a text."""

from __future__ import annotations

import asyncio

from litestar import Response, post
from msgspec.structs import replace

from policies.access import Principal
from policies.moderation import RuleSet
from policies.moderation.rules import DENY_LIST, RULES
from policies.overlay import compiled
from policies.schema import Moderation
from router.gateway import Gateway
from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.http.errors import ApiError
from router.http.limiting import text_headers
from router.limits.refusals import Limited, Standings
from router.policy_in_force import ActivePolicy
from router.wire.openai_moderations import decode_moderations, encode_moderations, judge

QUICK = 4_000
"""Characters that are judged at once; more of them are judged on a thread, so that the worker goes on answering."""


@post("/v1/moderations", status_code=200, tags=["moderation"], summary="What the rules find in a text")
async def create_moderation(request: HttpRequest) -> Response[bytes]:
    """OpenAI's shape, with each match's place in `headgate.matches`. Nothing is called, kept or billed."""
    gateway, principal = gateway_of(request), principal_of(request)
    given = decode_moderations(await request.body())
    active = gateway.policy.current
    limit = active.policy.file.input.max_characters
    if given.characters > limit:
        raise ApiError(400, "context_length_exceeded", f"input: {given.characters} characters; at most {limit} are accepted.", param="input")
    standings = await _admit(gateway, active, principal)
    rules = every_rule(active, principal.tenant) if given.every_rule else active.policy.moderation_rules(principal.tenant)
    found = judge(rules, given) if given.characters <= QUICK else await asyncio.to_thread(judge, rules, given)
    return Response(encode_moderations(request_id_of(request), rules, given, found), media_type="application/json", headers=text_headers(standings))


async def _admit(gateway: Gateway, active: ActivePolicy, principal: Principal) -> Standings | None:
    """Count a request, which has no tokens and runs for a moment. Raises `ApiError`."""
    scopes = gateway.limits.scopes(active.policy.file, active.policy.tenant(principal.tenant), principal)
    if not scopes.requests:
        return None
    try:
        return (await gateway.limits.admit(replace(scopes, tokens=(), slots=(), models={}), principal, 0)).standings
    except Limited as error:
        error.headers.update(text_headers(error.standings))
        raise


def every_rule(active: ActivePolicy, tenant: str) -> RuleSet:
    """Every shipped rule, and the tenant's own terms whether its policy uses them or not."""
    terms = active.policy.moderation(tenant).deny_list
    categories = tuple(dict.fromkeys(rule.category for rule in RULES))
    return compiled(Moderation(output=(*categories, DENY_LIST), deny_list=terms, on_match="flag"))
