"""Money: a reservation before the call, a settlement after it, and a ledger row for every attempt however it ended.

Guarantees, on SQLite and PostgreSQL alike:

- the sum of what a tenant has spent and has reserved never exceeds its cap, over all workers and replicas, nor does a team's, a key's or a model's;
- as long as something fits, nothing is refused: an attempt that is content with less output gets what is left;
- a reservation stands in the database before the provider is called, and is the upper bound of what that attempt can cost;
- an attempt is settled once. Where its worker died, `recover` settles it at what was reserved, marked `estimated`; a settlement that comes
  later than that is booked as a correction, so the sum of the rows is always the latest truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from sqlalchemy import select

from config.database import Database
from router.money.batch import Next, Open, Outcome, Release, Settle
from router.money.entries import Entries
from router.money.sealing import SealKey
from router.money.settlement import AttemptPlan, Booking, Caps, Left, Level, Settlement
from router.tables import budgets

DAY_S = 86_400
MANY_LEVELS = 50


class Accounting:
    """The books of one worker. `worker` identifies the process: its open reservations are recovered when it dies. Its rows are sealed with `seals`."""

    def __init__(self, database: Database, worker: str, seals: SealKey, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._entries = Entries(database, worker, seals)
        self._clock = clock

    async def reserve(self, request_id: str, tenant: str, key_id: str, policy_version: int, caps: Caps, plan: AttemptPlan) -> Booking:
        """Set the attempt's upper bound aside, durably. Raises `BudgetExceeded`, and then nothing is set aside."""
        booking = self.booking(request_id, tenant, key_id, policy_version, caps, plan)
        await self.open(booking)
        return booking

    def booking(
        self, request_id: str, tenant: str, key_id: str, policy_version: int, caps: Caps, plan: AttemptPlan, *, team: str = "", user: str = ""
    ) -> Booking:
        """A booking of now, not yet reserved."""
        day, month = self._periods()
        return Booking(
            request_id=request_id,
            tenant=tenant,
            key_id=key_id,
            policy_version=policy_version,
            caps=caps,
            day=day,
            month=month,
            attempt=1,
            plan=plan,
            team=team,
            user=user,
        )

    async def open(self, booking: Booking) -> None:
        """Reserve for a booking; its plan is clamped where that makes it fit. Raises `BudgetExceeded`, and then nothing is set aside.

        After any other error `release` must follow.
        """
        booking.plan = _granted(await self._entries.book(Open(booking)))

    async def remaining(self, tenant: str, caps: Caps, booking: Booking | None = None, spent: int = 0) -> tuple[Left, Left] | None:
        """What may still be reserved, and what might be if nothing that is set aside now were spent; None without any cap.

        For the next attempt of a `booking` whose running one has failed and cost `spent`: what that one set aside is free again, where it did.
        """
        if not caps.capped:
            return None
        day, month = self._periods() if booking is None else (booking.day, booking.month)
        own = 0 if booking is None else booking.plan.amount - spent
        query = select(budgets).where(budgets.c.tenant == tenant, budgets.c.period.in_((day, month)))
        if len(caps.levels) < MANY_LEVELS:
            query = query.where(budgets.c.scope.in_(("", *(level.scope for level in caps.levels))))
        found = await self._database.read(lambda connection: {(row.scope, row.period): (row.spent, row.reserved) for row in connection.execute(query)})

        def left(level: Level, held: bool) -> list[tuple[int, int]]:
            """What is left of each of its caps, and the cap."""
            each = []
            free = own if booking is not None and level.covers(booking.plan) else 0
            for period, cap in ((day, level.day), (month, level.month)):
                if cap is not None:
                    used, reserved = found.get((level.scope, period), (0, 0))
                    each.append((max(0, cap - used - (reserved - free if held else 0)), cap))
            return each

        def all_left(held: bool) -> Left:
            shared = [pair for level in (Level("", caps.day, caps.month), *caps.levels) if not level.of_model for pair in left(level, held)]
            models = tuple((level, min(pairs)[0]) for level in caps.levels if level.of_model and (pairs := left(level, held)))
            share = min((min(1.0, amount / cap) if cap else 0.0 for amount, cap in shared), default=None)
            return Left(min((amount for amount, _ in shared), default=None), models, share)

        return all_left(True), all_left(False)

    def _periods(self) -> tuple[str, str]:
        return periods_of(int(self._clock() // DAY_S))

    async def next_attempt(self, booking: Booking, settlement: Settlement, plan: AttemptPlan) -> None:
        """Book a failed attempt and set the next one's bound aside, in one transaction. Raises `BudgetExceeded`, and then nothing changed."""
        booking.plan = _granted(await self._entries.book(Next(booking, settlement, plan)))
        booking.attempt += 1

    async def settle(self, booking: Booking, settlement: Settlement) -> None:
        """Close the request's reservation and book its last attempt. After a recovery the difference is booked as a correction."""
        await self._entries.book(Settle(booking, settlement))

    async def release(self, booking: Booking) -> None:
        """Undo a reservation of which nobody knows whether it was made: the database went away before it answered. No call was made."""
        await self._entries.book(Release(booking))

    async def write_head(self) -> None:
        """Sign how far this worker's rows go: every few seconds, and when it ends."""
        await self._entries.write_head()


@lru_cache(maxsize=4)
def periods_of(day: int) -> tuple[str, str]:
    """The day's and the month's period; `day` counts from the epoch."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return f"day:{date:%Y-%m-%d}", f"month:{date:%Y-%m}"


def _granted(outcome: Outcome) -> AttemptPlan:
    assert isinstance(outcome, AttemptPlan), "what is opened is granted, or refused with an error"
    return outcome
