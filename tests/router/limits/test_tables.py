"""The migrations make the tables that the limits use, and take them away again."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Connection, inspect, select, text

from config.database import open_database
from router.launch import migrate_state
from router.limits.sql import SqlTransport, forget_worker
from router.limits.tables import limit_buckets, limit_slots
from router.limits.values import Take
from router.tables import metadata
from tests.router.limits.conftest import Clock, register, scope

TABLES = (limit_buckets.name, limit_slots.name)


async def test_the_migrations_make_exactly_the_tables_the_limits_use(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or name in TABLES

    def look(connection: Connection) -> tuple[list[Any], list[str]]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        if connection.dialect.name != "postgresql":
            return list(compare_metadata(context, metadata)), ["u", "u"]
        query = text("SELECT relpersistence::text FROM pg_class WHERE relname IN ('limit_buckets', 'limit_slots')")
        return list(compare_metadata(context, metadata)), list(connection.execute(query).scalars())

    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    assert await database.read(look) == ([], ["u", "u"]), "on PostgreSQL they are unlogged"
    assert set(TABLES) <= set(await database.read(lambda connection: inspect(connection).get_table_names()))
    await database.aclose()


async def test_burying_a_worker_frees_what_it_held_and_a_beat_sweeps_what_nobody_owns(database_url: str, clock: Clock) -> None:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    slots = (scope("concurrency", 2),)
    for worker in ("dead", "alive"):
        await database.write(lambda connection, worker=worker: register(connection, worker))  # type: ignore[misc]
    dead, alive = SqlTransport(database, "dead", clock), SqlTransport(database, "alive", clock)
    verdicts, _ = await dead.run([Take(slots=slots)] * 3, None)
    assert [verdict.passed for verdict in verdicts] == [True, True, False]
    await database.write(lambda connection: forget_worker(connection, "dead"))
    verdicts, _ = await alive.run([Take(slots=slots)] * 3, None)
    assert [verdict.passed for verdict in verdicts] == [True, True, False]
    await database.write(lambda connection: connection.execute(limit_slots.insert(), {"scope": "x", "worker": "nobody", "held": 1}))
    clock.now += 100_000
    _, workers = await alive.run([], {slots[0].id: 2})
    assert workers == 2
    left = await database.read(lambda connection: [tuple(row) for row in connection.execute(select(limit_slots.c.worker, limit_slots.c.held))])
    assert left == [("alive", 2)]
    await database.aclose()
