"""A provider's usage export against the ledger: what differs is found, estimates become equal by corrections, once, and nothing is invented."""

from __future__ import annotations

import asyncio
import csv
import io
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from adapters.cost import cost, usd
from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from router.launch import migrate_state
from router.money.accounting import Accounting
from router.money.exports import Export, InvalidExport, parse_export
from router.money.reconciliation import NoSuchProvider, NotByRequest, Reconciliation, reconcile
from router.money.recovery import recover
from router.money.settlement import Caps, Purpose, measured
from router.tables import budgets, ledger
from tests.router.money.test_rollup import PRICE, START, plan, the_sums_hold
from tests.seals import SEALS

CAP = 10**13


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    yield database
    await database.aclose()


async def book(database: Database, name: str, usage: Usage | None, theirs: str | None = None, *, delivered: int = 0, tenant: str = "acme") -> None:
    """One answer: reported by the provider, or, without its usage, cut off and estimated."""
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    booking = await books.reserve(name, tenant, "key_1", 1, Caps(month=CAP), plan())
    told = AttemptRecord(backend="mini", usage=usage, called=True, delivered_characters=delivered, ended_at=START + 60.0)
    told.provider_request_id = theirs
    await books.settle(booking, measured(told, booking.plan, None if usage is not None else asyncio.CancelledError()))


def export(rows: Sequence[dict[str, Any]]) -> Export:
    file = io.StringIO()
    table = csv.DictWriter(file, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return parse_export(io.StringIO(file.getvalue()))


def theirs(name: str, tokens: tuple[int, int], ours: str = "", **more: Any) -> dict[str, Any]:
    return {"provider_request_id": name, "request_id": ours, "model": "gpt", "input_tokens": tokens[0], "output_tokens": tokens[1], **more}


async def run(database: Database, told: Export, **how: Any) -> Reconciliation:
    return await asyncio.to_thread(reconcile, database, told, "openai", SEALS, **how)


async def rows(database: Database) -> list[dict[str, Any]]:
    return await database.read(lambda connection: [dict(row) for row in connection.execute(select(ledger).order_by(ledger.c.booked_at)).mappings()])


async def test_an_estimate_becomes_equal_to_the_providers_report_by_one_more_entry_and_only_once(database: Database) -> None:
    await book(database, "r1", None, "resp_1", delivered=40)
    await book(database, "r2", Usage(input_tokens=10, output_tokens=5), "resp_2")
    told = export([theirs("resp_1", (90, 30)), theirs("resp_2", (10, 5))])
    looked = await run(database, told)
    assert (looked.equal, looked.counts, looked.corrections, looked.open) == (1, {"differs": 1}, 0, 1)
    assert looked.differences[0].fields == {"input_tokens": (100, 90), "output_tokens": (10, 30), "cost_usd": (0.00014, 0.00021)}
    assert len(await rows(database)) == 2
    applied = await run(database, told, apply=True)
    assert (applied.equal, applied.corrections, applied.open, applied.differences[0].booked) == (1, 1, 0, True)
    *_, correction = await rows(database)
    assert (correction["entry"], correction["request_id"], correction["usage_source"], correction["reserved"]) == ("correction", "r1", "provider", 0)
    assert (correction["input_tokens"], correction["output_tokens"], correction["cost"]) == (-10, 20, 70_000_000)
    again = await run(database, told, apply=True)
    assert (again.equal, again.counts, again.corrections) == (2, {}, 0)
    assert len(await rows(database)) == 3
    await database.read(the_sums_hold)
    counters = await database.read(lambda connection: connection.execute(select(budgets)).mappings().all())
    assert {row["spent"] for row in counters} == {210_000_000 + 30_000_000}
    assert {row["cap"] for row in counters if row["period"].startswith("month")} == {CAP}


async def test_an_estimate_that_the_provider_confirms_is_confirmed_once(database: Database) -> None:
    await book(database, "r1", None, "resp_1", delivered=40)
    told = export([theirs("resp_1", (100, 10))])
    first, second = await run(database, told, apply=True), await run(database, told, apply=True)
    assert (first.equal, first.corrections, second.equal, second.corrections) == (1, 1, 1, 0)


async def test_what_a_dead_worker_left_is_found_by_our_own_id_of_the_request(database: Database) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    await books.reserve("r1", "acme", "key_1", 1, Caps(), plan())
    await database.write(lambda connection: recover(connection, "w1", START + 60.0, SEALS))
    done = await run(database, export([theirs("resp_1", (7, 3), ours="r1")]), apply=True)
    assert (done.corrections, done.open) == (1, 0)
    found = await rows(database)
    assert (sum(row["cost"] for row in found), sum(row["output_tokens"] for row in found)) == (7_000_000 + 12_000_000, 3)
    assert [row["provider_request_id"] for row in found] == [None, "resp_1"]
    again = await run(database, export([theirs("resp_1", (7, 3), ours="r1")]), apply=True)
    assert (again.equal, again.corrections) == (1, 0)


async def test_a_late_settlement_after_an_import_changes_nothing(database: Database) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    booking = await books.reserve("r1", "acme", "key_1", 1, Caps(), plan())
    await database.write(lambda connection: recover(connection, "w1", START + 60.0, SEALS))
    await run(database, export([theirs("resp_1", (7, 3), ours="r1")]), apply=True)
    await books.settle(booking, measured(AttemptRecord(backend="mini", usage=Usage(input_tokens=9), called=True), booking.plan, None))
    assert sum(row["cost"] for row in await rows(database)) == 19_000_000


async def test_what_only_one_side_knows_is_listed_and_never_booked(database: Database) -> None:
    await book(database, "r1", Usage(input_tokens=10, output_tokens=5), "resp_1")
    await book(database, "r2", Usage(source="counted"), "resp_2")  # used nothing: nobody bills it
    done = await run(database, export([theirs("resp_9", (1, 2), timestamp=START), theirs("", (3, 4), ours="r9", timestamp=START)]), apply=True)
    assert done.counts == {"not_in_ledger": 2, "not_in_export": 1}
    assert [(difference.kind, difference.name) for difference in done.differences] == [
        ("not_in_ledger", "resp_9"),
        ("not_in_ledger", "r9"),
        ("not_in_export", "resp_1"),
    ]
    assert (done.corrections, len(await rows(database))) == (0, 2)


async def test_what_the_provider_had_reported_otherwise_is_corrected_only_where_that_is_asked_for(database: Database) -> None:
    await book(database, "r1", Usage(input_tokens=10, output_tokens=5), "resp_1")
    told = export([theirs("resp_1", (10, 5), cost_usd="0.00005", cached_tokens=4)])
    careful = await run(database, told, apply=True)
    assert (careful.corrections, careful.open, set(careful.differences[0].fields)) == (0, 1, {"cache_read_input_tokens", "cost_usd"})
    done = await run(database, told, apply=True, reported=True)
    assert (done.corrections, done.open) == (1, 0)
    found = await rows(database)
    assert (sum(row["cost"] for row in found), sum(row["cache_read_input_tokens"] for row in found)) == (50_000_000, 4)
    assert (await run(database, told, apply=True, reported=True)).corrections == 0


async def test_a_row_that_may_mean_two_attempts_is_left_to_a_person(database: Database) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    booking = await books.reserve("r1", "acme", "key_1", 1, Caps(), plan())
    told = AttemptRecord(backend="mini", usage=None, called=True, delivered_characters=4, ended_at=START + 60.0)
    await books.next_attempt(booking, measured(told, booking.plan, asyncio.CancelledError()), plan())
    await books.settle(booking, measured(told, booking.plan, asyncio.CancelledError()))
    done = await run(database, export([theirs("resp_1", (7, 3), ours="r1", timestamp=START)]), apply=True)
    assert (done.counts, done.corrections) == ({"ambiguous": 1, "not_in_export": 2}, 0)


async def test_an_export_that_names_attempts_as_we_do_leaves_nothing_to_guess(database: Database) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    booking = await books.reserve("r1", "acme", "key_1", 1, Caps(), plan())
    first = booking.reference
    told = AttemptRecord(backend="mini", usage=None, called=True, delivered_characters=4, ended_at=START + 60.0)
    await books.next_attempt(booking, measured(told, booking.plan, asyncio.CancelledError()), plan())
    assert (first, booking.reference) == ("r1/answer/1", "r1/answer/2")
    await books.settle(booking, measured(told, booking.plan, asyncio.CancelledError()))
    told_rows = [theirs("resp_1", (7, 3), ours=first), theirs("resp_2", (9, 4), ours=booking.reference), theirs("resp_3", (1, 1), ours="r1/answer/3")]
    done = await run(database, export(told_rows), apply=True)
    assert (done.counts, done.corrections) == ({"differs": 2, "not_in_ledger": 1}, 2)
    sums = {n: sum(row["input_tokens"] for row in await rows(database) if row["attempt"] == n) for n in (1, 2)}
    assert sums == {1: 7, 2: 9}


@pytest.mark.parametrize("purpose", get_args(Purpose))
async def test_every_purpose_can_be_read_back_from_the_name_that_a_provider_was_given(database: Database, purpose: Purpose) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    booking = await books.reserve("r1", "acme", "key_1", 1, Caps(), msgspec.structs.replace(plan(), purpose=purpose))
    told = AttemptRecord(backend="mini", usage=None, called=True, delivered_characters=4, ended_at=START + 60.0)
    await books.settle(booking, measured(told, booking.plan, asyncio.CancelledError()))
    done = await run(database, export([theirs("resp_1", (7, 3), ours=booking.reference)]), apply=True)
    assert (done.counts, done.corrections) == ({"differs": 1}, 1)


async def test_an_estimate_that_the_provider_never_billed_is_booked_to_nothing_where_that_is_asked_for(database: Database) -> None:
    books = Accounting(database, "w1", SEALS, clock=lambda: float(START))
    await books.reserve("r1", "acme", "key_1", 1, Caps(month=CAP), plan())
    await database.write(lambda connection: recover(connection, "w1", START + 60.0, SEALS))
    await book(database, "r2", Usage(input_tokens=10, output_tokens=5), "resp_2")
    await book(database, "r3", Usage(input_tokens=10, output_tokens=5), "resp_3")
    undated = export([theirs("resp_2", (10, 5))])
    assert (await run(database, undated, apply=True)).counts == {}, "of which days it is nobody knows"
    with pytest.raises(NotByRequest, match="timestamp"):
        await run(database, undated, apply=True, unbilled=True)
    told = export([theirs("resp_2", (10, 5), timestamp=START + 60)])
    listed = await run(database, told, apply=True)
    assert (listed.counts, listed.corrections) == ({"not_in_export": 2}, 0)
    done = await run(database, told, apply=True, unbilled=True)
    assert (done.equal, done.counts, done.corrections, done.open) == (1, {"not_in_export": 2}, 1, 1), "what the provider reported stays"
    sums = {name: sum(row["cost"] for row in await rows(database) if row["request_id"] == name) for name in ("r1", "r3")}
    assert sums == {"r1": 0, "r3": 30_000_000}
    again = await run(database, told, apply=True, unbilled=True)
    assert (again.corrections, again.counts) == (0, {"not_in_export": 1})
    await database.read(the_sums_hold)


async def test_two_that_apply_the_same_file_at_the_same_time_book_it_once(database: Database) -> None:
    for number in range(30):
        await book(database, f"r{number}", None, f"resp_{number}", delivered=40)
    told = export([theirs(f"resp_{number}", (number, 3)) for number in range(30)])
    done = await asyncio.gather(*(run(database, told, apply=True) for _ in range(3)))
    assert sum(each.corrections for each in done) == 30
    assert len(await rows(database)) == 60
    await database.read(the_sums_hold)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("priced", [False, True])
async def test_after_the_whole_export_every_request_of_the_ledger_equals_it(database: Database, seed: int, priced: bool) -> None:
    """Reports, cut streams and dead workers in any mixture; then the sums of every request are the provider's own, counters and sums by day included."""
    draw = random.Random(seed)
    billed: dict[str, tuple[Usage, int]] = {}
    told: list[dict[str, Any]] = []
    for number in range(60):
        name, true = f"r{number}", Usage(input_tokens=draw.randint(4, 100), output_tokens=draw.randint(0, 50), cache_read_input_tokens=draw.randint(0, 4))
        tenant = draw.choice(("acme", "globex"))
        match draw.randint(0, 2):
            case 0:
                await book(database, name, true, f"resp_{number}", tenant=tenant)
            case 1:
                await book(database, name, None, f"resp_{number}", delivered=draw.randint(0, 100), tenant=tenant)
            case _:
                await Accounting(database, "dead", SEALS, clock=lambda: float(START)).reserve(name, tenant, "key_1", 1, Caps(), plan())
        amount = draw.randint(0, 10**9) if priced else cost(true, PRICE)
        billed[name] = (true, amount)
        row = theirs(f"resp_{number}", (true.input_tokens, true.output_tokens), ours=name, cached_tokens=true.cache_read_input_tokens)
        told.append({**row, "cost_usd": usd(amount)} if priced else row)
    await database.write(lambda connection: recover(connection, "dead", START + 100.0, SEALS))
    draw.shuffle(told)
    for start in (0, 0, 40):  # in parts, and some of it twice
        await run(database, export(told[start : start + 40]), apply=True, reported=True)
    last = await run(database, export(told), apply=True, reported=True)
    assert (last.equal, last.counts, last.corrections) == (60, {}, 0)

    def by_request(connection: Connection) -> None:
        found: dict[str, list[int]] = {}
        spent: dict[str, int] = {}
        for row in connection.execute(select(ledger)).mappings():
            sums = found.setdefault(row["request_id"], [0, 0, 0, 0])
            for place, name in enumerate(("input_tokens", "output_tokens", "cache_read_input_tokens", "cost")):
                sums[place] += row[name]
            spent[row["tenant"]] = spent.get(row["tenant"], 0) + row["cost"]
        assert found == {name: [usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens, amount] for name, (usage, amount) in billed.items()}
        counters = connection.execute(select(budgets)).mappings().all()
        assert all((row["spent"], row["reserved"]) == (spent[row["tenant"]], 0) for row in counters)
        the_sums_hold(connection)

    await database.read(by_request)


async def test_sums_by_day_are_compared_and_nothing_is_booked_from_them(database: Database) -> None:
    await book(database, "r1", Usage(input_tokens=10, output_tokens=5, cache_read_input_tokens=4), "resp_1")
    await book(database, "r2", Usage(input_tokens=10, output_tokens=5), "resp_2")
    told = parse_export(
        [
            "start_time,model,input_tokens,output_tokens,input_cached_tokens,num_model_requests\n",
            f"{START},gpt-2025-08-07,20,9,4,2\n",
            f"{START},other,1,1,0,1\n",
        ]
    )
    done = await run(database, told)
    assert (done.by, done.counts) == ("day", {"differs": 1, "not_in_ledger": 1})
    assert done.differences[0].fields == {"output_tokens": (10, 9)}
    with pytest.raises(NotByRequest, match="no single request"):
        await run(database, told, apply=True)
    with pytest.raises(NoSuchProvider, match="it has openai"):
        await asyncio.to_thread(reconcile, database, told, "anthropic", SEALS)


def test_anthropics_console_export_is_read() -> None:
    text = (
        "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
        "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count\n"
        "2026-11-05,claude-sonnet-4-5-20250929,a,Default,standard,≤ 200k,100,20,3,7,50,0\n"
        "2026-11-05,claude-sonnet-4-5-20250929,b,Default,standard,≤ 200k,1,0,0,0,2,0\n"
    )
    (row,) = parse_export(io.StringIO("\ufeff" + text)).rows
    assert (row.day, row.model, row.input_tokens, row.output_tokens) == ("2026-11-05", "claude-sonnet-4-5", 131, 52)
    assert (row.cache_read_input_tokens, row.cache_creation_input_tokens, row.cost) == (7, 23, None)


def test_googles_cost_table_is_read_by_its_articles() -> None:
    text = (
        "Service description,SKU description,Usage start date,Usage amount,Usage unit,Cost\n"
        "Gemini API,Generate content input token count gemini 2.5 flash text,2026-11-05,1000,count,0.0003\n"
        "Gemini API,Generate content output token count Gemini 2.5 Flash,2026-11-05,200,count,0.0005\n"
        "Gemini API,Gemini 2.5 Flash cached input token count,2026-11-05,10,count,0.0001\n"
        "Compute Engine,E2 Instance Core,2026-11-05,0.5,hour,1.25\n"
    )
    flash, other = parse_export(io.StringIO(text)).rows
    assert (flash.model, flash.input_tokens, flash.output_tokens, flash.cache_read_input_tokens, flash.cost) == ("gemini-2.5-flash", 1010, 200, 10, 900_000_000)
    assert (other.model, other.input_tokens, other.cost) == ("E2 Instance Core", 0, 125 * 10**10)


HEAD = "provider_request_id,input_tokens,output_tokens,cost_usd\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column timestamp, model, output_tokens, input_tokens"),
        ("provider_request_id,output_tokens\n", "no column input_tokens"),
        (HEAD + "a,1\n", "line 2: it has another number of cells"),
        (HEAD + "a,1,2,0,9\n", "line 2: it has another number of cells"),
        (HEAD + ",1,2,0\n", "line 2: it names no request"),
        (HEAD + "a,-1,2,0\n", "line 2: input_tokens is '-1'"),
        (HEAD + "a,1.5,2,0\n", "line 2: input_tokens is '1.5'"),
        (HEAD + "a,NaN,2,0\n", "line 2: input_tokens is 'NaN'"),
        (HEAD + "a,9999999999999999,2,0\n", "line 2: input_tokens is '9999"),
        (HEAD + "a,1,2,1e9\n", "line 2: cost_usd is '1e9'"),
        (HEAD + 'a,1,2,0\n"b,1', "it is not CSV"),
        (HEAD + "a\0,1,2,0\n", "NUL"),
        (HEAD + f"{'a' * 2000},1,2,0\n", "too long"),
        ("provider_request_id,input_tokens,output_tokens,cached_tokens\na,1,2,3\n", "more cached tokens than input tokens"),
        ("timestamp,provider_request_id,input_tokens,output_tokens\nsoon,a,1,2\n", "line 2: timestamp: 'soon' is not a date"),
        ("provider_request_id,input_tokens,Input Tokens,output_tokens\n", "two columns are called 'input_tokens'"),
    ],
)
def test_a_file_that_is_no_export_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidExport, match=says.replace("(", r"\(")):
        parse_export(io.StringIO(text))


@given(st.text(max_size=200))
def test_any_text_is_an_export_or_refused(text: str) -> None:
    for head in ("", HEAD, "date,model,input_tokens,output_tokens\n"):
        try:
            parse_export(io.StringIO(head + text, newline=""))
        except InvalidExport:
            continue
