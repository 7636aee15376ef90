"""What is tried beside what the rules decide, as the policy file holds it: canaries with their guards, shadows, and pairs of answers."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Positive: TypeAlias = Annotated[int, Meta(ge=1, le=10**6)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Part: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
Ratio: TypeAlias = Annotated[float, Meta(ge=1, le=1000)]
Window: TypeAlias = Annotated[float, Meta(ge=1, le=30 * 86_400)]
Usd: TypeAlias = Annotated[float, Meta(gt=0)]
Sticky: TypeAlias = Literal["request", "conversation", "user"]
REFERENCE = "reference"
"""The judge that compares with the answer that a request says it expects."""


class Guard(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What rolls a canary back, once the figures leave no doubt (`policies.guard`). A bound that is null is not watched.

    `error_rate` is the largest share of failed requests; `error_rate_over` by how much that share may exceed the rule's own. `latency_ratio` and
    `cost_ratio` compare answered requests with the rule's own; `score_drop` is by how much feedback (0 to 1) may fall below it. Nothing but errors
    is judged before the canary had `min_requests`, and the rule's own backends as many.
    """

    min_requests: Positive = 50
    error_rate: Share | None = None
    error_rate_over: Share | None = 0.05
    latency_ratio: Ratio | None = 2.0
    cost_ratio: Ratio | None = 2.0
    score_drop: Share | None = 0.1

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("this guard watches nothing: give error_rate, error_rate_over, latency_ratio, cost_ratio or score_drop")

    @property
    def bounds(self) -> int:
        """How many bounds are watched."""
        return sum(bound is not None for bound in (self.error_rate, self.error_rate_over, self.latency_ratio, self.cost_ratio, self.score_drop))


class Canary(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A share of a rule's requests is tried with `use` first, and with the rule's own backends after it, until the guard rolls it back.

    `sticky` says what is drawn: each request, each conversation, or each user (a key that acts for none counts as one). Figures older than
    `window_s` weigh nothing.
    """

    use: Annotated[tuple[str, ...], Meta(max_length=20)]
    share: Part
    sticky: Sticky = "conversation"
    guard: Guard = Guard()
    window_s: Window = 3600.0


class TrialBudget(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars per calendar day and month (UTC) for what nobody asked for; at least one of them."""

    day: Usd | None = None
    month: Usd | None = None

    def __post_init__(self) -> None:
        if self.day is None and self.month is None:
            raise ValueError("what nobody asked for needs a bound: give day or month, in USD")


class Shadow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A share of the requests is sent again, to each backend of `to`, after their answers were delivered. Nobody sees what comes of it."""

    to: Annotated[tuple[str, ...], Meta(max_length=10)]
    share: Part
    budget_usd: TrialBudget


class Pairs(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of a share of the requests that the complexity decided, the other backend answers too, and both answers are scored.

    `judge` is the backend that scores them, or `reference`: then requests that say with `headgate: {reference: ...}` which answer they expect are
    compared with that, and no others.
    """

    share: Part
    budget_usd: TrialBudget
    judge: str
