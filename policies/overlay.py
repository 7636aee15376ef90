"""A tenant's moderation: the policy's, with the tenant's own fields in place of the policy's, compiled once."""

from __future__ import annotations

from functools import lru_cache

from policies.moderation import Action, RuleSet, compile_rules
from policies.schema import Moderation, Tenant


def merge_moderation(base: Moderation, tenant: Tenant) -> Moderation:
    own = tenant.moderation
    if own is None:
        return base
    return Moderation(
        output=base.output if own.output is None else own.output,
        on_match=base.on_match if own.on_match is None else own.on_match,
        deny_list=base.deny_list if own.deny_list is None else own.deny_list,
        per_rule=base.per_rule if own.per_rule is None else own.per_rule,
    )


def compiled(moderation: Moderation) -> RuleSet:
    """Compile; raises `policies.moderation.RuleError`."""
    return _compiled(moderation.output, moderation.deny_list, moderation.on_match, tuple(sorted(moderation.per_rule.items())))


@lru_cache(maxsize=256)
def _compiled(output: tuple[str, ...], deny_list: tuple[str, ...], on_match: Action, per_rule: tuple[tuple[str, Action], ...]) -> RuleSet:
    return compile_rules(output, deny_list, on_match, dict(per_rule))
