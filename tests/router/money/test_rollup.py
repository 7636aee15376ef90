"""The sums by day equal the ledger's, whatever is booked, and what an older release booked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, func, insert, inspect, select

from adapters.cost import upper_bound
from adapters.errors import StreamBroken
from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from config.prices import Price
from router.audit.triggers import changeable
from router.launch import migrate_state
from router.money import reports
from router.money.accounting import Accounting
from router.money.books import write_rows
from router.money.periods import parse_moment
from router.money.recovery import recover
from router.money.rollup import COUNTED, COUNTED_AS, DIMENSIONS, MEASURES, SUMMED, counts, day_of, usage_days
from router.money.sealing import INSERT_LEDGER, LedgerChain
from router.money.settlement import AttemptPlan, Booking, Caps, dearest, list_cost, measured
from router.tables import budgets, ledger
from tests.seals import SEALS

PRICE = Price(input=1.0, output=4.0)
DAY = 86_400
START = 20_400 * DAY
"""A midnight."""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    yield database
    await database.aclose()


def plan(**changes: Any) -> AttemptPlan:
    base = AttemptPlan("mini", "openai", "gpt", PRICE, 100, 50, upper_bound(100, 50, PRICE), "default", float(START))
    return msgspec.structs.replace(base, **changes)


def a_row(draw: random.Random, number: int) -> dict[str, Any]:
    """A row of any kind: what a ledger may hold, and a little more."""
    cost = draw.randint(0, 10**13)
    correction = draw.random() < 0.2
    sign = -1 if correction and draw.random() < 0.5 else 1
    return {
        "id": f"{number:032x}",
        "request_id": f"r{number // 2}",
        "attempt": draw.choice((1, 1, 1, 2)),
        "purpose": draw.choice(("answer", "answer", "hedge", "history", "embedding")),
        "entry": "correction" if correction else draw.choice(("settlement", "settlement", "recovery")),
        "tenant": draw.choice(("acme", "globex")),
        "team": draw.choice(("", "team_1")),
        "user_id": draw.choice(("", "user_1")),
        "key_id": draw.choice(("key_1", "key_2")),
        "backend": draw.choice(("mini", "large")),
        "provider": "openai",
        "model": draw.choice(("gpt", "=gpt", "g'p\u0142\"t")),
        "provider_request_id": None,
        "outcome": draw.choice(("ok", "ok", "error", "cancelled", "timeout", "crashed", "blocked")),
        "error": None,
        "usage_source": draw.choice(("provider", "provider", "counted", "estimated")),
        **{name: sign * draw.randint(0, 1000) for name in SUMMED},
        "delivered_characters": 0,
        "cost": sign * cost,
        "list_cost": sign * cost + draw.randint(0, 1000),
        "reserved": 0,
        "price": "{}",
        "price_version": "",
        "rule": draw.choice(("default", "pin")),
        "policy_version": 1,
        "started_at": float(START),
        "ended_at": START + draw.choice((0.0, -0.0000001, DAY - 0.0000005, DAY, draw.random() * 3 * DAY, -draw.random() * DAY)),
        "booked_at": 0.0,
        "billed_ms": 0,
        "chain": "",
        "position": 0,
        "seal": "",
    }


def sums_of_the_ledger(connection: Connection) -> dict[tuple[str, ...], tuple[int, ...]]:
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in connection.execute(select(ledger)).mappings():
        key = (day_of(row["ended_at"]), *(row[name] for name in DIMENSIONS[1:]))
        measures = (*counts(row), *(row[name] for name in SUMMED))
        found[key] = tuple(one + other for one, other in zip(found.get(key, (0,) * len(MEASURES)), measures, strict=True))
    return found


def lines(connection: Connection) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {tuple(row[name] for name in DIMENSIONS): tuple(row[name] for name in MEASURES) for row in connection.execute(select(usage_days)).mappings()}


def the_sums_hold(connection: Connection) -> None:
    assert lines(connection) == sums_of_the_ledger(connection)


@pytest.mark.parametrize("seed", range(4))
async def test_batches_of_any_rows_keep_the_sums_by_day_equal_to_the_ledgers(database: Database, seed: int) -> None:
    draw = random.Random(seed)
    rows = [a_row(draw, number) for number in range(120)]
    at = 0
    while at < len(rows):
        batch = rows[at : at + draw.choice((1, 1, 2, 30))]
        at += len(batch)
        await database.write(lambda connection, batch=batch: write_rows(connection, LedgerChain(SEALS), batch))  # type: ignore[misc]
    await database.read(the_sums_hold)
    assert await database.read(lambda connection: len(lines(connection))) > 20


async def test_transactions_at_the_same_time_keep_them_equal_and_none_waits_in_a_circle(database: Database) -> None:
    draw = random.Random(9)
    rows = [a_row(draw, number) for number in range(400)]
    batches = [rows[at : at + 10] for at in range(0, 400, 10)]
    await asyncio.gather(*(database.write(lambda connection, batch=batch: write_rows(connection, LedgerChain(SEALS), batch)) for batch in batches))  # type: ignore[misc]
    await database.read(the_sums_hold)


async def test_what_is_rolled_back_leaves_no_sum(database: Database) -> None:
    def work(connection: Connection) -> None:
        write_rows(connection, LedgerChain(SEALS), [a_row(random.Random(1), 1)])
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(work)
    assert await database.read(lines) == {}


async def reserve(books: Accounting, request_id: str, wanted: AttemptPlan) -> Booking:
    booking = books.booking(request_id, "acme", "key_1", 1, Caps(), wanted, team="team_1", user="user_1")
    await books.open(booking)
    return booking


async def test_settlements_fallbacks_recoveries_and_late_truths_are_all_summed_up(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    mine = plan(price_version="policy")
    told = AttemptRecord(backend="mini", usage=Usage(input_tokens=10, output_tokens=5, audio_input_tokens=3), called=True, ended_at=float(START))
    booking = await reserve(books, "r1", mine)
    await books.next_attempt(booking, measured(told, booking.plan, StreamBroken("cut")), mine)
    await books.settle(booking, measured(told, booking.plan, None))
    late = await reserve(books, "r2", mine)
    await database.write(lambda connection: recover(connection, "w1", START + 10.0, SEALS))
    await books.settle(late, measured(told, late.plan, None))
    await database.read(the_sums_hold)
    (line,) = await database.read(lambda connection: reports.usage(connection, by=("team", "user")))
    assert line.by == {"team": "team_1", "user": "user_1"}
    assert (line.sums["requests"], line.sums["attempts"], line.sums["errors"]) == (2, 3, 2)
    assert (line.sums["estimated"], line.sums["corrections"], line.sums["cost"]) == (1, 1, 3 * 30_000_000)
    assert line.sums["audio_input_tokens"] == 9
    assert line.sums["estimated_cost"] + line.sums["correction_cost"] == 30_000_000
    row = await database.read(lambda connection: connection.execute(select(ledger).where(ledger.c.entry == "settlement")).mappings().first())
    assert row is not None
    assert (row["team"], row["user_id"], row["price_version"], row["audio_input_tokens"]) == ("team_1", "user_1", "policy", 3)


@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_any_period_grouped_in_any_way_gives_the_sums_of_its_rows(database: Database, tenant: str | None) -> None:
    draw = random.Random(3)
    rows = [a_row(draw, number) for number in range(300)]
    await database.write(lambda connection: write_rows(connection, LedgerChain(SEALS), rows))
    moments = [None, START, START + 0.5 * DAY, START + 0.6 * DAY, START + DAY, START + 1.2 * DAY, START + 2.0 * DAY, START - 0.3 * DAY]
    for since in moments:
        for until in moments:
            by = tuple(draw.sample(sorted(reports.GROUPINGS), draw.randint(1, 4)))
            found = await database.read(lambda c, s=since, u=until, by=by: reports.usage(c, tenant=tenant, since=s, until=u, by=by))  # type: ignore[misc]
            expected: dict[tuple[str, ...], list[int]] = {}
            for row in rows:
                if (tenant is None or row["tenant"] == tenant) and (since is None or row["ended_at"] >= since) and (until is None or row["ended_at"] < until):
                    day = day_of(row["ended_at"])
                    named = {**row, "user": row["user_id"], "key": row["key_id"], "day": day, "month": day[:7]}
                    sums = expected.setdefault(tuple(named[name] for name in by), [0] * len(MEASURES))
                    for place, value in enumerate((*counts(row), *(row[name] for name in SUMMED))):
                        sums[place] += value
            assert {tuple(line.by.values()): list(line.sums.values()) for line in found} == expected, (since, until, by)


async def test_the_migration_sums_up_what_an_older_release_booked(database: Database) -> None:
    draw = random.Random(5)
    rows = [a_row(draw, number) for number in range(200)]

    def refill(connection: Connection) -> None:
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        from tests.router.money import migrating

        INSERT_LEDGER.run(connection, rows)
        connection.execute(delete(usage_days))
        with Operations.context(MigrationContext.configure(connection)):
            migrating.revision("0010_reports")._fill(connection)

    await database.write(refill)
    await database.read(the_sums_hold)


async def test_the_migration_goes_back_and_forth_with_the_ledger_intact(database: Database) -> None:
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from tests.router.money import migrating

    rows = [{**row, "team": "", "user_id": ""} for row in (a_row(random.Random(6), number) for number in range(50))]
    reports_revision = migrating.revision("0010_reports")

    def there_and_back(connection: Connection) -> None:
        write_rows(connection, LedgerChain(SEALS), rows)
        with changeable(connection, "ledger"), Operations.context(MigrationContext.configure(connection)):  # later revisions made it append only
            reports_revision.downgrade()
            assert "usage_days" not in inspect(connection).get_table_names()
            assert not {"team", "list_cost", "booked_at"} & {column["name"] for column in inspect(connection).get_columns("ledger")}
            assert connection.exec_driver_sql("SELECT COUNT(*), SUM(cost) FROM ledger").one()[0] == len(rows)
            reports_revision.upgrade()
        found = {row["id"]: dict(row) for row in connection.execute(select(ledger)).mappings()}
        for row in rows:
            lost = {
                "audio_input_tokens": 0,
                "audio_output_tokens": 0,
                "audio_cache_read_input_tokens": 0,
                "list_cost": row["cost"],
                "booked_at": row["ended_at"],
            }
            assert found[row["id"]] == {**row, **lost}
        the_sums_hold(connection)

    await database.write(there_and_back)


def test_the_database_counts_a_row_as_python_does(tmp_path: Any) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'headgate.db'}")
    migrate_state(database)
    try:
        draw = random.Random(8)
        rows = [a_row(draw, number) for number in range(300)]
        database.write_blocking(lambda connection: INSERT_LEDGER.run(connection, rows) and None)
        from sqlalchemy import literal_column

        columns = [func.sum(literal_column(COUNTED_AS[name])) for name in COUNTED]
        counted = database.read_blocking(lambda connection: tuple(connection.execute(select(*columns).select_from(ledger)).one()))
        assert counted == tuple(map(sum, zip(*(counts(row) for row in rows), strict=True)))
    finally:
        database.close()


async def test_more_than_nine_million_dollars_are_added_up(database: Database) -> None:
    rows = [{**a_row(random.Random(1), number), "cost": 10**17, "list_cost": 10**17 + number, "tenant": f"t{number}"} for number in range(200)]
    await database.write(lambda connection: write_rows(connection, LedgerChain(SEALS), rows))
    (line,) = await database.read(lambda connection: reports.usage(connection, by=("provider",)))
    assert (line.sums["cost"], line.avoided) == (200 * 10**17, 199 * 100)


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["ok", "error", "blocked", "cancelled"]), st.sampled_from(["answer", "hedge"]))
def test_an_answer_never_avoids_less_than_nothing_and_what_failed_avoids_nothing(n: int, m: int, outcome: str, purpose: str) -> None:
    dear = Price(input=3.0, output=2.0)  # dearer for what is read, cheaper for what is written
    own = plan(input_bound=n, output_bound=m, purpose=purpose)
    own = msgspec.structs.replace(own, list_price=dearest(own, [dear, Price(input=0.1, output=0.1)]))
    assert own.list_price in (None, dear)
    settlement = measured(AttemptRecord(backend="mini", usage=Usage(input_tokens=n, output_tokens=m // 2), called=True), own, None)
    settlement = msgspec.structs.replace(settlement, outcome=outcome)
    listed = list_cost(own, settlement)
    assert listed >= settlement.cost
    if outcome in ("error", "cancelled") or purpose == "hedge":
        assert listed == settlement.cost
    elif own.list_price is not None:
        assert listed == max(settlement.cost, 3_000_000 * n + 2_000_000 * (m // 2))


async def test_budgets_are_those_of_the_days_and_months_that_the_period_touches(database: Database) -> None:
    days, months = ("2026-10-31", "2026-11-01", "2026-11-02", "2026-12-01"), ("2026-09", "2026-10", "2026-11", "2026-12")
    every = [f"day:{day}" for day in days] + [f"month:{month}" for month in months]
    lines = [{"tenant": "acme", "scope": scope, "period": each, "cap": 1, "spent": 0, "reserved": 0} for each in every for scope in ("", "team:a")]
    await database.write(lambda connection: connection.execute(insert(budgets), lines) and None)

    async def found(since: str | None = None, until: str | None = None) -> list[str]:
        start, end = None if since is None else parse_moment(since), None if until is None else parse_moment(until)
        now = parse_moment("2026-11-02T08:00:00")
        lines = await database.read(lambda connection: reports.budget_lines(connection, "acme", since=start, until=end, now=now))
        own = [line.period for line in lines if not line.scope]
        assert own == [line.period for line in lines if line.scope]
        return sorted(own)

    assert await found() == ["day:2026-11-02", "month:2026-11"]
    assert await found("2026-11-01", "2026-11-02") == ["day:2026-11-01", "month:2026-11"]
    assert await found("2026-10-31T23:59:59", "2026-11-01T00:00:01") == ["day:2026-10-31", "day:2026-11-01", "month:2026-10", "month:2026-11"]
    assert await found(since="2026-11-02") == ["day:2026-11-02", "day:2026-12-01", "month:2026-11", "month:2026-12"]
    assert await found(until="2026-11-01") == ["day:2026-10-31", "month:2026-09", "month:2026-10"]
    assert await found("2026-11-02", "2026-11-02") == await found("2026-11-02", "2026-11-01") == []
    assert await database.read(lambda connection: reports.budget_lines(connection, "globex", until=parse_moment("2027-01-01"))) == []
