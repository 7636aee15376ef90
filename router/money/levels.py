"""From the policy's budgets to the caps of a request."""

from __future__ import annotations

from adapters.cost import picodollars
from policies.access import Principal
from policies.schema import Budget, TenantBudget
from router.money.settlement import Caps, Level


def caps_of(budget: TenantBudget, principal: Principal) -> Caps:
    """The tenant's own caps, and those of the principal's team, of its key and of the models."""
    levels: list[Level] = []
    if budget.per_key is not None and principal.key_id:
        levels.append(_level(f"key:{principal.key_id}", budget.per_key))
    if principal.team and (team := budget.teams.get(principal.team) or budget.teams.get(principal.team_name)) is not None:
        levels.append(_level(f"team:{principal.team}", team))
    levels += [_level(f"model:{name}", each) for name, each in budget.models.items()]
    return Caps(_picodollars(budget.day), _picodollars(budget.month), tuple(levels))


def _level(scope: str, budget: Budget) -> Level:
    return Level(scope, _picodollars(budget.day), _picodollars(budget.month))


def _picodollars(usd: float | None) -> int | None:
    return None if usd is None else picodollars(usd)
