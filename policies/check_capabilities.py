"""The checks that need to know what the backends can do: rules about requests that none of their backends can answer."""

from __future__ import annotations

from collections.abc import Mapping

from adapters.backend import has
from adapters.types import Capabilities
from config.yamlfile import Problem
from policies.conditions import facts
from policies.load import Policy


def capability_problems(policy: Policy, capabilities: Mapping[str, Capabilities]) -> list[Problem]:
    """`capabilities` are the backends', by name; of one that is not in there nothing is said."""
    problems = []
    for index, rule in enumerate(policy.file.rules):
        found = facts(rule.when)
        if not all(name in capabilities for name in rule.backends):
            continue
        for wanted in found.any_of.get("needs", ()):
            if not any(has(capabilities[name], need) for name in rule.backends for need in wanted):
                message = f"none of these backends can do {' or '.join(sorted(wanted))}, which this rule's requests need: it could never answer one"
                problems.append(policy.places.problem(("rules", index, "use"), message))
        if found.grounded == {False} and all(capabilities[name].needs_context for name in rule.backends):
            message = "these backends answer from documents only, and this rule is about requests without any"
            problems.append(policy.places.problem(("rules", index, "use"), message))
    return problems
