"""A decision without a server: the same functions as a request, over backends that are made and never called."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from adapters.backend import BackendContext, create_backend, estimate_tokens
from policies.access import Principal
from policies.decide import BackendState, Decision, State, decide
from policies.features import extract, highest
from policies.limits import check_input
from policies.load import Policy
from router.conversing import ConversationIds
from router.http.errors import ApiError
from router.kept.sealing import Sealer
from router.measuring import Measured
from router.wire.openai_chat import decode_chat


async def explain_body(policy: Policy, environ: Mapping[str, str], body: bytes, *, tenant: str, role: str, key: str = "", now: float | None = None) -> Decision:
    """Decide for a chat body, at a time (seconds since the epoch; default: now). Raises `ApiError`.

    A backend counts as ready where its key is here; a local model counts as ready. No backend was measured, no budget is used, nothing is searched.
    """
    call = decode_chat(body, Sealer(b"no answer was sealed here").of(tenant))
    refusal = check_input(call.request, policy.file.input, estimate_tokens(call.request).n)
    if refusal is not None:
        raise ApiError(refusal.status, refusal.code, refusal.message, param=refusal.param)
    principal = msgspec.convert({"tenant": tenant, "role": role, "key_id": key or "explain", "key_name": key}, Principal)
    request = msgspec.structs.replace(call.request, model=call.model, grounded=bool(call.stores or policy.grounding(tenant).stores))
    features = extract(
        request,
        principal,
        data_class=highest(policy.tenant(tenant).data_class, call.hints.data_class or "public"),
        input_tokens=estimate_tokens(request).n,
        max_cost_usd=call.hints.max_cost_usd,
        tags=call.hints.tags,
        conversation=ConversationIds(b"explain").of(principal, call),
        named_keys=policy.asks.keys,
    )
    states = {}
    for name, configured in policy.backends.items():
        backend = create_backend(name, configured.spec, BackendContext(environ=environ))
        health = await backend.health()
        local = configured.spec.kind == "llama"
        states[name] = BackendState(
            ready=local or health.ready,
            reason="" if local else health.reason,
            capabilities=backend.capabilities,
            cost_usd=Measured().expected_cost(features.input_tokens, request.max_output_tokens, request.n, configured.price),
        )
        await backend.aclose()
    return decide(policy, features, State(backends=states, seed=str(call.hints.seed or 0), now=time.time() if now is None else now))
