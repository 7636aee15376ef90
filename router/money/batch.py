"""Many bookings in one transaction: each works as if it were alone, and together they cost a few statements.

The counters of every budget that the bookings touch are read once, under a lock; what fits is decided here, one booking after the other; then
counters, reservations and ledger rows are each written with one statement. So a budget's cap holds exactly, whoever else books: no worker holds
money that it does not need, and none has to be called back.

The order in which rows are locked is the same everywhere, so that no two transactions wait for each other in a circle: reservations, then
counters, each sorted by code points (as Python does it, and not as a database's language has it). Counters that are not there yet are made in a
transaction of their own, before.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, bindparam, delete, exists, func, or_, select, text

from config.database import Prepared
from router.money.books import (
    INSERT_RESERVATION,
    BudgetExceeded,
    Short,
    difference,
    ledger_row,
    reservation_row,
)
from router.money.rollup import roll_up
from router.money.sealing import LedgerChain
from router.money.settlement import LARGEST_AMOUNT, AttemptPlan, Booking, Counter, Settlement, uncalled
from router.tables import UNCAPPED, ledger, reservations


class Open(Struct, frozen=True):
    """Set the bound of a booking's attempt aside."""

    booking: Booking


class Settle(Struct, frozen=True):
    """Close the reservation and book the attempt. `entry` is `recovery` where nobody knows how it ended."""

    booking: Booking
    settlement: Settlement
    entry: Literal["settlement", "recovery"] = "settlement"


class Next(Struct, frozen=True):
    """Book the attempt that failed and set the bound of the one after it aside: both or neither."""

    booking: Booking
    settlement: Settlement
    plan: AttemptPlan


class Release(Struct, frozen=True):
    """Give a reservation back of which nobody knows whether it was made. No call was made: where it was recovered meanwhile, that is corrected."""

    booking: Booking


Entry = Open | Settle | Next | Release
Outcome = AttemptPlan | BudgetExceeded | None
"""What an entry came to: the plan for which something was set aside, clamped where less fitted; a refusal; nothing."""


class _Held(NamedTuple):
    amount: int
    attempt: int
    counters: tuple[Counter, ...]


_Caps = dict[Counter, int | None]
_Lane = tuple[str, str]
"""A request's id and a purpose: what a reservation is known by."""


def book(connection: Connection, worker: str, entries: Sequence[Entry], chain: LedgerChain) -> list[Outcome]:
    """Book the entries, inside the caller's transaction. What is given back comes before what is set aside. Rows are sealed in `chain`.

    Returns what each came to. Raises `CountersMissing` where counters must be made first, or what the database raises; then nothing of them is booked.
    """
    batch = _Batch(connection, worker, chain)
    outcomes: list[Outcome] = [None] * len(entries)
    closing = [entry for entry in entries if not isinstance(entry, Open)]
    held = _held(connection, sorted({_lane(closes.booking) for closes in closing})) if closing else {}
    needed = {counter for each in held.values() for counter in each.counters}
    for closes in closing:
        if _lane(closes.booking) not in held:  # it comes late, or never was
            needed.update(closes.booking.counters(closes.booking.plan))
    opening: list[tuple[int, Open | Next, _Caps]] = []
    for at, entry in enumerate(entries):
        if isinstance(entry, Open | Next):
            caps = entry.booking.counters(entry.plan if isinstance(entry, Next) else entry.booking.plan)
            needed.update(caps)
            opening.append((at, entry, caps))
    batch.read_counters(sorted(needed))
    for closes in closing:
        match closes:
            case Settle():
                batch.settle(closes, held.pop(_lane(closes.booking), None))
            case Release():
                batch.release(held.pop(_lane(closes.booking), None), closes.booking)
            case Next():  # follows below, once everything else is given back
                pass
    for at, opens, caps in opening:
        if isinstance(opens, Next):
            outcomes[at] = batch.follow(opens, caps, held)
        else:
            outcomes[at] = batch.open(opens.booking, opens.booking.plan, caps)
    batch.write()
    return outcomes


class _Batch:
    """What is to be written: kept until everything is decided."""

    def __init__(self, connection: Connection, worker: str, chain: LedgerChain) -> None:
        self._connection = connection
        self._chain = chain
        self._worker = worker
        self._left: dict[Counter, int] = {}
        """Spent and set aside together, as it will stand once this batch is written."""
        self._moved: dict[Counter, list[int]] = {}
        """What is added to spent and to reserved."""
        self._caps: dict[Counter, int] = {}
        self._gone: list[_Lane] = []
        self._made: list[dict[str, object]] = []
        self._rows: list[dict[str, object]] = []
        self._late: list[tuple[Booking, dict[str, object]]] = []

    def read_counters(self, counters: Sequence[Counter]) -> None:
        self._left = _read_counters(self._connection, counters)

    def settle(self, entry: Settle, held: _Held | None) -> None:
        booking, settlement = entry.booking, entry.settlement
        row = ledger_row(booking, settlement, entry.entry)
        if held is None:
            self._late.append((booking, row))
            return
        self._gone.append(_lane(booking))
        if held.attempt == booking.attempt:
            self._move(held.counters, reserved=-held.amount, spent=settlement.cost)
            self._rows.append(row)
        else:  # the next attempt was booked and nobody learned of it, so this one is booked too and the next one never began
            self._move(held.counters, reserved=-held.amount)

    def release(self, held: _Held | None, booking: Booking) -> None:
        if held is None:  # it was never made, or was recovered meanwhile: then the call that was not made was booked
            self._late.append((booking, ledger_row(booking, uncalled(booking), "correction")))
            return
        self._gone.append(_lane(booking))
        self._move(held.counters, reserved=-held.amount)

    def follow(self, entry: Next, caps: _Caps, held: dict[_Lane, _Held]) -> AttemptPlan | BudgetExceeded:
        booking, settlement = entry.booking, entry.settlement
        old = held.get(_lane(booking))
        if old is not None:
            self._move(old.counters, reserved=-old.amount, spent=settlement.cost)
        following = msgspec.structs.replace(booking, attempt=booking.attempt + 1, plan=entry.plan)
        outcome = self.open(following, entry.plan, caps)
        if isinstance(outcome, BudgetExceeded):
            if old is not None:
                self._move(old.counters, reserved=old.amount, spent=-settlement.cost)
            return outcome
        row = ledger_row(booking, settlement, "settlement")
        if old is None:
            self._late.append((booking, row))
        else:
            del held[_lane(booking)]
            self._gone.append(_lane(booking))
            self._rows.append(row)
        return outcome

    def open(self, booking: Booking, plan: AttemptPlan, caps: _Caps) -> AttemptPlan | BudgetExceeded:
        """`caps` are the counters of this attempt: a clamped one moves the same."""
        fits = LARGEST_AMOUNT
        for counter, cap in caps.items():
            self._caps[counter] = UNCAPPED if cap is None else cap
            fits = min(fits, self._caps[counter] - self._left[counter])
        granted = plan.clamped(fits) if plan.amount else plan  # what costs nothing is never over a budget
        if granted is None:
            short = (Short(counter, self._caps[counter], self._left[counter]) for counter in caps)
            return BudgetExceeded(booking.tenant, plan.amount, tuple(each for each in short if each.cap - each.taken < plan.least_amount))
        self._move(caps, reserved=granted.amount)
        self._made.append(reservation_row(booking, granted, [(counter.scope, counter.period) for counter in caps if counter.scope], self._worker))
        return granted

    def _move(self, counters: Iterable[Counter], *, reserved: int = 0, spent: int = 0) -> None:
        for counter in counters:
            self._left[counter] += reserved + spent
            moved = self._moved.setdefault(counter, [0, 0])
            moved[0] += spent
            moved[1] += reserved

    def write(self) -> None:
        connection = self._connection
        if self._gone:
            _CLOSE.run(connection, [{"id": request_id, "lane": purpose} for request_id, purpose in self._gone])
        if self._made:
            INSERT_RESERVATION.run(connection, self._made)
        if self._rows:
            self._chain.write(connection, self._rows)
        for booking, row in self._late:
            self._correct(booking, row)
        move_counters(connection, {counter: (spent, reserved) for counter, (spent, reserved) in self._moved.items()}, self._caps)
        roll_up(connection, self._rows)

    def _correct(self, booking: Booking, row: dict[str, object]) -> None:
        """The attempt was recovered meanwhile (its worker had been given up): book the difference to what the recovery assumed."""
        correction = difference(self._connection, booking, row)
        if correction is None:
            return
        cost = correction["cost"]
        assert isinstance(cost, int)
        self._move(booking.counters(booking.plan), spent=cost)
        self._chain.write(self._connection, [correction])
        self._rows.append(correction)


_CLOSE = Prepared(delete(reservations).where(reservations.c.request_id == bindparam("id"), reservations.c.purpose == bindparam("lane")))


def move_counters(connection: Connection, moved: Mapping[Counter, tuple[int, int]], caps: Mapping[Counter, int]) -> None:
    """Move what is spent and what is set aside, in the order in which counters are locked; caps are told where they are known. Those not there stay away."""
    lines = [
        {"t": counter.tenant, "s": counter.scope, "p": counter.period, "spent": spent, "reserved": reserved, "now": caps.get(counter)}
        for counter, (spent, reserved) in sorted(moved.items())
        if spent or reserved or counter in caps
    ]
    if lines:
        _MOVE.run(connection, lines)


_MOVE = Prepared(
    text(
        "UPDATE budgets SET spent = spent + CAST(:spent AS bigint), reserved = reserved + CAST(:reserved AS bigint), cap = coalesce(CAST(:now AS bigint), cap) "
        "WHERE tenant = :t AND scope = :s AND period = :p"
    )
)
_HELD = {
    "sqlite": Prepared(
        text(
            "SELECT request_id, purpose, tenant, day, month, amount, attempt, counters FROM reservations "
            "WHERE (request_id, purpose) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:lanes))"
        )
    ),
    "postgresql": Prepared(
        text(
            "SELECT request_id, purpose, tenant, day, month, amount, attempt, counters FROM reservations "
            "WHERE (request_id, purpose) IN (SELECT value ->> 0, value ->> 1 FROM json_array_elements(CAST(:lanes AS json))) "
            'ORDER BY request_id COLLATE "C", purpose COLLATE "C" FOR UPDATE'
        )
    ),
}
_COUNTERS = {
    "sqlite": Prepared(
        text(
            "SELECT tenant, scope, period, spent + reserved AS taken FROM budgets "
            "WHERE (tenant, scope, period) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(:counters))"
        )
    ),
    "postgresql": Prepared(
        text(
            "SELECT tenant, scope, period, spent + reserved AS taken FROM budgets "
            "WHERE (tenant, scope, period) IN (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_array_elements(CAST(:counters AS json))) "
            'ORDER BY tenant COLLATE "C", scope COLLATE "C", period COLLATE "C" FOR UPDATE'
        )
    ),
}


def _lane(booking: Booking) -> _Lane:
    return booking.request_id, booking.plan.purpose


def _held(connection: Connection, lanes: Sequence[_Lane]) -> dict[_Lane, _Held]:
    found = _HELD[connection.dialect.name].run(connection, {"lanes": msgspec.json.encode(lanes).decode()})
    return {(row.request_id, row.purpose): _Held(row.amount, row.attempt, counters_of(row)) for row in found}


def counters_of(row: Any) -> tuple[Counter, ...]:
    """The counters that a reservation has moved: its tenant's, and those of the levels named in it."""
    return _counters_of(row.tenant, row.day, row.month, row.counters)


@lru_cache(maxsize=4096)
def _counters_of(tenant: str, day: str, month: str, levels: str) -> tuple[Counter, ...]:
    named = (Counter(tenant, scope, period) for scope, period in msgspec.json.decode(levels, type=list[tuple[str, str]]))
    return (Counter(tenant, "", day), Counter(tenant, "", month), *named)


def _read_counters(connection: Connection, counters: Sequence[Counter]) -> dict[Counter, int]:
    """Spent and set aside of each, locked until the transaction ends. Raises `CountersMissing` where one was never made."""
    found = _COUNTERS[connection.dialect.name].run(connection, {"counters": msgspec.json.encode(counters).decode()})
    left = {Counter(row.tenant, row.scope, row.period): int(row.taken) for row in found}
    missing = [counter for counter in counters if counter not in left]
    if missing:
        raise CountersMissing(missing)
    return left


class CountersMissing(Exception):
    """Counters that must be made first; nothing was booked."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        super().__init__(f"{len(counters)} counters are not there yet")
        self.counters = tuple(counters)


def make_counters(connection: Connection, counters: Sequence[Counter]) -> None:
    """Make the counters that are not there, in a transaction of their own. A level's begins with what the ledger says was spent in its period."""
    for counter in sorted(counters):
        spent = _spent_before(connection, counter) if counter.scope else 0
        _MAKE.run(connection, {"tenant": counter.tenant, "scope": counter.scope, "period": counter.period, "cap": UNCAPPED, "spent": spent})


_MAKE = Prepared(
    text(
        "INSERT INTO budgets (tenant, scope, period, cap, spent, reserved) VALUES (:tenant, :scope, :period, :cap, :spent, 0) "
        "ON CONFLICT (tenant, scope, period) DO NOTHING"
    )
)


def _spent_before(connection: Connection, counter: Counter) -> int:
    """What the ledger says was spent of a level in its period. A request belongs to the period in which it began, however long it ran."""
    kind, _, name = counter.scope.partition(":")
    who = {"key": ledger.c.key_id == name, "team": ledger.c.team == name, "model": or_(ledger.c.backend == name, ledger.c.model == name)}[kind]
    start, end = _bounds(counter.period)
    earlier = ledger.alias()
    began_before = exists().where(earlier.c.request_id == ledger.c.request_id, earlier.c.purpose == ledger.c.purpose, earlier.c.started_at < start)
    # What began in the period ended in it or later: the index by tenant and end keeps this short at midnight, when every key's counter is made.
    when = (ledger.c.ended_at >= start, ledger.c.started_at >= start, ledger.c.started_at < end, ~began_before)
    return int(connection.execute(select(func.coalesce(func.sum(ledger.c.cost), 0)).where(ledger.c.tenant == counter.tenant, who, *when)).scalar_one())


def _bounds(period: str) -> tuple[float, float]:
    """A period's begin and end, in seconds since the epoch."""
    kind, _, name = period.partition(":")
    start = datetime.fromisoformat(name if kind == "day" else f"{name}-01").replace(tzinfo=UTC)
    days = 1 if kind == "day" else monthrange(start.year, start.month)[1]
    return start.timestamp(), (start + timedelta(days=days)).timestamp()
