"""Which backends may answer a request, in which order, and why: one pure function.

The ladder: constraints filter every backend (the key's allow-list, locks, clearance, needed features, context window, cost, readiness); then
a pinned model, else the first matching rule, else `complexity`, else `default` names the first candidates; then `fallback` follows. The same
policy, features and state give the same decision, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from adapters.backend import PARAM_OF_NEED, has, may_see, takes_tool
from adapters.types import Capabilities
from policies.decision import AUTO, STATUS, BackendState, Decision, Exclusion, State
from policies.features import RULES, Features
from policies.load import Policy
from policies.matching import draw, matches
from policies.schema import Outcome, Rule, Weighted

__all__ = ["AUTO", "STATUS", "BackendState", "Decision", "Exclusion", "State", "decide", "model_names", "needs_complexity", "pinned_backends"]

MIDDLE = 0.5
"""Half of the questions that the rules learnt from lie above it."""

_FORBIDDEN = frozenset({"not_allowed", "lock", "clearance"})
"""Exclusions that a client may not lift by waiting or by asking for less."""

_FOR_GOOD = _FORBIDDEN | {"feature", "no_documents"}
"""Exclusions that the same request meets again however long it waits."""


class _Rung(Struct):
    """What the ladder names, before anything is filtered. `chosen` names come first; `further` only follow."""

    chosen: tuple[str, ...]
    further: tuple[str, ...]
    reasons: list[str]
    rule: Rule | None = None
    weights: Mapping[str, float] | None = None


def decide(policy: Policy, features: Features, state: State) -> Decision:
    """The decision for one request. Pure; raises nothing."""
    matching = [rule for rule in policy.file.rules if matches(rule.when, features)]
    locks = [rule for rule in matching if rule.lock]
    if features.model != AUTO and not _is_alias(policy, features.model, matching):
        return _pinned(policy, features, state, matching, locks)
    rung = _rung(policy, features, state, matching[0] if matching else None)
    for lock in locks:  # what a lock names is always worth trying, whichever rule decides
        rung.further = (*lock.backends, *rung.further)
    return _settle(policy, features, state, locks, rung)


def _is_alias(policy: Policy, model: str, matching: list[Rule]) -> bool:
    """Whether the requested model is a name that a matching rule made up: then the rules decide, as for `auto`."""
    return not pinned_backends(policy, model) and any(model in rule.when.models for rule in matching)


def model_names(policy: Policy) -> tuple[str, ...]:
    """Every `model` that a request may name: `auto`, the backends, the ids of their models, and the names that rules make up."""
    ids = [backend.spec.model for backend in policy.backends.values() if backend.spec.model]
    aliases = [model for rule in policy.file.rules for model in rule.when.models]
    return tuple(dict.fromkeys((AUTO, *policy.backends, *ids, *aliases)))


def threshold_of(policy: Policy, features: Features, state: State) -> float:
    """The complexity threshold in force: the tenant's, which its target moves, else the policy's; in the middle where nothing was seen yet."""
    complexity = policy.file.complexity
    own = None if complexity is None else complexity.threshold
    return state.thresholds.get(features.tenant, MIDDLE if own is None else own)


def needs_complexity(policy: Policy, features: Features) -> bool:
    """Whether this decision may depend on how hard the question is: no pin and no rule decides before a complexity is looked at."""
    if features.model != AUTO and pinned_backends(policy, features.model):
        return any(rule.lock and asks_complexity(rule.when) for rule in policy.file.rules)
    for rule in policy.file.rules:
        if asks_complexity(rule.when):
            return True
        if matches(rule.when, features):
            return any(rule.lock and asks_complexity(rule.when) for rule in policy.file.rules)
    return policy.file.complexity is not None


def asks_complexity(when: object) -> bool:
    """Whether a condition, or one inside it, bounds the complexity."""
    return _bounds_complexity(msgspec.to_builtins(when))


def _bounds_complexity(value: object) -> bool:
    if isinstance(value, dict):
        return any((key in ("min_complexity", "max_complexity") and each is not None) or _bounds_complexity(each) for key, each in value.items())
    return isinstance(value, list | tuple) and any(map(_bounds_complexity, value))


def _rung(policy: Policy, features: Features, state: State, rule: Rule | None) -> _Rung:
    file = policy.file
    if rule is not None:
        reasons = [f"rule:{rule.name}"]
        if isinstance(rule.use, Weighted):
            order = draw(rule.use.weighted, state.seed, rule.name)
            return _Rung(order, file.fallback, reasons, rule, rule.use.weighted)
        return _Rung(rule.use, file.fallback, reasons, rule)
    if file.complexity is not None and features.complexity is not None:
        threshold = threshold_of(policy, features, state)
        strong = features.complexity >= threshold
        sign = ">=" if strong else "<"
        reasons = [f"complexity:{features.complexity}{sign}{threshold}:{'strong' if strong else 'weak'}"]
        if features.scorer != RULES:
            reasons.append(f"scorer:{features.scorer}")
        return _Rung((file.complexity.strong if strong else file.complexity.weak,), file.fallback, reasons)
    return _Rung(file.defaults, file.fallback, ["default"] if file.defaults else [])


def _pinned(policy: Policy, features: Features, state: State, matching: list[Rule], locks: list[Rule]) -> Decision:
    names = pinned_backends(policy, features.model)
    if not names:
        reasons = (f"pin:{features.model}",)
        message = f"there is no model {features.model!r}; GET /v1/models lists those you may use, and 'auto' lets the policy choose"
        return _refuse(policy, features, state, "model_not_found", message, "model", reasons, ())
    rule = next((rule for rule in matching if rule.pin_fallback), None)
    rung = _Rung(names, (), [f"pin:{features.model}"], rule)
    if rule is not None:
        rung.reasons.append(f"rule:{rule.name}")
        order = draw(rule.use.weighted, state.seed, rule.name) if isinstance(rule.use, Weighted) else rule.use
        rung.further = (*order, *policy.file.fallback)
    return _settle(policy, features, state, locks, rung, pinned=True)


def pinned_backends(policy: Policy, model: str) -> tuple[str, ...]:
    """The backends that a requested model means: the one of that name, else all that serve the model of that id, in the order of the file."""
    if model in policy.backends:
        return (model,)
    order = [*policy.file.backends, *(name for name in sorted(policy.backends) if name not in policy.file.backends)]
    return tuple(name for name in order if policy.backends[name].spec.model == model)


def _settle(policy: Policy, features: Features, state: State, locks: list[Rule], rung: _Rung, *, pinned: bool = False) -> Decision:
    """Filter what the rung names, put it in order, and say why."""
    chosen, excluded = [], []
    named = dict.fromkeys((*rung.chosen, *rung.further))
    judged = {name: constraint(policy, features, state, locks, name) for name in named}
    for name, exclusion in judged.items():
        if exclusion is None:
            chosen.append(name)
        else:
            excluded.append(exclusion)
    if not features.grounded:
        chosen, needless = _without_documents(chosen, rung.chosen, state, pinned)
        excluded += needless
    if any(exclusion.code == "budget" for exclusion in excluded) and not pinned:
        chosen = _after_the_budget(policy, features, state, locks, chosen, excluded, rung.reasons)
    reasons = (
        *rung.reasons,
        *(f"lock:{lock.name}" for lock in locks),
        *(f"weighted:{name}" for name in chosen[:1] if rung.weights is not None and name in rung.weights),
        *(f"fallback:{name}" for name in chosen if name in rung.further and name not in rung.chosen),
        *(f"excluded:{exclusion.backend}:{exclusion.code}" for exclusion in excluded),
    )
    own = [exclusion for exclusion in excluded if exclusion.backend in rung.chosen]
    if pinned and len(own) == len(rung.chosen) and all(exclusion.code in _FORBIDDEN for exclusion in own):
        chosen, excluded = [], own  # what is not permitted is refused, whatever its rule says about falling back
    if not chosen:
        outcome, message, param = _why(features, state, excluded, pinned)
        return _refuse(policy, features, state, outcome, message, param, reasons, tuple(excluded))
    return Decision(
        outcome="ok",
        candidates=tuple(chosen),
        rule=rung.rule.name if rung.rule is not None else None,
        reasons=reasons,
        excluded=tuple(excluded),
        features=features,
        policy_version=policy.version,
        seed=state.seed,
        propensity=_propensity(rung, chosen),
        upper_cost_usd=state.backends[chosen[0]].upper_cost_usd,
    )


def _propensity(rung: _Rung, chosen: list[str]) -> float:
    """Drawing without replacement and keeping what is permitted is the same as drawing among the permitted only."""
    if rung.weights is None or chosen[0] not in rung.weights or not rung.weights[chosen[0]]:
        return 1.0
    permitted = sorted(name for name in chosen if name in rung.weights)
    return rung.weights[chosen[0]] / sum(rung.weights[name] for name in permitted)


def _without_documents(chosen: list[str], first: Iterable[str], state: State, pinned: bool) -> tuple[list[str], list[Exclusion]]:
    """A backend that can only quote documents is no help to a request without any.

    It answers (and says so) only where it is pinned, or where the policy names it first and nothing else is left: as a fallback it would turn
    an outage of the real backends into a polite success.
    """
    quoting = {name for name in chosen if state.backends[name].capabilities.needs_context}
    kept = quoting & set(first) if pinned or len(quoting) == len(chosen) else set()
    dropped = [name for name in chosen if name in quoting - kept]
    told = "it answers from documents only, and the request has none"
    return [name for name in chosen if name not in dropped], [Exclusion(name, "no_documents", told) for name in dropped]


def _after_the_budget(
    policy: Policy, features: Features, state: State, locks: list[Rule], chosen: list[str], excluded: list[Exclusion], reasons: list[str]
) -> list[str]:
    """Where the budget affords none of the paid candidates, the tenant's `on_budget_end` backend, if it is permitted, goes before the free ones."""
    name = policy.tenant(features.tenant).on_budget_end
    if name is None or name in chosen or any(exclusion.backend == name for exclusion in excluded):
        return chosen
    if any(state.backends[other].upper_cost_usd for other in chosen):
        return chosen
    exclusion = constraint(policy, features, state, locks, name)
    if exclusion is not None:
        excluded.append(exclusion)
        return chosen
    reasons.append(f"on_budget_end:{name}")
    return [name, *chosen]


def permitted(policy: Policy, features: Features, state: State, name: str) -> bool:
    """Whether the constraints allow a backend to this request, whatever the ladder names."""
    locks = [rule for rule in policy.file.rules if rule.lock and matches(rule.when, features)]
    if constraint(policy, features, state, locks, name) is not None:
        return False
    return features.grounded or not state.backends[name].capabilities.needs_context


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
    if lacking := _lacking(features, now.capabilities):
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


def _lacking(features: Features, capabilities: Capabilities) -> list[tuple[str, str]]:
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


def _why(features: Features, state: State, excluded: list[Exclusion], pinned: bool) -> tuple[Outcome, str, str | None]:
    """The refusal that tells the client most: what only they can mend comes before what may pass."""
    codes = {exclusion.code for exclusion in excluded}
    told = "; ".join(f"{exclusion.backend}: {exclusion.detail}" for exclusion in excluded) or "the policy names no backend for it"
    if pinned and codes and codes <= _FORBIDDEN:
        return "not_permitted", f"the model {features.model!r} is not permitted for this request ({told})", "model"
    if codes & {"budget", "max_cost"}:
        return "budget_exceeded", f"the budget does not cover this request ({told})", None
    if "context_window" in codes and "unavailable" not in codes:
        return "context_length_exceeded", f"the request is too long ({told})", "messages"
    if pinned and "feature" in codes:
        return "unsupported_feature", f"the model {features.model!r} cannot do this ({told})", "model"
    if "feature" in codes and codes <= _FOR_GOOD:
        first = next(exclusion.backend for exclusion in excluded if exclusion.code == "feature")
        return "unsupported_feature", f"no backend of this policy can do this ({told})", _lacking(features, state.backends[first].capabilities)[0][1]
    return "no_permitted_backend", f"no backend is permitted and available for this request ({told})", None


def _refuse(
    policy: Policy,
    features: Features,
    state: State,
    outcome: Outcome,
    message: str,
    param: str | None,
    reasons: tuple[str, ...],
    excluded: tuple[Exclusion, ...],
) -> Decision:
    return Decision(
        outcome=outcome,
        candidates=(),
        rule=None,
        reasons=reasons,
        excluded=excluded,
        features=features,
        policy_version=policy.version,
        seed=state.seed,
        message=message,
        param=param,
    )
