"""Which side of a canary a request is on. Pure: drawn from the request's seed, in the states that the decision is made from, so a replay draws the same."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import msgspec

from policies.choosing import unit
from policies.constraints import permitted
from policies.decision import Decision, State
from policies.features import Features
from policies.load import Policy
from policies.schema import Rule
from policies.trials import Canary

Side: TypeAlias = Literal["candidate", "baseline"]
ROLLED_BACK = "rolled_back"
_PREFIX = "canary:"


def with_canary(policy: Policy, features: Features, state: State, decision: Decision) -> Decision:
    """The decision of a rule, with its canary: the candidate's backends first, where the draw says so; and which side the request is on as a reason.

    A request that none of the canary's backends may answer (lock, clearance, allow-list, capabilities, budget, readiness) is on neither side: so the
    requests of both sides are of one kind, and their figures can be compared.
    """
    rule = next((rule for rule in policy.file.rules if rule.name == decision.rule), None)
    if decision.outcome != "ok" or rule is None or rule.canary is None or decision.reasons[0] != f"rule:{rule.name}":
        return decision
    if state.canaries.get(rule.name) == ROLLED_BACK:
        return msgspec.structs.replace(decision, reasons=(*decision.reasons, f"{_PREFIX}{rule.name}:{ROLLED_BACK}"))
    canary = rule.canary
    usable = [name for name in canary.use if permitted(policy, features, state, name)]
    if not usable:
        return decision
    drawn = unit(f"{_drawn_by(canary, features, state)}\n{rule.name}\ncanary") < canary.share
    first = usable[0] if drawn else decision.candidates[0]
    reasons = (*decision.reasons, f"{_PREFIX}{rule.name}:{'candidate' if drawn else 'baseline'}")
    if not drawn:
        return msgspec.structs.replace(decision, reasons=reasons, propensity=_propensity(canary, decision, first, usable[0]))
    own = decision.candidates[:1]  # after the canary's failure, of whatever class, the rule's own first backend is tried
    return msgspec.structs.replace(
        decision,
        candidates=(*usable, *(name for name in decision.candidates if name not in usable)),
        reasons=reasons,
        propensity=_propensity(canary, decision, first, usable[0]),
        upper_cost_usd=state.backends[first].upper_cost_usd,
        fallbacks={error: tuple(dict.fromkeys((*own, *names))) for error, names in decision.fallbacks.items()},
    )


def _propensity(canary: Canary, decision: Decision, first: str, candidate: str) -> float:
    """How likely this first backend was: by the canary's draw, or by the rule's own."""
    return (canary.share if first == candidate else 0.0) + ((1 - canary.share) * decision.propensity if first == decision.candidates[0] else 0.0)


def _drawn_by(canary: Canary, features: Features, state: State) -> str:
    """What is drawn. Where no conversation or user is known, each request draws for itself."""
    holder = {"conversation": features.conversation, "user": features.user, "request": ""}[canary.sticky]
    return f"{canary.sticky}\n{features.tenant}\n{holder}" if holder else state.seed


def side_of(decision: Decision) -> tuple[str, Side] | None:
    """The rule whose canary a decision took part in, and the side; None for neither."""
    for reason in decision.reasons:
        if reason.startswith(_PREFIX):
            rule, _, side = reason.removeprefix(_PREFIX).rpartition(":")
            return (rule, cast(Side, side)) if side in ("candidate", "baseline") else None
    return None


def canaries_of(policy: Policy) -> dict[str, tuple[Rule, Canary]]:
    """The rules of a policy that have a canary, by name."""
    return {rule.name: (rule, rule.canary) for rule in policy.file.rules if rule.canary is not None}
