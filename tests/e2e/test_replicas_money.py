"""A budget over several processes on one database: never more than its cap, and never refused while there is some."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import pytest
from sqlalchemy import Connection, func, select, text

from adapters.cost import PICODOLLARS, upper_bound
from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from router.launch import migrate_state
from router.money.accounting import Accounting
from router.money.settlement import AttemptPlan, Caps, measured
from router.tables import budgets, ledger, reservations
from tests.conftest import ROOT
from tests.e2e.replica import PRICE
from tests.seals import SEALS

PROCESSES = 4
FIRST_REQUESTS = 400
REQUESTS = 10_000

WATCHED = (
    "CREATE TABLE seen (taken bigint NOT NULL)",
    "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (NEW.spent + NEW.reserved); RETURN NEW; END $$",
    "CREATE TRIGGER watching AFTER INSERT OR UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION watch()",
)
"""The database itself writes down every amount that was ever spent and set aside together."""


@contextmanager
def replica(url: str, name: str, requests: int, cap: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.e2e.replica", url, name, str(requests), str(cap)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.postgres
def test_four_processes_and_four_hundred_first_requests_never_take_more_than_a_dollar(postgres_url: str) -> None:
    database = open_database(postgres_url)
    migrate_state(database)
    database.write_blocking(lambda connection: [connection.execute(text(statement)) for statement in WATCHED])
    with ExitStack() as stack:
        names = [f"w{number}" for number in range(PROCESSES)]
        processes = [stack.enter_context(replica(postgres_url, name, FIRST_REQUESTS // PROCESSES, PICODOLLARS)) for name in names]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        came = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    seen, rows, left = database.read_blocking(_books)
    database.close()
    granted = sum(each["granted"] for each in came)
    assert [each["failed"] for each in came] == [0] * PROCESSES
    assert granted + sum(each["refused"] for each in came) == FIRST_REQUESTS
    assert (rows["rows"], left) == (granted, 0)
    assert rows["spent"] == rows["cost"]
    assert 0.9 * PICODOLLARS < seen <= PICODOLLARS, "the budget was to be used up, and no more"
    assert sum(each["granted"] > 0 for each in came) > 1, "one process was to leave some to the others"


def _books(connection: Connection) -> tuple[int, dict[str, int], int]:
    seen = connection.execute(text("SELECT max(taken) FROM seen")).scalar_one()
    count, paid = connection.execute(select(func.count(), func.sum(ledger.c.cost))).one()
    (spent,) = set(connection.execute(select(budgets.c.spent)).scalars())
    return int(seen), {"rows": count, "cost": int(paid), "spent": spent}, connection.execute(select(func.count()).select_from(reservations)).scalar_one()


@asynccontextmanager
async def replicas(url: str) -> AsyncIterator[tuple[list[Accounting], Database]]:
    """The books of four processes, as far as one process can show it: each with a database of its own. And one of the databases."""
    databases: list[Database] = [open_database(url) for _ in range(PROCESSES)]
    await asyncio.to_thread(migrate_state, databases[0])
    try:
        yield [Accounting(database, f"w{number}", SEALS) for number, database in enumerate(databases)], databases[0]
    finally:
        for database in databases:
            await database.aclose()


async def test_nothing_is_refused_while_most_of_the_budget_is_neither_spent_nor_reserved(database_url: str) -> None:
    """A fifth is spent before, at most a fifth is set aside at a time and what is spent meanwhile is next to nothing: sixty per cent are always there."""
    bound = upper_bound(1_000, 1_000, PRICE)
    at_a_time = 100
    cap = bound * at_a_time * 5
    caps = Caps(day=cap, month=cap)
    chance = random.Random(5)

    async def one(books: Accounting, number: int, used: Usage) -> None:
        plan = AttemptPlan("mini", "openai", "gpt", PRICE, 1_000, 1_000, bound, "default", time.time())
        booking = await books.reserve(f"r{number}", "acme", "key", 1, caps, plan)
        if chance.random() < 0.1:
            await books.next_attempt(booking, measured(_record(None), booking.plan, asyncio.CancelledError()), plan)
        await books.settle(booking, measured(_record(used), booking.plan, None))

    async with replicas(database_url) as (each, database):
        await one(each[0], -1, Usage(input_tokens=cap // 5 // 1_000_000))
        numbers = itertools.count()

        async def client(books: Accounting) -> None:
            while (number := next(numbers)) < REQUESTS:
                await one(books, number, Usage(input_tokens=1))

        async with asyncio.TaskGroup() as clients:
            for number in range(at_a_time):
                clients.create_task(client(each[number % PROCESSES]))
        counted = await database.read(lambda connection: connection.execute(select(func.count(func.distinct(ledger.c.request_id)))).scalar_one())
    assert counted == REQUESTS + 1


def _record(usage: Usage | None) -> AttemptRecord:
    return AttemptRecord(backend="mini", usage=usage, called=usage is not None)
