"""A worker's own share of the limits, for as long as the store that all share is away."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from policies.buckets import Bucket
from policies.rate_limits import Scope
from router.limits.values import Charge, Give, Levels, Take, Verdict

MOST_SCOPES = 100_000


class LocalShare:
    """Every limit divided by the number of workers, kept in this worker's memory. Nothing of it outlives the store's absence."""

    name = "local"

    def __init__(self, shared_by: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.shared_by = max(1, shared_by)
        self._clock = clock
        self._levels = Levels({}, {}, {})

    async def take(self, take: Take) -> Verdict:
        if len(self._levels.levels) > MOST_SCOPES:
            self._levels.levels.clear()
        return self._levels.run(Take(self._shared(take.charges), tuple(self._own(scope) for scope in take.slots)), self._clock())

    def give(self, give: Give) -> None:
        self._levels.run(Give(self._shared(give.charges), tuple(self._own(scope) for scope in give.slots)), self._clock())

    async def beat(self) -> None:
        """Nobody asks."""

    async def aclose(self) -> None:
        """There is nothing to close."""

    def _shared(self, charges: tuple[Charge, ...]) -> tuple[Charge, ...]:
        return tuple(Charge(self._own(charge.scope), charge.cost) for charge in charges)

    def _own(self, scope: Scope) -> Scope:
        bucket, n = scope.bucket, self.shared_by
        if bucket is not None:
            bucket = Bucket(bucket.limit, max(1.0, bucket.capacity / n), bucket.rate / n)
        return msgspec.structs.replace(scope, bucket=bucket, limit=max(1, scope.limit // n))
