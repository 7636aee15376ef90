"""A month's statement adds up, proves its rows, and is readable in every form."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import Connection, insert

from config.database import Database, open_database
from retrieval.parse import parse
from router.identity.tables import tenants
from router.launch import migrate_state
from router.money import chargeback, reports
from router.money.books import write_rows
from router.money.periods import parse_moment, parse_month
from router.money.sealing import LedgerChain
from router.money.spend_plot import _ticks, svg
from router.money.statement import NoSuchTenant, Part, Statement, make_statement
from router.money.statement_markdown import inside, markdown
from router.money.statement_pdf import pdf
from router.money.statement_words import headline, money
from router.tables import budgets
from tests.router.money.test_rollup import a_row
from tests.seals import SEALS

MONTH = parse_month("2026-11")


def row(number: int, day: int, cost: int, **changes: Any) -> dict[str, Any]:
    import random

    base = a_row(random.Random(number), number)
    plain = {"attempt": 1, "purpose": "answer", "entry": "settlement", "tenant": "acme", "outcome": "ok", "usage_source": "provider", "booked_at": MONTH.start}
    return {**base, **plain, "request_id": f"r{number}", "ended_at": MONTH.start + day * 86_400.0 + 5.5, "cost": cost, "list_cost": 3 * cost, **changes}


ROWS = [
    row(1, 0, 10**12, team="", backend="mini", model="gpt"),
    row(2, 4, 2 * 10**12, team="team_1", backend="large", model="big|<b>*1*"),
    row(3, 4, 5 * 10**11, team="team_1", backend="large", model="big|<b>*1*", usage_source="estimated"),
    row(4, 29, 10**6, team="team_1", backend="large", model="big|<b>*1*", usage_source="estimated"),
    row(5, 4, -(10**11), team="team_1", backend="large", model="big|<b>*1*", entry="correction", request_id="r3", booked_at=MONTH.end + 9.0),
    row(6, 30, 10**13),  # of the next month
    row(7, 3, 10**13, tenant="globex"),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)

    def fill(connection: Connection) -> None:
        connection.execute(insert(tenants), [{"name": "acme", "created_at": 0.0}, {"name": "idle", "created_at": 0.0}])
        connection.execute(insert(budgets), {"tenant": "acme", "period": "month:2026-11", "cap": 8 * 10**12, "spent": 4 * 10**12, "reserved": 7})
        write_rows(connection, LedgerChain(SEALS), ROWS)

    await database.write(fill)
    yield database
    await database.aclose()


async def made(database: Database, tenant: str = "acme", now: float = MONTH.end + 86_400.0) -> Statement:
    return await database.read(lambda connection: make_statement(connection, tenant, MONTH, now))


async def test_a_statement_adds_up_the_months_rows_of_its_tenant_only(database: Database) -> None:
    statement = await made(database)
    assert statement.total.cost == 3_400_001_000_000
    assert (statement.total.requests, statement.total.attempts, statement.rows) == (4, 4, 5)
    assert [(each.name, each.cost) for each in statement.by_team] == [(("team_1",), 2_400_001_000_000), (("",), 10**12)]
    assert [each.name for each in statement.by_model] == [("large", "big|<b>*1*"), ("mini", "gpt")]
    for groups in (statement.by_team, statement.by_model, statement.by_day):
        assert sum(each.cost for each in groups) == statement.total.cost
    assert {each.name[0]: each.cost for each in statement.by_day if each.cost} == {
        "2026-11-01": 10**12,
        "2026-11-05": 24 * 10**11,
        "2026-11-30": 10**6,
    }
    assert (statement.cap, statement.counted, statement.reserved, statement.provisional) == (8 * 10**12, 4 * 10**12, 7, False)
    assert (statement.estimates, statement.unconfirmed) == (Part(2, 500_001_000_000), Part(1, 10**6))
    assert (statement.corrections, statement.late) == (Part(1, -(10**11)), Part(1, -(10**11)))
    assert "Made on 2026-12-02 00:00 UTC." in markdown(statement, None)
    (line,) = await database.read(lambda c: reports.usage(c, tenant="acme", since=MONTH.start, until=MONTH.end, by=("month",)))
    assert (line.sums["cost"], line.avoided) == (statement.total.cost, statement.total.avoided)


async def test_its_hash_is_that_of_the_rows_export_and_any_other_row_changes_it(database: Database) -> None:
    statement = await made(database)
    file = io.StringIO()
    rows = await database.read(lambda c: list(reports.ledger_export(c, tenant="acme", since=MONTH.start, until=MONTH.end)))
    chargeback.write_jsonl(rows, file)
    assert hashlib.sha256(file.getvalue().encode()).hexdigest() == statement.sha256
    assert (statement.first_id, statement.last_id) == (rows[0]["id"], rows[-1]["id"])
    await database.write(lambda connection: write_rows(connection, LedgerChain(SEALS), [row(8, 7, 1)]))
    assert (await made(database)).sha256 != statement.sha256


async def test_a_settlement_that_is_booked_after_the_month_is_late_and_told_and_until_then_the_statement_is_provisional(database: Database) -> None:
    """A database that was away took it after the month's end, and it is no correction."""
    early = await made(database, now=MONTH.end + 5.0)
    assert early.provisional
    assert "calls that ended in it may still be booked" in markdown(early, None)
    await database.write(lambda connection: write_rows(connection, LedgerChain(SEALS), [row(8, 29, 7, booked_at=MONTH.end + 10.0)]))
    statement = await made(database)
    assert (statement.late, statement.corrections) == (Part(2, 7 - 10**11), Part(1, -(10**11)))
    assert [(await made(database, now=MONTH.end + 86_400.0 + apart)).provisional for apart in (-0.5, 0.0)] == [True, False]


async def test_a_tenant_that_is_not_there_has_none_and_one_that_used_nothing_an_empty_one(database: Database) -> None:
    with pytest.raises(NoSuchTenant):
        await made(database, "nobody")
    empty = await made(database, "idle", MONTH.start + 5.0)
    assert (empty.total.cost, empty.rows, empty.cap, empty.provisional) == (0, 0, None, True)
    assert pdf(empty).startswith(b"%PDF")
    assert "Nothing." in markdown(empty, None)
    assert "still running" in markdown(empty, None)


async def test_the_markdown_says_it_in_tables_whatever_models_are_called(database: Database) -> None:
    text = markdown(await made(database), "plot.svg")
    assert "![Cost by day in November 2026](plot.svg)" in text
    assert r"| large | big\|&lt;b&gt;\*1\* |" in text
    assert "The cap for the month is $8.00. Used: $4.000000 of requests that began in this month (50.0 %)" in text
    assert "3.400001 USD" in text
    assert "| Booked after the month, corrections included | 1 | -$0.100000 |" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


async def test_the_plot_has_a_bar_for_every_day_with_cost(database: Database) -> None:
    statement = await made(database)
    drawn = ElementTree.fromstring(svg(statement))
    bars = [shape for shape in drawn.iter("{http://www.w3.org/2000/svg}rect") if "fill: rgb(18%,43%,85%)" in shape.get("style", "")]
    assert len(bars) == 3
    assert inside("<svg/>") == "data:image/svg+xml;base64,PHN2Zy8+"


async def test_the_pdf_holds_the_figures_and_is_the_same_each_time(database: Database) -> None:
    statement = await made(database)
    made_pdf = pdf(statement)
    assert pdf(statement) == made_pdf
    text = " ".join(parse("statement.pdf", made_pdf).text.split())
    for said in ("Statement for November 2026", "big|<b>*1*", "$3.400001", "50.0 %", statement.sha256, "Page 1 of"):
        assert said in text


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (0, 17), (0, 10**12), (0, 123_456_789), (-5, 3), (-(10**15), 10), (-7, 0)])
def test_ticks_are_few_round_and_around_every_value(low: int, high: int) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8
    assert 0 in ticks


def test_money_is_rounded_for_reading_and_never_shown_as_nothing() -> None:
    assert (money(1_234_567_890_123_456), money(-(10**12), 2), headline(5 * 10**8), headline(0)) == ("$1,234.567890", "-$1.00", "$0.0005", "$0.00")


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "26-01", "", "2026-11-01", "0000-01", "9999-12", "２０２６-11"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 2026-11"):
        parse_month(text)


@pytest.mark.parametrize("text", ["soon", "nan", "inf", "-1", "1e300", "2026-02-30", "", "0001-01-01"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a date"):
        parse_moment(text)


def test_moments_are_dates_times_or_seconds() -> None:
    assert parse_moment("2026-11-01") == parse_moment("1793491200") == parse_moment("2026-11-01T01:00:00+01:00") == MONTH.start
    assert (parse_month("2026-12").end, parse_month("2026-12").days[-1]) == (parse_moment("2027-01-01"), "2026-12-31")
