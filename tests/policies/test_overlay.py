"""A tenant's moderation over the policy's."""

from __future__ import annotations

from policies.overlay import compiled, merge_moderation
from policies.schema import Moderation, Tenant, TenantModeration

BASE = Moderation(output=("secrets", "pii"), per_rule={"card": "block", "jwt": "flag"})


def test_a_tenant_that_looks_for_less_keeps_the_actions_of_what_is_left() -> None:
    merged = merge_moderation(BASE, Tenant(moderation=TenantModeration(output=("secrets",))))
    assert merged.per_rule == {"jwt": "flag"}
    rules = compiled(merged)
    assert {rule.name: action for rule, action in zip(rules.rules, rules.actions, strict=True)}["jwt"] == "flag"


def test_a_tenant_that_changes_only_the_action_keeps_the_rules_and_their_own_actions() -> None:
    merged = merge_moderation(BASE, Tenant(moderation=TenantModeration(on_match="block")))
    assert (merged.output, merged.on_match, merged.per_rule) == (BASE.output, "block", BASE.per_rule)
