"""`POST /v1/route/explain`: the decision for a chat body. Nothing is called or billed."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import post

from router.http.context import HttpRequest, gateway_of, principal_of, request_id_of
from router.pipeline import Exchange
from router.wire.openai_chat import decode_chat


@post("/v1/route/explain", status_code=200, tags=["chat"], summary="Where a chat request would go, and why")
async def explain_route(request: HttpRequest) -> dict[str, Any]:
    """A chat body in, the decision out: candidates in order, the rule, and a reason for every backend that is left out."""
    gateway, principal = gateway_of(request), principal_of(request)
    exchange = Exchange(gateway, principal, decode_chat(await request.body(), gateway.sealer.of(principal.tenant)), request_id_of(request))
    try:
        decision = await exchange.prepare(with_budget=True)
    finally:
        exchange.close()
    answer: dict[str, Any] = msgspec.to_builtins(decision)
    return answer
