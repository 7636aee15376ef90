"""What a dead worker left open is settled at what it had set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from adapters.types import Usage
from router.money.batch import Settle, book
from router.money.sealing import LedgerChain, SealKey
from router.money.settlement import AttemptPlan, Booking, Caps, Settlement
from router.tables import reservations

log = structlog.get_logger("headgate.accounting")


def recover(connection: Connection, worker: str, now: float, seals: SealKey) -> int:
    """Settle the reservations a dead worker left open, at what was reserved, marked estimated. Returns how many. Idempotent.

    One that cannot be settled stays open, is logged, and keeps no other open.
    """
    mine = select(reservations).where(reservations.c.worker == worker)
    by = [column.collate("C") if connection.dialect.name == "postgresql" else column for column in (reservations.c.request_id, reservations.c.purpose)]
    held = mine.order_by(*by).with_for_update()  # in the order in which all others lock them
    entries = [entry for row in connection.execute(held).mappings().all() if (entry := _entry(row, now)) is not None]
    if not entries:
        return 0
    try:
        with connection.begin_nested():
            _book(connection, worker, entries, seals)
        return len(entries)
    except (SQLAlchemyError, ValueError, OverflowError):
        return sum(_alone(connection, worker, entry, seals) for entry in entries)


def _book(connection: Connection, worker: str, entries: Sequence[Settle], seals: SealKey) -> None:
    """In a chain of their own, for this may be undone."""
    chain = LedgerChain(seals)
    book(connection, worker, entries, chain)
    chain.write_head(connection)


def _alone(connection: Connection, worker: str, entry: Settle, seals: SealKey) -> bool:
    try:
        with connection.begin_nested():
            _book(connection, worker, [entry], seals)
    except (SQLAlchemyError, ValueError, OverflowError) as error:
        _refused(entry.booking.request_id, error)
        return False
    return True


def _entry(row: Mapping[Any, Any], now: float) -> Settle | None:
    """None for a plan that cannot be read: it is of another release."""
    try:
        plan = msgspec.json.decode(row["plan"], type=AttemptPlan)
    except ValueError as error:
        _refused(row["request_id"], error)
        return None
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
        team=row["team"],
        user=row["user_id"],
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
    return Settle(booking, settlement, "recovery")


def _refused(request_id: str, error: Exception) -> None:
    log.error("reservation_not_recovered", request_id=request_id, error=type(error).__name__)
