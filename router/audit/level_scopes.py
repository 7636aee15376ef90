"""Which levels inside a tenant's budget (`team:…`, `key:…`, `model:…`) a ledger row has moved, by the policy under which it was booked."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from msgspec import Struct
from sqlalchemy import Connection

from policies.schema import Budget, TenantBudget
from router import policy_store


class Moved(Struct, frozen=True):
    """A level that a row may have moved. `day`, `month`: whether it surely did, because the policy had a cap there."""

    scope: str
    day: bool = False
    month: bool = False


class _Version(Struct, frozen=True):
    """Of a policy's text: the tenants' budgets, and the models that its backends and embedders name."""

    budgets: dict[str, TenantBudget]
    models: dict[str, str]


class LevelScopes:
    """A level's counter begins with what the ledger says, and moves while the policy in force has the level. So of a row whose policy had it, it is sure."""

    def __init__(self, connection: Connection, models: dict[str, set[str]], teams: dict[str, set[str]]) -> None:
        """`models`, `teams`: of each tenant, the scopes of models and of teams that have counters."""
        self._connection = connection
        self._counted = models
        self._counted_teams = teams
        self._versions: dict[int, _Version] = {}
        self._known: dict[tuple[int, str, str, str, str, str], tuple[Moved, ...]] = {}

    def of(self, policy_version: int, tenant: str, team: str, key_id: str, backend: str, model: str) -> tuple[Moved, ...]:
        """The levels of a row with these values."""
        place = (policy_version, tenant, team, key_id, backend, model)
        found = self._known.get(place)
        if found is None:
            found = self._known[place] = tuple(self._found(*place))
        return found

    def _found(self, number: int, tenant: str, team: str, key_id: str, backend: str, model: str) -> list[Moved]:
        version = self._version(number)
        budget = version.budgets.get(tenant, TenantBudget())
        found = [_moved(f"key:{key_id}", budget.per_key)] if key_id else []
        if team:  # a budget may also name it by what it was called then, and that no row says
            found.append(_moved(f"team:{team}", budget.teams.get(team)))
        elif budget.teams:  # rows from before they said their team
            found += [Moved(scope) for scope in sorted(self._counted_teams.get(tenant, ()))]
        planned = version.models.get(backend)
        found += [_moved(f"model:{name}", budget.models.get(name)) for name in dict.fromkeys((backend, planned or backend))]
        # What a provider calls its model counts when a counter is made; where the policy names none, the planned one is not known.
        possible = {f"model:{model}"} if planned is not None else {f"model:{model}", *self._counted.get(tenant, ())}
        return found + [Moved(scope) for scope in sorted(possible - {each.scope for each in found})]

    def _version(self, number: int) -> _Version:
        known = self._versions.get(number)
        if known is None:
            stored = policy_store.get_version(self._connection, number)
            known = self._versions[number] = _read(stored.text) if stored is not None else _Version({}, {})
        return known


def _moved(scope: str, budget: Budget | None) -> Moved:
    return Moved(scope) if budget is None else Moved(scope, budget.day is not None, budget.month is not None)


def _read(text: str) -> _Version:
    """Of a text that is no policy (any more) nothing is sure."""
    try:
        file = yaml.safe_load(text)
    except yaml.YAMLError:
        return _Version({}, {})
    budgets = {}
    for name, table in _tables(file, "tenants"):
        try:
            budgets[name] = msgspec.convert(table.get("budget_usd") or {}, TenantBudget)
        except msgspec.ValidationError:
            continue
    models = {name: str(table["model"]) for kind in ("backends", "embedders") for name, table in _tables(file, kind) if table.get("model")}
    return _Version(budgets, models)


def _tables(file: object, name: str) -> list[tuple[str, dict[str, Any]]]:
    found = file.get(name) if isinstance(file, dict) else None
    return [(str(key), table) for key, table in found.items() if isinstance(table, dict)] if isinstance(found, dict) else []
