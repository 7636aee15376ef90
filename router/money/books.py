"""The books as statements on one connection: counters, reservations, ledger rows, recovery. Each runs inside its caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy import Connection, bindparam, delete, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from adapters.types import Usage
from router.ids import fresh_id
from router.money.rollup import roll_up
from router.money.settlement import LARGEST_AMOUNT, LARGEST_COUNT, AttemptPlan, Booking, Caps, Settlement, list_cost
from router.tables import UNCAPPED, budgets, ledger, reservations

log = structlog.get_logger("headgate.accounting")

LONGEST_NAME = 1_000
"""Characters of a provider's name in a ledger row; whatever a provider says beyond that is cut off."""


_LARGEST_NUMBER = 2**62


class BudgetExceeded(Exception):
    """The tenant's budget does not allow this attempt. `period` is `day:…` or `month:…`."""

    def __init__(self, tenant: str, amount: int) -> None:
        super().__init__(f"the budget of tenant {tenant!r} does not allow this request")
        self.tenant = tenant
        self.amount = amount


# Built once: SQLAlchemy's building and hashing of a statement costs more than SQLite's running it.
INSERT_LEDGER = insert(ledger)
INSERT_RESERVATION = insert(reservations)
_CLOSE = (
    delete(reservations)
    .where(reservations.c.request_id == bindparam("id"), reservations.c.purpose == bindparam("lane"))
    .returning(reservations.c.amount, reservations.c.attempt)
)
_TOUCH_BUDGETS = text(
    "INSERT INTO budgets (tenant, period, cap, spent, reserved) "
    "VALUES (:tenant, :day, :day_cap, :spent, :amount), (:tenant, :month, :month_cap, :spent, :amount) "
    "ON CONFLICT (tenant, period) DO UPDATE SET cap = excluded.cap, spent = budgets.spent + excluded.spent, reserved = budgets.reserved + excluded.reserved "
    # The request's own amounts stand on the side of the cap, where they cannot carry the sum out of 64 bits.
    "WHERE :force = 1 OR budgets.spent + budgets.reserved <= excluded.cap - excluded.spent - excluded.reserved"
)


def ledger_row(booking: Booking, settlement: Settlement, entry: str) -> dict[str, object]:
    """An attempt as the ledger keeps it. `entry` is settlement, recovery or correction."""
    plan, usage = booking.plan, settlement.usage
    row: dict[str, object] = {
        "id": fresh_id(),
        "request_id": booking.request_id,
        "attempt": booking.attempt,
        "purpose": plan.purpose,
        "entry": entry,
        "tenant": booking.tenant,
        "team": plan.team,
        "user_id": plan.user,
        "key_id": booking.key_id,
        "backend": plan.backend,
        "provider": plan.provider,
        "model": settlement.model[:LONGEST_NAME],
        "provider_request_id": None if settlement.provider_request_id is None else settlement.provider_request_id[:LONGEST_NAME],
        "outcome": settlement.outcome,
        "error": settlement.error,
        "usage_source": usage.source,
        "input_tokens": _count(usage.input_tokens),
        "output_tokens": _count(usage.output_tokens),
        "cache_read_input_tokens": _count(usage.cache_read_input_tokens),
        "cache_creation_input_tokens": _count(usage.cache_creation_input_tokens),
        "reasoning_output_tokens": _count(usage.reasoning_output_tokens),
        "audio_input_tokens": _count(usage.audio_input_tokens),
        "audio_output_tokens": _count(usage.audio_output_tokens),
        "audio_cache_read_input_tokens": _count(usage.audio_cache_read_input_tokens),
        "delivered_characters": settlement.delivered_characters,
        "cost": settlement.cost,
        "list_cost": list_cost(plan, settlement),
        "reserved": plan.amount,
        "price": msgspec.json.encode(plan.price).decode(),
        "price_version": plan.price_version,
        "rule": plan.rule,
        "policy_version": booking.policy_version,
        "started_at": plan.started_at,
        "ended_at": settlement.ended_at,
        "booked_at": time.time(),
    }
    return {column: _storable(value) for column, value in row.items()}


def _count(tokens: int) -> int:
    return min(tokens, LARGEST_COUNT)


def _storable(value: object) -> object:
    """A value as both databases take it: PostgreSQL refuses a NUL, both a lone surrogate, and an integer has 64 bits."""
    if isinstance(value, str):
        return value if value.isascii() and "\0" not in value else value.replace("\0", "").encode("utf-8", "replace").decode()
    return max(-_LARGEST_NUMBER, min(value, _LARGEST_NUMBER)) if isinstance(value, int) else value


def write_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Book rows in the ledger, and add them to its sums. Last in its transaction, after the counters: all works take their locks in that order."""
    if rows:
        connection.execute(INSERT_LEDGER, rows)
        roll_up(connection, rows)


def check_caps(booking: Booking, amount: int) -> None:
    # An absent row is inserted without the statement's condition: the amount alone must fit.
    if amount > min([LARGEST_AMOUNT, *(cap for cap in (booking.caps.day, booking.caps.month) if cap is not None)]):
        raise BudgetExceeded(booking.tenant, amount)


def touch(connection: Connection, booking: Booking, *, reserved: int, spent: int, force: bool = False) -> None:
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
    "audio_input_tokens",
    "audio_output_tokens",
    "audio_cache_read_input_tokens",
    "delivered_characters",
    "cost",
    "list_cost",
)


class _Closed(NamedTuple):
    amount: int
    attempt: int


def close(connection: Connection, booking: Booking) -> _Closed | None:
    """Take the request's reservation away. None where it was recovered or settled before."""
    found = connection.execute(_CLOSE, {"id": booking.request_id, "lane": booking.plan.purpose}).one_or_none()
    return None if found is None else _Closed(found.amount, found.attempt)


def correct(connection: Connection, booking: Booking, row: dict[str, object]) -> None:
    """The attempt was recovered meanwhile (its worker had been given up): book the difference to what the recovery assumed."""
    same = (ledger.c.request_id == booking.request_id, ledger.c.attempt == booking.attempt, ledger.c.purpose == booking.plan.purpose)
    booked = connection.execute(select(ledger).where(*same)).mappings().all()
    if any(entry["entry"] in ("settlement", "correction") for entry in booked):
        return  # settled before: settling is idempotent
    difference = {column: _number(row[column]) - sum(_number(entry[column]) for entry in booked) for column in _ADDITIVE}
    touch(connection, booking, reserved=0, spent=difference["cost"], force=True)
    write_rows(connection, [{**row, **difference, "entry": "correction", "reserved": 0}])


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def recover(connection: Connection, worker: str, now: float) -> int:
    """Settle the reservations a dead worker left open, at what was reserved, marked estimated. Returns how many. Idempotent.

    Each stands in a savepoint of its own: one that cannot be settled stays open, is logged, and keeps no other open.
    """
    # All reservations first and in one order, then the counters in one order: two that recover or settle at the same time never wait in a circle.
    held = select(reservations).where(reservations.c.worker == worker).order_by(reservations.c.request_id, reservations.c.purpose).with_for_update()
    settled: list[dict[str, object]] = []
    for row in sorted(connection.execute(held).mappings().all(), key=lambda row: (str(row["tenant"]), str(row["request_id"]))):
        try:
            with connection.begin_nested():
                booked = _recover_one(connection, row, now)
        except (SQLAlchemyError, ValueError, OverflowError) as error:
            log.error("reservation_not_recovered", request_id=row["request_id"], error=type(error).__name__)
        else:
            settled.append(booked)
    # After every counter, as in all works.
    roll_up(connection, settled)
    return len(settled)


def _recover_one(connection: Connection, row: Mapping[Any, Any], now: float) -> dict[str, object]:
    """The row as booked, not yet summed up. Raises `ValueError` for a plan that cannot be read (of another release), and whatever the database refuses."""
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
    close(connection, booking)
    for period in (booking.day, booking.month):
        connection.execute(
            budgets.update()
            .where(budgets.c.tenant == booking.tenant, budgets.c.period == period)
            .values(spent=budgets.c.spent + plan.amount, reserved=budgets.c.reserved - plan.amount)
        )
    booked = ledger_row(booking, settlement, "recovery")
    connection.execute(INSERT_LEDGER, booked)
    return booked
