"""When a decision looks at how hard a question is, and from which score on the strong backend answers."""

from __future__ import annotations

from policies.constraints import pinned_backends
from policies.decision import AUTO, State
from policies.features import Features
from policies.load import Policy
from policies.matching import matches
from policies.schema import Complexity, When

MIDDLE = 0.5
"""Half of the questions that the rules learnt from lie above it."""


def threshold_of(complexity: Complexity, tenant: str, state: State) -> float:
    """The threshold in force: the tenant's, which its target moves, else the policy's; in the middle where nothing was seen yet."""
    return state.thresholds.get(tenant, MIDDLE if complexity.threshold is None else complexity.threshold)


def needs_complexity(policy: Policy, features: Features, state: State) -> bool:
    """Whether this decision may depend on how hard the question is: no pin and no rule decides before a complexity is looked at."""
    locked = any(rule.lock and bounds_complexity(rule.when) for rule in policy.file.rules)
    if features.model != AUTO and pinned_backends(policy, features.model):
        return locked
    for rule in policy.file.rules:
        if bounds_complexity(rule.when):
            return True
        if matches(rule.when, features, state):
            return locked
    return policy.complexity(features.tenant) is not None


def bounds_complexity(when: When) -> bool:
    """Whether a condition, or one inside it, bounds the complexity."""
    return any(part.min_complexity is not None or part.max_complexity is not None for part in when.parts())
