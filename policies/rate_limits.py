"""Which limits a request falls under: the policy's tables and a principal in, scopes out. Pure.

A scope is one counter that somebody shares: the tenant's requests, a key's tokens, a team's running requests. A request passes when all of its
scopes let it, and then all of them are charged; else none is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal, TypeAlias

from msgspec import Struct

from policies.access import Principal
from policies.buckets import Bucket, per_minute
from policies.schema import DefaultLimits, KeyLimits, Limits, ModelLimits, Priority, Queue, TeamLimits

Kind: TypeAlias = Literal["tenant", "team", "key", "model", "ip"]
Measure: TypeAlias = Literal["requests", "tokens", "concurrency"]

BURST_S = 1.2
"""Two percent of a minute."""

LONGEST_ID = 300
"""Characters of a scope's id, which is a key in databases."""

CLASSES: tuple[Priority, ...] = ("high", "normal", "low")


class Scope(Struct, frozen=True):
    """One counter. `id` is the same in every worker and replica, `name` is for people; `bucket` is None for a concurrency."""

    kind: Kind
    name: str
    measure: Measure
    limit: int
    id: str
    digest: bytes
    bucket: Bucket | None = None

    def __str__(self) -> str:
        what = {"requests": "requests per minute", "tokens": "tokens per minute", "concurrency": "requests at once"}[self.measure]
        return f"{self.name}: {self.limit} {what}"


class ModelScopes(Struct, frozen=True):
    """The limits at one backend or model."""

    requests: tuple[Scope, ...] = ()
    tokens: tuple[Scope, ...] = ()


class Scopes(Struct, frozen=True):
    """All limits of one principal. `models` is by the name of a backend or a model."""

    requests: tuple[Scope, ...] = ()
    tokens: tuple[Scope, ...] = ()
    slots: tuple[Scope, ...] = ()
    models: dict[str, ModelScopes] = {}
    wait: bool = False
    queue: Queue = Queue()
    priority: Priority = "normal"

    def __bool__(self) -> bool:
        return bool(self.requests or self.tokens or self.slots or self.models)


NOTHING = Scopes()


def merged(base: DefaultLimits, own: Limits) -> Limits:
    """A tenant's limits: its own fields, and the policy's where it has none."""
    return Limits(**{name: getattr(base, name) if getattr(own, name) is None else getattr(own, name) for name in Limits.__struct_fields__})


def scopes_of(limits: Limits, principal: Principal) -> Scopes:
    """The counters that a principal's requests are counted in."""
    tenant, burst_s = principal.tenant, limits.burst_s or BURST_S
    key = principal.key_id or principal.user
    team = principal.team or principal.team_name
    teams = limits.teams or {}
    of_team = teams.get(principal.team_name) or teams.get(principal.team)
    holders: list[tuple[Kind, str, str, Limits | KeyLimits | TeamLimits | None]] = [
        ("tenant", f"tenant {tenant!r}", tenant, limits),
        ("team", f"team {principal.team_name or team!r}", f"{tenant}/{team}", of_team),
        ("key", "this API key", f"{tenant}/{key}", limits.per_key if key else None),
    ]
    found: dict[Measure, list[Scope]] = {"requests": [], "tokens": [], "concurrency": []}
    models: dict[str, dict[Measure, list[Scope]]] = {}
    for kind, name, identity, table in holders:
        if table is None:
            continue
        for scope in _of(kind, name, f"{kind}:{identity}", burst_s, table.rpm, table.tpm, table.concurrency):
            found[scope.measure].append(scope)
        for model, each in _models(table).items():
            whose = f"model {model!r} for {name}"
            for scope in _of("model", whose, f"model:{model}@{kind}:{identity}", burst_s, each.rpm, each.tpm):
                models.setdefault(model, {"requests": [], "tokens": []})[scope.measure].append(scope)
    return Scopes(
        requests=tuple(found["requests"]),
        tokens=tuple(found["tokens"]),
        slots=tuple(found["concurrency"]),
        models={model: ModelScopes(tuple(each["requests"]), tuple(each["tokens"])) for model, each in models.items()},
        wait=limits.on_limit == "wait",
        queue=limits.queue or Queue(),
        priority=(of_team.priority if of_team is not None else None) or limits.priority or "normal",
    )


def address_scope(limits: DefaultLimits, address: str) -> Scope | None:
    """The counter of requests without a valid key from an address, where the policy has one."""
    if limits.per_ip is None:
        return None
    (scope,) = _of("ip", "requests without a valid key from this address", f"ip:{address}", limits.burst_s or BURST_S, limits.per_ip.rpm)
    return scope


def priority_class(own: Priority, asked: Priority | None) -> int:
    """The class in a queue, the lower the sooner. A request may be content with a lower priority than its tenant's, and never has a higher one."""
    return max(CLASSES.index(own), CLASSES.index(asked or own))


def model_scopes(scopes: Scopes, *names: str) -> ModelScopes:
    """The limits at a backend that goes by these names."""
    tables = [scopes.models[name] for name in dict.fromkeys(names) if name in scopes.models]
    if len(tables) == 1:
        return tables[0]
    return ModelScopes(tuple(scope for each in tables for scope in each.requests), tuple(scope for each in tables for scope in each.tokens))


def _models(table: Limits | KeyLimits | TeamLimits) -> Mapping[str, ModelLimits]:
    return {} if isinstance(table, KeyLimits) else table.models or {}


def _of(kind: Kind, name: str, identity: str, burst_s: float, rpm: int | None = None, tpm: int | None = None, slots: int | None = None) -> Iterable[Scope]:
    if rpm is not None:
        yield _scope(kind, name, "requests", rpm, identity, per_minute(rpm, burst_s))
    if tpm is not None:
        yield _scope(kind, name, "tokens", tpm, identity, per_minute(tpm, burst_s))
    if slots is not None:
        yield _scope(kind, name, "concurrency", slots, identity, None)


def _scope(kind: Kind, name: str, measure: Measure, limit: int, identity: str, bucket: Bucket | None) -> Scope:
    full = f"{identity}:{measure}"
    digest = blake2b(full.encode(), digest_size=16).digest()
    return Scope(kind, name, measure, limit, full if len(full) <= LONGEST_ID else digest.hex(), digest, bucket)
