"""Inserting many rows of the decision log at once, past SQLAlchemy's layers: they cost more than the rest."""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite


def insert_missing(connection: Connection, table: Table, rows: list[dict[str, object]]) -> None:
    """Insert rows, but not those that an attempt wrote of which nobody learned that it succeeded. Past SQLAlchemy's layers: they cost more than the rest."""
    statement, columns = _insertion(table, connection.dialect.name)
    connection.exec_driver_sql(statement, [tuple([row[column] for column in columns]) for row in rows])


@cache
def _insertion(table: Table, dialect: str) -> tuple[str, tuple[str, ...]]:
    """The statement as the driver takes it, and the columns in the order of its parameters. No column of these tables needs a conversion."""
    made = (
        postgresql.insert(table).on_conflict_do_nothing().compile(dialect=PGDialect_asyncpg())  # type: ignore[no-untyped-call]
        if dialect == "postgresql"
        else sqlite.insert(table).on_conflict_do_nothing().compile(dialect=SQLiteDialect_pysqlite())
    )
    return made.string, tuple(made.positiontup or ())
