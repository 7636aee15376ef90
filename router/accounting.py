"""Money: a reservation before the call, a settlement after it, and a ledger row for every attempt however it ended.

Guarantees, on SQLite and PostgreSQL alike:

- the sum of what a tenant has spent and has reserved never exceeds its cap, over all workers and replicas (one conditional statement);
- a reservation stands in the database before the provider is called, and is the upper bound of what that attempt can cost;
- an attempt is settled once. Where its worker died, `recover` settles it at what was reserved, marked `estimated`; a settlement that comes
  later than that is booked as a correction, so the sum of the rows is always the latest truth.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.cost import cost
from adapters.errors import BackendError
from adapters.types import AttemptRecord, Usage
from config.database import Database
from config.prices import Price
from router.tables import UNCAPPED, budgets, ledger, reservations

log = structlog.get_logger("headgate.accounting")

LARGEST_AMOUNT = 10**17
"""Picodollars (100,000 USD): an attempt that could cost more is refused, so that no sum of the books leaves 64 bits."""

LARGEST_COUNT = 2**62
LONGEST_NAME = 1_000
"""What a number and a provider's name in a ledger row hold at most; whatever a provider says beyond that is cut off."""

Outcome = Literal["ok", "error", "cancelled", "timeout", "blocked", "crashed"]


class BudgetExceeded(Exception):
    """The tenant's budget does not allow this attempt. `period` is `day:…` or `month:…`."""

    def __init__(self, tenant: str, amount: int) -> None:
        super().__init__(f"the budget of tenant {tenant!r} does not allow this request")
        self.tenant = tenant
        self.amount = amount


class Caps(Struct, frozen=True):
    """What a tenant may spend, in picodollars; None is no limit."""

    day: int | None = None
    month: int | None = None


class AttemptPlan(Struct, frozen=True):
    """What an attempt may cost at most, known before the call. `amount` is in picodollars, the bounds in tokens."""

    backend: str
    provider: str
    model: str
    price: Price
    input_bound: int
    output_bound: int
    amount: int
    rule: str
    started_at: float


class Booking(Struct):
    """One request's open reservation: who pays, and which attempt is running."""

    request_id: str
    tenant: str
    key_id: str
    policy_version: int
    caps: Caps
    day: str
    month: str
    attempt: int
    plan: AttemptPlan


class Settlement(Struct, frozen=True):
    """How an attempt ended and what it used. `cost` is in picodollars."""

    outcome: Outcome
    usage: Usage
    cost: int
    provider_request_id: str | None
    model: str
    delivered_characters: int
    error: str | None
    ended_at: float


# Built once: SQLAlchemy's building and hashing of a statement costs more than SQLite's running it.
_INSERT_LEDGER = insert(ledger)
_INSERT_RESERVATION = insert(reservations)
_CLOSE = delete(reservations).where(reservations.c.request_id == bindparam("id")).returning(reservations.c.amount, reservations.c.attempt)
_TOUCH_BUDGETS = text(
    "INSERT INTO budgets (tenant, period, cap, spent, reserved) "
    "VALUES (:tenant, :day, :day_cap, :spent, :amount), (:tenant, :month, :month_cap, :spent, :amount) "
    "ON CONFLICT (tenant, period) DO UPDATE SET cap = excluded.cap, spent = budgets.spent + excluded.spent, reserved = budgets.reserved + excluded.reserved "
    # The request's own amounts stand on the side of the cap, where they cannot carry the sum out of 64 bits.
    "WHERE :force = 1 OR budgets.spent + budgets.reserved <= excluded.cap - excluded.spent - excluded.reserved"
)


def measured(record: AttemptRecord, plan: AttemptPlan, error: BaseException | None) -> Settlement:
    """What the books say of an attempt that has ended.

    A provider's own report is taken as it is. Without one, the usage is an estimate: nothing where no call was made or the provider refused
    it (an error status is not billed), else at least what was delivered and never more than was reserved.
    """
    usage = None if record.usage is None else _within_bounds(record.usage)
    refused = isinstance(error, BackendError) and error.provider_status is not None and error.provider_status >= 400 and not record.delivered_characters
    if usage is None or usage.source == "estimated":
        if not record.called or refused:
            usage = Usage(source="estimated")
        else:
            seen = usage or Usage(input_tokens=plan.input_bound, output_tokens=(record.delivered_characters + 3) // 4)
            usage = msgspec.structs.replace(
                seen,
                source="estimated",
                input_tokens=min(seen.input_tokens, plan.input_bound),
                # A free backend without a limit has no bound, and then the count stands as it is.
                output_tokens=min(seen.output_tokens, plan.output_bound) if plan.output_bound else seen.output_tokens,
            )
    amount = cost(usage, plan.price) if record.called and not (refused and usage.total_tokens == 0) else 0
    if usage.source == "estimated":
        amount = min(amount, plan.amount)
    return Settlement(
        outcome=_outcome(record, error),
        usage=usage,
        cost=min(amount, LARGEST_AMOUNT),
        provider_request_id=record.provider_request_id,
        model=record.model or plan.model,
        delivered_characters=record.delivered_characters,
        error=error.code if isinstance(error, BackendError) else (type(error).__name__ if isinstance(error, Exception) else None),
        ended_at=record.ended_at or time.time(),
    )


def unmeasured(booking: Booking, settlement: Settlement) -> Settlement:
    """In place of a settlement that the database does not take: the attempt at what was reserved, marked estimated, and nothing of a provider's."""
    plan = booking.plan
    return Settlement(
        outcome=settlement.outcome,
        usage=Usage(input_tokens=plan.input_bound, output_tokens=plan.output_bound, source="estimated"),
        cost=plan.amount,
        provider_request_id=None,
        model=plan.model,
        delivered_characters=0,
        error="settlement_failed",
        ended_at=settlement.ended_at,
    )


def _within_bounds(usage: Usage) -> Usage:
    """A provider's report with every count a number that the ledger holds."""
    counts = {name: min(max(0, value), LARGEST_COUNT) for name, value in msgspec.structs.asdict(usage).items() if isinstance(value, int)}
    return msgspec.structs.replace(usage, **counts)


def _outcome(record: AttemptRecord, error: BaseException | None) -> Outcome:
    if isinstance(error, BackendError):
        return "timeout" if error.code == "backend_timeout" else "error"
    if error is not None:
        return "error" if isinstance(error, Exception) else "cancelled"
    return "ok" if record.outcome == "open" else record.outcome


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
        _check_caps(booking, plan.amount)

        def work(connection: Connection) -> None:
            _touch(connection, booking, reserved=plan.amount, spent=0)
            connection.execute(_INSERT_RESERVATION, self._reservation_row(booking))

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
        _check_caps(booking, plan.amount)
        row = self._ledger_row(booking, settlement, "settlement")

        following = msgspec.structs.replace(booking, attempt=booking.attempt + 1, plan=plan)

        def work(connection: Connection) -> None:
            # The reservation first, then the counters: the order of every other work, so that none waits for another in a circle.
            if _close(connection, booking) is not None:
                _touch(connection, booking, reserved=plan.amount - booking.plan.amount, spent=settlement.cost)
                connection.execute(_INSERT_LEDGER, row)
            else:
                _correct(connection, booking, row)
                _touch(connection, booking, reserved=plan.amount, spent=0)
            connection.execute(_INSERT_RESERVATION, self._reservation_row(following))

        await self._database.write(work)
        booking.attempt, booking.plan = following.attempt, following.plan

    async def settle(self, booking: Booking, settlement: Settlement) -> None:
        """Close the request's reservation and book its last attempt. After a recovery the difference is booked as a correction."""
        row = self._ledger_row(booking, settlement, "settlement")

        def work(connection: Connection) -> None:
            closed = _close(connection, booking)
            if closed is None:
                _correct(connection, booking, row)
            elif closed.attempt == booking.attempt:
                _touch(connection, booking, reserved=-closed.amount, spent=settlement.cost, force=True)
                connection.execute(_INSERT_LEDGER, row)
            else:  # the next attempt was booked and nobody learned of it, so this one is booked too and the next one never began
                _touch(connection, booking, reserved=-closed.amount, spent=0, force=True)

        await self._database.write(work)

    async def release(self, booking: Booking) -> None:
        """Undo a reservation of which nobody knows whether it was made: the database went away before it answered. No call was made."""

        def work(connection: Connection) -> None:
            closed = _close(connection, booking)
            if closed is not None:
                _touch(connection, booking, reserved=-closed.amount, spent=0, force=True)

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
            "plan": msgspec.json.encode(booking.plan).decode(),
            "policy_version": booking.policy_version,
            "created_at": booking.plan.started_at,
        }

    @staticmethod
    def _ledger_row(booking: Booking, settlement: Settlement, entry: str) -> dict[str, object]:
        plan, usage = booking.plan, settlement.usage
        row: dict[str, object] = {
            "id": uuid.uuid4().hex,
            "request_id": booking.request_id,
            "attempt": booking.attempt,
            "entry": entry,
            "tenant": booking.tenant,
            "key_id": booking.key_id,
            "backend": plan.backend,
            "provider": plan.provider,
            "model": settlement.model[:LONGEST_NAME],
            "provider_request_id": None if settlement.provider_request_id is None else settlement.provider_request_id[:LONGEST_NAME],
            "outcome": settlement.outcome,
            "error": settlement.error,
            "usage_source": usage.source,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_input_tokens": usage.cache_read_input_tokens,
            "cache_creation_input_tokens": usage.cache_creation_input_tokens,
            "reasoning_output_tokens": usage.reasoning_output_tokens,
            "delivered_characters": settlement.delivered_characters,
            "cost": settlement.cost,
            "reserved": plan.amount,
            "price": msgspec.json.encode(plan.price).decode(),
            "rule": plan.rule,
            "policy_version": booking.policy_version,
            "started_at": plan.started_at,
            "ended_at": settlement.ended_at,
        }
        return {column: _storable(value) for column, value in row.items()}


def _storable(value: object) -> object:
    """A value as both databases take it: PostgreSQL refuses a NUL, both a lone surrogate, and an integer has 64 bits."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    return max(-LARGEST_COUNT, min(value, LARGEST_COUNT)) if isinstance(value, int) else value


def _check_caps(booking: Booking, amount: int) -> None:
    # An absent row is inserted without the statement's condition: the amount alone must fit.
    if amount > min([LARGEST_AMOUNT, *(cap for cap in (booking.caps.day, booking.caps.month) if cap is not None)]):
        raise BudgetExceeded(booking.tenant, amount)


def _touch(connection: Connection, booking: Booking, *, reserved: int, spent: int, force: bool = False) -> None:
    """Move the day's and the month's counters together, or neither. `force` books what is already spent whatever the cap says."""
    changed = connection.execute(
        _TOUCH_BUDGETS,
        {
            "tenant": booking.tenant,
            "day": booking.day,
            "month": booking.month,
            "day_cap": UNCAPPED if booking.caps.day is None else booking.caps.day,
            "month_cap": UNCAPPED if booking.caps.month is None else booking.caps.month,
            "spent": spent,
            "amount": reserved,
            "force": int(force),
        },
    ).rowcount
    if changed != 2:
        raise BudgetExceeded(booking.tenant, booking.plan.amount)


_ADDITIVE = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
    "delivered_characters",
    "cost",
)


class _Closed(NamedTuple):
    amount: int
    attempt: int


def _close(connection: Connection, booking: Booking) -> _Closed | None:
    """Take the request's reservation away. None where it was recovered or settled before."""
    found = connection.execute(_CLOSE, {"id": booking.request_id}).one_or_none()
    return None if found is None else _Closed(found.amount, found.attempt)


def _correct(connection: Connection, booking: Booking, row: dict[str, object]) -> None:
    """The attempt was recovered meanwhile (its worker had been given up): book the difference to what the recovery assumed."""
    booked = connection.execute(select(ledger).where(ledger.c.request_id == booking.request_id, ledger.c.attempt == booking.attempt)).mappings().all()
    if any(entry["entry"] in ("settlement", "correction") for entry in booked):
        return  # settled before: settling is idempotent
    difference = {column: _number(row[column]) - sum(_number(entry[column]) for entry in booked) for column in _ADDITIVE}
    _touch(connection, booking, reserved=0, spent=difference["cost"], force=True)
    connection.execute(_INSERT_LEDGER, {**row, **difference, "entry": "correction", "reserved": 0})


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def recover(connection: Connection, worker: str, now: float) -> int:
    """Settle the reservations a dead worker left open, at what was reserved, marked estimated. Returns how many. Idempotent.

    Each stands in a savepoint of its own: one that cannot be settled stays open, is logged, and keeps no other open.
    """
    # All reservations first and in one order, then the counters in one order: two that recover or settle at the same time never wait in a circle.
    held = select(reservations).where(reservations.c.worker == worker).order_by(reservations.c.request_id).with_for_update()
    settled = 0
    for row in sorted(connection.execute(held).mappings().all(), key=lambda row: (str(row["tenant"]), str(row["request_id"]))):
        try:
            with connection.begin_nested():
                _recover_one(connection, row, now)
        except (SQLAlchemyError, ValueError, OverflowError) as error:
            log.error("reservation_not_recovered", request_id=row["request_id"], error=type(error).__name__)
        else:
            settled += 1
    return settled


def _recover_one(connection: Connection, row: Mapping[Any, Any], now: float) -> None:
    """Raises `ValueError` for a plan that cannot be read (of another release), and whatever the database refuses."""
    plan = msgspec.json.decode(row["plan"], type=AttemptPlan)
    booking = Booking(
        request_id=row["request_id"],
        tenant=row["tenant"],
        key_id=row["key_id"],
        policy_version=row["policy_version"],
        caps=Caps(),
        day=row["day"],
        month=row["month"],
        attempt=row["attempt"],
        plan=plan,
    )
    settlement = Settlement(
        outcome="crashed",
        usage=Usage(input_tokens=plan.input_bound, output_tokens=plan.output_bound, source="estimated"),
        cost=plan.amount,
        provider_request_id=None,
        model=plan.model,
        delivered_characters=0,
        error="worker_died",
        ended_at=now,
    )
    _close(connection, booking)
    for period in (booking.day, booking.month):
        connection.execute(
            budgets.update()
            .where(budgets.c.tenant == booking.tenant, budgets.c.period == period)
            .values(spent=budgets.c.spent + plan.amount, reserved=budgets.c.reserved - plan.amount)
        )
    connection.execute(_INSERT_LEDGER, Accounting._ledger_row(booking, settlement, "recovery"))
