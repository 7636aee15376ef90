"""What the books hold of an attempt: its reservation's row, its ledger row, and the correction of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, insert, select

from config.database import Prepared
from config.prices import Price
from router.ids import fresh_id
from router.money.rollup import roll_up
from router.money.sealing import LedgerChain
from router.money.settlement import LARGEST_COUNT, AttemptPlan, Booking, Counter, Settlement, list_cost
from router.tables import ledger, reservations

LONGEST_NAME = 1_000
"""Characters of a provider's name in a ledger row; whatever a provider says beyond that is cut off."""


_LARGEST_NUMBER = 2**62


class Short(NamedTuple):
    """A counter that did not hold what an attempt needs: its cap, and what was spent and set aside, in picodollars."""

    counter: Counter
    cap: int
    taken: int


class BudgetExceeded(Exception):
    """The tenant's budget does not allow this attempt. `short` are the counters for which it does not; none where a bound of the request's own did not."""

    def __init__(self, tenant: str, amount: int, short: tuple[Short, ...] = ()) -> None:
        super().__init__(f"the budget of tenant {tenant!r} does not allow this request")
        self.tenant = tenant
        self.amount = amount
        self.short = short


INSERT_RESERVATION = Prepared(insert(reservations))


def ledger_row(booking: Booking, settlement: Settlement, entry: str) -> dict[str, object]:
    """An attempt as the ledger keeps it. `entry` is settlement, recovery or correction."""
    plan, usage = booking.plan, settlement.usage
    said = settlement.provider_request_id
    return {
        "id": fresh_id(),
        "request_id": booking.request_id,
        "attempt": booking.attempt,
        "purpose": plan.purpose,
        "entry": entry,
        "tenant": booking.tenant,
        "team": booking.team,
        "user_id": booking.user,
        "key_id": booking.key_id,
        "backend": _text(plan.backend),
        "provider": _text(plan.provider),
        "model": _text(settlement.model[:LONGEST_NAME]),
        "provider_request_id": None if said is None else _text(said[:LONGEST_NAME]),
        "outcome": settlement.outcome,
        "error": None if settlement.error is None else _text(settlement.error),
        "usage_source": usage.source,
        "input_tokens": _count(usage.input_tokens),
        "output_tokens": _count(usage.output_tokens),
        "cache_read_input_tokens": _count(usage.cache_read_input_tokens),
        "cache_creation_input_tokens": _count(usage.cache_creation_input_tokens),
        "reasoning_output_tokens": _count(usage.reasoning_output_tokens),
        "audio_input_tokens": _count(usage.audio_input_tokens),
        "audio_output_tokens": _count(usage.audio_output_tokens),
        "audio_cache_read_input_tokens": _count(usage.audio_cache_read_input_tokens),
        "delivered_characters": _number(settlement.delivered_characters),
        "cost": _number(settlement.cost),
        "list_cost": _number(list_cost(plan, settlement)),
        "reserved": _number(plan.amount),
        "price": _price(plan.price),
        "price_version": plan.price_version,
        "rule": _text(plan.rule),
        "policy_version": booking.policy_version,
        "started_at": plan.started_at,
        "ended_at": settlement.ended_at,
        "billed_ms": settlement.milliseconds,
        "booked_at": time.time(),
    }


def write_rows(connection: Connection, chain: LedgerChain, rows: Sequence[dict[str, Any]]) -> None:
    """Book rows in the ledger, sealed, and add them to its sums. Last in its transaction, after the counters: all works take their locks in that order."""
    if rows:
        chain.write(connection, rows)
        roll_up(connection, rows)


def _text(value: str) -> str:
    """A text as both databases take it: PostgreSQL refuses a NUL, both a lone surrogate."""
    return value if value.isascii() and "\0" not in value else value.replace("\0", "").encode("utf-8", "replace").decode()


def _count(tokens: int) -> int:
    """Tokens of which sums of many rows fit into 64 bits, too."""
    return tokens if tokens <= LARGEST_COUNT else LARGEST_COUNT


def _number(value: int) -> int:
    """A number that fits into 64 bits."""
    return value if -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER else max(-_LARGEST_NUMBER, min(value, _LARGEST_NUMBER))


@lru_cache(maxsize=1024)
def _price(price: Price) -> str:
    return msgspec.json.encode(price).decode()


def reservation_row(booking: Booking, plan: AttemptPlan, levels: list[tuple[str, str]], worker: str) -> dict[str, object]:
    """An attempt that is about to be made, as its reservation keeps it until it is settled. `levels` are scopes and periods of the counters it moves."""
    return {
        "request_id": booking.request_id,
        "worker": worker,
        "tenant": booking.tenant,
        "key_id": booking.key_id,
        "day": booking.day,
        "month": booking.month,
        "amount": plan.amount,
        "attempt": booking.attempt,
        "purpose": plan.purpose,
        "plan": msgspec.json.encode(plan).decode(),
        "policy_version": booking.policy_version,
        "created_at": plan.started_at,
        "team": booking.team,
        "user_id": booking.user,
        "counters": msgspec.json.encode(levels).decode() if levels else "[]",
    }


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
    "billed_ms",
    "list_cost",
)


def difference(connection: Connection, booking: Booking, row: dict[str, object]) -> dict[str, object] | None:
    """The correction that makes an attempt's rows add up to `row`, in the sums where they are; None where it was settled before: settling is idempotent.

    An attempt of which nothing is booked is not corrected: a settlement is booked as it is, and of one that was never called there is nothing to book.
    """
    same = (ledger.c.request_id == booking.request_id, ledger.c.attempt == booking.attempt, ledger.c.purpose == booking.plan.purpose)
    booked = connection.execute(select(ledger).where(*same)).mappings().all()
    if any(entry["entry"] in ("settlement", "correction") for entry in booked):
        return None
    if not booked:
        return None if row["entry"] == "correction" else row
    apart = {column: _whole(row[column]) - sum(_whole(entry[column]) for entry in booked) for column in _ADDITIVE}
    return {**row, **apart, **{column: booked[0][column] for column in _PLACE}, "entry": "correction", "reserved": 0}


_PLACE = ("started_at", "ended_at", "backend", "provider", "model", "rule")
"""A correction has those of the row that it corrects, so both count in the same sums."""


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
