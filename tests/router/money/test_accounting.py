"""The books, on both databases: caps hold, every exit settles, recovery and late truth add up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from adapters.cost import upper_bound
from adapters.errors import ProviderFault, StreamBroken
from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from config.prices import Price, PriceTier
from router.audit.ledger_check import check_ledger
from router.launch import migrate_state
from router.money.accounting import Accounting
from router.money.books import BudgetExceeded
from router.money.recovery import recover
from router.money.rollup import usage_days
from router.money.settlement import LARGEST_AMOUNT, LARGEST_COUNT, AttemptPlan, Booking, Caps, Level, measured
from router.tables import budgets, ledger, reservations
from tests.seals import SEALS, SECRET

PRICE = Price(input=1.0, output=4.0)


def plan(input_bound: int = 100, output_bound: int = 50) -> AttemptPlan:
    amount = upper_bound(input_bound, output_bound, PRICE)
    return AttemptPlan("mini", "openai", "gpt", PRICE, input_bound, output_bound, amount, "default", time.time())


def record(usage: Usage | None, *, called: bool = True, delivered: int = 0) -> AttemptRecord:
    return AttemptRecord(backend="mini", usage=usage, called=called, delivered_characters=delivered)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    yield database
    await database.aclose()


async def rows(database: Database, table: object) -> list[dict[str, object]]:
    return await database.read(lambda connection: [dict(row) for row in connection.execute(select(table)).mappings()])  # type: ignore[call-overload]


async def reserve(books: Accounting, name: str, caps: Caps, wanted: AttemptPlan | None = None) -> Booking:
    return await books.reserve(name, "acme", "key", 1, caps, wanted or plan())


async def test_a_settled_request_leaves_one_row_with_its_true_cost_and_no_reservation(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    await books.settle(booking, measured(record(Usage(input_tokens=10, output_tokens=5)), booking.plan, None))
    (row,) = await rows(database, ledger)
    assert (row["cost"], row["usage_source"], row["outcome"], row["entry"]) == (30_000_000, "provider", "ok", "settlement")
    assert await rows(database, reservations) == []
    assert {(each["spent"], each["reserved"]) for each in await rows(database, budgets)} == {(30_000_000, 0)}


async def test_concurrent_reservations_never_exceed_the_cap(database: Database) -> None:
    books = [Accounting(database, f"w{number}", SEALS) for number in range(4)]
    cap = plan().amount * 7 + 1
    results = await asyncio.gather(*(reserve(books[number % 4], f"r{number}", Caps(month=cap)) for number in range(40)), return_exceptions=True)
    granted = [result for result in results if isinstance(result, Booking)]
    assert len(granted) == 7
    assert all(isinstance(result, BudgetExceeded) for result in results if not isinstance(result, Booking))
    month = next(row for row in await rows(database, budgets) if str(row["period"]).startswith("month"))
    assert (month["reserved"], month["spent"]) == (plan().amount * 7, 0)
    assert len(await rows(database, reservations)) == 7


async def test_a_refused_reservation_changes_neither_counter(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    await reserve(books, "r1", Caps(day=plan().amount, month=plan().amount * 10))
    with pytest.raises(BudgetExceeded):
        await reserve(books, "r2", Caps(day=plan().amount, month=plan().amount * 10))
    assert {row["reserved"] for row in await rows(database, budgets)} == {plan().amount}


async def test_an_attempt_dearer_than_the_whole_cap_sets_nothing_aside(database: Database) -> None:
    with pytest.raises(BudgetExceeded):
        await reserve(Accounting(database, "w1", SEALS), "r1", Caps(month=plan().amount - 1))
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(0, 0)}
    assert await rows(database, reservations) == []


async def test_a_fallback_books_the_failed_attempt_and_reserves_the_next(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    failure = StreamBroken("cut")
    await books.next_attempt(booking, measured(record(Usage(input_tokens=20, output_tokens=3, source="estimated")), booking.plan, failure), plan(200, 10))
    await books.settle(booking, measured(record(Usage(input_tokens=10, output_tokens=1)), booking.plan, None))
    first, second = sorted(await rows(database, ledger), key=lambda row: str(row["attempt"]))
    assert (first["attempt"], first["outcome"], first["error"], first["usage_source"]) == (1, "error", "stream_broken", "estimated")
    assert (second["attempt"], second["outcome"], second["cost"]) == (2, "ok", 14_000_000)
    assert {row["spent"] for row in await rows(database, budgets)} == {int(str(first["cost"])) + 14_000_000}
    assert {row["reserved"] for row in await rows(database, budgets)} == {0}


async def test_a_provider_that_refuses_is_not_billed(database: Database) -> None:
    settlement = measured(record(None), plan(), ProviderFault("no", provider_status=503))
    assert (settlement.cost, settlement.usage.total_tokens, settlement.outcome) == (0, 0, "error")


async def test_an_estimate_is_never_more_than_what_was_reserved() -> None:
    settlement = measured(record(Usage(input_tokens=10_000, output_tokens=10_000, source="estimated")), plan(), asyncio.CancelledError())
    assert settlement.cost <= plan().amount
    assert (settlement.usage.input_tokens, settlement.usage.output_tokens, settlement.outcome) == (100, 50, "cancelled")


async def test_a_dead_worker_is_settled_at_what_it_reserved_and_marked_estimated(database: Database) -> None:
    booking = await reserve(Accounting(database, "w1", SEALS), "r1", Caps())
    other = await reserve(Accounting(database, "w2", SEALS), "r2", Caps())
    assert await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) == 1
    assert await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) == 0
    (row,) = await rows(database, ledger)
    assert (row["request_id"], row["cost"], row["usage_source"], row["outcome"]) == ("r1", booking.plan.amount, "estimated", "crashed")
    assert [row["request_id"] for row in await rows(database, reservations)] == [other.request_id]
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(booking.plan.amount, other.plan.amount)}


async def test_a_settlement_after_a_recovery_is_booked_as_a_correction_to_the_true_cost(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS))
    settlement = measured(record(Usage(input_tokens=10, output_tokens=5)), booking.plan, None)
    await books.settle(booking, settlement)
    await books.settle(booking, settlement)
    assert {row["entry"] for row in await rows(database, ledger)} == {"recovery", "correction"}
    total = await database.read(lambda connection: connection.execute(select(func.sum(ledger.c.cost), func.sum(ledger.c.output_tokens))).one())
    assert (int(total[0]), int(total[1])) == (30_000_000, 5)
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(30_000_000, 0)}


async def test_a_correction_counts_where_the_row_that_it_corrects_does(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    died = time.time() - 40 * 86_400
    await database.write(lambda connection: recover(connection, "w1", died, SEALS))
    said = record(Usage(input_tokens=10, output_tokens=5))
    said.model = "gpt-5-mini-2025-08-07"
    await books.settle(booking, measured(said, booking.plan, None))
    first, second = await rows(database, ledger)
    assert {first["ended_at"], second["ended_at"]} == {died}
    assert {first["model"], second["model"]} == {booking.plan.model}
    ((spent, attempts, tokens),) = await database.read(
        lambda connection: connection.execute(select(usage_days.c.cost, usage_days.c.attempts, usage_days.c.input_tokens)).all()
    )
    assert (spent, attempts, tokens) == (30_000_000, 1, 10)


async def test_a_call_that_was_never_made_costs_nothing_also_when_its_reservation_was_recovered_meanwhile(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    lost, unmade = await reserve(books, "r1", Caps()), books.booking("r2", "acme", "key_1", 1, Caps(), plan())
    await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS))
    for _ in range(2):
        await books.release(lost)
        await books.release(unmade)
    found = await rows(database, ledger)
    assert sorted((row["request_id"], row["entry"], row["cost"]) for row in found) == [
        ("r1", "correction", -lost.plan.amount),
        ("r1", "recovery", lost.plan.amount),
    ]
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(0, 0)}
    assert await database.read(lambda connection: check_ledger(connection, SECRET)) == []


async def test_settling_twice_books_once(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    settlement = measured(record(Usage(input_tokens=1, output_tokens=1)), booking.plan, None)
    await asyncio.gather(books.settle(booking, settlement), books.settle(booking, settlement))
    assert len(await rows(database, ledger)) == 1


async def test_random_histories_keep_the_counters_equal_to_the_ledger(database: Database) -> None:
    draw = random.Random(7)
    books = [Accounting(database, f"w{number}", SEALS) for number in range(3)]
    cap = plan().amount * 12

    async def one(number: int) -> None:
        worker = books[number % 3]
        try:
            booking = await reserve(worker, f"r{number}", Caps(month=cap), plan(draw.randint(1, 100), draw.randint(1, 50)))
            used = Usage(input_tokens=draw.randint(0, booking.plan.input_bound), output_tokens=draw.randint(0, booking.plan.output_bound))
            if draw.random() < 0.3:
                await worker.next_attempt(booking, measured(record(used), booking.plan, StreamBroken("cut")), plan(draw.randint(1, 100), 5))
        except BudgetExceeded:
            return
        if draw.random() < 0.8:
            await worker.settle(booking, measured(record(Usage(input_tokens=1, output_tokens=1)), booking.plan, None))

    for batch in range(6):
        await asyncio.gather(*(one(number) for number in range(20 * batch, 20 * batch + 20)))
    for worker in ("w0", "w1", "w2"):
        await database.write(lambda connection, worker=worker: recover(connection, worker, time.time(), SEALS))  # type: ignore[misc]
    total = int(await database.read(lambda connection: connection.execute(select(func.coalesce(func.sum(ledger.c.cost), 0))).scalar_one()))
    month = next(row for row in await rows(database, budgets) if str(row["period"]).startswith("month"))
    assert month["spent"] == total <= cap
    assert month["reserved"] == 0
    assert await rows(database, reservations) == []


async def test_a_fallback_after_a_recovery_corrects_the_first_attempt_and_reserves_the_second_whole(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS))
    failed = measured(record(Usage(input_tokens=10, output_tokens=5, source="estimated")), booking.plan, StreamBroken("cut"))
    await books.next_attempt(booking, failed, plan(200, 10))
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(30_000_000, plan(200, 10).amount)}
    await books.settle(booking, measured(record(Usage(input_tokens=1, output_tokens=1)), booking.plan, None))
    assert [(row["attempt"], row["entry"]) for row in await rows(database, ledger)] == [(1, "recovery"), (1, "correction"), (2, "settlement")]
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(35_000_000, 0)}


async def test_a_fallback_that_was_booked_unknown_to_its_worker_is_closed_without_a_second_row(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    before = msgspec.structs.replace(booking)
    failed = measured(record(Usage(input_tokens=10, output_tokens=5, source="estimated")), booking.plan, StreamBroken("cut"))
    await books.next_attempt(booking, failed, plan(200, 10))
    await books.settle(before, failed)  # the database went away before it answered: the worker knows of the first attempt only
    (row,) = await rows(database, ledger)
    assert (row["attempt"], row["cost"]) == (1, 30_000_000)
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(30_000_000, 0)}
    assert await rows(database, reservations) == []


async def test_a_reservation_of_unknown_fate_is_released_without_a_row_whether_it_was_made_or_not(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    made = await reserve(books, "r1", Caps())
    await books.release(made)
    await books.release(made)
    await books.release(books.booking("r2", "acme", "key", 1, Caps(), plan()))
    assert await rows(database, ledger) == await rows(database, reservations) == []
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(0, 0)}


async def test_recoveries_and_settlements_at_the_same_time_do_not_wait_in_a_circle(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    bookings = [await reserve(books, f"r{number}", Caps()) for number in range(40)]
    settling = [books.settle(booking, measured(record(Usage(input_tokens=10, output_tokens=5)), booking.plan, None)) for booking in bookings]
    recovering = [database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) for _ in range(4)]
    await asyncio.gather(*settling[:20], *recovering, *settling[20:])
    total = await database.read(lambda connection: connection.execute(select(func.sum(ledger.c.cost))).scalar_one())
    assert int(total) == 40 * 30_000_000
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(40 * 30_000_000, 0)}


def test_an_estimate_for_a_free_backend_without_a_limit_counts_what_was_delivered() -> None:
    free = AttemptPlan("local", "local", "llama", Price(input=0, output=0), 100, 0, 0, "default", time.time())
    settlement = measured(record(Usage(input_tokens=10, output_tokens=90, source="estimated"), delivered=360), free, asyncio.CancelledError())
    assert (settlement.usage.output_tokens, settlement.cost) == (90, 0)


async def test_a_reservation_that_cannot_be_recovered_keeps_no_other_open(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    for name in ("r1", "r2", "r3"):
        await reserve(books, name, Caps())
    await database.write(lambda connection: connection.execute(update(reservations).where(reservations.c.request_id == "r2").values(plan="{}")))
    assert await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) == 2
    assert [row["request_id"] for row in await rows(database, reservations)] == ["r2"]
    assert sorted(str(row["request_id"]) for row in await rows(database, ledger)) == ["r1", "r3"]
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(2 * plan().amount, plan().amount)}


async def test_counts_beyond_64_bits_are_recovered_and_settled(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    huge = msgspec.structs.replace(plan(), input_bound=10**30, output_bound=10**30, amount=LARGEST_AMOUNT)
    await reserve(books, "r1", Caps(), huge)
    booking = await reserve(books, "r2", Caps(), huge)
    await books.settle(booking, measured(record(Usage(input_tokens=10**30, output_tokens=-5)), booking.plan, None))
    assert await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) == 1
    settled, recovered = sorted(await rows(database, ledger), key=lambda row: str(row["entry"]), reverse=True)
    assert (settled["input_tokens"], settled["output_tokens"], settled["cost"]) == (LARGEST_COUNT, 0, LARGEST_AMOUNT)
    assert (recovered["input_tokens"], recovered["output_tokens"], recovered["cost"]) == (LARGEST_COUNT, LARGEST_COUNT, LARGEST_AMOUNT)
    assert await rows(database, reservations) == []


async def test_reservations_without_a_cap_never_leave_64_bits(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    largest = msgspec.structs.replace(plan(), amount=LARGEST_AMOUNT)
    granted = [await reserve(books, f"r{number}", Caps(), largest) for number in range(90)]
    with pytest.raises(BudgetExceeded):
        await reserve(books, "one more", Caps(), largest)
    await books.next_attempt(granted[0], measured(record(Usage()), granted[0].plan, StreamBroken("cut")), plan())
    with pytest.raises(BudgetExceeded):
        await reserve(books, "too large", Caps(), msgspec.structs.replace(plan(), amount=8 * 10**18))


async def test_a_providers_words_are_stored_whatever_they_hold(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps(), msgspec.structs.replace(plan(), backend="b" * 300, rule="r" * 300))
    said = record(Usage(input_tokens=1))
    said.model, said.provider_request_id = "gpt\0\ud800", "id" * 5_000
    await books.settle(booking, measured(said, booking.plan, None))
    (row,) = await rows(database, ledger)
    assert (row["model"], row["backend"], row["rule"], len(str(row["provider_request_id"]))) == ("gpt?", "b" * 300, "r" * 300, 1_000)


async def test_what_a_failed_attempt_set_aside_is_free_for_the_next_one(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    cap = plan().amount * 2
    booking = await reserve(books, "r1", Caps(month=cap))
    await reserve(books, "r2", Caps(month=cap), plan(1, 1))
    others = plan(1, 1).amount
    assert await left(books, Caps(month=cap)) == (plan().amount - others, cap)
    assert await left(books, Caps(month=cap), booking) == (cap - others, cap)
    assert await left(books, Caps(month=cap), booking, 7) == (cap - others - 7, cap)


async def test_what_a_failed_attempt_set_aside_is_not_free_in_the_budgets_of_other_models(database: Database) -> None:
    """It moved its own model's and the key's; of another model's budget the next attempt gets what is there, and no more."""
    books = Accounting(database, "w1", SEALS)
    amount, cap = plan().amount, plan().amount * 2
    levels = (Level("key:key", day=cap), Level("model:gpt", day=cap), Level("model:other", day=cap))
    caps = Caps(levels=levels)
    booking = await reserve(books, "r1", caps)
    await reserve(books, "r2", caps, msgspec.structs.replace(plan(), backend="spare", model="other"))
    found = await books.remaining("acme", caps, booking, 7)
    assert found is not None
    assert found[0].overall == amount - 7
    assert found[0].models == ((levels[1], cap - 7), (levels[2], cap - amount))


async def left(books: Accounting, caps: Caps, booking: Booking | None = None, spent: int = 0) -> tuple[int | None, int | None]:
    found = await books.remaining("acme", caps, booking, spent)
    assert found is not None
    return found[0].overall, found[1].overall


async def test_a_budget_inside_the_tenants_holds_its_own_requests_only(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    team = Caps(month=plan().amount * 10, levels=(Level("key:a", day=plan().amount * 2),))
    for name in ("r1", "r2"):
        await reserve(books, name, team)
    with pytest.raises(BudgetExceeded):
        await reserve(books, "r3", team)
    await reserve(books, "r4", Caps(month=plan().amount * 10))
    counters = {(row["scope"], str(row["period"])[:3]): row["reserved"] for row in await rows(database, budgets)}
    assert counters == {("", "day"): 3 * plan().amount, ("", "mon"): 3 * plan().amount, ("key:a", "day"): 2 * plan().amount}


async def test_a_budget_that_comes_later_begins_with_what_was_spent_before(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps())
    await books.settle(booking, measured(record(Usage(input_tokens=10, output_tokens=5)), booking.plan, None))
    caps = Caps(levels=(Level("key:key", month=30_000_000 + plan().amount), Level("model:mini", day=10**12), Level("model:other", day=0)))
    await reserve(books, "r2", caps)
    counters = {(row["scope"], row["spent"], row["reserved"]) for row in await rows(database, budgets) if row["scope"]}
    assert counters == {("key:key", 30_000_000, plan().amount), ("model:mini", 30_000_000, plan().amount)}
    with pytest.raises(BudgetExceeded):
        await reserve(books, "r3", caps)


async def test_a_request_that_runs_past_midnight_is_counted_in_the_day_it_began_by_every_budget(database: Database) -> None:
    now = 1_796_083_199.0  # a second before a day, and a month, ends
    books = Accounting(database, "w1", SEALS, lambda: now)
    caps = Caps(levels=(Level("key:key", day=10**13), Level("model:gpt", day=10**13)))

    def planned() -> AttemptPlan:
        return msgspec.structs.replace(plan(), started_at=now)

    def used() -> AttemptRecord:
        return msgspec.structs.replace(record(Usage(input_tokens=10, output_tokens=5)), ended_at=now)

    booking = await reserve(books, "r1", caps, planned())
    now += 2
    await books.next_attempt(booking, measured(used(), booking.plan, StreamBroken("cut")), planned())
    await books.settle(booking, measured(used(), booking.plan, None))
    await reserve(books, "r2", caps, planned())
    today = {row["spent"] for row in await rows(database, budgets) if row["period"] == "day:2026-11-30"}
    assert today == {60_000_000}
    assert {row["spent"] for row in await rows(database, budgets) if row["period"] == "day:2026-12-01"} == {0}


async def test_a_teams_budget_is_kept_beside_the_others(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    caps = Caps(levels=(Level("team:research", day=plan().amount),))
    booking = books.booking("r1", "acme", "key", 1, caps, plan(), team="research")
    await books.open(booking)
    with pytest.raises(BudgetExceeded):
        await books.open(books.booking("r2", "acme", "key", 1, caps, plan(), team="research"))
    await books.settle(booking, measured(record(Usage(input_tokens=10, output_tokens=5)), booking.plan, None))
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(30_000_000, 0)}


async def test_a_dead_workers_request_is_recovered_from_every_budget_that_it_set_aside_from(database: Database) -> None:
    caps = Caps(levels=(Level("key:key", month=10**13), Level("model:gpt", day=10**13)))
    await reserve(Accounting(database, "w1", SEALS), "r1", caps)
    assert await database.write(lambda connection: recover(connection, "w1", time.time(), SEALS)) == 1
    assert {(row["spent"], row["reserved"]) for row in await rows(database, budgets)} == {(plan().amount, 0)}
    assert len(await rows(database, budgets)) == 4


async def test_an_attempt_that_is_content_with_less_gets_what_is_left_and_never_less_than_it_needs(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    wanted = msgspec.structs.replace(plan(100, 1000), least_output=20, choices=2)
    cap = upper_bound(100, 301, PRICE)
    booking = await reserve(books, "r1", Caps(month=cap), wanted)
    assert (booking.plan.output_bound, booking.plan.amount) == (300, upper_bound(100, 300, PRICE))
    with pytest.raises(BudgetExceeded):
        await reserve(books, "r2", Caps(month=cap), wanted)
    await books.next_attempt(booking, measured(record(None, called=False), booking.plan, StreamBroken("cut")), wanted)
    assert booking.plan.output_bound == 300
    (held,) = await rows(database, reservations)
    assert held["amount"] == booking.plan.amount
    with pytest.raises(BudgetExceeded):
        await reserve(books, "r3", Caps(month=upper_bound(100, 39, PRICE)), wanted)


@given(
    st.integers(0, 5_000), st.integers(1, 4), st.integers(1, 2_000), st.integers(0, 2_000), st.integers(0, 10**11),
    st.floats(0, 100, allow_nan=False), st.floats(0, 100, allow_nan=False),
)  # fmt: skip
def test_a_clamped_plan_is_the_largest_that_fits(input_bound: int, choices: int, limit: int, least: int, amount: int, rate: float, output: float) -> None:
    price = Price(input=rate, output=output, tiers=(PriceTier(above=1_000, input=2 * rate, output=2 * output),))
    whole = upper_bound(input_bound, limit * choices, price)
    wanted = AttemptPlan("b", "p", "m", price, input_bound, limit * choices, whole, "r", 0.0, least_output=min(least, limit), choices=choices)
    found = wanted.clamped(amount)
    if amount >= whole:
        assert found == wanted
    elif found is None:
        assert amount < wanted.least_amount
    else:
        assert wanted.least_output * choices <= found.output_bound < wanted.output_bound
        assert found.amount == upper_bound(input_bound, found.output_bound, price) <= amount
        assert upper_bound(input_bound, found.output_bound + choices, price) > amount


async def test_what_costs_nothing_is_answered_whatever_was_spent(database: Database) -> None:
    books = Accounting(database, "w1", SEALS)
    booking = await reserve(books, "r1", Caps(month=plan().amount))
    await books.settle(booking, measured(record(Usage(input_tokens=10**6, output_tokens=5)), booking.plan, None))
    free = AttemptPlan("local", "local", "llama", Price(input=0, output=0), 100, 0, 0, "default", time.time())
    await reserve(books, "r2", Caps(month=plan().amount), free)
