"""What an attempt may cost, and what it did: values, and the judgement of an attempt that has ended. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from adapters.cost import cost, upper_bound
from adapters.errors import BackendError
from adapters.types import AttemptRecord, Usage
from config.prices import Price

LARGEST_AMOUNT = 10**17
"""Picodollars (100,000 USD): an attempt that could cost more is refused, so that no sum of the books leaves 64 bits."""

LARGEST_COUNT = 10**12
"""Tokens in a ledger row at most; whatever a provider says beyond that is cut off, so that no sum of them leaves 64 bits."""

Outcome = Literal["ok", "error", "cancelled", "timeout", "blocked", "crashed"]


Purpose = Literal["answer", "hedge", "history", "embedding"]
"""What an attempt is for. A request holds at most one reservation for each at a time; retries and repairs are further attempts at its answer."""


class Caps(Struct, frozen=True):
    """What a tenant may spend, in picodollars; None is no limit."""

    day: int | None = None
    month: int | None = None


class AttemptPlan(Struct, frozen=True):
    """What an attempt may cost at most, known before the call. A booking's attempts share their purpose. `amount` is in picodollars, the bounds in tokens.

    `team` and `user` are those for whom the key acts, empty for none. `price_version` says where the price is from. `list_price` is that of the dearest
    backend that the request could have gone to, where that is another one: what the answer's list cost is reckoned by.
    """

    backend: str
    provider: str
    model: str
    price: Price
    input_bound: int
    output_bound: int
    amount: int
    rule: str
    started_at: float
    purpose: Purpose = "answer"
    team: str = ""
    user: str = ""
    price_version: str = ""
    list_price: Price | None = None


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


def dearest(plan: AttemptPlan, prices: Iterable[Price]) -> Price | None:
    """Of these prices the one at which the plan could cost the most, if that is more than at its own."""
    most, found = upper_bound(plan.input_bound, plan.output_bound, plan.price), None
    for price in prices:
        bound = upper_bound(plan.input_bound, plan.output_bound, price)
        if bound > most:
            most, found = bound, price
    return found


def list_cost(plan: AttemptPlan, settlement: Settlement) -> int:
    """What the answer would have cost at the dearest backend the request could have gone to, in picodollars; never less than it did cost.

    Routing avoids cost only where it brought an answer: of whatever failed, and of what is no answer, it is the cost.
    """
    if plan.list_price is None or plan.purpose != "answer" or settlement.outcome not in ("ok", "blocked"):
        return settlement.cost
    return max(settlement.cost, min(cost(settlement.usage, plan.list_price), LARGEST_AMOUNT))


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
