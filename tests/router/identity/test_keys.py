"""Keys: what the database holds, how long a worker remembers, who a key is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from config.database import Database, open_database
from router.identity import keys as api_keys
from router.identity.authenticator import CACHE_SECONDS, Authenticator
from router.identity.errors import InvalidName, Unknown
from router.identity.first_keys import FirstKeys, ensure_first_keys
from router.identity.keys import NewKey
from router.identity.tables import keys
from router.identity.tenants import PLATFORM, create_tenant
from router.launch import migrate_state

SECRET = b"a secret of the tests"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    await database.write(lambda connection: create_tenant(connection, "acme"))
    yield database
    await database.aclose()


async def make(database: Database, **fields: object) -> NewKey:
    given: dict[str, object] = {"tenant": "acme", "role": "member", **fields}
    return await database.write(lambda connection: api_keys.create_key(connection, SECRET, **given))  # type: ignore[arg-type]


async def test_a_key_is_stored_only_as_its_keyed_hash(database: Database) -> None:
    made = await make(database)
    (row,) = await database.read(lambda connection: connection.execute(select(keys)).mappings().all())
    assert made.key not in str(dict(row))
    assert row["hash"] == api_keys.key_hash(SECRET, made.key) != api_keys.key_hash(b"another secret", made.key)


async def test_a_revoked_key_is_dead_in_every_worker_well_within_a_second(database: Database) -> None:
    now = 100.0
    workers = [Authenticator(database, SECRET, lambda: now) for _ in range(3)]
    made = await make(database)
    for worker in workers:
        assert (await worker.principal(made.key)) is not None
    await database.write(lambda connection: api_keys.revoke_key(connection, made.id))
    now += CACHE_SECONDS
    assert CACHE_SECONDS < 1
    assert [await worker.principal(made.key) for worker in workers] == [None] * 3


async def test_an_expired_key_is_no_key(database: Database) -> None:
    made = await make(database, expires_at=time.time() - 1)
    assert await Authenticator(database, SECRET).principal(made.key) is None


async def test_a_key_knows_its_tenant_role_and_models(database: Database) -> None:
    made = await make(database, role="service", models=("mini", "claude"))
    principal = await Authenticator(database, SECRET).principal(made.key)
    assert principal is not None
    assert (principal.tenant, principal.role, principal.allowed_models, principal.platform) == ("acme", "service", ("mini", "claude"), False)


async def test_a_platform_key_belongs_to_no_tenant(database: Database) -> None:
    made = await make(database, tenant=PLATFORM, role="operator")
    principal = await Authenticator(database, SECRET).principal(made.key)
    assert principal is not None
    assert (principal.platform, principal.tenant) == (True, "")


@pytest.mark.parametrize(("tenant", "role", "error"), [("acme", "operator", InvalidName), (PLATFORM, "member", InvalidName), ("nobody", "member", Unknown)])
async def test_a_key_for_a_wrong_role_or_tenant_is_refused(database: Database, tenant: str, role: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await make(database, tenant=tenant, role=role)


async def test_the_first_keys_are_made_once_and_a_configured_one_replaces_the_configured_one(database: Database) -> None:
    def ensure(configured: str | None) -> FirstKeys:
        return database.write_blocking(lambda connection: ensure_first_keys(connection, SECRET, configured))

    first = await asyncio.to_thread(ensure, "configured-key-number-1")
    assert first.admin is None
    who = Authenticator(database, SECRET, iter(range(0, 1000, 10)).__next__)
    assert (await who.principal("configured-key-number-1")) is not None
    await asyncio.to_thread(ensure, "configured-key-number-2")
    assert (await who.principal("configured-key-number-1")) is None
    assert (await who.principal("configured-key-number-2")) is not None
    assert await asyncio.to_thread(ensure, None) == FirstKeys()
