"""Money: a reservation before the call, a settlement after it, and a ledger row for every attempt however it ended.

Guarantees, on SQLite and PostgreSQL alike:

- the sum of what a tenant has spent and has reserved never exceeds its cap, over all workers and replicas (one conditional statement);
- a reservation stands in the database before the provider is called, and is the upper bound of what that attempt can cost;
- an attempt is settled once. Where its worker died, `recover` settles it at what was reserved, marked `estimated`; a settlement that comes
  later than that is booked as a correction, so the sum of the rows is always the latest truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection, select

from config.database import Database
from router.money.books import INSERT_RESERVATION, check_caps, close, correct, ledger_row, touch, write_rows
from router.money.settlement import AttemptPlan, Booking, Caps, Settlement
from router.tables import budgets


class Accounting:
    """The books of one worker. `worker` identifies the process: its open reservations are recovered when it dies."""

    def __init__(self, database: Database, worker: str, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._worker = worker
        self._clock = clock

    async def reserve(self, request_id: str, tenant: str, key_id: str, policy_version: int, caps: Caps, plan: AttemptPlan) -> Booking:
        """Set the attempt's upper bound aside, durably. Raises `BudgetExceeded`, and then nothing is set aside."""
        booking = self.booking(request_id, tenant, key_id, policy_version, caps, plan)
        await self.open(booking)
        return booking

    def booking(self, request_id: str, tenant: str, key_id: str, policy_version: int, caps: Caps, plan: AttemptPlan) -> Booking:
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
        )

    async def open(self, booking: Booking) -> None:
        """Reserve for a booking. Raises `BudgetExceeded`, and then nothing is set aside; after any other error `release` must follow."""
        plan = booking.plan
        check_caps(booking, plan.amount)

        def work(connection: Connection) -> None:
            touch(connection, booking, reserved=plan.amount, spent=0)
            connection.execute(INSERT_RESERVATION, self._reservation_row(booking))

        await self._database.write(work)

    async def remaining(self, tenant: str, caps: Caps, booking: Booking | None = None, spent: int = 0) -> int | None:
        """What the tenant may still reserve, in picodollars; None without any cap.

        For the next attempt of a `booking` whose running one has failed and cost `spent`: what that one set aside is free again.
        """
        if caps.day is None and caps.month is None:
            return None
        day, month = self._periods() if booking is None else (booking.day, booking.month)
        own = 0 if booking is None else booking.plan.amount - spent
        found = await self._database.read(
            lambda connection: {
                row.period: row.spent + row.reserved
                for row in connection.execute(select(budgets).where(budgets.c.tenant == tenant, budgets.c.period.in_((day, month))))
            }
        )
        left: list[int] = [cap - found.get(period, 0) + own for period, cap in ((day, caps.day), (month, caps.month)) if cap is not None]
        return max(0, min(left))

    def _periods(self) -> tuple[str, str]:
        now = datetime.fromtimestamp(self._clock(), UTC)
        return f"day:{now:%Y-%m-%d}", f"month:{now:%Y-%m}"

    async def next_attempt(self, booking: Booking, settlement: Settlement, plan: AttemptPlan) -> None:
        """Book a failed attempt and set the next one's bound aside, in one transaction. Raises `BudgetExceeded`, and then nothing changed."""
        check_caps(booking, plan.amount)
        row = ledger_row(booking, settlement, "settlement")

        following = msgspec.structs.replace(booking, attempt=booking.attempt + 1, plan=plan)

        def work(connection: Connection) -> None:
            # The reservation first, then the counters: the order of every other work, so that none waits for another in a circle.
            if close(connection, booking) is not None:
                touch(connection, booking, reserved=plan.amount - booking.plan.amount, spent=settlement.cost)
                connection.execute(INSERT_RESERVATION, self._reservation_row(following))
                write_rows(connection, [row])
            else:
                correct(connection, booking, row)
                touch(connection, booking, reserved=plan.amount, spent=0)
                connection.execute(INSERT_RESERVATION, self._reservation_row(following))

        await self._database.write(work)
        booking.attempt, booking.plan = following.attempt, following.plan

    async def settle(self, booking: Booking, settlement: Settlement) -> None:
        """Close the request's reservation and book its last attempt. After a recovery the difference is booked as a correction."""
        row = ledger_row(booking, settlement, "settlement")

        def work(connection: Connection) -> None:
            closed = close(connection, booking)
            if closed is None:
                correct(connection, booking, row)
            elif closed.attempt == booking.attempt:
                touch(connection, booking, reserved=-closed.amount, spent=settlement.cost, force=True)
                write_rows(connection, [row])
            else:  # the next attempt was booked and nobody learned of it, so this one is booked too and the next one never began
                touch(connection, booking, reserved=-closed.amount, spent=0, force=True)

        await self._database.write(work)

    async def release(self, booking: Booking) -> None:
        """Undo a reservation of which nobody knows whether it was made: the database went away before it answered. No call was made."""

        def work(connection: Connection) -> None:
            closed = close(connection, booking)
            if closed is not None:
                touch(connection, booking, reserved=-closed.amount, spent=0, force=True)

        await self._database.write(work)

    def _reservation_row(self, booking: Booking) -> dict[str, object]:
        return {
            "request_id": booking.request_id,
            "worker": self._worker,
            "tenant": booking.tenant,
            "key_id": booking.key_id,
            "day": booking.day,
            "month": booking.month,
            "amount": booking.plan.amount,
            "attempt": booking.attempt,
            "purpose": booking.plan.purpose,
            "plan": msgspec.json.encode(booking.plan).decode(),
            "policy_version": booking.policy_version,
            "created_at": booking.plan.started_at,
        }
