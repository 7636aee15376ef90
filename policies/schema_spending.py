"""What the policy file may say of spending and of load: budgets, limits, and who is told of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from policies.schema_values import Name, Usd

PerMinute: TypeAlias = Annotated[int, Meta(ge=1, le=10**12)]
Slots: TypeAlias = Annotated[int, Meta(ge=1, le=60_000)]
Priority: TypeAlias = Literal["high", "normal", "low"]


class Budget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars per calendar day and month (UTC)."""

    day: Usd | None = None
    month: Usd | None = None


class ModelLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests and tokens per minute at one backend or model."""

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None


class KeyLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What each of the tenant's keys may do; what is not given is not limited. `concurrency` requests run at once."""

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: Slots | None = None


class TeamLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a team's keys may do together. `priority` is in place of the tenant's."""

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: Slots | None = None
    models: dict[str, ModelLimits] = {}
    priority: Priority | None = None


class Queue(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """With `on_limit: wait`: how long a request may wait for its turn, in seconds, and how many of a tenant's may, in each worker."""

    max_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    max_waiting: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Limits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tenant may do. What is not given is as in the policy's own `limits`, and else not limited.

    `burst_s` is how many seconds of a rate may come at once: the default lets a minute exceed its limit by 2 percent.
    """

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    concurrency: Slots | None = None
    models: dict[str, ModelLimits] | None = None
    teams: dict[str, TeamLimits] | None = None
    per_key: KeyLimits | None = None
    on_limit: Literal["refuse", "wait"] | None = None
    queue: Queue | None = None
    priority: Priority | None = None
    burst_s: Annotated[float, Meta(gt=0, le=60)] | None = None


class IpLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests per minute without a valid key, from one address."""

    rpm: PerMinute


class DefaultLimits(Limits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The limits of every tenant, where its own table says nothing else, and of addresses."""

    per_ip: IpLimits | None = None


class Alerts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told, by a signed POST to `url`, that a budget is used up to one of the shares `at`, or refuses for the first time in its period.

    `secret_env` names the variable that holds the secret of the signature.
    """

    url: Name
    secret_env: Name
    at: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(max_length=20)] = (0.5, 0.8, 1.0)


class TenantAlerts(Alerts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tenant's own receiver, beside the policy's; with `only`, in place of it."""

    only: bool = False


class TenantBudget(Budget, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tenant's budget, and those inside it: of its teams (by name or id), of each of its keys, and for models (by a backend's or a model's name).

    A request must fit into every one that covers it. What stands here bounds further, and never widens the tenant's own.
    """

    teams: dict[str, Budget] = {}
    per_key: Budget | None = None
    models: dict[str, Budget] = {}
