"""A decision without a server: the same functions as a request, over backends that are made and never called."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.backend import BackendContext, create_backend, estimate_tokens
from policies.access import Principal
from policies.decide import BackendState, Decision, State, decide
from policies.features import extract, highest
from policies.limits import check_input
from policies.load import Policy
from router.http.errors import ApiError
from router.kept.sealing import Sealer
from router.wire.openai_chat import decode_chat


async def explain_body(policy: Policy, environ: Mapping[str, str], body: bytes, *, tenant: str, role: str) -> Decision:
    """Decide for a chat body. A backend counts as ready where its key is here; a local model counts as ready. Raises `ApiError`."""
    call = decode_chat(body, Sealer(b"no answer was sealed here").of(tenant))
    refusal = check_input(call.request, policy.file.input, estimate_tokens(call.request).n)
    if refusal is not None:
        raise ApiError(refusal.status, refusal.code, refusal.message, param=refusal.param)
    principal = msgspec.convert({"tenant": tenant, "role": role, "key_id": "explain"}, Principal)
    request = msgspec.structs.replace(call.request, model=call.model, grounded=bool(call.stores or policy.grounding(tenant).stores))
    features = extract(
        request,
        principal,
        data_class=highest(policy.tenant(tenant).data_class, call.hints.data_class or "public"),
        input_tokens=estimate_tokens(request).n,
        max_cost_usd=call.hints.max_cost_usd,
    )
    states = {}
    for name, configured in policy.backends.items():
        backend = create_backend(name, configured.spec, BackendContext(environ=environ))
        health = await backend.health()
        local = configured.spec.kind == "llama"
        states[name] = BackendState(ready=local or health.ready, reason="" if local else health.reason, capabilities=backend.capabilities)
        await backend.aclose()
    return decide(policy, features, State(backends=states, seed=str(call.hints.seed or 0)))
