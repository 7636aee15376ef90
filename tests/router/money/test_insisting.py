"""Booking again while the database is away, and not at all where trying again cannot help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import InterfaceError, SQLAlchemyError

from adapters.cost import upper_bound
from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from config.prices import Price
from router.launch import migrate_state
from router.money.insisting import insist, may_pass
from router.money.settlement import AttemptPlan, Caps, measured
from router.tables import budgets, ledger, reservations
from tests.serving import serving

PRICE = Price(input=1.0, output=4.0)
POLICY = "version: 1\nbackends: {mini: {kind: scripted}}\ndefault: mini\n"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    yield database
    await database.aclose()


async def failure(database: Database, statement: str) -> SQLAlchemyError:
    def work(connection: Connection) -> None:
        connection.execute(text(statement))

    with pytest.raises(SQLAlchemyError) as raised:
        await database.write(work)
    return raised.value


async def test_a_row_that_the_database_refuses_does_not_pass(database: Database) -> None:
    assert not may_pass(await failure(database, "INSERT INTO tenants (name, created_at) VALUES ('x', NULL)"))


async def test_values_that_postgresql_refuses_do_not_pass_and_a_lost_connection_does(postgres_url: str) -> None:
    database = open_database(postgres_url)
    try:
        await asyncio.to_thread(migrate_state, database)
        assert not may_pass(await failure(database, "INSERT INTO tenants (name, created_at) VALUES (repeat('x', 99), 1)"))
        assert not may_pass(await failure(database, "SELECT 9223372036854775807 + 1"))
        assert may_pass(await failure(database, "SELECT pg_terminate_backend(pg_backend_pid())"))
    finally:
        await database.aclose()


def test_what_is_no_error_of_the_database_passes_only_where_the_system_may_recover() -> None:
    assert may_pass(ConnectionRefusedError())
    assert may_pass(TimeoutError())
    assert not may_pass(ValueError())


async def test_a_database_that_is_away_is_asked_again() -> None:
    tries = 0

    async def book() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise InterfaceError("away", None, OSError())

    async with asyncio.timeout(30):
        await insist(book, "r1")
    assert tries == 2


async def test_a_settlement_that_is_never_taken_is_booked_at_what_was_reserved(tmp_path: Path, database_url: str) -> None:
    async with serving(POLICY, tmp_path, database_url=database_url) as service:
        gateway = service.gateway
        plan = AttemptPlan("mini", "openai", "gpt", PRICE, 100, 50, upper_bound(100, 50, PRICE), "default", 1.0)
        booking = await gateway.accounting.reserve("r1", "acme", "key", 1, Caps(), plan)
        settlement = measured(AttemptRecord(backend="mini", called=True, usage=Usage(input_tokens=1)), plan, None)
        broken = msgspec.structs.replace(settlement, usage=msgspec.structs.replace(settlement.usage, source=None))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await gateway.settle(booking, broken)
        (row,) = await service.database.read(lambda connection: connection.execute(select(ledger)).mappings().all())
        assert (row["cost"], row["usage_source"], row["error"], row["outcome"]) == (plan.amount, "estimated", "settlement_failed", "ok")
        assert not await service.database.read(lambda connection: connection.execute(select(reservations)).all())
        spent = await service.database.read(lambda connection: connection.execute(select(budgets.c.spent, budgets.c.reserved)).all())
        assert {tuple(each) for each in spent} == {(plan.amount, 0)}
