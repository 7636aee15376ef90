"""Triggers of the tables that can only be added to. Migrations call this: what changes such a table runs inside `changeable`.

On SQLite a table that is rebuilt (`batch_alter_table`) loses its triggers without a word, and what a migration writes to its rows would be refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

COVERED = {
    "audit_log": "EXISTS (SELECT 1 FROM audit_checkpoints c WHERE c.chain = OLD.chain AND c.seq >= OLD.seq)",
    "audit_checkpoints": None,
    "ledger": "EXISTS (SELECT 1 FROM audit_checkpoints c WHERE c.chain = 'ledger' AND c.until > OLD.ended_at)",
}
"""Of each such table: which rows may be removed all the same."""

APPEND_ONLY = tuple(COVERED)


def triggers_of(table: str, dialect: str) -> tuple[str, ...]:
    """The names of a table's triggers."""
    kinds = ("no_update", "no_delete") if dialect == "sqlite" else ("no_update", "no_delete", "no_truncate")
    return tuple(f"{table}_{kind}" for kind in kinds)


def refuse_changes(connection: Connection, *tables: str) -> None:
    """Make the triggers of these tables, in place of those that are there."""
    allow_changes(connection, *tables)
    for table in tables:
        for statement in _refusing(table, connection.dialect.name):
            connection.exec_driver_sql(statement)


def allow_changes(connection: Connection, *tables: str) -> None:
    """Take the triggers of these tables away."""
    dialect = connection.dialect.name
    for table in tables:
        for trigger in triggers_of(table, dialect):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {trigger}" + ("" if dialect == "sqlite" else f" ON {table}"))
        if dialect != "sqlite":
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {table}_append_only()")


@contextmanager
def changeable(connection: Connection, *tables: str) -> Iterator[None]:
    """For a migration: in here these tables may be rebuilt and their rows changed. Afterwards they refuse it again."""
    allow_changes(connection, *tables)
    yield
    refuse_changes(connection, *tables)


@contextmanager
def all_changeable(connection: Connection) -> Iterator[None]:
    """`changeable`, for those tables that refuse changes now: in whatever revision the database is."""
    with changeable(connection, *[table for table in APPEND_ONLY if triggers_there(connection) >= set(triggers_of(table, connection.dialect.name))]):
        yield


def triggers_there(connection: Connection) -> set[str]:
    """The names of the triggers that the database has, and that are not switched off."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    else:
        found = connection.exec_driver_sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'")
    return set(found.scalars())


def _refusing(table: str, dialect: str) -> list[str]:
    message, covered = f"{table} is append only", COVERED[table]
    if dialect == "sqlite":
        unless = f" WHEN NOT {covered}" if covered else ""
        return [
            f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, '{message}'); END",
            f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}{unless} BEGIN SELECT RAISE(ABORT, '{message}'); END",
        ]
    allow = f"IF TG_OP = 'DELETE' THEN IF {covered} THEN RETURN OLD; END IF; END IF;" if covered else ""
    return [
        f"CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {allow} RAISE EXCEPTION '{message}'; END $$",
        f"CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_append_only()",
        f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_append_only()",
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
    ]
