"""Rows for any table of any revision: reflected, plausible, with edge values in them. What later migrations add is covered without a word here."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, inspect

ROWS = 4
TEXTS = ("plain", "", "Zürich 北京 🦙 'quoted' \"twice\" \\back\n\ttab", "x" * 200)
JSONS: tuple[Any, ...] = ({"a": [1, 2.5, None, "ü"]}, [], {}, [[0, 10], [12, 2**53]])
BYTES = (b"plain", b"", bytes(range(256)), b"\x00" * 4096)
MOMENTS = (1_795_000_000.125, 0.0, 1.5, 32_503_680_000.0)
COUNTS = (7, 0, 10**12, -(10**12))
FLOATS = (1_795_000_000.125, 0.0, -1.5, 1.7976931348623157e308)
SHADOWS = "_alembic"

Rows = dict[str, list[dict[str, Any]]]


def tables_of(connection: Connection) -> dict[str, sa.Table]:
    """The tables that hold rows of their own, parents first: not the full-text index, nor the revision."""
    names = [name for name in inspect(connection).get_table_names() if not name.startswith(("alembic_version", "chunks_fts"))]
    metadata = sa.MetaData()
    metadata.reflect(connection, only=names)
    return {table.name: table for table in metadata.sorted_tables}


def fill(connection: Connection) -> None:
    """`ROWS` rows in every table: each column at its plain and its edge values, NULL where it may be, parents where it hangs on them."""
    for table in tables_of(connection).values():
        parents = {element.parent.name: element.column for key in table.foreign_keys for element in [key]}
        unique = _unique_columns(connection, table)
        parent_rows = {name: list(connection.execute(sa.select(column.table)).mappings()) for name, column in parents.items()}
        for number in range(ROWS):
            row = {}
            for column in table.columns:
                if column.computed is not None or (column.name in ("id", "version") and column.autoincrement is True):
                    continue
                if column.name in parents:
                    row[column.name] = parent_rows[column.name][number][parents[column.name].name]
                else:
                    row[column.name] = _value(column, number, column.name in unique)
            connection.execute(sa.insert(table), row)


def _unique_columns(connection: Connection, table: sa.Table) -> set[str]:
    found = inspect(connection)
    columns = set(found.get_pk_constraint(table.name)["constrained_columns"])
    for constraint in found.get_unique_constraints(table.name):
        columns |= set(constraint["column_names"])
    for index in found.get_indexes(table.name):
        if index["unique"]:
            columns |= {name for name in index["column_names"] if name is not None}
    return columns


def _value(column: sa.Column[Any], number: int, unique: bool) -> Any:
    """The `number`th value of a column: the first is plain, the second the smallest, the others large."""
    if column.nullable and number == 1:
        return None
    match column.type:
        case sa.Boolean():
            return number == 0  # where it may stand once only, it does
        case sa.BigInteger() if column.name.endswith("_tokens"):
            return COUNTS[number]
        case sa.BigInteger():
            return number + 1 if unique else (7, 0, 2**63 - 1, -(2**63))[number]
        case sa.Integer():
            return number + 1 if unique else (7, 0, 2**31 - 1, -(2**31))[number]
        case sa.Float() if column.name.endswith("_at"):  # what is not a moment of a calendar was never written there
            return MOMENTS[number] + number if unique else MOMENTS[number]
        case sa.Float():
            return FLOATS[number] + number if unique else FLOATS[number]
        case sa.LargeBinary():
            return BYTES[number] + bytes([number]) if unique else BYTES[number]
        case sa.JSON():
            return JSONS[number]
        case sa.String(length=length):
            text = TEXTS[number] + str(number) if unique else TEXTS[number]
            return text if length is None else text[-length:]
        case other:
            raise AssertionError(f"{column.table.name}.{column.name}: no values are known for {other!r}: add some here")


def rows_of(connection: Connection) -> Rows:
    """Everything that stands in the database."""
    found: Rows = {}
    for name, table in tables_of(connection).items():
        columns = [column for column in table.columns if column.computed is None]
        found[name] = [dict(row) for row in connection.execute(sa.select(*columns)).mappings()]
    return found


def missing(expected: Rows, found: Rows) -> dict[str, list[str]]:
    """What stood in the database and does not any more: by table, in the columns that both have. Nothing, where all is well."""
    lost: dict[str, list[str]] = {}
    for name, rows in expected.items():
        if name not in found:
            continue
        shared = sorted(set(rows[0]) & set(found[name][0] if found[name] else rows[0])) if rows else []
        gone = _counted(rows, shared) - _counted(found[name], shared)
        if gone:
            lost[name] = sorted(gone)
    return lost


def _counted(rows: list[dict[str, Any]], columns: list[str]) -> Counter[str]:
    return Counter(json.dumps([repr(row[column]) for column in columns]) for row in rows)


def shape_of(connection: Connection) -> list[str]:
    """The tables, columns, keys and indexes, and on SQLite the triggers: what a database made anew and one that was upgraded must share."""
    found = inspect(connection)
    shape = []
    for name in sorted(found.get_table_names()):
        if name.startswith("chunks_fts_"):
            continue
        shape += [f"{name}.{column['name']} {column['type']!r} {column['nullable']} {column['default']}" for column in found.get_columns(name)]
        shape += [f"{name} key {found.get_pk_constraint(name)['constrained_columns']}"]
        shape += [f"{name} -> {key['referred_table']} {key['constrained_columns']} {key['options']}" for key in found.get_foreign_keys(name)]
        shape += [f"{name} index {index['name']} {index['column_names']} {index['unique']}" for index in found.get_indexes(name)]
        shape += [f"{name} unique {constraint['column_names']}" for constraint in found.get_unique_constraints(name)]
    if connection.dialect.name == "sqlite":
        shape += [f"trigger {name}" for name in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars()]
    return sorted(shape)
