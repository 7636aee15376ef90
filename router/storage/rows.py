"""Any table as data: which columns it has, its rows as lines of JSON, and back, on SQLite and PostgreSQL alike.

Read from the database and not from the code, so that it holds for the tables of every schema revision. A row is an array in the order of the
columns. Bytes stand as base64; a JSON column as its text, to the letter; a real number that is not finite as text.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from config.schema import VERSION_TABLE

T = TypeVar("T")
Kind = Literal["integer", "real", "text", "bytes", "boolean", "json"]
BATCH = 1000
"""Rows that are in memory at a time."""

_TYPES: dict[Kind, sa.types.TypeEngine[Any]] = {
    "integer": sa.BigInteger(),
    "real": sa.Double(),
    "text": sa.Text(),
    "bytes": sa.LargeBinary(),
    "boolean": sa.Boolean(),
    "json": sa.Text(),
}


class ColumnShape(Struct, frozen=True):
    name: str
    kind: Kind


class TableShape(Struct, frozen=True):
    """A table and its columns, without those that the database computes."""

    name: str
    columns: tuple[ColumnShape, ...]


class CannotLoad(ValueError):
    """The database does not take a row; says which."""


def read_tables(connection: Connection) -> tuple[TableShape, ...]:
    """Every table that holds rows of its own, those first on which others hang. Raises `ValueError` for a type that is none of the kinds."""
    metadata = sa.MetaData()
    names = [name for name in inspect(connection).get_table_names() if name != VERSION_TABLE and name not in _indexes(connection)]
    metadata.reflect(connection, only=names)
    return tuple(
        TableShape(str(table.name), tuple(ColumnShape(str(column.name), _kind(column)) for column in table.columns if column.computed is None))
        for table in metadata.sorted_tables
    )


def _indexes(connection: Connection) -> frozenset[str]:
    """SQLite's full-text indexes and the tables behind them; they are made again from the rows that they are of."""
    if connection.dialect.name != "sqlite":
        return frozenset()
    return frozenset(connection.exec_driver_sql("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('virtual', 'shadow')").scalars())


def _kind(column: sa.Column[Any]) -> Kind:
    match column.type:
        case sa.Boolean():
            return "boolean"
        case sa.Integer():
            return "integer"
        case sa.Float():
            return "real"
        case sa.LargeBinary():
            return "bytes"
        case sa.JSON():
            return "json"
        case sa.String():
            return "text"
        case other:
            raise ValueError(f"{column.table.name}.{column.name}: a column of type {other!r} cannot be backed up")


Where = Callable[[Any], tuple[sa.ColumnElement[bool], ...]]
"""Conditions on a table's columns, given these."""


def select_rows(connection: Connection, table: TableShape, where: Where = lambda _: (), order: Sequence[str] = ()) -> Iterator[list[Any]]:
    """The rows as Python values, read from the database as they are consumed."""
    source = sa.table(table.name, *(sa.column(column.name, _TYPES[column.kind]) for column in table.columns))
    postgresql = connection.dialect.name == "postgresql"
    columns = [sa.cast(source.c[column.name], sa.Text) if postgresql and column.kind == "json" else source.c[column.name] for column in table.columns]
    query = sa.select(*columns).where(*where(source.c)).order_by(*(source.c[name] for name in order))
    numbers = [number for number, column in enumerate(table.columns) if column.kind == "json" and not postgresql]
    for batch in connection.execute(query.execution_options(yield_per=BATCH)).partitions():
        for found in batch:
            row = list(found)
            for number in numbers:
                if isinstance(row[number], int | float):  # SQLite keeps a JSON text that is a number as that number
                    row[number] = msgspec.json.encode(row[number]).decode()
            yield row


class Lines:
    """A table's rows to lines of JSON, and back. A line that is not a row of this table is a `ValueError`."""

    def __init__(self, table: TableShape) -> None:
        self._reals = [number for number, column in enumerate(table.columns) if column.kind == "real"]
        self._bytes = [number for number, column in enumerate(table.columns) if column.kind == "bytes"]
        self._width = len(table.columns)
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(list[Any]).decode

    def write(self, row: list[Any]) -> bytes:
        for number in self._reals:
            value = row[number]
            if value is not None and not math.isfinite(value):
                row[number] = repr(value)
        return self._encode(row)

    def read(self, line: bytes) -> list[Any]:
        row = self._decode(line)
        if len(row) != self._width:
            raise ValueError(f"{len(row)} values for {self._width} columns")
        for number in self._reals:
            if row[number] is not None:
                row[number] = float(row[number])
        for number in self._bytes:
            if row[number] is not None:
                row[number] = b64decode(row[number], validate=True)
        return row


def insert_rows(connection: Connection, table: TableShape, rows: Iterable[list[Any]]) -> int:
    """Insert, `BATCH` rows at a time. Returns how many. Raises `CannotLoad`, naming table and row."""
    names = [column.name for column in table.columns]
    insert = _insert(connection, table)
    texts = [number for number, column in enumerate(table.columns) if column.kind in ("text", "json")] if connection.dialect.name == "postgresql" else []
    count = 0
    for batch in batches(rows):
        for number, row in enumerate(batch):
            if any(row[text] is not None and "\0" in row[text] for text in texts):
                raise CannotLoad(f"row {count + number + 1} of {table.name} holds a NUL character, which PostgreSQL does not take")
        try:
            connection.execute(insert, [dict(zip(names, row, strict=True)) for row in batch])
        except DBAPIError as error:
            reason = str(error.orig).partition("\n")[0]
            raise CannotLoad(f"the database does not take rows {count + 1} to {count + len(batch)} of {table.name}: {reason}") from error
        count += len(batch)
    return count


def _insert(connection: Connection, table: TableShape) -> sa.Insert:
    target = sa.table(table.name, *(sa.column(column.name, _TYPES[column.kind]) for column in table.columns))
    insert = sa.insert(target)
    json = [column.name for column in table.columns if column.kind == "json"] if connection.dialect.name == "postgresql" else []
    values = {column.name: sa.bindparam(column.name, type_=_TYPES[column.kind]) for column in table.columns}
    return insert.values({name: sa.cast(value, sa.JSON) if name in json else value for name, value in values.items()})


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def empty_tables(connection: Connection, tables: Sequence[TableShape]) -> None:
    """Delete every row of these tables, given parents first."""
    if connection.dialect.name == "postgresql":
        if tables:
            connection.exec_driver_sql(f"TRUNCATE {', '.join(_quoted(connection, table.name) for table in tables)}")
        return
    for table in reversed(tables):
        connection.execute(sa.delete(sa.table(table.name)))


def has_rows(connection: Connection, tables: Sequence[TableShape]) -> bool:
    return any(connection.execute(sa.select(sa.literal(1)).select_from(sa.table(table.name)).limit(1)).first() for table in tables)


# --- numbers that the database counts up -----------------------------------------------------------------------------------------------------


def read_counters(connection: Connection, tables: Sequence[TableShape]) -> dict[str, int]:
    """The last number given out, by table, where the database never gives one out twice."""
    if connection.dialect.name == "sqlite":
        if not _sqlite_counts(connection):
            return {}
        return {
            name: int(last) for name, last in connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence") if name in {table.name for table in tables}
        }
    counters = {}
    for table, _, sequence in _sequences(connection, tables):
        last, called = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()  # noqa: S608 - PostgreSQL's own, quoted
        counters[table] = int(last) if called else int(last) - 1
    return counters


def set_counters(connection: Connection, tables: Sequence[TableShape], counters: dict[str, int]) -> None:
    """Count on from there, and from the largest number in the table in any case."""
    if connection.dialect.name == "sqlite":
        for name in _sqlite_counts(connection):
            if (last := counters.get(name, 0)) > 0:
                changed = connection.execute(sa.text("UPDATE sqlite_sequence SET seq = max(seq, :last) WHERE name = :name"), {"last": last, "name": name})
                if not changed.rowcount:
                    connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), {"last": last, "name": name})
        return
    for table, column, sequence in _sequences(connection, tables):
        largest = connection.execute(sa.select(sa.func.max(sa.column(column))).select_from(sa.table(table))).scalar() or 0
        last = max(counters.get(table, 0), largest)
        connection.execute(
            sa.text("SELECT setval(CAST(:sequence AS regclass), :last, :called)"), {"sequence": sequence, "last": max(last, 1), "called": last > 0}
        )


def _sqlite_counts(connection: Connection) -> list[str]:
    """The tables with AUTOINCREMENT."""
    return list(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'").scalars())


def _sequences(connection: Connection, tables: Sequence[TableShape]) -> Iterator[tuple[str, str, str]]:
    """PostgreSQL's sequences that number a table's column: table, column, sequence."""
    find = sa.text("SELECT pg_get_serial_sequence(:table, :column)")
    for table in tables:
        for column in table.columns:
            if column.kind == "integer":
                sequence = connection.execute(find, {"table": _quoted(connection, table.name), "column": column.name}).scalar()
                if sequence is not None:
                    yield table.name, column.name, str(sequence)


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
