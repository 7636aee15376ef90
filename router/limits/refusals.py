"""What clients are told of their limits: on every answer how the narrowest stand, and on a refusal which one, and when to come back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from policies.buckets import full_in
from policies.rate_limits import Measure, Scope
from router.http.errors import ApiError
from router.limits.values import Charge, Take, Verdict


class Standing(Struct, frozen=True):
    """How the narrowest limit of one measure stands: the one that leaves least. `reset_s` is how long until it is whole again."""

    limit: int
    remaining: int
    reset_s: float


class Standings(Struct, frozen=True):
    """What clients are told; None where nothing limits that."""

    requests: Standing | None = None
    tokens: Standing | None = None


def standings(charges: Sequence[Charge], levels: Sequence[float]) -> Standings:
    """The narrowest standing of each measure."""
    return Standings(requests=_narrowest("requests", charges, levels), tokens=_narrowest("tokens", charges, levels))


def _narrowest(measure: Measure, charges: Sequence[Charge], levels: Sequence[float]) -> Standing | None:
    found: tuple[float, Charge] | None = None
    for charge, level in zip(charges, levels, strict=False):
        if charge.scope.measure == measure and (found is None or level < found[0]):
            found = (level, charge)
    if found is None:
        return None
    level, charge = found
    return Standing(charge.scope.limit, max(0, int(level + 1e-6)), full_in(charge.bucket, level))


class Limited(ApiError):
    """A limit refuses. `standings` are what clients are told of their limits."""

    def __init__(self, verdict: Verdict, take: Take) -> None:
        scope = verdict.exhausted
        assert scope is not None
        wait_s = max(0.001, verdict.wait_s)
        then = "Try again when one of them has ended" if scope.measure == "concurrency" else f"Try again in {_seconds(wait_s)}"
        queued = " It waited as long as the policy allows." if verdict.waited else ""
        super().__init__(
            429,
            "rate_limit_exceeded",
            f"Limit reached for {scope}.{queued} {then}.",
            headers={"retry-after": f"{math.ceil(wait_s)}", "retry-after-ms": f"{math.ceil(1000 * wait_s)}"},
        )
        self.scope = scope
        self.wait_s = wait_s
        self.standings = standings(take.charges, verdict.levels)


def _seconds(seconds: float) -> str:
    return f"{math.ceil(1000 * seconds)} ms" if seconds < 1 else f"{math.ceil(10 * seconds) / 10:g} s"


def too_large(scope: Scope, tokens: int) -> ApiError:
    """A request that no waiting helps."""
    message = (
        f"This request may take {tokens} tokens, and the limit for {scope}. It can never pass. "
        "Send less, lower its max_tokens, or ask your administrator for a higher limit."
    )
    return ApiError(400, "request_too_large_for_limit", message)
