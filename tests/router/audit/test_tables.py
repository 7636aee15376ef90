"""The audit's tables: exactly what the code uses, and gone again on the way back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Connection, Executable, inspect, text
from sqlalchemy.exc import DBAPIError

from config.database import Database, open_database
from config.schema import downgrade
from router.audit.ledger_check import check_ledger
from router.audit.tables import audit_checkpoints, audit_heads, audit_log, decision_capabilities, decisions, prompts
from router.audit.triggers import APPEND_ONLY, changeable, triggers_of
from router.launch import MIGRATIONS, migrate_state
from router.money.sealing import ledger_archived, ledger_heads, ledger_seals
from router.tables import ledger, metadata

SEALS = (ledger, ledger_heads, ledger_seals, ledger_archived)
TABLES = tuple(table.name for table in (audit_log, audit_heads, audit_checkpoints, decisions, decision_capabilities, prompts))


def triggers(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        return set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars())
    return set(connection.execute(text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'O'")).scalars())


def row(connection: Connection, table: str) -> None:
    """One row, whatever its columns hold."""
    columns = metadata.tables[table].columns
    values = {column.name: 0 if column.type.python_type in (int, float) else "x" for column in columns}
    connection.execute(metadata.tables[table].insert(), values)


def assert_refused(database: Database, statement: Executable) -> None:
    with pytest.raises(DBAPIError, match="append only"):
        database.write_blocking(lambda connection: connection.execute(statement) and None)


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_after_every_migration_the_database_refuses_to_change_what_can_only_be_added_to(database_url: str, table: str) -> None:
    database = open_database(database_url)
    migrate_state(database)
    assert set(triggers_of(table, database.dialect)) <= database.read_blocking(triggers)
    database.write_blocking(lambda connection: row(connection, table))
    changed = metadata.tables[table]
    assert_refused(database, changed.update().values({"tenant" if table == "ledger" else "hash": "y"}))
    assert_refused(database, changed.delete())
    if database.dialect == "postgresql":
        assert_refused(database, text(f"TRUNCATE {table}"))
    database.close()


def test_a_migration_that_rebuilds_such_a_table_leaves_it_guarded(database_url: str) -> None:
    database = open_database(database_url)
    migrate_state(database)
    database.write_blocking(lambda connection: row(connection, "ledger"))

    def later(connection: Connection) -> None:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        op = Operations(MigrationContext.configure(connection))
        with changeable(connection, "ledger"):
            with op.batch_alter_table("ledger", recreate="always" if connection.dialect.name == "sqlite" else "auto") as table:
                table.add_column(Column("extra", BigInteger, nullable=False, server_default="7"))
            op.execute("UPDATE ledger SET extra = 8")

    database.write_blocking(later)
    assert database.read_blocking(lambda connection: connection.execute(text("SELECT extra FROM ledger")).scalar()) == 8
    assert_refused(database, text("UPDATE ledger SET extra = 9"))
    assert [each.table for each in database.read_blocking(lambda connection: check_ledger(connection, b"a secret")) if "trigger" in each.message] == []
    database.close()


async def test_the_migrations_make_exactly_the_tables_the_code_uses(database_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or name in {*TABLES, *(table.name for table in SEALS)}

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    assert await database.read(differences) == []
    await database.aclose()


def test_the_migration_goes_back_and_forth_and_keeps_what_was_there(database_url: str) -> None:
    database = open_database(database_url)
    migrate_state(database)
    row = "INSERT INTO kept_responses (id, tenant, data_class, content, created_at, expires_at) VALUES ('r', 'acme', 'public', :content, 1, 2)"
    database.write_blocking(lambda connection: connection.execute(text(row), {"content": b"x"}) and None)

    database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, "0004_kept"))
    assert not set(TABLES) & set(database.read_blocking(lambda connection: inspect(connection).get_table_names()))
    database.write_blocking(lambda connection: connection.execute(text("DELETE FROM ledger")) and None)
    migrate_state(database)
    kept = database.read_blocking(lambda connection: connection.execute(text("SELECT id, user_id FROM kept_responses")).one())
    assert tuple(kept) == ("r", None)
    database.close()
