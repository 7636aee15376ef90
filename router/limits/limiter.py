"""The limits of one worker: who is let in, who waits, who is refused, and in what words."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import msgspec
import structlog
from msgspec import Struct

from policies.access import Principal
from policies.rate_limits import NOTHING, Scope, Scopes, address_scope, merged, priority_class, scopes_of
from policies.schema import PolicyFile, Priority, Tenant
from router.http.errors import ApiError
from router.limits.admission import Admission
from router.limits.local import LocalShare
from router.limits.refusals import Limited, too_large
from router.limits.values import PASSED, Charge, Store, StoreAway, Take, Verdict, charges_of, undone
from router.limits.waiting import Line, Waiter

log = structlog.get_logger("headgate.limits")

WhenAway: TypeAlias = Literal["share", "admit", "refuse"]

MOST_SCOPES = 20_000
"""Principals whose scopes are remembered; they are made anew after that."""


class LimitMetrics(Protocol):
    """What is counted."""

    def limited(self, scope: str, measure: str) -> None: ...

    def limit_waiting(self, change: int) -> None: ...

    def limit_waited(self, seconds: float) -> None: ...

    def limit_store_away(self, store: str) -> None: ...


class Turn(Struct, frozen=True):
    """How a request waits: in whose line, as whose, in which class, as how large, for how long, and behind how many at most."""

    tenant: str
    key: str
    number: int
    tokens: int
    patience_s: float
    max_waiting: int


class Limiter:
    """`admit` before anything is paid for, `Admission.settle` after it, whatever happened between."""

    def __init__(self, open_store: Callable[[], Store], when_away: WhenAway, metrics: LimitMetrics) -> None:
        """The store is opened when the first limit is asked for."""
        self._open = open_store
        self._when_away = when_away
        self._metrics = metrics
        self._store: Store | None = None
        self._share: LocalShare | None = None
        self._scopes: dict[tuple[str, str, str, str, str], Scopes] = {}
        self._file: PolicyFile | None = None
        self._lines: dict[str, Line] = {}

    def scopes(self, file: PolicyFile, tenant: Tenant, principal: Principal) -> Scopes:
        """The principal's counters under a policy; remembered."""
        if file is not self._file:
            self._file, self._scopes = file, {}
        who = (principal.tenant, principal.team, principal.team_name, principal.user, principal.key_id)
        found = self._scopes.get(who)
        if found is None:
            if len(self._scopes) >= MOST_SCOPES:
                self._scopes.clear()
            found = self._scopes[who] = scopes_of(merged(file.limits, tenant.limits), principal) or NOTHING
        return found

    async def admit(
        self, scopes: Scopes, principal: Principal, least: int, expected: int = 0, *, priority: Priority | None = None, deadline: float | None = None
    ) -> Admission:
        """Charge one request to all of its scopes: `expected` tokens, but no more than the limits leave room for beyond the `least` it can be.

        Raises `Limited`, and `ApiError` 400 for a request that can never pass, or 503.
        """
        few = scopes.tokens
        narrowest = min(few, key=lambda scope: scope.limit) if len(few) > 1 else few[0] if few else None
        if narrowest is not None and least > narrowest.limit:
            raise too_large(narrowest, least)
        tokens = max(least, expected if narrowest is None else min(expected, narrowest.limit))
        take = Take(charges_of(scopes, tokens), scopes.slots)
        turn = None
        if scopes.wait:
            turn = Turn(
                principal.tenant,
                principal.key_id or principal.user,
                priority_class(scopes.priority, priority),
                tokens,
                scopes.queue.max_s if deadline is None else min(scopes.queue.max_s, deadline - time.time()),
                scopes.queue.max_waiting,
            )
        verdict, store = await self.take(take, turn)
        if not verdict.passed:
            raise Limited(verdict, take)
        return Admission(self, scopes, tokens, turn, store, take, verdict)

    async def take(self, take: Take, turn: Turn | None) -> tuple[Verdict, Store | None]:
        """Take now, or, with a turn, wait for it in the tenant's line. The verdict, and where it was taken."""
        line = None if turn is None else self._lines.get(turn.tenant)
        if line is None or not len(line):
            verdict, store = await self.attempt(take)
            if verdict.passed:
                return verdict, store
        else:  # nobody passes those who wait
            verdict = PASSED
        if turn is not None:
            line = self._line(turn.tenant)
            if len(line) < turn.max_waiting and _hopeful(verdict, turn.patience_s):
                return await self._wait(line, line.join(take, turn.key, turn.number, turn.tokens, verdict), turn.patience_s)
            if verdict.passed:
                verdict, _ = await self._full(take)
        assert verdict.exhausted is not None
        self._metrics.limited(verdict.exhausted.kind, verdict.exhausted.measure)
        return verdict, None

    async def address(self, file: PolicyFile, address: str) -> None:
        """Count a request without a valid key. Raises `Limited`."""
        scope = address_scope(file.limits, address)
        if scope is None:
            return
        take = Take((Charge(scope, 1.0),))
        verdict, _ = await self.attempt(take)
        if not verdict.passed:
            self._metrics.limited(scope.kind, scope.measure)
            raise Limited(verdict, take)

    async def attempt(self, take: Take) -> tuple[Verdict, Store | None]:
        """Ask the store; where it is away, what the settings put in its place."""
        if not (take.charges or take.slots):
            return PASSED, None
        try:
            if self._store is None:
                self._store = self._open()
            verdict = await self._store.take(take)
        except (StoreAway, OSError) as error:
            return await self._without(take, error)
        self._share = None
        return verdict, self._store

    async def _without(self, take: Take, error: Exception) -> tuple[Verdict, Store | None]:
        self._metrics.limit_store_away("memory" if self._store is None else self._store.name)
        if self._when_away == "admit":
            return PASSED, None
        if self._when_away == "refuse":
            message = "The service cannot count this request against its limits now; try again."
            raise ApiError(503, "limits_unavailable", message, headers={"retry-after": "1"}) from error
        if self._share is None:
            self._share = LocalShare(1 if self._store is None else self._store.shared_by)
        return await self._share.take(take), self._share

    async def beat(self) -> None:
        if self._store is not None:
            await self._store.beat()

    def freed(self, scopes: tuple[Scope, ...]) -> None:
        """Given back by a request of this worker: whoever waits here may pass."""
        for line in self._lines.values():
            line.freed(scopes)

    @property
    def somebody_waits(self) -> bool:
        return bool(self._lines)

    async def aclose(self) -> None:
        for line in self._lines.values():
            await line.aclose()
        if self._store is not None:
            await self._store.aclose()

    def _line(self, tenant: str) -> Line:
        line = self._lines.get(tenant)
        if line is None:
            for name in [name for name, each in self._lines.items() if not len(each)]:
                del self._lines[name]
            line = self._lines[tenant] = Line(self.attempt)
        return line

    async def _full(self, take: Take) -> tuple[Verdict, Store | None]:
        """Why a request that may not even wait is refused: what the store says of it now."""
        verdict, store = await self.attempt(take)
        if verdict.passed and store is not None:
            store.give(undone(take))  # those who wait come first
            return Verdict(verdict.levels, _first(take), 1.0), None
        return verdict, store

    async def _wait(self, line: Line, waiter: Waiter, longest: float) -> tuple[Verdict, Store | None]:
        began = time.monotonic()
        self._metrics.limit_waiting(1)
        try:
            async with asyncio.timeout(longest):
                return await waiter.outcome
        except BaseException as error:
            outcome = waiter.outcome
            if outcome.done() and not outcome.cancelled() and outcome.exception() is None:  # it came in the same moment
                _, store = outcome.result()
                if store is not None:
                    store.give(undone(waiter.take))
            elif not outcome.done():
                outcome.cancel()
            if not isinstance(error, TimeoutError):
                raise
            refusal = waiter.refusal
            exhausted = refusal.exhausted or _first(waiter.take)  # it may have stood behind others and never have been asked for
            self._metrics.limited(exhausted.kind, exhausted.measure)
            return msgspec.structs.replace(refusal, exhausted=exhausted, wait_s=refusal.wait_s or 1.0, waited=True), None
        finally:
            line.leave(waiter)
            self._metrics.limit_waiting(-1)
            self._metrics.limit_waited(time.monotonic() - began)


def _hopeful(verdict: Verdict, patience_s: float) -> bool:
    """Whether it may pass in time. Nobody knows when a running request ends."""
    slot = verdict.exhausted is not None and verdict.exhausted.measure == "concurrency"
    return patience_s > 0 if slot else verdict.wait_s <= patience_s


def _first(take: Take) -> Scope:
    return take.charges[0].scope if take.charges else take.slots[0]
