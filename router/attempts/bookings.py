"""What one request has set aside: for each purpose at most one reservation, the bound of the attempt that runs for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from adapters.errors import BackendError
from router.attempts.attempt import Attempt
from router.money.books import BudgetExceeded
from router.money.settlement import LARGEST_AMOUNT, Booking, Caps, Left, Purpose, Settlement, measured

if TYPE_CHECKING:
    from policies.access import Principal
    from router.gateway import Gateway


NO_LIMIT = Left(LARGEST_AMOUNT)


class _Lane:
    """The attempts for one purpose, one after the other. `failure` is why the running one ended, once it has; `booking` is None once it is settled."""

    def __init__(self, booking: Booking, attempt: Attempt) -> None:
        self.booking: Booking | None = booking
        self.attempt = attempt
        self.number = booking.attempt
        self.failure: BaseException | None = None

    @property
    def spent(self) -> int:
        """What an attempt that is not booked yet has cost so far."""
        return 0 if self.booking is None else measured(self.attempt.record, self.booking.plan, self.failure).cost


class Bookings:
    """One request's money. `begin` before an attempt, `failed` or `settle` after it, `close` at the end, whatever happened.

    `cost` is what its ended attempts cost, in picodollars, also those whose answer nobody saw.
    """

    def __init__(self, gateway: Gateway, principal: Principal, request_id: str, policy_version: int, caps: Caps) -> None:
        self._gateway = gateway
        self._principal = principal
        self._request_id = request_id
        self._version = policy_version
        self._caps = caps
        self._lanes: dict[Purpose, _Lane] = {}
        self._making: set[asyncio.Task[None]] = set()
        self.cost = 0
        self.tokens: dict[str, int] = {}
        """What its ended attempts used, by backend."""

    async def begin(self, attempt: Attempt) -> None:
        """Set the attempt's bound aside, durably, and book the attempt of its purpose that failed before it. Raises `BudgetExceeded`: then nothing changed.

        A cancelled wait does not undo it: `close` waits for it and releases it.
        """
        task = self._gateway.background(self._begin(attempt))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        await asyncio.shield(task)

    async def _begin(self, attempt: Attempt) -> None:
        accounting = self._gateway.accounting
        lane = self._lanes.get(attempt.plan.purpose)
        if lane is None or lane.booking is None:
            payer = self._principal
            booking = accounting.booking(
                self._request_id, payer.tenant, payer.key_id, self._version, self._caps, attempt.plan, team=payer.team, user=payer.user
            )
            booking.attempt = 1 if lane is None else lane.number + 1
            try:
                await accounting.open(booking)
            except BudgetExceeded:
                raise
            except Exception:
                self._gateway.background(self._gateway.release(booking))
                raise
            attempt.grant(booking)
            self._lanes[attempt.plan.purpose] = _Lane(booking, attempt)
            return
        settlement = measured(lane.attempt.record, lane.booking.plan, lane.failure)
        await accounting.next_attempt(lane.booking, settlement, attempt.plan)
        self._add(lane.attempt, settlement)
        attempt.grant(lane.booking)
        self._lanes[attempt.plan.purpose] = _Lane(lane.booking, attempt)

    @property
    def attempts(self) -> int:
        """How many have been made, for every purpose."""
        return sum(lane.number for lane in self._lanes.values())

    def failed(self, attempt: Attempt, error: BackendError) -> None:
        """The attempt failed and its work has stopped. It is booked with the next one, or at the end."""
        self._lane_of(attempt).failure = error

    async def remaining(self) -> tuple[Left, Left]:
        """What the budgets leave to the next attempt at the answer, and what they might if nothing that is set aside were spent.

        What the failed one set aside is given back when that one's is made.
        """
        lane = self._lanes.get("answer")
        booking = None if lane is None else lane.booking
        spent = 0 if lane is None else lane.spent
        left = await self._gateway.accounting.remaining(self._principal.tenant, self._caps, booking, spent)
        return (NO_LIMIT, NO_LIMIT) if left is None else (left[0].at_most(LARGEST_AMOUNT), left[1].at_most(LARGEST_AMOUNT))

    def spent(self) -> int:
        """What all attempts have cost so far, in picodollars: those that have ended, and those that are still to be booked."""
        return self.cost + sum(lane.spent for lane in self._lanes.values())

    async def give_back(self, attempt: Attempt) -> None:
        """Release what an attempt that never began has set aside, once that stands."""
        while self._making:
            await asyncio.wait(set(self._making))
        lane = self._lanes.get(attempt.plan.purpose)
        if lane is not None and lane.attempt is attempt:
            await self.settle(attempt, asyncio.CancelledError())

    async def settle(self, attempt: Attempt, failure: BaseException | None) -> Settlement | None:
        """Book an attempt whose work has stopped, and release what it had set aside. None where that was done before."""
        if (ended := self._ended(self._lane_of(attempt), failure)) is None:
            return None
        await self._gateway.settle(*ended)
        return ended[1]

    async def close(self, failure: BaseException | None, ended: Callable[[dict[Purpose, Settlement]], None]) -> None:
        """Settle whatever is open, once what is still being reserved stands: nothing is ever left open.

        `ended` is told what there is to book, and `cost` is final, before the database is asked, which may be away for long.
        """
        while self._making:
            await asyncio.wait(set(self._making))
        open_ones = [each for lane in self._lanes.values() if (each := self._ended(lane, failure)) is not None]
        ended({booking.plan.purpose: settlement for booking, settlement in open_ones})
        for booking, settlement in open_ones:
            await self._gateway.settle(booking, settlement)

    def _ended(self, lane: _Lane, failure: BaseException | None) -> tuple[Booking, Settlement] | None:
        """What there is to book of a lane's last attempt, once. One that never began is cancelled, however the request ended."""
        booking, lane.booking = lane.booking, None
        if booking is None:
            return None
        attempt = lane.attempt
        why = lane.failure or failure or (None if attempt.began else asyncio.CancelledError())
        settlement = measured(attempt.record, booking.plan, why)
        if attempt.moderation.blocked:
            settlement = msgspec.structs.replace(settlement, outcome="blocked")
        self._add(attempt, settlement)
        return booking, settlement

    def _add(self, attempt: Attempt, settlement: Settlement) -> None:
        self.cost += settlement.cost
        name = attempt.plan.backend
        self.tokens[name] = self.tokens.get(name, 0) + settlement.usage.total_tokens

    def _lane_of(self, attempt: Attempt) -> _Lane:
        lane = self._lanes[attempt.plan.purpose]
        assert lane.attempt is attempt, "an attempt is settled once, by the one that follows it or by itself"
        return lane
