"""Whether a canary's figures leave no doubt that it is worse than its guard allows. Pure: sums in, a verdict out.

Every bound is a test that may be looked at as often as one likes, after every request of every worker, without the looking making a false alarm
likelier (anytime-valid confidence sequences), and that needs nothing but sums, which workers can add up in a database:

- shares of failures, and scores between 0 and 1: the Beta(1/2, 1/2) mixture of likelihood ratios, a non-negative martingale (Robbins 1970; for
  values between 0 and 1, instead of 0 or 1, a supermartingale, for the ratio is convex in the value). Exact at every sample size, so a backend that
  only fails is found out after a handful of requests.
- means of costs and of logarithms of latencies: the one-sided asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (Time-uniform
  central limit theory, 2024, theorem 2.2 and appendix), tuned to be narrowest near `min_requests`; asymptotic, therefore not before so many.

Each canary has `FALSE_ALARM` to spend over its whole life: an equal part for each bound of its guard, and in its k-th window 1 / (k (k + 1)) of that.
What fires compares a lower bound of one arm with an upper bound of the other, at half of it each.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from msgspec import Struct

from policies.trials import Guard

Metric: TypeAlias = Literal["error_rate", "error_rate_over", "latency_ratio", "cost_ratio", "score_drop"]

FALSE_ALARM = 0.01
"""The chance that a canary which is no worse than its guard allows is ever rolled back, at most (of cost and latency: asymptotically)."""

WINDOW_OF_REQUESTS = 4
"""A window ends when it is old, and the canary had so many times `min_requests` in it: a rare one is judged all the same."""

_STEPS = 60


class Arm(Struct, frozen=True, kw_only=True):
    """The sums of one arm: its requests, those of them that failed, and of the others logarithms of milliseconds and USD, with their squares.

    `scores` requests were rated, from 0 to 1, `score_sum` together.
    """

    requests: int = 0
    errors: int = 0
    log_ms: float = 0.0
    log_ms_squared: float = 0.0
    cost: float = 0.0
    cost_squared: float = 0.0
    scores: int = 0
    score_sum: float = 0.0

    def __add__(self, other: Arm) -> Arm:
        return Arm(**{name: getattr(self, name) + getattr(other, name) for name in Arm.__struct_fields__})

    @property
    def answered(self) -> int:
        return self.requests - self.errors

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None

    @property
    def latency_ms(self) -> float | None:
        """The geometric mean: what is typical."""
        return math.exp(self.log_ms / self.answered) if self.answered else None

    @property
    def cost_usd(self) -> float | None:
        """The mean of an answered request."""
        return self.cost / self.answered if self.answered else None

    @property
    def score(self) -> float | None:
        return self.score_sum / self.scores if self.scores else None


def outcome(*, failed: bool, ms: float = 0.0, cost_usd: float = 0.0) -> Arm:
    """One request's sums."""
    if failed:
        return Arm(requests=1, errors=1)
    log_ms = math.log(max(ms, 0.1))
    return Arm(requests=1, log_ms=log_ms, log_ms_squared=log_ms**2, cost=cost_usd, cost_squared=cost_usd**2)


class Verdict(Struct, frozen=True):
    """Which bound of the guard is broken: the figure of the canary, that of the rule's own backends (None: not compared), and the bound."""

    metric: Metric
    candidate: float
    baseline: float | None
    bound: float

    def __str__(self) -> str:
        beside = "" if self.baseline is None else f" beside {self.baseline:.6g}"
        return f"{self.metric}: {self.candidate:.6g}{beside}, and the guard's bound is {self.bound:.6g}"


def verdict(guard: Guard, candidate: Arm, baseline: Arm, window: int = 1) -> Verdict | None:
    """The first bound that is broken beyond doubt, or None. `window` counts from 1."""
    level = math.log(guard.bounds / FALSE_ALARM) + math.log(window * (window + 1))
    failing = lower_share(candidate.errors, candidate.requests, level + math.log(2))
    if guard.error_rate is not None and lower_share(candidate.errors, candidate.requests, level) > guard.error_rate:
        return Verdict("error_rate", candidate.error_rate or 0.0, None, guard.error_rate)
    if guard.error_rate_over is not None and failing > guard.error_rate_over + upper_share(baseline.errors, baseline.requests, level + math.log(2)):
        return Verdict("error_rate_over", candidate.error_rate or 0.0, baseline.error_rate, guard.error_rate_over)
    if min(candidate.answered, baseline.answered) >= guard.min_requests and (found := _means(guard, candidate, baseline, level + math.log(2))) is not None:
        return found
    if guard.score_drop is not None:
        low = lower_share(baseline.score_sum, baseline.scores, level + math.log(2))
        if low - upper_share(candidate.score_sum, candidate.scores, level + math.log(2)) > guard.score_drop:
            return Verdict("score_drop", candidate.score or 0.0, baseline.score, guard.score_drop)
    return None


def _means(guard: Guard, candidate: Arm, baseline: Arm, level: float) -> Verdict | None:
    ours, theirs = candidate.answered, baseline.answered
    if guard.latency_ratio is not None:
        least = candidate.log_ms / ours - half_width(candidate.log_ms, candidate.log_ms_squared, ours, level, guard.min_requests)
        most = baseline.log_ms / theirs + half_width(baseline.log_ms, baseline.log_ms_squared, theirs, level, guard.min_requests)
        if least - most > math.log(guard.latency_ratio):
            return Verdict("latency_ratio", candidate.latency_ms or 0.0, baseline.latency_ms, guard.latency_ratio)
    if guard.cost_ratio is not None:
        least = candidate.cost / ours - half_width(candidate.cost, candidate.cost_squared, ours, level, guard.min_requests)
        most = baseline.cost / theirs + half_width(baseline.cost, baseline.cost_squared, theirs, level, guard.min_requests)
        if least > guard.cost_ratio * most:
            return Verdict("cost_ratio", candidate.cost_usd or 0.0, baseline.cost_usd, guard.cost_ratio)
    return None


def lower_share(total: float, count: int, level: float) -> float:
    """A lower bound of the mean of `count` values between 0 and 1 that sum to `total`, wrong at any time with a chance of at most exp(-level)."""
    if count <= 0 or total <= 0:
        return 0.0
    low, high = 0.0, min(1.0, total / count)
    for _ in range(_STEPS):  # the evidence against a share falls as it nears the mean
        middle = (low + high) / 2
        if middle <= 0 or _evidence(total, count, middle) >= level:
            low = middle
        else:
            high = middle
    return low


def upper_share(total: float, count: int, level: float) -> float:
    """An upper bound, likewise; 1 where nothing is known."""
    return 1.0 - lower_share(count - total, count, level)


def _evidence(total: float, count: int, share: float) -> float:
    """The logarithm of the mixture of likelihood ratios against a share."""
    rest = count - total
    mixed = math.lgamma(0.5 + total) + math.lgamma(0.5 + rest) - math.lgamma(1.0 + count) - math.log(math.pi)
    return mixed - total * math.log(share) - (rest * math.log1p(-share) if share < 1 else 0.0)


def half_width(total: float, squares: float, count: int, level: float, narrowest: int) -> float:
    """How far the mean may be off on one side, at any time from `narrowest` values on, with a chance of exp(-level)."""
    mean = total / count
    variance = max(0.0, squares / count - mean**2) * count / max(1, count - 1)
    if variance <= 1e-18 + 1e-12 * mean**2:  # all alike, but for rounding
        return 0.0
    rho_squared = (2 * level + math.log(2 * level) + 1) / narrowest
    scaled = count * rho_squared + 1
    inside = math.log1p(math.sqrt(scaled) * math.exp(min(level, 600.0)) / 2)
    return math.sqrt(variance * 2 * scaled / (count**2 * rho_squared) * inside)


def window_ended(guard: Guard, candidate: Arm, age_s: float, window_s: float) -> bool:
    """Whether the figures of a window have grown too old to say how the canary does now."""
    return age_s >= window_s and candidate.requests >= WINDOW_OF_REQUESTS * guard.min_requests
