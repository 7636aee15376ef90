"""What a decision is made from, besides the policy and the features, and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from adapters.types import Capabilities
from policies.features import Features
from policies.schema import ErrorClass, Outcome

ExclusionCode: TypeAlias = Literal[
    "not_allowed",
    "lock",
    "clearance",
    "feature",
    "no_documents",
    "context_window",
    "max_cost",
    "budget",
    "unavailable",
    "too_dear",
    "too_slow",
    "low_quality",
]
"""The last three are a rule's own caps: they take a backend out of its `use`, and of nothing else."""

AUTO = "auto"
"""The requested model that lets the policy choose."""


class BackendState(Struct, frozen=True, kw_only=True):
    """A backend as it is now. `upper_cost_usd` is the most this request can cost there; `input_tokens` its own count of the input, if known.

    `least_cost_usd` is what it costs at most with the shortest output that is worth having: a budget that holds no more still affords it (None: the same).
    `cost_usd` is what the request is expected to cost there, `latency_ms` how long its first event took of late; None where that is not known.
    `queue_depth` requests wait there, a further one for about `wait_s`.
    """

    capabilities: Capabilities
    ready: bool = True
    reason: str = ""
    upper_cost_usd: float = 0.0
    least_cost_usd: float | None = None
    input_tokens: int | None = None
    cost_usd: float | None = None
    latency_ms: float | None = None
    queue_depth: int = 0
    wait_s: float = 0.0


class State(Struct, frozen=True, kw_only=True):
    """Everything else a decision depends on.

    `remaining_usd` is what is left of the tenant's budget (None: no limit). `allowed_models` is the key's allow-list of backends' and models'
    names. Equal seeds draw equally, so a seed made from a tenant and user keeps that user on one side of a weighted rule.
    `now` is the time in seconds since the epoch; `budget_left` the share of the tenant's budget that is left, in bands (None: it has none).
    `thresholds` are the complexity thresholds in force, by tenant, where they are other than the policy's; `canaries` says of rules, by name,
    whether their canary is `running` or `rolled_back`.
    """

    backends: Mapping[str, BackendState]
    remaining_usd: float | None = None
    allowed_models: tuple[str, ...] | None = None
    seed: str = ""
    now: float = 0.0
    budget_left: float | None = None
    thresholds: Mapping[str, float] = {}
    canaries: Mapping[str, str] = {}


class Exclusion(Struct, frozen=True):
    """Why a backend that was considered is no candidate. `detail` is for people."""

    backend: str
    code: ExclusionCode
    detail: str


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided. `candidates` are to be tried in order; with an `outcome` other than `ok` there are none and `message` says why.

    `propensity` is the probability with which the first candidate came first. `reasons` are codes such as `rule:code`, `weighted:mini`,
    `fallback:local` and `excluded:mini:clearance`. `upper_cost_usd` is the first candidate's.
    `fallbacks` are what is tried next, in place of the further candidates, after a failure of a class that has a list of its own.
    """

    outcome: Outcome
    candidates: tuple[str, ...]
    rule: str | None
    reasons: tuple[str, ...]
    excluded: tuple[Exclusion, ...]
    features: Features
    policy_version: str
    seed: str
    propensity: float = 1.0
    upper_cost_usd: float | None = None
    message: str = ""
    param: str | None = None
    fallbacks: dict[ErrorClass, tuple[str, ...]] = {}

    def order(self, failures: Iterable[str]) -> tuple[str, ...]:
        """The backends to try after these failures (codes of errors, the last one last): those of the last one's class, where it has a list of its own."""
        for code in reversed(tuple(failures)):
            found = self.fallbacks.get(CLASS_OF[code]) if code in CLASS_OF else None
            if found is not None:
                return found
        return self.candidates

    @property
    def status(self) -> int:
        """The HTTP status a client should see."""
        return STATUS[self.outcome]

    @property
    def complexity(self) -> float | None:
        return self.features.complexity


BANDS = 20


def banded(share: float) -> float:
    """A share of a budget as decisions see it: rounded down to a twentieth, so that a few cents move nobody's route."""
    return math.floor(share * BANDS + 1e-9) / BANDS


STATUS: dict[Outcome, int] = {
    "ok": 200,
    "unsupported_feature": 400,
    "context_length_exceeded": 400,
    "budget_exceeded": 402,
    "not_permitted": 403,
    "model_not_found": 404,
    "no_permitted_backend": 503,
}

CLASS_OF: dict[str, ErrorClass] = {
    "backend_rate_limited": "rate_limit",
    "backend_timeout": "timeout",
    "backend_unavailable": "unavailable",
    "backend_overloaded": "unavailable",
    "backend_authentication_failed": "unavailable",
    "provider_error": "unavailable",
    "stream_broken": "unavailable",
    "context_length_exceeded": "context_length",
    "content_refused": "content_filter",
    "invalid_output": "invalid_output",
}
"""The class of an error by its code: what `fallback` may tell apart."""
