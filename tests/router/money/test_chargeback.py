"""Files for others' books: the right types, nothing that a spreadsheet runs, and no more memory for more rows."""

from __future__ import annotations

import csv
import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from adapters.cost import usd_float
from config.database import Database, open_database
from router.launch import migrate_state
from router.money import reports
from router.money.books import write_rows
from router.money.chargeback import write_csv, write_jsonl, write_parquet
from router.money.sealing import LedgerChain
from router.money.tabular import cell
from router.tables import ledger
from tests.router.money.test_rollup import a_row
from tests.seals import SEALS


def rows(number: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(2)
    for place in range(number):
        row = {**a_row(draw, place), "ended_at": 1_790_000_000.25 + place, "provider_request_id": None if place % 2 else f"=cmd|'/c calc'!A{place}"}
        yield {**row, "cost_usd": usd_float(row["cost"])}


def test_parquet_has_whole_picodollars_exact_dollars_and_utc_times(tmp_path: Path) -> None:
    source = list(rows(25_000))
    source[0]["cost"], source[1]["cost"] = -(10**17) - 1, 2**62
    write_parquet(source, tmp_path / "ledger.parquet")
    file = parquet.ParquetFile(tmp_path / "ledger.parquet")
    assert file.num_row_groups == 3
    types = {field.name: field.type for field in file.schema_arrow}
    assert set(types) == {column.name for column in ledger.columns} | {"cost_usd"}
    assert {types[name] for name in ("cost", "list_cost", "reserved", "input_tokens", "attempt")} == {pyarrow.int64()}
    assert types["cost_usd"] == pyarrow.decimal128(38, 12)
    assert {types[name] for name in ("started_at", "ended_at", "booked_at")} == {pyarrow.timestamp("us", tz="UTC")}
    table = file.read().to_pylist()
    assert [row["id"] for row in table] == [row["id"] for row in source]
    assert (table[0]["cost"], table[0]["cost_usd"]) == (-(10**17) - 1, Decimal("-100000.000000000001"))
    assert all(row["cost_usd"] * 10**12 == row["cost"] for row in table)
    assert table[3]["ended_at"] == datetime(2026, 9, 21, 14, 13, 23, 250_000, tzinfo=UTC)
    assert (table[0]["provider_request_id"], table[1]["provider_request_id"]) == ("=cmd|'/c calc'!A0", None)


def test_csv_runs_nothing_and_keeps_negative_numbers_numbers() -> None:
    file = io.StringIO()
    write_csv([{**row, "cost": -5, "model": "-1+1", "backend": "@x"} for row in rows(2)], file)
    first, _ = csv.DictReader(io.StringIO(file.getvalue()))
    assert (first["provider_request_id"], first["model"], first["backend"], first["cost"]) == ("'=cmd|'/c calc'!A0", "'-1+1", "'@x", "-5")
    assert [cell(value) for value in ("+1", "\t=1", "\r=1", "a=1", "", -1, None)] == ["'+1", "'\t=1", "'\r=1", "a=1", "", -1, None]


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_an_empty_ledger_is_a_file_too(write: Any, tmp_path: Path) -> None:
    file = io.StringIO()
    write([], file)
    assert file.getvalue().count("\n") == (1 if write is write_csv else 0)
    write_parquet([], tmp_path / "empty.parquet")
    assert parquet.read_table(tmp_path / "empty.parquet").num_rows == 0


class _Counting(io.StringIO):
    """A file that keeps nothing."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)


def _peak(database: Database, tenant: str | None) -> tuple[int, int]:
    """Lines, and the most memory that Python took for them."""
    file = _Counting()
    tracemalloc.start()
    try:
        database.read_blocking(lambda connection: write_jsonl(reports.ledger_export(connection, tenant=tenant, since=1.0), file))
        return file.lines, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tenant", [None, "acme"])
def test_an_export_takes_no_more_memory_for_ten_times_the_rows_and_sorts_nothing(tmp_path: Path, tenant: str | None) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'headgate.db'}")
    migrate_state(database)
    try:
        some = [{name: value for name, value in row.items() if name != "cost_usd"} for row in rows(20_000)]
        database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), some[:2_000]))
        _peak(database, tenant)
        small = _peak(database, tenant)
        database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), some[2_000:]))
        large = _peak(database, tenant)
        assert large[0] > 9 * small[0] > 5_000
        assert large[1] < small[1] * 1.5 + 2**20
        where = "WHERE ended_at >= 1" if tenant is None else "WHERE tenant = 'acme' AND ended_at >= 1"
        plan = database.read_blocking(lambda c: c.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT * FROM ledger {where} ORDER BY ended_at, id").fetchall())  # noqa: S608
        assert "USE TEMP B-TREE FOR ORDER BY" not in str(plan), plan
        assert "INDEX" in str(plan), plan
    finally:
        database.close()


def test_a_line_of_json_is_the_row(tmp_path: Path) -> None:
    file = io.StringIO()
    write_jsonl(rows(3), file)
    assert [json.loads(line) for line in file.getvalue().splitlines()] == list(rows(3))
