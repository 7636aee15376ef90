"""What the books hold of an attempt: its reservation's row, its ledger row, and the correction of one."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, insert, select

from router.ids import fresh_id
from router.money.settlement import LARGEST_COUNT, Booking, Settlement
from router.tables import ledger, reservations

LONGEST_NAME = 1_000
"""Characters of a provider's name in a ledger row; whatever a provider says beyond that is cut off."""


class BudgetExceeded(Exception):
    """The tenant's budget does not allow this attempt. `period` is `day:…` or `month:…`."""

    def __init__(self, tenant: str, amount: int) -> None:
        super().__init__(f"the budget of tenant {tenant!r} does not allow this request")
        self.tenant = tenant
        self.amount = amount


# Built once: SQLAlchemy's building and hashing of a statement costs more than SQLite's running it.
INSERT_LEDGER = insert(ledger)
INSERT_RESERVATION = insert(reservations)


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
        return value if value.isascii() and "\0" not in value else value.replace("\0", "").encode("utf-8", "replace").decode()
    return max(-LARGEST_COUNT, min(value, LARGEST_COUNT)) if isinstance(value, int) else value


def reservation_row(booking: Booking, worker: str) -> dict[str, object]:
    """An attempt that is about to be made, as its reservation keeps it until it is settled."""
    levels = [(counter.scope, counter.period) for counter in booking.counters(booking.plan) if counter.scope]
    return {
        "request_id": booking.request_id,
        "worker": worker,
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
        "team": booking.team,
        "user_id": booking.user,
        "counters": msgspec.json.encode(levels).decode(),
    }


_ADDITIVE = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "reasoning_output_tokens",
    "delivered_characters",
    "cost",
)


def difference(connection: Connection, booking: Booking, row: dict[str, object]) -> dict[str, object] | None:
    """The correction that makes an attempt's rows add up to `row`; None where it was settled before: settling is idempotent."""
    same = (ledger.c.request_id == booking.request_id, ledger.c.attempt == booking.attempt, ledger.c.purpose == booking.plan.purpose)
    booked = connection.execute(select(ledger).where(*same)).mappings().all()
    if any(entry["entry"] in ("settlement", "correction") for entry in booked):
        return None
    apart = {column: _number(row[column]) - sum(_number(entry[column]) for entry in booked) for column in _ADDITIVE}
    return {**row, **apart, "entry": "correction", "reserved": 0}


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
