"""Alerts on budgets, on both databases: found once, delivered by one worker, tried again, given up, and never sent again once they were taken."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web
from sqlalchemy import Connection, delete, insert, update

from adapters.types import AttemptRecord, Usage
from config.database import Database, open_database
from config.prices import Price
from config.settings import Settings
from policies.load import Policy, load_policy
from router.alerts import book
from router.alerts.events import Alert, signature
from router.alerts.tables import budget_alerts
from router.alerts.watch import BudgetAlerts
from router.backends import load_kinds
from router.launch import migrate_state
from router.money.accounting import Accounting
from router.money.books import BudgetExceeded
from router.money.settlement import AttemptPlan, Booking, Caps, Level, measured
from router.tables import UNCAPPED, budgets, workers
from router.telemetry import Metrics
from tests.fakes.alert_receiver import SECRET, Receiver, receiving, take, verified
from tests.ports import free_port
from tests.seals import SEALS
from tests.serving import until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
DAY, MONTH = "day:2026-11-30", "month:2026-11"
ENVIRON = {"HOOK_API_KEY": SECRET, "SHORT_API_KEY": "short"}
USD = 10**12


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    for worker in ("w1", "w2"):
        await database.write(lambda c, worker=worker: _register(c, worker))  # type: ignore[misc]
    yield database
    await database.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def _register(connection: Connection, worker: str) -> None:
    connection.execute(insert(workers), {"id": worker, "instance": "test", "beat": 0, "started_at": 0.0})


def policy(url: str, rest: str = "", at: str = "[0.5, 0.8, 1.0]", secret: str = "HOOK_API_KEY") -> Policy:
    load_kinds(Settings())
    text = f'version: 1\nbackends: {{a: {{kind: scripted}}}}\ndefault: a\nalerts: {{url: "{url}", secret_env: {secret}, at: {at}}}\n{rest}'
    return load_policy(text, price_of=lambda *_: None)


def watch(database: Database, told: Policy, clock: Clock, worker: str = "w1", timeout_s: float = 5.0) -> BudgetAlerts:
    return BudgetAlerts(database, worker, lambda: told, ENVIRON, Metrics(), clock=clock, timeout_s=timeout_s)


async def count(database: Database, tenant: str, period: str, spent: float, cap: float | None, scope: str = "", reserved: float = 0.0) -> None:
    """Put a counter where the books would have it by then. In USD."""

    def work(connection: Connection) -> None:
        row = {"tenant": tenant, "scope": scope, "period": period, "cap": UNCAPPED if cap is None else round(cap * USD)}
        connection.execute(delete(budgets).where(budgets.c.tenant == tenant, budgets.c.scope == scope, budgets.c.period == period))
        connection.execute(insert(budgets), {**row, "spent": round(spent * USD), "reserved": round(reserved * USD)})

    await database.write(work)


async def alerts_of(database: Database) -> list[Alert]:
    return sorted(await database.read(book.listed), key=lambda alert: (alert.tenant, alert.scope, alert.period, alert.share))


def value(watched: BudgetAlerts, outcome: str) -> float:
    return watched._metrics._registry.get_sample_value("headgate_alerts_total", {"outcome": outcome}) or 0.0


# --- what is told ----------------------------------------------------------------------------------------------------------------------------


async def test_a_share_that_is_spent_is_told_once_and_signed(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    watched = watch(database, policy(receiver.url), clock)
    await count(database, "acme", MONTH, 99.999999, 200)
    await watched.look()
    assert receiver.events == []
    await count(database, "acme", MONTH, 100, 200, reserved=99)
    for _ in range(3):
        await watched.look()
        clock.now += 100
    (row,) = await alerts_of(database)
    assert await database.read(lambda c: book.found(c, policy(receiver.url), {DAY, MONTH}, {}, clock.now)) == []  # so nothing is written
    assert receiver.events == [
        {
            "id": row.id,
            "type": "budget.threshold",
            "tenant": "acme",
            "scope": "",
            "period": MONTH,
            "share": 0.5,
            "spent_usd": 100.0,
            "reserved_usd": 99.0,
            "cap_usd": 200.0,
            "at": NOON,
        }
    ]
    assert receiver.headers[0]["x-headgate-alert-id"] == row.id
    assert receiver.headers[0]["content-type"] == "application/json"
    assert (row.state, row.tries, row.delivered_at, row.worker, row.error) == ("delivered", 1, NOON, "", None)
    assert (value(watched, "delivered"), value(watched, "failed"), receiver.forged) == (1, 0, 0)


async def test_budgets_inside_a_tenants_are_told_of_and_those_without_a_cap_are_not(database: Database, receiver: Receiver) -> None:
    await count(database, "acme", DAY, 1_000_000, None)
    await count(database, "acme", DAY, 9, 10, scope="key:k1")
    await count(database, "acme", MONTH, 0, 0, scope="key:k2")
    await watch(database, policy(receiver.url), Clock()).look()
    assert sorted((event["scope"], event["share"]) for event in receiver.events) == [("key:k1", 0.5), ("key:k1", 0.8)]


async def test_what_the_books_spend_is_what_is_told(database: Database, receiver: Receiver) -> None:
    clock, price = Clock(), Price(input=1.0, output=4.0)
    books = Accounting(database, "w1", SEALS, clock)
    plan = AttemptPlan("mini", "openai", "gpt", price, 100, 50, 300_000_000, "default", NOON)
    caps = Caps(day=500_000_000, levels=(Level("model:mini", month=1_000_000_000),))
    booking = await books.reserve("r1", "acme", "key", 1, caps, plan)
    watched = watch(database, policy(receiver.url), clock)
    await watched.look()
    assert receiver.events == []
    await books.settle(booking, measured(AttemptRecord("mini", usage=Usage(input_tokens=100, output_tokens=50), called=True), booking.plan, None))
    await watched.look()
    assert [(event["scope"], event["period"], event["share"], event["spent_usd"]) for event in receiver.events] == [("", DAY, 0.5, 0.0003)]


async def test_a_budget_that_refuses_is_told_once_in_its_period_with_what_stood_then(database: Database, receiver: Receiver) -> None:
    clock, price = Clock(), Price(input=1.0, output=4.0)
    books = Accounting(database, "w1", SEALS, clock)
    plan = AttemptPlan("mini", "openai", "gpt", price, 100, 50, 300_000_000, "default", NOON)
    told = policy(receiver.url, at="[]")
    watched, other = watch(database, told, clock), watch(database, told, clock, "w2")
    open_one: Booking | None = None
    for number in range(4):
        for each in (watched, other):
            try:
                open_one = await books.reserve(f"r{number}", "acme", "key", 1, Caps(day=10**12, month=500_000_000), plan)
            except BudgetExceeded as error:
                each.refused(error.short)
    assert open_one is not None
    await books.settle(open_one, measured(AttemptRecord("mini", usage=Usage(input_tokens=100, output_tokens=0), called=True), open_one.plan, None))
    for each in (watched, other, watched):
        await each.look()
        each.refused(())
    (event,) = receiver.events
    assert (event["type"], event["tenant"], event["period"], event["share"], event["cap_usd"]) == ("budget.exhausted", "acme", MONTH, None, 0.0005)
    assert (event["spent_usd"], event["reserved_usd"]) == (0.0001, 0.0002)


async def test_a_budget_of_nothing_that_refuses_is_told(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    plan = AttemptPlan("mini", "openai", "gpt", Price(input=1.0, output=4.0), 100, 50, 300_000_000, "default", NOON)
    watched = watch(database, policy(receiver.url), clock)
    with pytest.raises(BudgetExceeded) as refused:
        await Accounting(database, "w1", SEALS, clock).reserve("r1", "acme", "key", 1, Caps(day=0), plan)
    watched.refused(refused.value.short)
    await watched.look()
    assert [(event["type"], event["cap_usd"], event["spent_usd"]) for event in receiver.events] == [("budget.exhausted", 0.0, 0.0)]


async def test_refusals_are_not_forgotten_while_the_database_is_away(database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    plan = AttemptPlan("mini", "openai", "gpt", Price(input=1.0, output=4.0), 100, 50, 300_000_000, "default", NOON)
    watched = watch(database, policy(receiver.url), clock)
    with pytest.raises(BudgetExceeded) as refused:
        await Accounting(database, "w1", SEALS, clock).reserve("r1", "acme", "key", 1, Caps(day=0), plan)
    watched.refused(refused.value.short)

    def away(*_arguments: Any) -> None:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(book, "write_down", away)
        with pytest.raises(OSError, match="away"):
            await watched.look()
    await watched.look()
    assert len(receiver.events) == 1


async def test_a_raised_cap_is_told_again_in_the_next_period_only(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    watched = watch(database, policy(receiver.url, at="[0.8]"), clock)
    for spent, cap in ((80, 100), (80, 200), (170, 200)):
        await count(database, "acme", DAY, spent, cap)
        await watched.look()
    assert len(receiver.events) == 1
    clock.now += 86_400
    await count(database, "acme", "day:2026-12-01", 160, 200)
    await watched.look()
    assert [event["period"] for event in receiver.events] == [DAY, "day:2026-12-01"]


async def test_what_is_booked_at_the_very_end_of_a_period_is_told_after_it(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    clock.now = datetime(2026, 12, 1, 0, 5, tzinfo=UTC).timestamp()
    watched = watch(database, policy(receiver.url, at="[1.0]"), clock)
    await count(database, "acme", DAY, 10, 10)
    await count(database, "acme", MONTH, 100, 100)
    await count(database, "acme", "day:2026-11-29", 100, 100)
    await watched.look()
    assert sorted(event["period"] for event in receiver.events) == [DAY, MONTH]


async def test_a_tenants_own_receiver_is_told_of_that_tenant_only(database: Database, receiver: Receiver) -> None:
    async with receiving() as acmes, receiving() as globexs:
        own = f'{{url: "{acmes.url}", secret_env: HOOK_API_KEY, at: [0.9]}}'
        alone = f'{{url: "{globexs.url}", secret_env: HOOK_API_KEY, at: [0.5], only: true}}'
        told = policy(receiver.url, f"tenants: {{acme: {{alerts: {own}}}, globex: {{alerts: {alone}}}}}\n", at="[0.5]")
        for tenant in ("acme", "globex", "initech"):
            await count(database, tenant, MONTH, 95, 100)
        await watch(database, told, Clock()).look()
        assert sorted((event["tenant"], event["share"]) for event in receiver.events) == [("acme", 0.5), ("initech", 0.5)]
        assert [(event["tenant"], event["share"]) for event in acmes.events] == [("acme", 0.9)]
        assert [(event["tenant"], event["share"]) for event in globexs.events] == [("globex", 0.5)]


async def test_nobody_is_told_where_the_policy_names_nobody(database: Database) -> None:
    nobody = load_policy("version: 1\nbackends: {a: {kind: scripted}}\ndefault: a\n", price_of=lambda *_: None)
    await count(database, "acme", MONTH, 95, 100)
    await watch(database, nobody, Clock()).look()
    assert await alerts_of(database) == []


# --- who delivers it -------------------------------------------------------------------------------------------------------------------------


async def test_of_many_workers_that_look_at_once_one_delivers_each_alert(database: Database, database_url: str, receiver: Receiver) -> None:
    clock, told = Clock(), policy(receiver.url)
    second = open_database(database_url)  # another process has its own connections
    try:
        for number in range(12):
            await count(database, f"t{number}", MONTH, 100, 100)
        both = [watch(each, told, clock, worker) for each, worker in ((database, "w1"), (second, "w2"))]
        for _ in range(3):
            await asyncio.gather(*(each.look() for each in both * 2))
        assert Tally((event["tenant"], event["share"]) for event in receiver.events) == {(f"t{n}", share): 1 for n in range(12) for share in (0.5, 0.8, 1.0)}
        rows = await alerts_of(database)
        assert {(row.state, row.tries) for row in rows} == {("delivered", 1)}
        assert {row.id for row in rows} == {event["id"] for event in receiver.events}
        assert len(rows) == 36
    finally:
        await second.aclose()


async def test_of_two_that_see_the_same_row_one_claims_it(database: Database) -> None:
    clock = Clock()
    alert = await pending(database, clock)
    claims = await asyncio.gather(*(database.write(lambda c, w=w: book.claim(c, alert, w, clock.now)) for w in ("w1", "w2", "w1")))  # type: ignore[misc]
    assert sum(claim is not None for claim in claims) == 1


async def pending(database: Database, clock: Clock, url: str = "http://127.0.0.1:9/") -> Alert:
    """An alert that waits to be delivered."""
    await count(database, "acme", MONTH, 60, 100)
    told = policy(url, at="[0.5]")
    await database.write(lambda c: book.write_down(c, book.found(c, told, {MONTH}, {}, clock.now)))
    (alert,) = await database.read(lambda c: book.due(c, clock.now))
    return alert


async def test_a_worker_that_dies_with_an_alert_in_its_hands_is_relieved_of_it_at_once(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    alert = await pending(database, clock, receiver.url)
    assert await database.write(lambda c: book.claim(c, alert, "w1", clock.now)) is not None
    second = watch(database, policy(receiver.url, at="[0.5]"), clock, "w2")
    await second.look()
    assert receiver.events == []  # w1 lives, and may be sending it
    await database.write(lambda c: c.execute(delete(workers).where(workers.c.id == "w1")) and None)
    await second.look()
    await second.look()
    assert [event["id"] for event in receiver.events] == [alert.id]
    (row,) = await alerts_of(database)
    assert (row.state, row.tries) == ("delivered", 2)


async def test_a_worker_that_stands_still_loses_its_alert_when_its_lease_is_over(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    alert = await pending(database, clock, receiver.url)
    slow = await database.write(lambda c: book.claim(c, alert, "w1", clock.now))
    assert slow is not None
    second = watch(database, policy(receiver.url, at="[0.5]"), clock, "w2")
    clock.now += book.LEASE_S - 0.1
    await second.look()
    assert receiver.events == []
    clock.now += 0.2
    await second.look()
    await database.write(lambda c: book.failed(c, slow, "too late to say so", clock.now))
    clock.now += 10_000
    await second.look()
    assert len(receiver.events) == 1
    (row,) = await alerts_of(database)
    assert (row.state, row.error) == ("delivered", None)


async def test_a_delivery_that_outlived_its_lease_ends_the_tries_of_the_one_after_it(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    alert = await pending(database, clock, receiver.url)
    slow = await database.write(lambda c: book.claim(c, alert, "w1", clock.now))
    clock.now += book.LEASE_S
    again = await database.write(lambda c: book.claim(c, next(iter(book.due(c, clock.now))), "w2", clock.now))
    assert slow is not None
    assert again is not None
    await database.write(lambda c: book.delivered(c, slow, clock.now))
    await database.write(lambda c: book.failed(c, again, "answered 500", clock.now))
    clock.now += 10_000
    await watch(database, policy(receiver.url, at="[0.5]"), clock).look()
    assert receiver.events == []
    assert (await alerts_of(database))[0].state == "delivered"


async def test_a_cancelled_look_lets_its_delivery_end(database: Database, receiver: Receiver) -> None:
    clock, arrived, go_on = Clock(), asyncio.Event(), asyncio.Event()

    async def wait(_event: dict[str, Any]) -> web.Response:
        arrived.set()
        await go_on.wait()
        return web.Response(status=200)

    receiver.behaviour = wait
    await pending(database, clock, receiver.url)
    looking = asyncio.create_task(watch(database, policy(receiver.url, at="[0.5]"), clock).look())
    await arrived.wait()
    looking.cancel()
    await asyncio.wait([looking])
    go_on.set()
    async with asyncio.timeout(30):
        while (await alerts_of(database))[0].state != "delivered":
            await asyncio.sleep(0.005)
    assert len(receiver.events) == 1


# --- receivers that do not take it -----------------------------------------------------------------------------------------------------------


async def test_a_receiver_that_fails_is_asked_again_ever_more_rarely_with_the_same_body_until_it_takes_it(database: Database, receiver: Receiver) -> None:
    clock = Clock()

    async def fail(_event: dict[str, Any]) -> web.Response:
        return web.Response(status=503, text="my own secret words")

    receiver.behaviour = fail
    await count(database, "acme", MONTH, 60, 100)
    watched = watch(database, policy(receiver.url, at="[0.5]"), clock)
    await watched.look()
    for tries, pause in enumerate((10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600), 1):
        (row,) = await alerts_of(database)
        assert (row.state, row.tries, row.error, row.next_try_at) == ("pending", tries, "answered 503", pytest.approx(clock.now + pause))
        clock.now += pause - 1
        await watched.look()
        assert len(receiver.events) == tries
        clock.now += 1
        await watched.look()
        assert len(receiver.events) == tries + 1
    receiver.behaviour = take
    clock.now += 3600
    for _ in range(2):
        await watched.look()
        clock.now += 10_000
    (row,) = await alerts_of(database)
    assert (row.state, row.error, len(receiver.events)) == ("delivered", None, 13)
    assert len(set(receiver.bodies)) == 1
    assert (value(watched, "failed"), value(watched, "delivered"), receiver.forged) == (12, 1, 0)


async def test_what_nobody_takes_for_a_day_is_given_up(database: Database) -> None:
    clock = Clock()
    watched = watch(database, policy(f"http://127.0.0.1:{free_port()}/x", at="[0.5]"), clock)
    await count(database, "acme", MONTH, 60, 100)
    await watched.look()
    (row,) = await alerts_of(database)
    assert (row.state, row.error) == ("pending", "cannot be reached: ClientConnectorError")
    clock.now = NOON + 86_399
    await watched.sweep()
    assert (await alerts_of(database))[0].state == "pending"
    clock.now = NOON + 86_401
    await watched.look()
    assert (await alerts_of(database))[0].tries == 1
    await watched.sweep()
    (row,) = await alerts_of(database)
    assert (row.state, row.error) == ("failed", "cannot be reached: ClientConnectorError")
    assert value(watched, "given_up") == 1
    clock.now += 3600
    await count(database, "acme", MONTH, 70, 100)
    await watched.look()
    assert (await alerts_of(database))[0].tries == 1
    clock.now += book.KEPT_S
    await watched.sweep()
    assert await alerts_of(database) == []


async def test_a_redirect_is_not_followed(database: Database, receiver: Receiver) -> None:
    statuses = (301, 302, 303, 307, 308)

    async def elsewhere(event: dict[str, Any]) -> web.Response:
        return web.Response(status=int(event["tenant"][1:]), headers={"location": "/elsewhere"})

    receiver.behaviour = elsewhere
    for status in statuses:
        await count(database, f"t{status}", MONTH, 60, 100)
    await watch(database, policy(receiver.url, at="[0.5]"), Clock()).look()
    expected = [("pending", f"answered {status}, and redirects are not followed") for status in statuses]
    assert [(row.state, row.error) for row in await alerts_of(database)] == expected
    assert (len(receiver.events), receiver.elsewhere) == (5, 0)


async def test_a_slow_receiver_is_not_waited_for_and_holds_up_no_other(database: Database, receiver: Receiver) -> None:
    never = asyncio.Event()

    async def wait(_event: dict[str, Any]) -> web.Response:
        await never.wait()
        return web.Response(status=200)

    async with receiving() as slow:
        slow.behaviour = wait
        own = f'{{url: "{slow.url}", secret_env: HOOK_API_KEY, at: [0.5], only: true}}'
        told = policy(receiver.url, f"tenants: {{acme: {{alerts: {own}}}}}\n", at="[0.5]")
        for tenant in ("acme", "globex"):
            await count(database, tenant, MONTH, 60, 100)
        looking = asyncio.create_task(watch(database, told, Clock(), timeout_s=1.0).look())
        await until(lambda: receiver.events and slow.events)
        assert not looking.done()
        await looking
        assert [(row.tenant, row.state, row.error) for row in await alerts_of(database)] == [
            ("acme", "pending", "no answer within 1 s"),
            ("globex", "delivered", None),
        ]
        never.set()


async def test_an_endless_answer_is_not_read(database: Database, receiver: Receiver) -> None:
    async def endless(_event: dict[str, Any]) -> web.Response:
        return web.Response(status=200, body=b"x" * 50_000_000)

    receiver.behaviour = endless
    await count(database, "acme", MONTH, 60, 100)
    async with asyncio.timeout(30):
        await watch(database, policy(receiver.url, at="[0.5]"), Clock()).look()
    assert (await alerts_of(database))[0].state == "delivered"


@pytest.mark.parametrize(("secret", "error"), [("NONE_API_KEY", "NONE_API_KEY is not set"), ("SHORT_API_KEY", "SHORT_API_KEY is refused: it has 5 characters")])
async def test_without_a_good_secret_nothing_is_sent_until_there_is_one(database: Database, receiver: Receiver, secret: str, error: str) -> None:
    clock = Clock()
    await count(database, "acme", MONTH, 60, 100)
    await watch(database, policy(receiver.url, at="[0.5]", secret=secret), clock).look()
    (row,) = await alerts_of(database)
    assert row.state == "pending"
    assert row.error is not None
    assert row.error.startswith(error)
    assert (receiver.events, receiver.forged) == ([], 0)
    clock.now += 10
    await watch(database, policy(receiver.url, at="[0.5]"), clock).look()
    assert len(receiver.events) == 1


async def test_an_alert_whose_receiver_was_taken_out_of_the_policy_waits_for_one(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    own = f'{{url: "{receiver.url}", secret_env: HOOK_API_KEY, at: [0.5]}}'
    both = policy(receiver.url, f"tenants: {{acme: {{alerts: {own}}}}}\n", at="[]")
    await count(database, "acme", MONTH, 60, 100)
    await database.write(lambda c: book.write_down(c, book.found(c, both, {MONTH}, {}, clock.now)))
    await watch(database, policy(receiver.url, at="[]"), clock).look()
    (row,) = await alerts_of(database)
    assert (row.state, row.error) == ("pending", "the policy in force names no such receiver")
    clock.now += 10
    await watch(database, both, clock).look()
    assert len(receiver.events) == 1


async def test_no_log_line_holds_the_secret_or_the_path_of_a_receiver(database: Database, receiver: Receiver) -> None:
    clock = Clock()
    await count(database, "acme", MONTH, 60, 100)
    dead = receiver.url.replace(receiver.url.split("/")[2], f"127.0.0.1:{free_port()}")
    with structlog.testing.capture_logs() as lines:
        await watch(database, policy(dead, at="[0.5]"), clock).look()
        clock.now += 10
        await watch(database, policy(receiver.url, at="[0.5]"), clock).look()
    assert [(line["event"], line["host"], line["tenant"]) for line in lines] == [
        ("alert_failed", "127.0.0.1", "acme"),
        ("alert_delivered", "127.0.0.1", "acme"),
    ]
    assert SECRET not in str(lines)
    assert "path-secret" not in str(lines) + str(await alerts_of(database))


# --- signatures and tables -------------------------------------------------------------------------------------------------------------------


def test_the_documented_program_takes_what_is_signed_and_nothing_else() -> None:
    body = msgspec.json.encode({"type": "test"})
    good = signature(SECRET, body, int(NOON))
    assert verified(SECRET, good, body, NOON + 299) == {"type": "test"}  # type: ignore[call-arg]
    for secret, header, sent, now in (
        (SECRET + "x", good, body, NOON),
        (SECRET, good, body + b" ", NOON),
        (SECRET, good.replace(f"t={int(NOON)}", f"t={int(NOON) + 1}"), body, NOON),
        (SECRET, good, body, NOON + 301),
        (SECRET, good[:-1], body, NOON),
        (SECRET, "t=1", body, NOON),
        (SECRET, "", body, NOON),
    ):
        with pytest.raises((ValueError, KeyError)):
            verified(secret, header, sent, now)  # type: ignore[call-arg]


async def test_a_period_is_found_by_its_index(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'headgate.db'}")
    await asyncio.to_thread(migrate_state, database)
    query = "EXPLAIN QUERY PLAN SELECT * FROM budgets WHERE period IN ('day:2026-11-30', 'month:2026-11') AND cap < 1 AND spent > 0"
    assert "ix_budgets_period" in await database.read(lambda c: str(c.exec_driver_sql(query).fetchall()))
    await database.aclose()


async def test_a_row_that_is_claimed_is_not_given_up(database: Database) -> None:
    clock = Clock()
    alert = await pending(database, clock)
    await database.write(lambda c: c.execute(update(budget_alerts).values(created_at=NOON - 86_390)) and None)
    assert await database.write(lambda c: book.claim(c, alert, "w1", clock.now)) is not None
    clock.now += 20
    assert await database.write(lambda c: book.give_up(c, clock.now)) == 0
