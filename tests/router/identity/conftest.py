from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from config.database import Database, open_database
from router.identity.tenants import create_tenant
from router.launch import migrate_state


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Migrated, with the tenants acme and globex; of either kind."""
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    for tenant in ("acme", "globex"):
        await database.write(lambda connection, tenant=tenant: create_tenant(connection, tenant))  # type: ignore[misc]
    yield database
    await database.aclose()
