"""Policy versions: one is active, however many replicas change it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from config.database import STATE_LOCK, Database, exclusively, open_database
from router import policy_store
from router.identity.first_keys import FirstKeys, ensure_first_keys
from router.identity.tables import keys, tenants
from router.launch import migrate_state
from router.tables import policy_versions


def active(connection: Connection) -> list[int]:
    return list(connection.execute(select(policy_versions.c.version).where(policy_versions.c.active)).scalars())


async def at_once(url: str, database: Database, *works: Callable[[Connection], Any]) -> list[Any]:
    """Each work as a replica of its own. All have begun before any may go on: the first to ask waits until the last has asked too."""
    replicas = [open_database(url) for _ in works]
    begun = asyncio.Event()
    release = asyncio.Event()

    def hold(connection: Connection) -> None:
        exclusively(connection, STATE_LOCK)
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(20)

    def waiting(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").scalar_one())

    loop = asyncio.get_running_loop()
    holder = open_database(url)
    holding = asyncio.create_task(asyncio.to_thread(holder.write_blocking, hold))
    try:
        await begun.wait()
        running = [asyncio.create_task(replica.write(work)) for replica, work in zip(replicas, works, strict=True)]
        async with asyncio.timeout(20):
            while await database.read(waiting) < len(works) and not all(task.done() for task in running):
                await asyncio.sleep(0.01)
        release.set()
        return await asyncio.gather(*running, return_exceptions=True)
    finally:
        release.set()
        await holding
        for each in (holder, *replicas):
            await each.aclose()


@pytest.mark.postgres
async def test_of_two_changes_against_the_same_version_exactly_one_wins(postgres_url: str) -> None:
    database = open_database(postgres_url)
    await asyncio.to_thread(migrate_state, database)
    first = await database.write(lambda c: policy_store.import_file(c, "first"))

    def change(text: str) -> Callable[[Connection], policy_store.PolicyVersion]:
        return lambda c: policy_store.add_version(c, text, source="api", author="a", expected=first.etag)

    results = await at_once(postgres_url, database, change("one"), change("two"))
    assert sorted(type(result) for result in results if isinstance(result, Exception)) == [policy_store.Conflict]
    (winner,) = [result for result in results if isinstance(result, policy_store.PolicyVersion)]
    assert await database.read(active) == [winner.version]
    await database.aclose()


@pytest.mark.postgres
async def test_two_replicas_that_start_together_for_the_first_time_make_one_policy_and_one_set_of_keys(postgres_url: str) -> None:
    database = open_database(postgres_url)
    await asyncio.to_thread(migrate_state, database)

    def prepare(connection: Connection) -> FirstKeys:
        policy_store.import_file(connection, "the file")
        return ensure_first_keys(connection, b"secret", "hg-configured-admin-key")

    results = await at_once(postgres_url, database, prepare, prepare)
    assert sorted(made.chat is not None for made in results) == [False, True]
    assert await database.read(active) == [1]
    assert await database.read(lambda c: len(c.execute(select(tenants)).all())) == 1
    assert await database.read(lambda c: sorted(c.execute(select(keys.c.role)).scalars())) == ["operator", "owner"]
    await database.aclose()


async def test_the_database_itself_refuses_a_second_active_version(database_url: str) -> None:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    for text in ("one", "two"):
        await database.write(lambda c, text=text: policy_store.add_version(c, text, source="api", author="a"))  # type: ignore[misc]
    with pytest.raises(IntegrityError):
        await database.write(lambda c: c.execute(update(policy_versions).values(active=True)))
    assert await database.read(active) == [2]
    assert (await database.write(lambda c: policy_store.activate(c, 1))) is not None
    assert await database.read(active) == [1]
    await database.aclose()


async def test_an_error_of_the_database_does_not_show_what_was_to_be_written(database_url: str) -> None:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    with pytest.raises(IntegrityError) as caught:
        await database.write(lambda c: [c.execute(insert(tenants), {"name": "acme", "created_at": at}) for at in (17.25, 18.75)])
    assert "18.75" not in str(caught.value)
    await database.aclose()
