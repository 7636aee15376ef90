"""Holding the books against the clients and against what the upstream billed."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from adapters.cost import cost
from adapters.types import Usage
from config.database import Database
from config.prices import Price
from config.secretfile import load_secret
from router.audit.ledger_check import check_ledger
from router.money.balance import trial_balance
from router.money.exports import parse_export
from router.money.reconciliation import Reconciliation, reconcile
from router.money.sealing import SealKey
from router.tables import budgets, ledger, reservations
from tests.e2e.money_client import Asked

Row = dict[str, Any]

REFUSED_BEFORE_BOOKING = {"budget_exceeded", "shutting_down"}


@dataclass
class Books:
    """Everything that is written down, read in one transaction."""

    ledger: list[Row]
    budgets: list[Row]
    reservations: list[Row]


async def read_books(database: Database) -> Books:
    def read(connection: Connection) -> Books:
        return Books(*([dict(row) for row in connection.execute(select(table)).mappings()] for table in (ledger, budgets, reservations)))

    return await database.read(read)


async def read_budgets(database: Database) -> list[Row]:
    return await database.read(lambda connection: [dict(row) for row in connection.execute(select(budgets)).mappings()])


async def open_calls(database: Database) -> int:
    return await database.read(lambda connection: connection.execute(select(func.count()).select_from(reservations)).scalar_one())


async def settled_books(database: Database, seconds: float = 20.0) -> Books:
    """The books once no reservation is open; fails when one stays open."""
    async with asyncio.timeout(seconds):
        while await open_calls(database):
            await asyncio.sleep(0.02)
    return await read_books(database)


async def quiet_books(database: Database, seconds: float = 20.0) -> Books:
    """The books once nothing is open and nothing comes after it: what is done after the answers is done, too."""
    books = await settled_books(database, seconds)
    while True:
        await asyncio.sleep(0.5)
        later = await settled_books(database, seconds)
        if len(later.ledger) == len(books.ledger):
            return later
        books = later


@dataclass
class Watch:
    """What was seen of the budget while the crowd was at work."""

    samples: int = 0
    peak: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By period, the most that was ever spent and reserved together."""


@asynccontextmanager
async def watching(database: Database, tenant: str, caps: dict[str, int]) -> AsyncIterator[Watch]:
    """Look at the budget all the time; at the end nothing seen may have been over the cap of its period (`day`, `month`)."""
    watch = Watch()

    async def look() -> None:
        while True:
            for row in await read_budgets(database):
                if row["tenant"] == tenant:
                    period = row["period"].partition(":")[0]
                    watch.peak[period] = max(watch.peak[period], row["spent"] + row["reserved"])
            watch.samples += 1
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    try:
        yield watch
    finally:
        task.cancel()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
    assert isinstance(done, asyncio.CancelledError), done
    assert watch.samples > 3
    for period, cap in caps.items():
        assert watch.peak[period] <= cap, f"{period}: {watch.peak[period]} was spent and reserved of {cap}"


@dataclass
class Figures:
    """What a run was made of, for a report."""

    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{name} {number}" for name, number in sorted(self.counts.items()))


def check_books(books: Books, crowd: Sequence[Asked], bill_file: Path, tenant: str, caps: dict[str, int], *, killed: bool = False) -> Figures:
    """The invariants of money. `killed` allows connections that were lost and rows that were recovered."""
    check_sums(books, tenant, caps)
    check_rows(books.ledger, killed=killed)
    bills = check_bills(books.ledger, bill_file)
    check_clients(books.ledger, crowd, killed=killed)
    check_keys(books.ledger, crowd, killed=killed)
    return counted(books, crowd, bills)


def counted(books: Books, crowd: Sequence[Asked], bills: Sequence[dict[str, Any]]) -> Figures:
    figures = Figures()
    figures.counts.update({"requests": len(crowd), "rows": len(books.ledger), "bills": len(bills), "final bills": sum(bill["final"] for bill in bills)})
    figures.counts.update(f"client {asked.ended}" for asked in crowd)
    figures.counts.update("faults asked for" for asked in crowd if asked.plan.faulty)
    figures.counts.update("refused 402" for asked in crowd if asked.status == 402)
    figures.counts.update(f"dialect {asked.plan.dialect}" for asked in crowd)
    figures.counts.update("replayed" for asked in crowd if asked.replayed)
    figures.counts.update("hedges" for row in books.ledger if row["purpose"] == "hedge")
    figures.counts.update("further attempts" for row in books.ledger if row["purpose"] == "answer" and row["attempt"] > 1)
    figures.counts.update("repairs" for row in books.ledger if row["error"] == "invalid_output")
    figures.counts.update(f"row {row['outcome']}/{row['usage_source']}" for row in books.ledger)
    return figures


def check_sums(books: Books, tenant: str, caps: dict[str, int]) -> None:
    """No reservation is open, and what each budget says was spent is what the ledger says, and within the cap."""
    assert books.reservations == []
    spent: Counter[tuple[str, str]] = Counter()
    for row in books.budgets:
        if row["tenant"] == tenant:
            assert row["reserved"] == 0, row
            spent[row["scope"], row["period"].partition(":")[0]] += row["spent"]
    assert {("", "day"), ("", "month")} <= set(spent)
    for (scope, period), amount in spent.items():
        kind, _, name = scope.partition(":")
        columns = {"": ("tenant",), "key": ("key_id",), "team": ("team",), "model": ("backend", "model")}[kind]
        paid = [row for row in books.ledger if row["tenant"] == tenant and (not scope or name in [row[column] for column in columns])]
        assert amount == sum(row["cost"] for row in paid), (scope, period)
        assert scope or amount <= caps.get(period, amount)


def check_rows(rows: Sequence[Row], *, killed: bool) -> None:
    """Each attempt has one row; an estimate covers what was delivered and stays within what was reserved."""
    attempts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows:
        assert row["entry"] == "settlement" or (killed and row["entry"] == "recovery"), row
        attempts[row["request_id"], row["purpose"]].append(row["attempt"])
        price = msgspec.json.decode(row["price"], type=Price)
        usage = Usage(row["input_tokens"], row["output_tokens"], cache_read_input_tokens=row["cache_read_input_tokens"])
        if row["entry"] == "recovery":
            assert (row["outcome"], row["usage_source"], row["cost"]) == ("crashed", "estimated", row["reserved"])
        else:
            assert row["cost"] == cost(usage, price), row
        if row["usage_source"] == "estimated":
            assert row["cost"] <= row["reserved"], row
            assert row["output_tokens"] * 4 >= row["delivered_characters"], row
    for request_id, found in attempts.items():
        assert sorted(found) == list(range(1, len(found) + 1)), (request_id, found)


def read_bills(bill_file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bill_file.read_text().splitlines()]


def check_bills(rows: Sequence[Row], bill_file: Path) -> list[dict[str, Any]]:
    """The ledger equals what the upstream billed wherever its final report arrived; elsewhere it holds an estimate."""
    bills = read_bills(bill_file)
    by_id: dict[str, Row] = {}
    for row in rows:
        if row["provider_request_id"] is not None:
            assert row["provider_request_id"] not in by_id, "one call, two rows"
            by_id[row["provider_request_id"]] = row
    unmatched = 0
    for bill in bills:
        found = by_id.pop(bill["id"], None)
        if found is None:
            unmatched += 1
        elif bill["final"]:
            assert found["usage_source"] in ("provider", "counted"), found
            assert (found["input_tokens"], found["output_tokens"]) == (bill["input_tokens"], bill["output_tokens"]), (found, bill)
        else:
            assert found["usage_source"] == "estimated", (found, bill)
    assert by_id == {}, "a row names a call that the upstream never saw"
    # A worker that was killed between the upstream's bill and its own settlement left a recovered row without the call's id.
    assert unmatched <= sum(row["entry"] == "recovery" for row in rows), f"{unmatched} billed calls are in no row"
    return bills


async def import_bills(database: Database, secret: bytes, bills: Sequence[dict[str, Any]]) -> None:
    """Take over the upstream's own report: after it, the rows of every call add up to its bill, or to nothing, and a second import has nothing to do."""
    text, seals = io.StringIO(), SealKey(secret)
    table = csv.writer(text)
    table.writerow(["timestamp", "provider_request_id", "request_id", "input_tokens", "output_tokens"])
    now = time.time()
    moments = itertools.chain([now - 86_400], itertools.repeat(now))  # midnight may have passed since the beginning
    table.writerows([at, bill["id"], bill["reference"], bill["input_tokens"], bill["output_tokens"]] for at, bill in zip(moments, bills, strict=False))

    def apply() -> Reconciliation:
        return reconcile(database, parse_export(io.StringIO(text.getvalue(), newline="")), "local", seals, apply=True, unbilled=True)

    done = await asyncio.to_thread(apply)
    assert done.counts.keys() <= {"differs", "not_in_export"}, (done.counts, done.differences[:5])
    assert done.open == 0, [each for each in done.differences if not each.booked][:5]
    again = await asyncio.to_thread(apply)
    assert (again.corrections, again.equal) == (0, len(bills))
    attempts: dict[str, list[Row]] = defaultdict(list)
    for row in (await read_books(database)).ledger:
        attempts[f"{row['request_id']}/{row['purpose']}/{row['attempt']}"].append(row)
    for bill in bills:
        rows = attempts.pop(bill["reference"])
        found = tuple(sum(row[name] for row in rows) for name in ("input_tokens", "output_tokens", "cost"))
        usage = Usage(input_tokens=bill["input_tokens"], output_tokens=bill["output_tokens"])
        assert found == (usage.input_tokens, usage.output_tokens, cost(usage, msgspec.json.decode(rows[0]["price"], type=Price))), (bill, rows)
    for rows in attempts.values():  # not called, or by a killed worker for which the upstream ended nothing
        assert sum(row["cost"] for row in rows) == 0, rows


def secret_of(home: Path) -> bytes:
    return load_secret({}, home).reveal().encode()


async def verify_books(database: Database, secret: bytes) -> None:
    """What `headgate ledger verify` and `headgate ledger balance` say."""
    assert await database.read(lambda connection: check_ledger(connection, secret)) == []
    assert (await database.read(trial_balance)).agrees


def check_clients(rows: Sequence[Row], crowd: Sequence[Asked], *, killed: bool) -> None:
    """Each accepted request has rows that cover what its client received, each refused one has none, and no stream ended silently."""
    by_request: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_request[row["request_id"]].append(row)
    first_with = {asked.plan.key: asked for asked in reversed(crowd) if asked.plan.key is not None}
    for asked in crowd:
        assert killed or asked.ended != "lost", asked
        if asked.terminals and asked.ended != "left":
            assert asked.terminals in (["finish", "done"], ["error", "done"]), asked
        if asked.request_id is None or asked.replayed:
            continue
        found = by_request.pop(asked.request_id, [])
        if asked.status not in (None, 200) and asked.code is None and asked.ended in ("lost", "left"):  # before the body, which holds the reason
            continue
        refused = asked.code in REFUSED_BEFORE_BOOKING
        if refused and asked.status != 200:
            assert found == [], asked
        elif asked.waited and not found and (refused or (killed and asked.ended == "lost")):
            # The stream was opened while its request still waited for the books: then the refusal is an event in it, or the end of the service is its end.
            assert asked.text == "", asked
        elif asked.waited and not found and first_with.get(asked.plan.key, asked) is not asked:
            pass  # the first one with its key still ran when the stream was opened: its answer is repeated, without the header that says so
        elif asked.status is not None:
            assert found, asked
            assert any(covers(row, asked.text) for row in found), (asked, found)
    nameless = sum(asked.request_id is None for asked in crowd)
    assert len(by_request) <= nameless, "rows of requests that nobody sent"


def covers(row: Row, text: str) -> bool:
    """Whether an attempt may be the one that said it."""
    if row["entry"] == "recovery":
        return True
    return row["delivered_characters"] >= len(text) and (row["usage_source"] == "provider" or row["output_tokens"] * 4 >= len(text))


def check_keys(rows: Sequence[Row], crowd: Sequence[Asked], *, killed: bool) -> None:
    """A request sent again under its key gets the answer that the first one got, and of the two at most one has cost anything."""
    costly = {row["request_id"] for row in rows if row["cost"]}
    keyed: dict[str, list[Asked]] = defaultdict(list)
    for asked in crowd:
        if asked.plan.key is not None:
            keyed[asked.plan.key].append(asked)
    for first, *again in keyed.values():
        for second in again:
            if first.ended == "answered" and second.ended != "lost":
                assert killed or second.replayed, (first, second)
                assert not second.replayed or (second.text, second.status) == (first.text, first.status), (first, second)
            assert killed or len({first.request_id, second.request_id} & costly) <= 1, (first, second)
