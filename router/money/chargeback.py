"""The ledger's rows as files for others' books: JSON lines, CSV, Parquet. Written as they are read, so memory does not grow with the ledger."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import msgspec
from sqlalchemy import BigInteger, Double, Integer

from router.money.tabular import cell
from router.tables import ledger

Row = Mapping[str, Any]

_AT_ONCE = 10_000
"""Rows of a Parquet row group."""

_EXACT = Context(prec=38)


def write_jsonl(rows: Iterable[Row], file: TextIO) -> None:
    """One object a line."""
    for row in rows:
        file.write(msgspec.json.encode(row).decode() + "\n")


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """With a line of headings, also where there are no rows. Texts that a spreadsheet would take for a formula begin with an apostrophe."""
    table = csv.writer(file, lineterminator="\n")
    headings = [*(column.name for column in ledger.columns), "cost_usd"]
    table.writerow(headings)
    table.writerows([cell(row[name]) for name in headings] for row in rows)


def write_parquet(rows: Iterable[Row], path: Path) -> None:
    """Counts and picodollars as int64, `cost_usd` as an exact decimal of twelve places, times as UTC timestamps. Needs the extra `reports`."""
    import pyarrow
    from pyarrow import parquet

    moments = {column.name for column in ledger.columns if isinstance(column.type, Double)}
    fields = [pyarrow.field(column.name, _type(pyarrow, column.type), column.nullable) for column in ledger.columns]
    schema = pyarrow.schema([*fields, pyarrow.field("cost_usd", pyarrow.decimal128(38, 12), False)])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _batches(rows):
            columns = {name: [_moment(row[name]) if name in moments else row[name] for row in some] for name in schema.names if name != "cost_usd"}
            columns["cost_usd"] = [Decimal(row["cost"]).scaleb(-12, _EXACT) for row in some]
            writer.write_table(pyarrow.table(columns, schema=schema))


def _type(pyarrow: Any, column: object) -> Any:
    if isinstance(column, Double):
        return pyarrow.timestamp("us", tz="UTC")
    return pyarrow.int64() if isinstance(column, BigInteger | Integer) else pyarrow.string()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    source = iter(rows)
    while some := list(islice(source, _AT_ONCE)):
        yield some
