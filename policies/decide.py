"""Which backends may answer a request, in which order, and why: one pure function.

The ladder: constraints filter every backend (the key's allow-list, locks, clearance, needed features, context window, cost, readiness); then
a pinned model, else the first matching rule, else `complexity`, else `default` names the first candidates; then `fallback` follows. The same
policy, features and state give the same decision, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from policies.canary import with_canary
from policies.choosing import ordered, unit
from policies.constraints import FOR_GOOD, FORBIDDEN, constraint, excludes, lacking_features, permitted, pinned_backends
from policies.decision import AUTO, STATUS, BackendState, Decision, Exclusion, State
from policies.features import RULES, Features
from policies.ladder import Fallbacks
from policies.load import Policy
from policies.matching import matches
from policies.schema import Complexity, ErrorClass, Outcome, Rule, Use
from policies.scores import threshold_of
from policies.several import with_others

__all__ = ["AUTO", "STATUS", "BackendState", "Decision", "Exclusion", "State", "decide", "model_names", "permitted", "pinned_backends"]


class _Rung(Struct):
    """What the ladder names, before anything is filtered. What `use` names comes first; `further` and what `fallbacks` has only follow."""

    use: tuple[str, ...] | Use
    fallbacks: Fallbacks
    reasons: list[str]
    rule: Rule | None = None
    further: tuple[str, ...] = ()
    propensity: float = 1.0

    @property
    def chosen(self) -> tuple[str, ...]:
        """What `use` names, but for what is never drawn."""
        if isinstance(self.use, Use):
            return self.use.names if self.use.weighted is None else tuple(name for name in self.use.names if self.use.weighted[name])
        return self.use


def decide(policy: Policy, features: Features, state: State) -> Decision:
    """The decision for one request. Pure; raises nothing."""
    matching = [rule for rule in policy.file.rules if matches(rule.when, features, state)]
    locks = [rule for rule in matching if rule.lock]
    if features.model != AUTO and not _is_alias(policy, features.model, matching):
        return _pinned(policy, features, state, matching, locks)
    rung = _rung(policy, features, state, locks, matching[0] if matching else None)
    rung.further = tuple(name for lock in locks for name in lock.answering)  # always worth trying, whichever rule decides
    decision = with_canary(policy, features, state, _settle(policy, features, state, locks, rung))
    return with_others(decision, policy, state, rung.rule, False, lambda name, asked: constraint(policy, asked, state, locks, name))


def _is_alias(policy: Policy, model: str, matching: list[Rule]) -> bool:
    """Whether the requested model is a name that a matching rule made up: then the rules decide, as for `auto`."""
    return not pinned_backends(policy, model) and any(model in rule.when.models for rule in matching)


def model_names(policy: Policy) -> tuple[str, ...]:
    """Every `model` that a request may name: `auto`, the backends, the ids of their models, and the names that rules make up."""
    ids = [backend.spec.model for backend in policy.backends.values() if backend.spec.model]
    aliases = [model for rule in policy.file.rules for model in rule.when.models]
    return tuple(dict.fromkeys((AUTO, *policy.backends, *ids, *aliases)))


def _rung(policy: Policy, features: Features, state: State, locks: list[Rule], rule: Rule | None) -> _Rung:
    fallbacks = policy.fallbacks(features.tenant, rule)
    if rule is not None:
        return _Rung(rule.use, fallbacks, [f"rule:{rule.name}"], rule)
    complexity = policy.complexity(features.tenant)
    if complexity is not None and features.complexity is not None:
        return _scored(policy, complexity, features.complexity, features, state, locks, fallbacks)
    defaults = policy.defaults(features.tenant)
    return _Rung(defaults, fallbacks, ["default"] if defaults else [])


def _scored(policy: Policy, complexity: Complexity, score: float, features: Features, state: State, locks: list[Rule], fallbacks: Fallbacks) -> _Rung:
    """The weak or the strong backend by the score; a share of the requests that may have either is drawn, so that both are seen at every score."""
    threshold = threshold_of(complexity, features.tenant, state)
    strong = score >= threshold
    name, other = (complexity.strong, complexity.weak) if strong else (complexity.weak, complexity.strong)
    rung = _Rung((name,), fallbacks, [f"complexity:{score}{'>=' if strong else '<'}{threshold}:{'strong' if strong else 'weak'}"])
    if features.scorer != RULES:
        rung.reasons.append(f"scorer:{features.scorer}")
    if not complexity.explore or any(excludes(policy, features, state, locks, each) for each in (name, other)):
        return rung
    against = complexity.explore / 2
    rung.propensity = 1 - against
    if unit(f"{state.seed}\nexplore") < against:
        rung.use, rung.propensity = (other,), against
        rung.reasons.append(f"explore:{'weak' if strong else 'strong'}")
    return rung


def _pinned(policy: Policy, features: Features, state: State, matching: list[Rule], locks: list[Rule]) -> Decision:
    names = pinned_backends(policy, features.model)
    if not names:
        reasons = (f"pin:{features.model}",)
        message = f"there is no model {features.model!r}; GET /v1/models lists those you may use, and 'auto' lets the policy choose"
        return _refuse(policy, features, state, "model_not_found", message, "model", reasons, ())
    rule = next((rule for rule in matching if rule.pin_fallback), None)
    rung = _Rung(names, Fallbacks(), [f"pin:{features.model}"], rule)
    if rule is not None:
        rung.reasons.append(f"rule:{rule.name}")
        able = [name for name in rule.answering if constraint(policy, features, state, locks, name) is None]
        left_out = [name for name in rule.answering if name not in able]  # to be named among what is excluded
        rung.further = (*ordered(policy, rule.use, rule.name, able, features, state).names, *left_out)
        rung.fallbacks = policy.fallbacks(features.tenant, rule)
    decision = _settle(policy, features, state, locks, rung, pinned=True)
    return with_others(decision, policy, state, rung.rule, True, lambda name, asked: constraint(policy, asked, state, locks, name))


def _settle(policy: Policy, features: Features, state: State, locks: list[Rule], rung: _Rung, *, pinned: bool = False) -> Decision:
    """Filter what the rung names, put it in order, and say why."""
    permitted_ones, excluded = [], []
    further = (*rung.further, *rung.fallbacks.default)
    for name in dict.fromkeys((*rung.chosen, *further)):
        exclusion = constraint(policy, features, state, locks, name)
        if exclusion is None:
            permitted_ones.append(name)
        else:
            excluded.append(exclusion)
    if not features.grounded:
        permitted_ones, needless = _without_documents(permitted_ones, rung.chosen, state, pinned)
        excluded += needless
    order = ordered(policy, rung.use, rung.rule.name if rung.rule is not None else "", permitted_ones, features, state)
    chosen = [*order.names, *(name for name in dict.fromkeys(further) if name in permitted_ones and name not in order.names)]
    excluded += [cap for cap in order.capped if cap.backend not in chosen]
    if any(exclusion.code == "budget" for exclusion in excluded) and not pinned:
        chosen = _after_the_budget(policy, features, state, locks, chosen, excluded, rung.reasons)
    by_class = _by_class(policy, features, state, locks, rung.fallbacks)
    reasons = (
        *rung.reasons,
        *(f"lock:{lock.name}" for lock in locks),
        *(f"{order.reason}:{name}" for name in order.names[:1] if order.reason and chosen[0] == name),
        *(f"capped:{cap.backend}:{cap.code}" for cap in order.capped if cap.backend in chosen),
        *(f"fallback:{name}" for name in chosen if name in further and name not in order.names),
        *(f"excluded:{exclusion.backend}:{exclusion.code}" for exclusion in excluded),
    )
    own = [exclusion for exclusion in excluded if exclusion.backend in rung.chosen]
    if pinned and len(own) == len(rung.chosen) and all(exclusion.code in FORBIDDEN for exclusion in own):
        chosen, excluded = [], own  # what is not permitted is refused, whatever its rule says about falling back
    if not chosen:
        outcome, message, param = _why(features, state, excluded, pinned)
        return _refuse(policy, features, state, outcome, message, param, reasons, tuple(excluded))
    first_is_drawn = chosen[0] in order.names[:1]
    return Decision(
        outcome="ok",
        candidates=tuple(chosen),
        rule=rung.rule.name if rung.rule is not None else None,
        reasons=reasons,
        excluded=tuple(excluded),
        features=features,
        policy_version=policy.version,
        seed=state.seed,
        propensity=rung.propensity * order.propensity if first_is_drawn else 1.0,
        upper_cost_usd=state.backends[chosen[0]].upper_cost_usd,
        fallbacks=by_class,
    )


def _by_class(policy: Policy, features: Features, state: State, locks: list[Rule], fallbacks: Fallbacks) -> dict[ErrorClass, tuple[str, ...]]:
    """What may be tried after failures of each class that has a list of its own. One of which nothing is permitted is as if it were not there."""
    found: dict[ErrorClass, tuple[str, ...]] = {}
    for name, listed in fallbacks.classes.items():
        left = tuple(each for each in listed if not excludes(policy, features, state, locks, each))
        if left or not listed:
            found[name] = left
    return found


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


def _why(features: Features, state: State, excluded: list[Exclusion], pinned: bool) -> tuple[Outcome, str, str | None]:
    """The refusal that tells the client most: what only they can mend comes before what may pass."""
    codes = {exclusion.code for exclusion in excluded}
    told = "; ".join(f"{exclusion.backend}: {exclusion.detail}" for exclusion in excluded) or "the policy names no backend for it"
    if pinned and codes and codes <= FORBIDDEN:
        return "not_permitted", f"the model {features.model!r} is not permitted for this request ({told})", "model"
    if codes & {"budget", "max_cost"}:
        return "budget_exceeded", f"the budget does not cover this request ({told})", None
    if "context_window" in codes and "unavailable" not in codes:
        return "context_length_exceeded", f"the request is too long ({told})", "messages"
    if pinned and "feature" in codes:
        return "unsupported_feature", f"the model {features.model!r} cannot do this ({told})", "model"
    if "feature" in codes and codes <= FOR_GOOD:
        first = next(exclusion.backend for exclusion in excluded if exclusion.code == "feature")
        return "unsupported_feature", f"no backend of this policy can do this ({told})", lacking_features(features, state.backends[first].capabilities)[0][1]
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
