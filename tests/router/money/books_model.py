"""What the books should say, kept in a few dictionaries: the model that the property test holds the database against.

It knows nothing of statements and locks. Of entries that are submitted together what closes comes first, then what opens, each after the other, and
last what corrects an attempt that was recovered.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec

from adapters.cost import upper_bound
from router.money.batch import Entry, Next, Open, Release, Settle
from router.money.settlement import AttemptPlan, Booking, Counter, Purpose, Settlement, uncalled

REFUSED = "refused"
TAKEN = "taken"
"""The reservation is there already: the database does not take a second one."""

Came = AttemptPlan | str | None
"""What an entry came to: the plan that was granted, `REFUSED`, `TAKEN`, or nothing."""


Lane = tuple[str, Purpose]
"""A request and what is set aside for it: at most one reservation."""


def lane_of(booking: Booking) -> Lane:
    return booking.request_id, booking.plan.purpose


@dataclass
class Held:
    booking: Booking
    worker: str


@dataclass
class Row:
    """All of an attempt's rows together."""

    booking: Booking
    cost: int
    entries: tuple[str, ...]


@dataclass
class Model:
    caps: dict[Counter, int] = field(default_factory=dict)
    """By tenant, scope and kind of period (`day`, `month`); a counter without an entry has no cap."""
    held: dict[Lane, Held] = field(default_factory=dict)
    rows: dict[tuple[Lane, int], Row] = field(default_factory=dict)
    excess: dict[Counter, int] = field(default_factory=lambda: defaultdict(int))
    """What settlements cost beyond what was set aside for them: only by that may a cap ever be exceeded."""

    late: list[tuple[Booking, Settlement]] = field(default_factory=list)
    """What comes for attempts that have no reservation any more."""

    def spent(self) -> dict[Counter, int]:
        return self._sums((row.booking, row.cost) for row in self.rows.values())

    def reserved(self) -> dict[Counter, int]:
        return self._sums((each.booking, each.booking.plan.amount) for each in self.held.values())

    @staticmethod
    def _sums(each: object) -> dict[Counter, int]:
        sums: dict[Counter, int] = defaultdict(int)
        for booking, amount in each:  # type: ignore[attr-defined]
            for counter in booking.counters(booking.plan):
                sums[counter] += amount
        return {counter: amount for counter, amount in sums.items() if amount}

    def cap(self, counter: Counter) -> int | None:
        return self.caps.get(counter._replace(period=counter.period.partition(":")[0]))

    def left(self, plan: AttemptPlan, booking: Booking) -> int | None:
        spent, reserved = self.spent(), self.reserved()
        found = [cap - spent.get(counter, 0) - reserved.get(counter, 0) for counter in booking.counters(plan) if (cap := self.cap(counter)) is not None]
        return min(found, default=None)

    def batch(self, worker: str, entries: list[Entry]) -> list[Came]:
        """Entries that one worker submits together. One that the database does not take is refused alone, and then each is booked for itself."""
        before = self._state()
        came: list[Came] = [None] * len(entries)
        for at, entry in sorted(enumerate(entries), key=lambda pair: isinstance(pair[1], Open | Next)):
            came[at] = self._one(worker, entry)
        if TAKEN in came and len(entries) > 1:
            self._restore(before)
            return [each for entry in entries for each in self.batch(worker, [entry])]
        for booking, settlement in self.late:
            self._correct(booking, settlement)
        self.late = []
        return came

    def _state(self) -> tuple[Any, ...]:
        return copy.deepcopy((self.held, self.rows, self.excess, self.late))

    def _restore(self, state: tuple[Any, ...]) -> None:
        self.held, self.rows, self.excess, self.late = state

    def _one(self, worker: str, entry: Entry) -> Came:
        booking = msgspec.structs.replace(entry.booking)
        held = self.held.get(lane_of(booking))
        match entry:
            case Release():
                if self.held.pop(lane_of(booking), None) is None:
                    self.late.append((booking, uncalled(booking)))
                return None
            case Open():
                return self._open(worker, booking, booking.plan)
            case Settle(settlement=settlement, entry=kind):
                self.held.pop(lane_of(booking), None)
                self._book(booking, settlement, kind, held)
                return None
            case Next(settlement=settlement, plan=plan):
                before = self._state()
                self.held.pop(lane_of(booking), None)
                self._book(booking, settlement, "settlement", held)
                came = self._open(worker, msgspec.structs.replace(booking, attempt=booking.attempt + 1, plan=plan), plan)
                if came == REFUSED:
                    self._restore(before)
                return came

    def _open(self, worker: str, booking: Booking, plan: AttemptPlan) -> Came:
        left = self.left(plan, booking)
        granted: AttemptPlan | None = plan
        if plan.amount and left is not None and plan.amount > left:
            granted = largest(plan, left)
        if granted is None:
            return REFUSED
        if lane_of(booking) in self.held:
            return TAKEN
        self.held[lane_of(booking)] = Held(msgspec.structs.replace(booking, plan=granted), worker)
        return granted

    def _book(self, booking: Booking, settlement: Settlement, kind: str, held: Held | None) -> None:
        at = (lane_of(booking), booking.attempt)
        if held is None:
            self.late.append((booking, settlement))
        elif at not in self.rows:
            self._pay(booking, settlement, (kind,))

    def _correct(self, booking: Booking, settlement: Settlement) -> None:
        row = self.rows.get((lane_of(booking), booking.attempt))
        if row is not None and row.entries == ("recovery",):
            self._pay(booking, settlement, ("recovery", "correction"))

    def _pay(self, booking: Booking, settlement: Settlement, entries: tuple[str, ...]) -> None:
        self.rows[lane_of(booking), booking.attempt] = Row(booking, settlement.cost, entries)
        for counter in booking.counters(booking.plan):
            self.excess[counter] += max(0, settlement.cost - booking.plan.amount)


def largest(plan: AttemptPlan, amount: int) -> AttemptPlan | None:
    """The plan with the most output that so much pays for, found by trying every one."""
    if not plan.least_output:
        return None
    for tokens in range(plan.output_bound // plan.choices, plan.least_output - 1, -1):
        cost = upper_bound(plan.input_bound, tokens * plan.choices, plan.price)
        if cost <= amount:
            return msgspec.structs.replace(plan, output_bound=tokens * plan.choices, amount=cost)
    return None
