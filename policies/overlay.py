"""A tenant's moderation: the policy's, with the tenant's own fields in place of the policy's, compiled once."""

from __future__ import annotations

from functools import lru_cache

from policies.moderation import Action, RuleSet, compile_rules
from policies.moderation.rules import DENY_LIST, RULES
from policies.schema import Moderation, Tenant


def merge_moderation(base: Moderation, tenant: Tenant) -> Moderation:
    own = tenant.moderation
    if own is None:
        return base
    output = base.output if own.output is None else own.output
    return Moderation(
        output=output,
        on_match=base.on_match if own.on_match is None else own.on_match,
        deny_list=base.deny_list if own.deny_list is None else own.deny_list,
        per_rule=_inherited(base, output) if own.per_rule is None else own.per_rule,
    )


def prompt_redaction(base: Moderation, tenant: Tenant) -> Moderation:
    """What is taken out of the tenant's prompts before they are stored; a `deny-list` among it is that of the tenant's answers."""
    return Moderation(output=tenant.prompts.redact, deny_list=merge_moderation(base, tenant).deny_list)


def _inherited(base: Moderation, output: tuple[str, ...]) -> dict[str, Action]:
    """The policy's actions for what the tenant looks for. What it does not look for is no mistake of the tenant's table."""
    chosen = [rule for rule in RULES if rule.name in output or rule.category in output]
    in_force = {*output, *(rule.name for rule in chosen), *(rule.category for rule in chosen)}
    known = {DENY_LIST, *(rule.name for rule in RULES), *(rule.category for rule in RULES)}
    return {name: action for name, action in base.per_rule.items() if name in in_force or name not in known}


def compiled(moderation: Moderation) -> RuleSet:
    """Compile; raises `policies.moderation.RuleError`."""
    return _compiled(moderation.output, moderation.deny_list, moderation.on_match, tuple(sorted(moderation.per_rule.items())))


@lru_cache(maxsize=256)
def _compiled(output: tuple[str, ...], deny_list: tuple[str, ...], on_match: Action, per_rule: tuple[tuple[str, Action], ...]) -> RuleSet:
    return compile_rules(output, deny_list, on_match, dict(per_rule))
