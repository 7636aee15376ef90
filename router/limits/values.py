"""What is asked of a store of limits, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from policies.buckets import Bucket, charged, refilled, slowest
from policies.rate_limits import ModelScopes, Scope, Scopes

SLOT_WAIT_S = 1.0
"""How long a client is told to wait for a running request to end: nobody knows."""


class StoreAway(Exception):
    """The store of limits does not answer."""


class Charge(Struct, frozen=True):
    """So much of a bucket; negative gives back."""

    scope: Scope
    cost: float

    @property
    def bucket(self) -> Bucket:
        assert self.scope.bucket is not None, "a concurrency is not charged"
        return self.scope.bucket


class Take(Struct, frozen=True):
    """All of these, or none. Slots are taken one each."""

    charges: tuple[Charge, ...] = ()
    slots: tuple[Scope, ...] = ()


class Give(Struct, frozen=True):
    """What is charged whatever is left (or given back, where it is negative), and slots that are free again."""

    charges: tuple[Charge, ...] = ()
    slots: tuple[Scope, ...] = ()


Operation: TypeAlias = Take | Give


def undone(operation: Operation) -> Give:
    """What gives back all that was taken."""
    return Give(tuple(Charge(charge.scope, -charge.cost) for charge in operation.charges), operation.slots)


class Verdict(Struct, frozen=True):
    """Whether all passed. `exhausted` is the scope that must be waited for longest, `wait_s` for how long.

    `levels` are what the buckets hold now, in the order of the charges. `waited`: it has waited already, for as long as it may.
    """

    levels: tuple[float, ...] = ()
    exhausted: Scope | None = None
    wait_s: float = 0.0
    waited: bool = False

    @property
    def passed(self) -> bool:
        return self.exhausted is None


PASSED = Verdict()


class Store(Protocol):
    """Counters that workers share. Raises `StoreAway` where they cannot be reached.

    What a worker holds of slots is free again at the latest `SLOTS_LAPSE_S` after it died.
    """

    name: str
    shared_by: int
    """How many workers share it, as far as is known."""

    async def take(self, take: Take) -> Verdict: ...

    def give(self, give: Give) -> None:
        """Never waits and never raises: what cannot be said now is said later."""

    async def beat(self) -> None:
        """This worker lives. Comes every few seconds."""

    async def aclose(self) -> None: ...


SLOTS_LAPSE_S = 15.0
"""So long after its last heartbeat a worker's running requests count, where nothing tells sooner that it died."""


class Levels:
    """A pure store: buckets and slots as numbers in this object, changed by operations at given times. What SQL rows and a worker's own share run on.

    `slots` is what all others hold of a concurrency, `held` what this worker does.
    """

    def __init__(self, levels: dict[str, tuple[float, float]], slots: Mapping[str, int], held: dict[str, int]) -> None:
        self.levels = levels
        self.slots = slots
        self.held = held
        self.touched: dict[str, Scope] = {}

    def run(self, operation: Operation, now: float) -> Verdict:
        match operation:
            case Take():
                return self._take(operation, now)
            case Give():
                for charge in operation.charges:
                    self._set(charge.scope, charged(charge.bucket, self._level(charge.scope, now), charge.cost), now)
                for scope in operation.slots:
                    self.held[scope.id] = max(0, self.held.get(scope.id, 0) - 1)
                    self.touched[scope.id] = scope
                return PASSED

    def _take(self, take: Take, now: float) -> Verdict:
        levels = [self._level(charge.scope, now) for charge in take.charges]
        verdict = refusal(take, levels, [self.slots.get(scope.id, 0) + self.held.get(scope.id, 0) for scope in take.slots])
        if verdict is not None:
            return verdict
        after = tuple(charged(charge.bucket, level, charge.cost) for charge, level in zip(take.charges, levels, strict=True))
        for charge, level in zip(take.charges, after, strict=True):
            self._set(charge.scope, level, now)
        for scope in take.slots:
            self.held[scope.id] = self.held.get(scope.id, 0) + 1
            self.touched[scope.id] = scope
        return Verdict(after)

    def _level(self, scope: Scope, now: float) -> float:
        assert scope.bucket is not None
        level, at = self.levels.get(scope.id, (scope.bucket.capacity, now))
        if at > now:  # the clock went back: what refills does so from here
            self._set(scope, level, now)
        return refilled(scope.bucket, level, now - at)

    def _set(self, scope: Scope, level: float, now: float) -> None:
        self.levels[scope.id] = (level, now)
        self.touched[scope.id] = scope


def refusal(take: Take, levels: Sequence[float], running: Sequence[int]) -> Verdict | None:
    """The refusal of what may not pass; None where all may."""
    number, wait_s = slowest([(charge.bucket, level, charge.cost) for charge, level in zip(take.charges, levels, strict=True)])
    exhausted = None if number is None else take.charges[number].scope
    if wait_s < SLOT_WAIT_S:
        full = next((scope for scope, count in zip(take.slots, running, strict=True) if count >= scope.limit), None)
        if full is not None:
            exhausted, wait_s = full, SLOT_WAIT_S
    return None if exhausted is None else Verdict(tuple(levels), exhausted, wait_s)


def charges_of(scopes: ModelScopes | Scopes, tokens: int) -> tuple[Charge, ...]:
    """One request of so many tokens."""
    requests: tuple[Scope, ...] = scopes.requests
    return (*(Charge(scope, 1.0) for scope in requests), *(Charge(scope, float(tokens)) for scope in scopes.tokens))
