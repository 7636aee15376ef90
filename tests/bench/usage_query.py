"""How long a month's usage takes over a ledger of millions of rows, and what keeping its sums costs a booking.

    python -m tests.bench.usage_query [--rows 5000000] [--file FILE]

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection

from config.database import Database, open_database
from router.launch import migrate_state
from router.money import reports
from router.money.periods import DAY_S, parse_month
from router.money.rollup import roll_up, usage_days
from router.money.sealing import INSERT_LEDGER
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
        "team": f"team_{tenant % 3}",
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
    """The rows are made in SQL: Python would take minutes to hand them over. The indexes come last."""
    database = open_database(f"sqlite:///{path}")
    migrate_state(database)
    database.close()
    read, written = "(50 + draw % 3950)", "(10 + draw / 7 % 790)"
    cost = f"({read} * 250000 + {written} * 2000000)"
    at = f"({FIRST} + i * {DAYS * DAY_S}.0 / {rows})"
    tenant = "(draw / 3 % 40 * (draw / 11 % 40) / 40)"  # some are larger than others
    made = dict.fromkeys(NAMES, "0") | {
        "id": "printf('%032x', i)",
        "request_id": "printf('%032x', i)",
        "attempt": "1",
        "purpose": "'answer'",
        "entry": "'settlement'",
        "tenant": f"'tenant-' || {tenant}",
        "team": f"'team_' || ({tenant} % 3)",
        "user_id": "''",
        "key_id": f"'key_' || {tenant} || '_' || (draw / 17 % 10)",
        **{
            name: f"CASE draw / 19 % {len(BACKENDS)} " + " ".join(f"WHEN {number} THEN '{each[place]}'" for number, each in enumerate(BACKENDS)) + " END"
            for place, name in enumerate(("backend", "provider", "model"))
        },
        "provider_request_id": "NULL",
        "outcome": "'ok'",
        "error": "NULL",
        "usage_source": "'provider'",
        "input_tokens": read,
        "output_tokens": written,
        "cost": cost,
        "list_cost": f"2 * {cost}",
        "reserved": f"5 * {cost}",
        "price": '\'{"input":0.25,"output":2.0}\'',
        "price_version": "'policy'",
        "rule": "CASE draw / 23 % 2 WHEN 0 THEN 'default' ELSE 'code' END",
        "policy_version": "1",
        "started_at": f"{at} - 2",
        "ended_at": at,
        "booked_at": at,
    }
    counting = f"n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {rows})"  # noqa: S608
    drawn = "drawn AS (SELECT i, i * 2654435761 % 4294967296 AS draw FROM n)"
    columns, values = ", ".join(NAMES), ", ".join(made[name] for name in NAMES)
    insert = f"INSERT INTO ledger ({columns}) WITH RECURSIVE {counting}, {drawn} SELECT {values} FROM drawn"  # noqa: S608 - names of our own
    began = time.perf_counter()
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = DELETE", "synchronous = OFF", "cache_size = -500000"):
        connection.execute(f"PRAGMA {pragma}")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'ledger' AND sql IS NOT NULL").fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    connection.execute(insert)
    for _, statement in indexes:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.close()
    print(f"filled {rows:,} rows in {time.perf_counter() - began:.0f} s", flush=True)


def sum_up(database: Database) -> None:
    def work(connection: Connection) -> None:
        connection.execute(usage_days.delete())
        with Operations.context(MigrationContext.configure(connection)):
            revision("0010_reports")._fill(connection)

    began = time.perf_counter()
    database.write_blocking(work)
    print(f"summed up in {time.perf_counter() - began:.1f} s")


def timed(name: str, database: Database, work: Callable[[Connection], Any]) -> None:
    seconds, busy = [], []
    for _ in range(5):
        began, spent = time.perf_counter(), time.process_time()
        found = database.read_blocking(work)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - spent)
    print(f"{name:<52} {1000 * statistics.median(seconds):6.0f} ms (CPU {1000 * statistics.median(busy):.0f} ms), {len(found)} lines", flush=True)


def cost_of_a_booking(database: Database) -> None:
    """Microseconds of CPU that the sums add to a booked row, alone and in batches; nothing of it is kept."""
    chance = random.Random(2)

    class Undone(Exception):
        pass

    for size in (1, 50):
        # Of one hour: most lines are there already, as they are in a running service.
        batches = [[{**a_row(chance, 0, 10**6), "ended_at": MONTH.end + chance.random() * 3600} for _ in range(size)] for _ in range(2000 // size)]
        spent = {"ledger": 0.0, "sums": 0.0}

        def work(connection: Connection, batches: list[list[dict[str, Any]]] = batches, spent: dict[str, float] = spent) -> None:
            for batch in batches:
                began = time.thread_time()
                INSERT_LEDGER.run(connection, batch)
                between = time.thread_time()
                roll_up(connection, batch)
                spent["ledger"] += between - began
                spent["sums"] += time.thread_time() - between
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
