"""What takes a backend out for a request, whoever names it: the key's list, locks, clearance, features, window, costs, readiness. Pure.

It holds for every call: candidates, fallbacks, hedges, summaries and whatever else a request makes. `permitted` answers for one backend.
"""

from __future__ import annotations

from adapters.backend import PARAM_OF_NEED, has, may_see, takes_tool
from adapters.types import Capabilities
from policies.decision import Exclusion, State
from policies.features import Features
from policies.load import Policy
from policies.matching import matches
from policies.schema import Rule

FORBIDDEN = frozenset({"not_allowed", "lock", "clearance"})
"""Exclusions that a client may not lift by waiting or by asking for less."""

FOR_GOOD = FORBIDDEN | {"feature", "no_documents"}
"""Exclusions that the same request meets again however long it waits."""


def permitted(policy: Policy, features: Features, state: State, name: str) -> bool:
    """Whether the constraints allow a backend to this request, whatever the ladder names."""
    locks = [rule for rule in policy.file.rules if rule.lock and matches(rule.when, features, state)]
    return not excludes(policy, features, state, locks, name)


def excludes(policy: Policy, features: Features, state: State, locks: list[Rule], name: str) -> bool:
    """Whether a backend is no help to this request: it is not permitted, or it only quotes documents and there are none."""
    if constraint(policy, features, state, locks, name) is not None:
        return True
    return not features.grounded and state.backends[name].capabilities.needs_context


def constraint(policy: Policy, features: Features, state: State, locks: list[Rule], name: str) -> Exclusion | None:
    """The first constraint that forbids this backend to this request, or None."""
    backend, now = policy.backends[name], state.backends.get(name)
    if state.allowed_models is not None and not _allowed(policy, features, state.allowed_models, name):
        return Exclusion(name, "not_allowed", "the key may not use it")
    for lock in locks:
        if name not in lock.backends:
            return Exclusion(name, "lock", f"rule {lock.name!r} locks the request to {', '.join(lock.backends)}")
    if not may_see(backend.clearance, features.data_class):
        return Exclusion(name, "clearance", f"its clearance is {backend.clearance}, and the request holds {features.data_class} data")
    if now is None:
        return Exclusion(name, "unavailable", "it is not running")
    if lacking := lacking_features(features, now.capabilities):
        return Exclusion(name, "feature", f"it does not support {', '.join(what for what, _ in lacking)}")
    window = backend.spec.context_window or now.capabilities.context_window
    tokens = features.input_tokens if now.input_tokens is None else now.input_tokens
    if window is not None and tokens + (features.output_tokens or 1) > window:
        return Exclusion(name, "context_window", f"{tokens} tokens of input and {features.output_tokens or 1} of output do not fit its window of {window}")
    if features.max_cost_usd is not None and now.upper_cost_usd > features.max_cost_usd:
        return Exclusion(name, "max_cost", f"it may cost up to ${now.upper_cost_usd:.6g}, and the request allows ${features.max_cost_usd:.6g}")
    least_cost_usd = now.upper_cost_usd if now.least_cost_usd is None else now.least_cost_usd
    if state.remaining_usd is not None and least_cost_usd > max(state.remaining_usd, 0.0):
        cost = f"may cost up to ${now.upper_cost_usd:.6g}" if least_cost_usd == now.upper_cost_usd else f"needs ${least_cost_usd:.6g} even for a short answer"
        return Exclusion(name, "budget", f"it {cost}, and ${max(state.remaining_usd, 0.0):.6g} of the budget are left")
    if not now.ready:
        return Exclusion(name, "unavailable", now.reason or "it is not ready")
    return None


def lacking_features(features: Features, capabilities: Capabilities) -> list[tuple[str, str]]:
    """What the request needs and the backend does not do, each with the request's parameter that needs it."""
    lacking: list[tuple[str, str]] = [(need, PARAM_OF_NEED[need]) for need in features.needs if not has(capabilities, need)]
    lacking += [(f"the tool {tool}", "tools") for tool in features.provider_tools if not takes_tool(capabilities, tool)]
    lacking += [(f"parts of {provider}'s own", "messages") for provider in features.opaque_parts if provider not in capabilities.opaque]
    return lacking


def _allowed(policy: Policy, features: Features, listed: tuple[str, ...], name: str) -> bool:
    """A key may use the backends and models on its list; with `auto` or a rule's own name on it, also whatever the policy chooses for that."""
    if name in listed or policy.backends[name].spec.model in listed:
        return True
    return features.model in listed and not pinned_backends(policy, features.model)


def pinned_backends(policy: Policy, model: str) -> tuple[str, ...]:
    """The backends that a requested model means: the one of that name, else all that serve the model of that id, in the order of the file."""
    if model in policy.backends:
        return (model,)
    order = [*policy.file.backends, *(name for name in sorted(policy.backends) if name not in policy.file.backends)]
    return tuple(name for name in order if policy.backends[name].spec.model == model)
