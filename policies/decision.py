"""What a decision is made from, besides the policy and the features, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from adapters.types import Capabilities
from policies.features import Features
from policies.schema import Outcome

ExclusionCode: TypeAlias = Literal["not_allowed", "lock", "clearance", "feature", "no_documents", "context_window", "max_cost", "budget", "unavailable"]
AUTO = "auto"
"""The requested model that lets the policy choose."""


class BackendState(Struct, frozen=True, kw_only=True):
    """A backend as it is now. `upper_cost_usd` is the most this request can cost there; `input_tokens` its own count of the input, if known.

    `least_cost_usd` is what it costs at most with the shortest output that is worth having: a budget that holds no more still affords it (None: the same).
    """

    capabilities: Capabilities
    ready: bool = True
    reason: str = ""
    upper_cost_usd: float = 0.0
    least_cost_usd: float | None = None
    input_tokens: int | None = None


class State(Struct, frozen=True, kw_only=True):
    """Everything else a decision depends on.

    `remaining_usd` is what is left of the tenant's budget (None: no limit). `allowed_models` is the key's allow-list of backends' and models'
    names. `thresholds` are the complexity thresholds in force, by tenant, where the policy has a target for them. Equal seeds draw equally, so a
    seed made from a tenant and user keeps that user on one side of a weighted rule.
    """

    backends: Mapping[str, BackendState]
    remaining_usd: float | None = None
    allowed_models: tuple[str, ...] | None = None
    seed: str = ""
    thresholds: Mapping[str, float] = {}


class Exclusion(Struct, frozen=True):
    """Why a backend that was considered is no candidate. `detail` is for people."""

    backend: str
    code: ExclusionCode
    detail: str


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided. `candidates` are to be tried in order; with an `outcome` other than `ok` there are none and `message` says why.

    `propensity` is the probability with which the first candidate came first. `reasons` are codes such as `rule:code`, `weighted:mini`,
    `fallback:local` and `excluded:mini:clearance`. `upper_cost_usd` is the first candidate's.
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

    @property
    def status(self) -> int:
        """The HTTP status a client should see."""
        return STATUS[self.outcome]

    @property
    def complexity(self) -> float | None:
        return self.features.complexity


STATUS: dict[Outcome, int] = {
    "ok": 200,
    "unsupported_feature": 400,
    "context_length_exceeded": 400,
    "budget_exceeded": 402,
    "not_permitted": 403,
    "model_not_found": 404,
    "no_permitted_backend": 503,
}
