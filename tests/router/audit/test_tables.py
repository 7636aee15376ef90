"""The audit's tables: exactly what the code uses, and gone again on the way back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

import config.database
from config.database import open_database
from router.audit.tables import audit_checkpoints, audit_heads, audit_log, decision_capabilities, decisions, prompts
from router.launch import migrate_state
from router.tables import metadata

TABLES = tuple(table.name for table in (audit_log, audit_heads, audit_checkpoints, decisions, decision_capabilities, prompts))


async def test_the_migrations_make_exactly_the_tables_the_code_uses(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or name in TABLES

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    assert await database.read(differences) == []
    await database.aclose()


def test_the_migration_goes_back_and_forth_and_keeps_what_was_there(database_url: str) -> None:
    root = Path(config.database.__file__).parent.parent
    database = open_database(database_url)
    migrate_state(database)
    row = "INSERT INTO kept_responses (id, tenant, data_class, content, created_at, expires_at) VALUES ('r', 'acme', 'public', :content, 1, 2)"
    database.write_blocking(lambda connection: connection.execute(text(row), {"content": b"x"}) and None)

    def back(connection: Connection) -> None:
        from alembic import command
        from alembic.config import Config

        settings = Config()
        settings.set_main_option("script_location", str(root / "config" / "migrations"))
        settings.set_main_option("path_separator", "newline")
        settings.set_main_option("version_locations", f"{root / 'router' / 'migrations'}\n{root / 'retrieval' / 'migrations'}")
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0004_kept")

    database.write_blocking(back)
    assert not set(TABLES) & set(database.read_blocking(lambda connection: inspect(connection).get_table_names()))
    database.write_blocking(lambda connection: connection.execute(text("DELETE FROM ledger")) and None)
    migrate_state(database)
    kept = database.read_blocking(lambda connection: connection.execute(text("SELECT id, user_id FROM kept_responses")).one())
    assert tuple(kept) == ("r", None)
    database.close()
