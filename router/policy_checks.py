"""Whether a policy may be put in force: it is valid, its backends can be made here, and its own cases hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from adapters.backend import BackendContext, create_backend
from adapters.types import Capabilities
from policies.cases import CaseResult, run_cases
from policies.load import Policy, PolicyError, load_policy
from router.backends import try_backends
from router.policy_in_force import known_price


class CasesFailed(PolicyError):
    """The policy is valid, and its own cases do not hold."""


async def capabilities_of(policy: Policy, environ: Mapping[str, str]) -> dict[str, Capabilities]:
    """What a policy's backends can do. Makes them, and calls nothing."""
    context, found = BackendContext(environ=environ), {}
    for name, configured in policy.backends.items():
        backend = create_backend(name, configured.spec, context)
        found[name] = backend.capabilities
        await backend.aclose()
    return found


async def tested(policy: Policy, environ: Mapping[str, str]) -> list[CaseResult]:
    """The policy's own cases, against what its backends can really do."""
    return run_cases(policy, await capabilities_of(policy, environ)) if policy.file.cases else []


async def require_cases(policy: Policy, environ: Mapping[str, str]) -> None:
    """Raises `CasesFailed` with a problem at every case that does not hold."""
    problems = [
        policy.places.problem(("cases", place), f"the case {result.name!r} does not hold: {'; '.join(result.failures)}")
        for place, result in enumerate(await tested(policy, environ))
        if not result.ok
    ]
    if problems:
        raise CasesFailed(problems, policy.source)


async def check(text: str, source: str, environ: Mapping[str, str], *, private_addresses: bool = True, cases: bool = True) -> Policy:
    """The policy of a text, if it may be put in force. Raises `PolicyError` with what keeps it from that; without `cases`, they need not hold."""
    policy = load_policy(text, source, price_of=known_price, private_addresses=private_addresses)
    await try_backends(policy, environ)
    if cases:
        await require_cases(policy, environ)
    return policy


def check_blocking(text: str, source: str, environ: Mapping[str, str], *, cases: bool = True) -> Policy:
    """`check` where no event loop runs."""
    return asyncio.run(check(text, source, environ, cases=cases))
