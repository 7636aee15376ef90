"""The policy file, as types: exactly what the YAML may hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from adapters.backend import BackendSpec, DataClass, kind_named, kinds
from adapters.embedders.spec import EmbedderSpec
from config.settings import Settings
from config.yamlfile import Schema
from policies.access import Role
from policies.federation import Identity
from policies.schema_cases import Case, Expect, Given
from policies.schema_content import Grounding, History, InputLimits, Moderation, Prompts, TenantModeration
from policies.schema_spending import (
    Alerts,
    Budget,
    DefaultLimits,
    IpLimits,
    KeyLimits,
    Limits,
    ModelLimits,
    Priority,
    Queue,
    TeamLimits,
    TenantAlerts,
    TenantBudget,
)
from policies.schema_values import OTHER_TASKS, TAG, TASKS, Clock, Count, Day, ErrorClass, Language, Name, Need, Outcome, Share, Task, Usd, Weight
from policies.several import MOST_CANDIDATES
from policies.trials import Canary, Pairs, Shadow
from policies.verification.spec import Cascade

__all__ = [
    "BOUNDS", "LATER", "OTHER_TASKS", "TAG", "TASKS", "WAYS", "Alerts", "BackendIs", "Budget", "Case", "Complexity", "Day", "DefaultLimits", "ErrorClass",
    "Expect", "Fallback", "Given", "Grounding", "History", "IncludedFile", "InputLimits", "IpLimits", "KeyLimits", "Language", "Limits", "ModelLimits",
    "Moderation", "Name", "Need", "Outcome", "PolicyFile", "Priority", "Prompts", "Queue", "Rule", "Task", "TeamLimits", "Tenant", "TenantAlerts",
    "TenantBudget", "TenantModeration", "TimeOfDay", "Use", "When", "json_schema", "names_of", "one_or_more", "yaml_schema",
]  # fmt: skip
"""Some of it stands in files of its own: `schema_values`, `schema_content`, `schema_spending`, `schema_cases`."""


def one_or_more(written: str | tuple[str, ...]) -> tuple[str, ...]:
    """A condition's values, whether it was written as one or as a list."""
    return (written,) if isinstance(written, str) else written


class TimeOfDay(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the day, of some days of the week, in a time zone's own time. `to` is the first minute after it.

    A part that runs over midnight (`from: "22:00", to: "06:00"`) belongs to the day on which it began.
    """

    start: Clock = msgspec.field(name="from", default="00:00")
    to: Clock = "24:00"
    days: tuple[Day, ...] = ()
    zone: Name = "UTC"


class BackendIs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How one backend is now; all that is given must hold. A bound never holds for one that is not running. Of queues a worker knows its own."""

    name: str
    ready: bool | None = None
    max_queue: Count | None = None
    max_wait_s: Annotated[float, Meta(ge=0)] | None = None


class When(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Conditions, all of which must hold; of a list, one entry must. `needs` holds when the request needs one of the features.

    `model` is the requested one: `auto`, or a name of the rule's own making, which clients may then ask for. (A backend's or a model's name is
    a pin: a rule that names one must be a `lock` or have `pin_fallback`.) Bounds are inclusive. A bound never holds for a value that is not
    known: the complexity of a request without text, the output of one that does not say how much it wants, the score of a search that found nothing.
    """

    all: tuple[When, ...] | None = None
    any: tuple[When, ...] | None = None
    none: When | None = msgspec.field(name="not", default=None)
    tenant: Name | tuple[Name, ...] | None = None
    role: Role | tuple[Role, ...] | None = None
    key: Name | tuple[Name, ...] | None = None
    tags: Name | tuple[Name, ...] | None = None
    data_class: DataClass | tuple[DataClass, ...] | None = None
    task: Task | tuple[Task, ...] | None = None
    language: Language | tuple[Language, ...] | None = None
    model: Name | tuple[Name, ...] | None = None
    needs: Need | tuple[Need, ...] | None = None
    grounded: bool | None = None
    min_input_tokens: Count | None = None
    max_input_tokens: Count | None = None
    min_output_tokens: Count | None = None
    max_output_tokens: Count | None = None
    min_turns: Count | None = None
    max_turns: Count | None = None
    min_complexity: Share | None = None
    max_complexity: Share | None = None
    min_top_score: Share | None = None
    max_top_score: Share | None = None
    min_hits: Count | None = None
    max_hits: Count | None = None
    min_context_tokens: Count | None = None
    max_context_tokens: Count | None = None
    min_budget_left: Share | None = None
    max_budget_left: Share | None = None
    time: TimeOfDay | None = None
    backend: BackendIs | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are named anywhere in it, but not those that must not be the one."""
        own = one_or_more(self.model or ())
        return tuple(dict.fromkeys((*own, *(name for part in (*(self.all or ()), *(self.any or ())) for name in part.models))))

    def parts(self) -> Iterator[When]:
        """Itself and every condition inside it."""
        yield self
        for part in (*(self.all or ()), *(self.any or ()), *(() if self.none is None else (self.none,))):
            yield from part.parts()


BOUNDS: tuple[tuple[str, str], ...] = (
    ("input_tokens", "features"),
    ("output_tokens", "features"),
    ("turns", "features"),
    ("complexity", "features"),
    ("top_score", "features"),
    ("hits", "features"),
    ("context_tokens", "features"),
    ("budget_left", "state"),
)
"""What a `When` has a `min_` and a `max_` of, and where its value stands."""


class Use(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Backends as they are found for each request: exactly one of `ordered`, `weighted`, `cheapest`, `fastest` and `best_of` names them.

    `weighted` draws them by weight; the draw is a function of the request's seed and the rule's name, or with `sticky` of the conversation's or the
    user's. `cheapest` goes by what the request is expected to cost, `fastest` by how long the first event took of late.
    Those of `best_of` all answer at the same time, and the backend `judge` picks the answer that is delivered.
    A backend beyond a cap (expected cost, measured time to the first event, declared quality) is left out.
    """

    ordered: tuple[str, ...] | None = None
    weighted: dict[str, Weight] | None = None
    cheapest: tuple[str, ...] | None = None
    fastest: tuple[str, ...] | None = None
    best_of: tuple[str, ...] | None = None
    judge: str | None = None
    sticky: Literal["conversation", "user"] | None = None
    max_cost_usd: Usd | None = None
    max_latency_ms: Annotated[float, Meta(gt=0)] | None = None
    min_quality: Share | None = None

    def __post_init__(self) -> None:
        if len(self.ways) != 1:
            found = " and ".join(self.ways) or "none of them"
            raise ValueError(f"one of {', '.join(WAYS)} says which backends answer; found {found}")
        if self.best_of is not None and not 2 <= len(self.best_of) <= MOST_CANDIDATES:
            told = (
                f"at most {MOST_CANDIDATES} backends may answer at the same time"
                if self.best_of[1:]
                else "with fewer than two backends there is nothing to judge"
            )
            raise ValueError(f"best_of has {len(self.best_of)}: {told}; `use: [a, b]` tries one after the other")
        if (self.best_of is None) != (self.judge is None):
            raise ValueError("best_of needs judge: the backend that picks one of the answers" if self.judge is None else "judge does nothing without best_of")

    @property
    def ways(self) -> tuple[str, ...]:
        return tuple(way for way in WAYS if getattr(self, way) is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The backends that may answer."""
        return tuple(sorted(self.weighted)) if self.weighted is not None else self.ordered or self.cheapest or self.fastest or self.best_of or ()


WAYS = ("ordered", "weighted", "cheapest", "fastest", "best_of")


class Fallback(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is tried after a failure, by its class. After one of a class with a list of its own, that list is all that is tried. `default` is of all others."""

    default: tuple[str, ...] | None = None
    rate_limit: tuple[str, ...] | None = None
    timeout: tuple[str, ...] | None = None
    unavailable: tuple[str, ...] | None = None
    context_length: tuple[str, ...] | None = None
    content_filter: tuple[str, ...] | None = None
    invalid_output: tuple[str, ...] | None = None


class Rule(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first rule whose `when` holds decides which backends are tried, in order.

    `lock`: while this rule's `when` holds, no backend outside its `use` is ever called, whichever rule decides and whatever is pinned.
    `pin_fallback`: a request that pins a backend may go on to this rule's backends and the fallback when the pinned one fails.
    `fallback`: a list is in place of the policy's; a table is where it differs.
    `canary` and `shadow`: `policies.trials`.
    """

    name: Name
    use: tuple[str, ...] | Use
    when: When = When()
    lock: bool = False
    pin_fallback: bool = False
    fallback: tuple[str, ...] | Fallback | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None

    @property
    def answering(self) -> tuple[str, ...]:
        """The backends of `use` that may answer."""
        return self.use.names if isinstance(self.use, Use) else self.use

    @property
    def backends(self) -> tuple[str, ...]:
        """All that `use` names, an ensemble's judge included."""
        judge = self.use.judge if isinstance(self.use, Use) else None
        return self.answering if judge is None else tuple(dict.fromkeys((*self.answering, judge)))


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
    """Where no rule decides: a score of at least `threshold` goes to `strong`, a lower one to `weak`. A `target` finds the threshold itself.

    `explore` is the share of requests that are drawn evenly between the two, whatever their score, where both are permitted: what a backtest learns from.
    `pairs`: `policies.trials`.
    """

    weak: str
    strong: str
    threshold: Share | None = None
    target: Target | None = None
    explore: Share = 0.0
    pairs: Pairs | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.target is None):
            raise ValueError("complexity needs either a 'threshold' or a 'target'")


class Tenant(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the policy says about one tenant. `on_budget_end` is the backend that goes on answering when the budget affords no other.

    `complexity` and `default` are in place of the policy's; so is a `fallback` that is a list, and a table is where it differs.
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
    complexity: Complexity | None = None
    default: str | tuple[str, ...] | None = None
    fallback: tuple[str, ...] | Fallback | None = None

    @property
    def defaults(self) -> tuple[str, ...]:
        return names_of(self.default)


class PolicyFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    version: Literal[1]
    include: tuple[Name, ...] = ()
    settings: Settings = msgspec.field(default_factory=Settings)
    backends: dict[str, BackendSpec] = {}
    embedders: dict[str, EmbedderSpec] = {}
    rules: tuple[Rule, ...] = ()
    complexity: Complexity | None = None
    cascade: Cascade | None = None
    default: str | tuple[str, ...] | None = None
    fallback: tuple[str, ...] | Fallback = ("extractive",)
    shadow: Shadow | None = None
    moderation: Moderation = Moderation()
    input: InputLimits = InputLimits()
    grounding: Grounding = Grounding()
    history: History = History()
    limits: DefaultLimits = DefaultLimits()
    alerts: Alerts | None = None
    tenants: dict[str, Tenant] = {}
    tenant_defaults: Tenant = Tenant()
    identity: Identity = Identity()
    cases: tuple[Case, ...] = ()

    @property
    def defaults(self) -> tuple[str, ...]:
        return names_of(self.default)


class IncludedFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file that another one includes may hold."""

    version: Literal[1] = 1
    backends: dict[str, BackendSpec] = {}
    embedders: dict[str, EmbedderSpec] = {}
    rules: tuple[Rule, ...] = ()
    tenants: dict[str, Tenant] = {}
    cases: tuple[Case, ...] = ()


def names_of(default: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The backends that a `default` names."""
    return (default,) if isinstance(default, str) else default or ()


LATER: dict[type[Struct], frozenset[str]] = {
    PolicyFile: frozenset({"cache", "judge", "conversations", "experiments", "rerankers"}),
    Rule: frozenset({"cache"}),
    Moderation: frozenset({"input", "heads", "patterns"}),
    Settings: frozenset({"retention_days", "telemetry"}),
}
"""Keys of the documented format that come with a later release."""


def yaml_schema() -> Schema:
    """How the file is read: the kinds of backend registered now, and what is still to come."""
    return Schema(by_kind={BackendSpec: {kind: kind_named(kind).spec for kind in kinds()}}, later=LATER)


def json_schema(*, included: bool = False) -> dict[str, Any]:
    """The file's JSON Schema, for editors; or that of the files which it includes."""
    specs = {kind: kind_named(kind).spec for kind in kinds()}
    types = (PolicyFile, IncludedFile, *specs.values())
    _, components = msgspec.json.schema_components(types, schema_hook=lambda _: {"type": "string"}, ref_template="#/$defs/{name}")
    kinds_found = []
    for kind, spec in sorted(specs.items()):
        table = dict(components[spec.__name__])
        table["properties"] = {**table["properties"], "kind": {"const": kind}}
        components[f"backend-{kind}"] = table
        kinds_found.append({"$ref": f"#/$defs/backend-{kind}"})
    components["BackendSpec"] = {"oneOf": kinds_found}
    root = (IncludedFile if included else PolicyFile).__name__
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": f"#/$defs/{root}", "$defs": components}
