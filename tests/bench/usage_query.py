"""How long a month's usage takes over a ledger of millions of rows, and what keeping its sums costs a booking.

    python tests/bench/usage_query.py [--rows 5000000] [--file FILE]

Fills a SQLite file with rows of 100 days (the shape of a busy service: 40 tenants, 10 keys each, 5 backends), sums them up as the migration does, and
times what `GET /admin/usage` reads. A file that is there already is used again.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection

from config.database import Database, open_database
from router.launch import migrate_state
from router.money import reports
from router.money.books import INSERT_LEDGER
from router.money.periods import DAY_S, parse_month
from router.money.rollup import roll_up, usage_days
from router.tables import ledger
from tests.router.money.migrating import revision

MONTH = parse_month("2026-11")
FIRST = MONTH.start - 60 * DAY_S
DAYS = 100
NAMES = [column.name for column in ledger.columns]
BACKENDS = [
    ("mini", "openai", "gpt-5-mini-2025-08-07"),
    ("large", "openai", "gpt-5"),
    ("claude", "anthropic", "claude-sonnet-4-5"),
    ("gemini", "gcp.gemini", "gemini-2.5-pro"),
    ("local", "local", "llama"),
]


def a_row(chance: random.Random, number: int, rows: int) -> dict[str, Any]:
    tenant, backend = min(39, int(chance.expovariate(0.12))), chance.choice(BACKENDS)
    at = FIRST + (number + chance.random()) * DAYS * DAY_S / rows
    read, written = chance.randrange(50, 4000), chance.randrange(10, 800)
    cost = read * 250_000 + written * 2_000_000
    return {
        **dict.fromkeys(NAMES, 0),
        "id": f"{chance.getrandbits(128):032x}",
        "request_id": f"{number:032x}",
        "attempt": 1,
        "purpose": "answer",
        "entry": "settlement",
        "tenant": f"tenant-{tenant}",
        "team": f"team_{chance.randrange(3)}",
        "user_id": "",
        "key_id": f"key_{tenant}_{chance.randrange(10)}",
        "backend": backend[0],
        "provider": backend[1],
        "model": backend[2],
        "provider_request_id": None,
        "outcome": "ok",
        "error": None,
        "usage_source": "provider",
        "input_tokens": read,
        "output_tokens": written,
        "cost": cost,
        "list_cost": 2 * cost,
        "reserved": 5 * cost,
        "price": '{"input":0.25,"output":2.0}',
        "price_version": "policy",
        "rule": chance.choice(("default", "code")),
        "policy_version": 1,
        "started_at": at - 2,
        "ended_at": at,
        "booked_at": at,
    }


def fill(path: Path, rows: int) -> None:
    database = open_database(f"sqlite:///{path}")
    migrate_state(database)
    database.close()
    chance = random.Random(1)
    insert = f"INSERT INTO ledger ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))})"  # noqa: S608 - names of our own

    def values() -> Iterator[tuple[Any, ...]]:
        for number in range(rows):
            row = a_row(chance, number, rows)
            yield tuple(row[name] for name in NAMES)

    began = time.perf_counter()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'ledger' AND sql IS NOT NULL").fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    connection.executemany(insert, values())
    for _, statement in indexes:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.close()
    print(f"filled {rows:,} rows in {time.perf_counter() - began:.0f} s")


def sum_up(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(usage_days.delete())
        with Operations.context(MigrationContext.configure(connection)):
            revision("0005_reports")._fill(connection)

    began = time.perf_counter()
    database.write_blocking(work)
    print(f"summed up in {time.perf_counter() - began:.1f} s")


def timed(name: str, database: Database, work: Callable[[Connection], Any]) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        found = database.read_blocking(work)
        seconds.append(time.perf_counter() - began)
    print(f"{name:<52} {1000 * statistics.median(seconds):8.0f} ms, at most {1000 * max(seconds):.0f} ms, {len(found)} lines")


def cost_of_a_booking(database: Database) -> None:
    """Microseconds that the sums add to a booked row, alone and in batches; nothing of it is kept."""
    chance = random.Random(2)

    class Undone(Exception):
        pass

    for size in (1, 50):
        batches = [[a_row(chance, number * size + place, 10**6) for place in range(size)] for number in range(2000 // size)]
        spent = {"ledger": 0.0, "sums": 0.0}

        def work(connection: Connection, batches: list[list[dict[str, Any]]] = batches, spent: dict[str, float] = spent) -> None:
            for batch in batches:
                began = time.perf_counter()
                connection.execute(INSERT_LEDGER, batch)
                between = time.perf_counter()
                roll_up(connection, batch)
                spent["ledger"] += between - began
                spent["sums"] += time.perf_counter() - between
            raise Undone

        try:
            database.write_blocking(work)
        except Undone:
            print(f"booked {size} at once: ledger {spent['ledger'] / 2000 * 1e6:.0f} us a row, sums {spent['sums'] / 2000 * 1e6:.0f} us a row")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--file", type=Path)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path: Path = given.file or Path(folder) / "ledger.db"
        if not path.exists():
            fill(path, given.rows)
        database = open_database(f"sqlite:///{path}")
        try:
            sum_up(database)
            lines = database.read_blocking(lambda connection: connection.exec_driver_sql("SELECT COUNT(*) FROM usage_days").scalar_one())
            print(f"{lines:,} lines of sums")
            whole = {"since": MONTH.start, "until": MONTH.end}
            cut = {"since": MONTH.start + 40_000.0, "until": MONTH.end - 40_000.0}
            timed("a month, by tenant, backend and model", database, lambda c: reports.usage(c, **whole))
            timed(
                "a month, by tenant, team, key, model, rule and day",
                database,
                lambda c: reports.usage(c, **whole, by=("tenant", "team", "key", "model", "rule", "day")),
            )
            timed("a month of one tenant, by day", database, lambda c: reports.usage(c, tenant="tenant-0", **whole, by=("day",)))
            timed("a month with parts of two days, by tenant", database, lambda c: reports.usage(c, **cut, by=("tenant",)))
            timed("everything, by tenant and month", database, lambda c: reports.usage(c, by=("tenant", "month")))
            cost_of_a_booking(database)
        finally:
            database.close()


if __name__ == "__main__":
    sys.exit(main())
