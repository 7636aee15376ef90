"""From the policy's text to a checked `Policy`, or to every problem of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from adapters.backend import BackendSpec, DataClass, clearance_of, kind_named, kinds
from adapters.embedders.spec import EmbedderSpec
from config.prices import FREE, Price
from config.yamlfile import Places, YamlError
from policies.check import Checker
from policies.including import read_policy
from policies.ladder import Fallbacks, fallbacks
from policies.moderation import RuleSet
from policies.overlay import compiled, merge_moderation, prompt_redaction
from policies.schema import OTHER_TASKS, Alerts, Complexity, Grounding, History, Moderation, PolicyFile, Rule, Task, Tenant, Use, one_or_more

PriceOf: TypeAlias = Callable[[str, BackendSpec], Price | None]
Receiver: TypeAlias = Literal["policy", "tenant"]
BUILT_IN = "extractive"


class PolicyError(YamlError):
    """The policy is wrong: `problems` holds all of them, with line, column and suggestion."""


class ConfiguredBackend(Struct, frozen=True, kw_only=True):
    """A backend as the policy configures it, with what the checks found out. `remote`: prompts leave this machine."""

    name: str
    spec: BackendSpec
    clearance: DataClass
    remote: bool
    price: Price

    @property
    def model(self) -> str:
        return self.spec.model or self.name

    def quality(self, task: Task) -> float | None:
        """How good its answers are said to be at this kind of work, from 0 to 1; None where nobody says."""
        declared = self.spec.quality
        return declared.get(task, declared.get(OTHER_TASKS)) if isinstance(declared, dict) else declared


class ConfiguredEmbedder(Struct, frozen=True, kw_only=True):
    """A remote embedder as the policy configures it: what it may see, and what it charges."""

    name: str
    spec: EmbedderSpec
    clearance: DataClass
    price: Price


class Asks(Struct, frozen=True, kw_only=True):
    """What any decision of a policy depends on, of that which takes a while to find out. `keys` are the keys that it names."""

    complexity: bool = False
    conversation: bool = False
    budget_left: bool = False
    cost: bool = False
    keys: frozenset[str] = frozenset()


def asks_of(file: PolicyFile) -> Asks:
    parts = [part for rule in file.rules for part in rule.when.parts()]
    uses = [rule.use for rule in file.rules if isinstance(rule.use, Use)]
    canaries = [rule.canary for rule in file.rules if rule.canary is not None]
    scored = file.complexity is not None or any(tenant.complexity is not None for tenant in (file.tenant_defaults, *file.tenants.values()))
    return Asks(
        complexity=scored or any(part.min_complexity is not None or part.max_complexity is not None for part in parts),
        conversation=any(use.sticky == "conversation" for use in uses) or any(canary.sticky == "conversation" for canary in canaries),
        budget_left=any(part.min_budget_left is not None or part.max_budget_left is not None for part in parts),
        cost=any(use.cheapest is not None or use.max_cost_usd is not None for use in uses),
        keys=frozenset(name for part in parts if part.key is not None for name in one_or_more(part.key)),
    )


class Policy(Struct, frozen=True, kw_only=True):
    """A policy without problems. `hash` is the SHA-256 of its text; `version` are its first twelve digits."""

    file: PolicyFile
    backends: dict[str, ConfiguredBackend]
    hash: str
    source: str
    asks: Asks = Asks()
    embedders: dict[str, ConfiguredEmbedder] = {}
    places: Places = msgspec.field(default_factory=Places)

    @property
    def version(self) -> str:
        return self.hash[:12]

    def tenant(self, name: str) -> Tenant:
        """What the policy says about a tenant; what holds for every tenant for one it does not name."""
        return self.file.tenants.get(name) or self.file.tenant_defaults

    def moderation(self, tenant: str) -> Moderation:
        """The tenant's moderation: the policy's, with the tenant's own fields in place of the policy's."""
        return merge_moderation(self.file.moderation, self.tenant(tenant))

    def moderation_rules(self, tenant: str) -> RuleSet:
        """The tenant's moderation, compiled; the same object for the same rules."""
        return compiled(self.moderation(tenant))

    def prompt_rules(self, tenant: str) -> RuleSet:
        """What is taken out of the tenant's prompts before they are stored, compiled."""
        return compiled(prompt_redaction(self.file.moderation, self.tenant(tenant)))

    def grounding(self, tenant: str) -> Grounding:
        return self.tenant(tenant).grounding or self.file.grounding

    @property
    def asks_complexity(self) -> bool:
        """Whether any decision depends on how hard a question is."""
        return self.asks.complexity

    def complexity(self, tenant: str) -> Complexity | None:
        return self.tenant(tenant).complexity or self.file.complexity

    def defaults(self, tenant: str) -> tuple[str, ...]:
        own = self.tenant(tenant)
        return self.file.defaults if own.default is None else own.defaults

    def fallbacks(self, tenant: str, rule: Rule | None = None) -> Fallbacks:
        """What is tried when the rule's own backends have failed: the policy's list, the tenant's over it, the rule's over that."""
        return fallbacks(self.file, self.tenant(tenant).fallback, None if rule is None else rule.fallback)

    def history(self, tenant: str) -> History:
        return self.tenant(tenant).history or self.file.history

    def receivers(self, tenant: str) -> dict[Receiver, Alerts]:
        """Who is told of the tenant's budgets: the policy's receiver, the tenant's own, both, or nobody."""
        own = self.tenant(tenant).alerts
        found: dict[Receiver, Alerts] = {}
        if self.file.alerts is not None and not (own is not None and own.only):
            found["policy"] = self.file.alerts
        if own is not None:
            found["tenant"] = own
        return found

    @property
    def shares(self) -> tuple[float, ...] | None:
        """The shares of a budget that anybody is told of; None where nobody is told anything."""
        every = [
            each for each in (self.file.alerts, self.file.tenant_defaults.alerts, *(tenant.alerts for tenant in self.file.tenants.values())) if each is not None
        ]
        return tuple(sorted({share for each in every for share in each.at})) if every else None


def load_policy(
    text: str, source: str = "policy.yaml", *, price_of: PriceOf, builtin: Mapping[str, BackendSpec] | None = None, private_addresses: bool = True
) -> Policy:
    """Read and check a policy. Raises `PolicyError` with every problem.

    The kinds of backend are those registered when it is called. `price_of` knows the price of a remote backend, or answers None. `builtin`
    are backends that exist without being written down (default: `extractive`, where its kind is registered). `private_addresses` False
    refuses what only the machine's own file may say: a `base_url` on a private or loopback address, and files of this machine.
    """
    file, document = read_policy(text)
    builtin = builtin_backends() if builtin is None else builtin
    checker = Checker(file, document.places, builtin, price_of, private_addresses)
    problems = document.problems + (checker.run() if document.places.keys(()) else [])
    if problems or document.value is None:
        raise PolicyError(problems, source)
    file = with_tenant_defaults(file, document.places)
    specs = {**builtin, **file.backends}
    backends = {name: configured(name, spec, price_of) for name, spec in sorted(specs.items())}
    embedders = {name: configured_embedder(name, spec, price_of) for name, spec in sorted(file.embedders.items())}
    return Policy(
        file=file,
        backends=backends,
        embedders=embedders,
        asks=asks_of(file),
        hash=hashlib.sha256(text.encode()).hexdigest(),
        source=source,
        places=document.places,
    )


def with_tenant_defaults(file: PolicyFile, places: Places) -> PolicyFile:
    """The file in which every tenant has, of the keys that its own table does not write, what holds for every tenant."""
    if file.tenant_defaults == Tenant():
        return file
    written = places.keys_below(("tenants",))
    merged = {
        name: msgspec.structs.replace(file.tenant_defaults, **{key: getattr(tenant, key) for key in written.get(name, ())})
        for name, tenant in file.tenants.items()
    }
    return msgspec.structs.replace(file, tenants=merged)


def builtin_backends() -> dict[str, BackendSpec]:
    """The backends that every policy has: `extractive`, where its kind is registered."""
    return {BUILT_IN: kind_named(BUILT_IN).spec(kind=BUILT_IN)} if BUILT_IN in kinds() else {}


def configured(name: str, spec: BackendSpec, price_of: PriceOf) -> ConfiguredBackend:
    """A backend's spec with its clearance and its price. The price of a local backend without one is free."""
    remote = kind_named(spec.kind).remote
    price = spec.price or (price_of(name, spec) if remote else None) or FREE
    return ConfiguredBackend(name=name, spec=spec, clearance=clearance_of(spec), remote=remote, price=price)


def configured_embedder(name: str, spec: EmbedderSpec, price_of: PriceOf) -> ConfiguredEmbedder:
    """An embedder's table with its clearance and its price. Texts leave this machine, so its clearance is internal where none is given."""
    price = spec.price or price_of(name, spec.as_backend()) or FREE
    return ConfiguredEmbedder(name=name, spec=spec, clearance=spec.clearance or "internal", price=price)
