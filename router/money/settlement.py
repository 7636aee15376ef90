"""What an attempt may cost, and what it did: values, and the judgement of an attempt that has ended. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Literal, NamedTuple

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


Purpose = Literal["answer", "hedge", "history", "embedding", "shadow", "shadow_judge"]
"""What an attempt is for. A request holds at most one reservation for each at a time; retries and repairs are further attempts at its answer."""


class Level(Struct, frozen=True):
    """A cap inside the tenant's: of a team (`team:ID`), a key (`key:ID`) or a model (`model:NAME`, a backend's or a model's name). In picodollars."""

    scope: str
    day: int | None = None
    month: int | None = None

    @property
    def of_model(self) -> bool:
        return self.scope.startswith("model:")

    def covers(self, plan: AttemptPlan) -> bool:
        """Whether this attempt is paid from it too. A team's and a key's are only ever given to their own requests."""
        return not self.of_model or self.scope.partition(":")[2] in (plan.backend, plan.model)


class Caps(Struct, frozen=True):
    """What a request may spend, in picodollars: its tenant per day and month (None is no limit), and the levels inside it that cover the request."""

    day: int | None = None
    month: int | None = None
    levels: tuple[Level, ...] = ()

    @property
    def capped(self) -> bool:
        return self.day is not None or self.month is not None or bool(self.levels)


class Left(Struct, frozen=True):
    """What budgets leave, in picodollars: `overall` to every attempt (None: no limit), `models` to those that a model's budget covers.

    `share` is the smallest share that is left of any budget that covers every attempt; None where there is none.
    """

    overall: int | None = None
    models: tuple[tuple[Level, int], ...] = ()
    share: float | None = None

    def at_most(self, amount: int) -> Left:
        return msgspec.structs.replace(self, overall=amount if self.overall is None else min(self.overall, amount))

    def needed(self, plan: AttemptPlan) -> int:
        """The least with which the attempt may be made; more than any budget holds where a model's budget does not allow it."""
        least = plan.least_amount
        return 2 * LARGEST_AMOUNT if least and any(left < least for level, left in self.models if level.covers(plan)) else least


class Counter(NamedTuple):
    """A counter of what is spent and set aside: of a tenant (`scope` empty) or a level inside it, in a period (`day:…`, `month:…`)."""

    tenant: str
    scope: str
    period: str


class AttemptPlan(Struct, frozen=True):
    """What an attempt may cost at most, known before the call. A booking's attempts share their purpose. `amount` is in picodollars, the bounds in tokens.

    Where a budget does not hold `amount`, an attempt that is content with less output says with `least_output` how many tokens of each of its
    `choices` it needs at least; 0 is all or nothing. `price_version` says where the price is from. `list_price` is that of the dearest backend that
    the request could have gone to, where that is another one: what the answer's list cost is reckoned by.
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
    least_output: int = 0
    choices: int = 1
    spoken: bool = False
    milliseconds: int = 0
    """The longest that the attempt may run, where its time has a price."""

    price_version: str = ""
    list_price: Price | None = None

    @property
    def least_amount(self) -> int:
        """The smallest amount with which the attempt may be made."""
        if not self.least_output:
            return self.amount
        return min(self.amount, self._bound(self.least_output * self.choices))

    def clamped(self, amount: int) -> AttemptPlan | None:
        """The plan with the most output that `amount` is sure to pay for; itself where all of it is, None where that is too little."""
        if amount >= self.amount:
            return self
        if amount < self.least_amount:
            return None
        least, most = self.least_output, self.output_bound // self.choices
        while least < most:  # the bound grows with the output: the largest that fits is found by halving
            middle = (least + most + 1) // 2
            if self._bound(middle * self.choices) <= amount:
                least = middle
            else:
                most = middle - 1
        output = least * self.choices
        return msgspec.structs.replace(self, output_bound=output, amount=self._bound(output))

    def _bound(self, output: int) -> int:
        return upper_bound(self.input_bound, output, self.price, spoken=self.spoken, milliseconds=self.milliseconds)


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
    team: str = ""
    user: str = ""

    @property
    def reference(self) -> str:
        """What the running attempt is called towards providers."""
        return f"{self.request_id}/{self.plan.purpose}/{self.attempt}"

    def counters(self, plan: AttemptPlan) -> dict[Counter, int | None]:
        """The counters that an attempt of this booking moves, each with its cap."""
        caps = self.caps
        found: dict[Counter, int | None] = {Counter(self.tenant, "", self.day): caps.day, Counter(self.tenant, "", self.month): caps.month}
        for level in caps.levels:
            if level.covers(plan):
                for period, cap in ((self.day, level.day), (self.month, level.month)):
                    if cap is not None:
                        found[Counter(self.tenant, level.scope, period)] = cap
        return found


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
    milliseconds: int = 0
    """How long it ran, where that has a price."""


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
    ran = _ran(record, plan) if plan.milliseconds and record.called else 0
    amount = cost(usage, plan.price, ran) if record.called and not (refused and usage.total_tokens == 0) else 0
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
        milliseconds=ran,
    )


def _ran(record: AttemptRecord, plan: AttemptPlan) -> int:
    """The milliseconds that an attempt ran, never more than were reserved for."""
    ended = record.ended_at or time.time()
    return min(max(0, math.ceil(1000 * (ended - (record.started_at or ended)))), plan.milliseconds)


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


def uncalled(booking: Booking) -> Settlement:
    """Of an attempt of which it is known that no call was made."""
    return Settlement(
        outcome="cancelled",
        usage=Usage(source="counted"),
        cost=0,
        provider_request_id=None,
        model=booking.plan.model,
        delivered_characters=0,
        error="not_called",
        ended_at=time.time(),
    )


def _within_bounds(usage: Usage) -> Usage:
    """A provider's report with every count a number that the ledger holds."""
    if all(0 <= value <= LARGEST_COUNT for value in msgspec.structs.astuple(usage) if isinstance(value, int)):
        return usage
    counts = {name: min(max(0, value), LARGEST_COUNT) for name, value in msgspec.structs.asdict(usage).items() if isinstance(value, int)}
    return msgspec.structs.replace(usage, **counts)


def _outcome(record: AttemptRecord, error: BaseException | None) -> Outcome:
    if isinstance(error, BackendError):
        return "timeout" if error.code == "backend_timeout" else "error"
    if error is not None:
        return "error" if isinstance(error, Exception) else "cancelled"
    return "ok" if record.outcome == "open" else record.outcome
