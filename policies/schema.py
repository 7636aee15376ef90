"""The policy file, as types: exactly what the YAML may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from adapters.backend import BackendSpec, DataClass, kind_named, kinds
from adapters.embedders.spec import EmbedderSpec
from config.settings import Settings
from config.yamlfile import Schema
from policies.access import Role
from policies.federation import Identity
from policies.moderation import Action

Name: TypeAlias = Annotated[str, Meta(min_length=1)]
Task: TypeAlias = Literal["chat", "qa", "code", "math", "extraction", "classification", "summarise", "translate", "write"]
Need: TypeAlias = Literal["tools", "vision", "files", "audio", "json_schema", "logprobs", "multiple_choices"]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Weight: TypeAlias = Annotated[float, Meta(ge=0)]
Usd: TypeAlias = Annotated[float, Meta(ge=0)]
PerMinute: TypeAlias = Annotated[int, Meta(ge=1, le=10**12)]
Slots: TypeAlias = Annotated[int, Meta(ge=1, le=60_000)]
Priority: TypeAlias = Literal["high", "normal", "low"]
Outcome: TypeAlias = Literal[
    "ok", "not_permitted", "model_not_found", "unsupported_feature", "context_length_exceeded", "budget_exceeded", "no_permitted_backend"
]


class When(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions, all of which must hold; of a list, one entry must. `needs` holds when the request needs one of the features.

    `model` is the requested one: `auto`, or a name of the rule's own making, which clients may then ask for. (A backend's or a model's name is
    a pin: a rule that names one must be a `lock` or have `pin_fallback`.) Bounds are inclusive. A complexity bound never holds for a request
    whose complexity is not known.
    """

    tenant: Name | tuple[Name, ...] | None = None
    role: Role | tuple[Role, ...] | None = None
    data_class: DataClass | tuple[DataClass, ...] | None = None
    task: Task | tuple[Task, ...] | None = None
    model: Name | tuple[Name, ...] | None = None
    needs: Need | tuple[Need, ...] | None = None
    grounded: bool | None = None
    min_input_tokens: Count | None = None
    max_input_tokens: Count | None = None
    min_complexity: Share | None = None
    max_complexity: Share | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) else self.model or ()


class Weighted(Struct, frozen=True, forbid_unknown_fields=True):
    """Backends drawn by weight; the draw is a function of the request's seed and the rule's name."""

    weighted: dict[str, Weight]


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first rule whose `when` holds decides which backends are tried, in order.

    `lock`: while this rule's `when` holds, no backend outside its `use` is ever called, whichever rule decides and whatever is pinned.
    `pin_fallback`: a request that pins a backend may go on to this rule's backends and the fallback when the pinned one fails.
    """

    name: Name
    use: tuple[str, ...] | Weighted
    when: When = When()
    lock: bool = False
    pin_fallback: bool = False

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(sorted(self.use.weighted)) if isinstance(self.use, Weighted) else self.use


class Target(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the threshold is to bring about, from each tenant's last scores; exactly one.

    `strong_share` of what complexity decides goes to the strong backend; it costs `cost_usd_per_1k` for each 1,000 requests at most; or its answers
    are worth `min_quality` on average, by the tenant's own pairs (until a head serves the tenant, everything goes to the strong backend).
    """

    strong_share: Share | None = None
    cost_usd_per_1k: Annotated[float, Meta(gt=0)] | None = None
    min_quality: Share | None = None

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.strong_share, self.cost_usd_per_1k, self.min_quality)) != 1:
            raise ValueError("a target is exactly one of strong_share, cost_usd_per_1k and min_quality")


class Complexity(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where no rule decides: a score of at least `threshold` goes to `strong`, a lower one to `weak`. A `target` finds the threshold itself."""

    weak: str
    strong: str
    threshold: Share | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.target is None):
            raise ValueError("complexity needs either a 'threshold' or a 'target'")


class Moderation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is looked for in answers: categories (`pii`, `secrets`, `deny-list`) or single rules, and what is done with a match."""

    output: tuple[str, ...] = ()
    on_match: Action = "redact"
    deny_list: tuple[Name, ...] = ()
    per_rule: dict[str, Action] = {}


class TenantModeration(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What differs for one tenant; what is not given stays as the policy's."""

    output: tuple[str, ...] | None = None
    on_match: Action | None = None
    deny_list: tuple[Name, ...] | None = None
    per_rule: dict[str, Action] | None = None


class InputLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request may hold at most, all its messages together. A request with a term of `deny_list` is refused."""

    max_characters: Positive = 400_000
    max_messages: Positive = 1_000
    max_input_tokens: Positive | None = None
    deny_list: tuple[Name, ...] = ()


class Grounding(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The vector stores that ground a request which names none, and how many passages it gets."""

    stores: tuple[Name, ...] = ()
    limit: Annotated[int, Meta(ge=1, le=50)] = 8


class History(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is done with messages that do not fit the chosen backend's window, or `max_tokens`.

    `refuse` leaves the backend out. `trim` drops the oldest turns whole until at most `target_share` of the room is used; `summarise` puts a
    summary by the backend `summarise_with` in their place. The last `keep_last` messages, the last turn, and system and developer messages stay.
    """

    on_overflow: Literal["refuse", "trim", "summarise"] = "refuse"
    keep_last: Count = 6
    target_share: Annotated[float, Meta(gt=0, le=1)] = 0.7
    max_tokens: Positive | None = None
    summarise_with: str | None = None

    def __post_init__(self) -> None:
        if self.on_overflow == "summarise" and self.summarise_with is None:
            raise ValueError("on_overflow summarise needs summarise_with: the name of a backend")
        if self.on_overflow != "summarise" and self.summarise_with is not None:
            raise ValueError("summarise_with does nothing without on_overflow: summarise")
        if self.on_overflow == "refuse" and self.max_tokens is not None:
            raise ValueError("max_tokens does nothing without on_overflow: trim or summarise; input.max_input_tokens refuses")


class Budget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars per calendar day and month (UTC)."""

    day: Usd | None = None
    month: Usd | None = None


class Prompts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether a tenant's prompts are stored, encrypted, for its own owners and admins; `redact` names what is taken out of them before.

    `redact` holds categories (`pii`, `secrets`, `deny-list`) and single rules, as `moderation.output` does.
    """

    store: bool = False
    retention_days: Positive = 30
    redact: tuple[str, ...] = ("pii", "secrets")


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


class Tenant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the policy says about one tenant. `on_budget_end` is the backend that goes on answering when the budget affords no other.

    `budget_wait_s` is how long a request that nothing else can answer waits for money that other requests have set aside and may not need.
    """

    budget_usd: TenantBudget = TenantBudget()
    limits: Limits = Limits()
    budget_wait_s: Annotated[float, Meta(ge=0, le=600)] = 0.0
    data_class: DataClass = "internal"
    moderation: TenantModeration | None = None
    grounding: Grounding | None = None
    history: History | None = None
    on_budget_end: str | None = None
    prompts: Prompts = Prompts()
    alerts: TenantAlerts | None = None


class Given(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The request of a case. `unavailable` names backends that are down; every other one is ready and can do everything its kind can."""

    tenant: str = "default"
    role: Role = "member"
    data_class: DataClass | None = None
    task: Task = "chat"
    model: str = "auto"
    needs: tuple[Need, ...] = ()
    grounded: bool = False
    input_tokens: Count = 100
    complexity: Share | None = None
    unavailable: tuple[str, ...] = ()
    over_budget: tuple[str, ...] = ()


class Expect(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must come out. `backend` is the first candidate, `candidates` all of them in order, `error` the refusal's code."""

    backend: str | None = None
    candidates: tuple[str, ...] | None = None
    rule: str | None = None
    error: Outcome | None = None
    never: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.backend or self.candidates is not None or self.rule or self.error or self.never):
            raise ValueError("a case must expect something: backend, candidates, rule, error or never")


class Case(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of the policy's own tests."""

    given: Given
    expect: Expect
    name: str | None = None


class PolicyFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    version: Literal[1]
    settings: Settings = msgspec.field(default_factory=Settings)
    backends: dict[str, BackendSpec] = {}
    embedders: dict[str, EmbedderSpec] = {}
    rules: tuple[Rule, ...] = ()
    complexity: Complexity | None = None
    default: str | tuple[str, ...] | None = None
    fallback: tuple[str, ...] = ("extractive",)
    moderation: Moderation = Moderation()
    input: InputLimits = InputLimits()
    grounding: Grounding = Grounding()
    history: History = History()
    limits: DefaultLimits = DefaultLimits()
    alerts: Alerts | None = None
    tenants: dict[str, Tenant] = {}
    identity: Identity = Identity()
    cases: tuple[Case, ...] = ()

    @property
    def defaults(self) -> tuple[str, ...]:
        return (self.default,) if isinstance(self.default, str) else self.default or ()


LATER: dict[type[Struct], frozenset[str]] = {
    PolicyFile: frozenset({"cascade", "ensemble", "cache", "judge", "shadow", "conversations", "experiments", "rerankers"}),
    Rule: frozenset({"canary", "guard", "shadow", "ensemble", "cascade", "verify", "cache"}),
    Complexity: frozenset({"target", "head"}),
    Moderation: frozenset({"input", "heads", "patterns"}),
    Settings: frozenset({"retention_days", "telemetry"}),
}
"""Keys of the documented format that come with a later release."""


def yaml_schema() -> Schema:
    """How the file is read: the kinds of backend registered now, and what is still to come."""
    return Schema(by_kind={BackendSpec: {kind: kind_named(kind).spec for kind in kinds()}}, later=LATER)


def json_schema() -> dict[str, Any]:
    """The file's JSON Schema, for editors."""
    specs = {kind: kind_named(kind).spec for kind in kinds()}
    types = (PolicyFile, *specs.values())
    _, components = msgspec.json.schema_components(types, schema_hook=lambda _: {"type": "string"}, ref_template="#/$defs/{name}")
    kinds_found = []
    for kind, spec in sorted(specs.items()):
        table = dict(components[spec.__name__])
        table["properties"] = {**table["properties"], "kind": {"const": kind}}
        components[f"backend-{kind}"] = table
        kinds_found.append({"$ref": f"#/$defs/backend-{kind}"})
    components["BackendSpec"] = {"oneOf": kinds_found}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "#/$defs/PolicyFile", "$defs": components}
