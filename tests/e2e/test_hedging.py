"""A second attempt beside a slow first one: one answer, two reservations, and every cent of both in the ledger."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import Connection

from adapters.cost import picodollars
from config.database import open_database
from router.money import recovery
from router.money.settlement import Booking
from router.tables import reservations
from tests.e2e.money_books import Books, check_bills, check_sums, open_calls, read_books, settled_books, watching
from tests.e2e.money_client import Plan
from tests.e2e.money_client import ask as ask_raw
from tests.e2e.test_faults import ask
from tests.e2e.test_retries import TEXTS, WELL, get
from tests.fakes.provider import Exchange, FakeProvider, Hang, Reply
from tests.fakes.wire import Answer, failing, openai_steps
from tests.seals import SEALS
from tests.serving import serving, until

BEGUN = openai_steps(Answer(texts=TEXTS))[:2]


def policy(url: str, hedge: str = "{after_s: 0.1}", *, keys: str = "retry: {attempts: 1}", tenant: str = "", more: str = "") -> str:
    return f"""
version: 1
backends:
  first: {{kind: openai, model: served, base_url: "{url}/v1", price: {{input: 3.0, output: 15.0}}, max_output_tokens: 50, hedge: {hedge}, {keys}}}
  spare: {{kind: scripted, text: "The second one answers.", price: {{input: 1.0, output: 4.0}}, max_output_tokens: 50}}
default: first
fallback: []
{more}
tenants: {{acme: {{{tenant}}}}}
"""


def lanes(found: Books) -> dict[str, tuple[str, str, str | None]]:
    """By purpose; fails where one has two rows."""
    seen = {row["purpose"]: (row["backend"], row["outcome"], row["error"]) for row in found.ledger}
    assert len(seen) == len(found.ledger)
    return seen


class InTurn:
    """Answers the n-th request with the n-th reply; `Hang` before any header where it is None."""

    def __init__(self, *replies: Reply | None) -> None:
        self.replies = list(replies)

    async def __call__(self, exchange: Exchange) -> Reply:
        reply = self.replies.pop(0)
        if reply is None:
            await asyncio.get_running_loop().create_future()
        assert reply is not None
        return reply


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_the_second_attempt_answers_and_the_slow_one_is_stopped_and_booked(tmp_path: Path, stream: bool, database_url: str) -> None:
    async with (
        FakeProvider(InTurn(None, WELL)) as provider,
        serving(policy(provider.url), tmp_path, database_url=database_url) as service,
        asyncio.timeout(30),
    ):
        seen = await ask(service.url, service.key, stream=stream)
        found = await settled_books(service.database)
        slow = await provider.exchange(0)
        async with asyncio.timeout(30):
            await slow.gone.wait()
        metrics = await get(service, "/metrics", service.admin_key)
    assert (seen.status, seen.text) == (200, "".join(TEXTS))
    assert lanes(found) == {"answer": ("first", "cancelled", None), "hedge": ("first", "ok", None)}
    by_purpose = {row["purpose"]: row for row in found.ledger}
    assert by_purpose["hedge"]["usage_source"] == "provider"
    assert 0 < by_purpose["answer"]["cost"] <= by_purpose["answer"]["reserved"], "it may have worked: an estimate within its bound"
    check_sums(found, "acme", {})
    keys = {exchange.headers["idempotency-key"] for exchange in provider.exchanges}
    assert len(keys) == 2, "a provider must not take the second one for the first"
    assert 'headgate_hedges_total{backend="first",outcome="won"} 1.0' in metrics


async def test_a_first_attempt_that_wakes_up_wins_and_the_second_is_stopped(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def script(exchange: Exchange) -> Reply:
        if len(provider.exchanges) == 1:
            await begun.wait()
            return WELL
        begun.set()
        return Reply([Hang()])

    async with FakeProvider(script) as provider, serving(policy(provider.url), tmp_path) as service, asyncio.timeout(30):
        seen = await ask(service.url, service.key, stream=True)
        found = await settled_books(service.database)
        await (await provider.exchange(1)).gone.wait()
    assert (seen.text, seen.terminals) == ("".join(TEXTS), ["finish", "done"])
    assert lanes(found) == {"answer": ("first", "ok", None), "hedge": ("first", "cancelled", None)}


async def test_the_first_attempts_answer_waits_for_no_reservation_of_its_hedge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserving, go = asyncio.Event(), asyncio.Event()

    async def script(_: Exchange) -> Reply:
        await reserving.wait()
        return WELL

    async with FakeProvider(script) as provider, serving(policy(provider.url), tmp_path) as service, asyncio.timeout(30):
        accounting = service.gateway.accounting
        reserve = accounting.open

        async def slowly(booking: Booking) -> None:
            if booking.plan.purpose == "hedge":
                reserving.set()
                await go.wait()
            await reserve(booking)

        monkeypatch.setattr(accounting, "open", slowly)
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as answer:
            try:
                async with asyncio.timeout(30):
                    async for line in answer.content:
                        if TEXTS[0].encode() in line:
                            break
            finally:
                go.set()
            assert (await answer.text()).rstrip().endswith("data: [DONE]")
        found = await settled_books(service.database)
    assert lanes(found) == {"answer": ("first", "ok", None), "hedge": ("first", "cancelled", None)}
    assert [row["cost"] for row in found.ledger if row["purpose"] == "hedge"] == [0]
    assert len(provider.exchanges) == 1


async def test_a_request_that_waits_in_the_queue_of_its_backend_is_not_hedged_there(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> Reply:
        if exchange is provider.exchanges[0]:
            await go.wait()
        return WELL

    keys = "retry: {attempts: 1}, max_concurrency: 1, queue_s: 60"
    async with FakeProvider(script) as provider, serving(policy(provider.url, "{after_s: 0.02}", keys=keys), tmp_path) as service, asyncio.timeout(30):
        slow = asyncio.create_task(ask(service.url, service.key, stream=False))
        await provider.exchange(0)
        queued = asyncio.create_task(ask(service.url, service.key, stream=False))
        limited = service.gateway.policy.current.backends["first"]
        # The first one's hedge and the second request wait for the one slot; a hedge of the second would be a third.
        async with asyncio.timeout(30):
            while (await limited.health()).queue_depth < 2:
                await asyncio.sleep(0.005)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.2)
        waiting = (await limited.health()).queue_depth
        go.set()
        assert [(await each).text for each in (slow, queued)] == ["".join(TEXTS)] * 2
        await settled_books(service.database)
    assert waiting == 2


async def test_a_quick_answer_is_not_hedged(tmp_path: Path) -> None:
    async with FakeProvider(WELL) as provider, serving(policy(provider.url, "{after_s: 60}"), tmp_path) as service:
        assert (await ask(service.url, service.key, stream=True)).text == "".join(TEXTS)
        found = await settled_books(service.database)
    assert lanes(found) == {"answer": ("first", "ok", None)}


async def test_another_backend_may_be_the_hedge(tmp_path: Path) -> None:
    async with FakeProvider(InTurn(None)) as provider, serving(policy(provider.url, "{after_s: 0.05, backend: spare}"), tmp_path) as service:
        seen = await ask(service.url, service.key, stream=True)
        found = await settled_books(service.database)
    assert seen.text == "The second one answers."
    assert seen.headers["x-headgate-backend"] == "spare"
    assert lanes(found) == {"answer": ("first", "cancelled", None), "hedge": ("spare", "ok", None)}


@pytest.mark.parametrize(
    ("more", "model"),
    [
        ("rules: [{name: home, when: {tenant: acme}, use: [first], lock: true}]", "auto"),
        ("", "first"),
    ],
    ids=["a lock", "a pin"],
)
async def test_a_hedge_that_is_not_permitted_is_not_made(tmp_path: Path, more: str, model: str) -> None:
    text = policy(provider_url := "http://127.0.0.1:9", "{after_s: 0.05, backend: spare}", keys="retry: {attempts: 1}, timeout_s: 0.4", more=more)
    async with FakeProvider(Reply([Hang()])) as provider, serving(text.replace(provider_url, provider.url), tmp_path) as service:
        plan = Plan(stream=False, deltas=1, directives="", cut="none", patience=0, cut_after=1)
        asked = await ask_raw(service.url, service.key, plan) if model == "auto" else None
        if asked is None:
            import openai

            async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
                with pytest.raises(openai.APIStatusError) as caught:
                    await sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
            assert caught.value.status_code == 504
        else:
            assert asked.code == "backend_timeout"
        found = await settled_books(service.database)
    assert lanes(found) == {"answer": ("first", "timeout", "backend_timeout")}


async def test_both_failing_is_the_first_ones_error(tmp_path: Path) -> None:
    async with (
        FakeProvider(InTurn(None, failing("openai", 500, "x"))) as provider,
        serving(policy(provider.url, keys="retry: {attempts: 1}, timeout_s: 0.4"), tmp_path) as service,
    ):
        seen = await ask(service.url, service.key, stream=True)
        found = await settled_books(service.database)
    assert (seen.status, seen.codes) == (504, ["backend_timeout"])
    assert lanes(found) == {"answer": ("first", "timeout", "backend_timeout"), "hedge": ("first", "error", "provider_error")}


async def test_a_hedge_that_breaks_after_it_won_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    """Of a whole answer nobody has seen anything; the first attempt's lane is settled by then, and opened again."""
    broken = Reply(BEGUN)
    async with (
        FakeProvider(InTurn(None, broken, WELL)) as provider,
        serving(policy(provider.url, keys="retry: {attempts: 3, first_s: 0.01}"), tmp_path) as service,
    ):
        seen = await ask(service.url, service.key, stream=False)
        found = await settled_books(service.database)
    assert (seen.status, seen.text) == (200, "".join(TEXTS))
    rows = {(row["purpose"], row["attempt"]): row["outcome"] for row in found.ledger}
    assert rows == {("answer", 1): "cancelled", ("hedge", 1): "error", ("answer", 2): "ok"}
    check_sums(found, "acme", {})


async def test_a_budget_that_cannot_afford_both_makes_no_hedge(tmp_path: Path) -> None:
    async with FakeProvider(WELL) as provider, serving(policy(provider.url), tmp_path / "bound") as service:
        await ask(service.url, service.key, stream=False)
        bound = (await settled_books(service.database)).ledger[0]["reserved"]
    text = policy("{url}", keys="retry: {attempts: 1}, timeout_s: 0.4", tenant=f"budget_usd: {{day: {1.5 * bound / 1e12}}}")
    async with FakeProvider(InTurn(None)) as provider, serving(text.replace("{url}", provider.url), tmp_path / "small") as service:
        seen = await ask(service.url, service.key, stream=False)
        found = await settled_books(service.database)
    assert seen.codes == ["backend_timeout"]
    assert lanes(found) == {"answer": ("first", "timeout", "backend_timeout")}


@pytest.mark.parametrize("moment", ["before the hedge", "during the race"])
async def test_a_client_that_leaves_stops_both(tmp_path: Path, moment: str) -> None:
    wanted = 2 if moment == "during the race" else 1
    hedge = "{after_s: 0.05}" if wanted == 2 else "{after_s: 60}"
    async with FakeProvider(Reply([Hang()])) as provider, serving(policy(provider.url, hedge), tmp_path) as service:
        asking = asyncio.create_task(ask(service.url, service.key, stream=True))
        calls = [await provider.exchange(number) for number in range(wanted)]
        asking.cancel()
        async with asyncio.timeout(30):
            for call in calls:
                await call.gone.wait()
        found = await settled_books(service.database)
    assert {outcome for _, outcome, _ in lanes(found).values()} == {"cancelled"}
    assert len(found.ledger) == wanted
    check_sums(found, "acme", {})


async def test_recovery_settles_both_lanes_of_a_worker_that_died(tmp_path: Path, database_url: str) -> None:
    async with FakeProvider(Reply([Hang()])) as provider, serving(policy(provider.url), tmp_path, database_url=database_url) as service:
        asking = asyncio.create_task(ask(service.url, service.key, stream=True))
        await provider.exchange(1)
        held = await service.database.read(lambda connection: [dict(row) for row in connection.execute(reservations.select()).mappings()])
        assert {row["purpose"] for row in held} == {"answer", "hedge"}

        def recover(connection: Connection) -> int:
            return recovery.recover(connection, "worker-1", 0.0, SEALS)

        assert await service.database.write(recover) == 2
        found = await read_books(service.database)
        assert {row["outcome"] for row in found.ledger} == {"crashed"}
        check_sums(found, "acme", {})
        asking.cancel()
        await until(lambda: asking.done())
    # The worker was not dead after all: what it really used is booked as a difference.
    database = open_database(database_url)
    found = await read_books(database)
    await database.aclose()
    assert sorted(row["entry"] for row in found.ledger) == ["correction", "correction", "recovery", "recovery"]
    check_sums(found, "acme", {})


CROWD = """
version: 1
backends:
  mini: {{kind: scripted, price: {{input: 3.0, output: 15.0}}, directives: true, bill_to: {bills!r}, timeout_s: 0.3, max_output_tokens: 200,
         hedge: {hedge}, retry: {{attempts: 2, first_s: 0.01}}, breaker: null}}
  spare: {{kind: scripted, text: "The second one answers.", delay_s: 0.001, price: {{input: 1.0, output: 4.0}}, bill_to: {bills!r}, max_output_tokens: 100}}
default: mini
fallback: [spare]
tenants:
  acme: {{budget_usd: {{day: {budget}, month: {budget}}}}}
"""


def crowd_plan(chance: random.Random) -> Plan:
    """Half of them slow enough for a hedge; some fail, some clients leave."""
    deltas = chance.randint(3, 20)
    words = [f"deltas={deltas}", "chunk=5", f"first_delay={chance.choice((0, 0.01, 0.04, 0.06, 0.1)):.3f}"]
    if chance.random() < 0.25:
        words.append(chance.choice(("fault=provider_error@start", "fault=backend_overloaded@first", "fault=stream_broken@2", "hang=1")))
    cut: Any = chance.choices(("none", "before", "middle"), (70, 15, 15))[0]
    return Plan(chance.random() < 0.6, deltas, " ".join(words), cut, chance.uniform(0, 0.12), chance.randint(1, deltas))


@asynccontextmanager
async def crowd(url: str, key: str, clients: int, requests: int, seed: int) -> Any:
    async def client(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for _ in range(requests):
            await ask_raw(url, key, crowd_plan(chance))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        yield


@pytest.mark.parametrize("hedge", ["{after_s: 0.05}", "{after_s: 0.05, backend: spare}"], ids=["same", "other"])
async def test_a_crowd_with_hedges_and_retries_is_billed_to_the_last_token(tmp_path: Path, database_url: str, hedge: str) -> None:
    bills = tmp_path / "bills.jsonl"
    budget = 0.06
    limits = {"day": picodollars(budget), "month": picodollars(budget)}
    text = CROWD.format(bills=str(bills), hedge=hedge, budget=budget)
    async with serving(text, tmp_path, database_url=database_url) as service:
        async with watching(service.database, "acme", limits), crowd(service.url, service.key, 24, 8, seed=11):
            pass
        found = await settled_books(service.database)
        assert await open_calls(service.database) == 0
    check_sums(found, "acme", limits)
    check_bills(found.ledger, bills)
    by_lane: dict[tuple[str, str], list[int]] = {}
    for row in found.ledger:
        assert row["entry"] == "settlement"
        assert row["cost"] <= row["reserved"] or row["usage_source"] != "estimated"
        by_lane.setdefault((row["request_id"], row["purpose"]), []).append(row["attempt"])
    for lane, attempts in by_lane.items():
        assert sorted(attempts) == list(range(1, len(attempts) + 1)), lane
    purposes = {row["purpose"] for row in found.ledger}
    assert purposes == {"answer", "hedge"}
    assert {(row["purpose"], row["outcome"]) for row in found.ledger} >= {("answer", "cancelled"), ("hedge", "cancelled")}
    # The same backend is as slow a second time: there the first attempt wins, or both fail.
    assert "spare" not in hedge or ("hedge", "ok") in {(row["purpose"], row["outcome"]) for row in found.ledger}
    final = [json.loads(line) for line in bills.read_text().splitlines()]
    print(f"\n{service.database.dialect}: {len(found.ledger)} rows, {sum(row['purpose'] == 'hedge' for row in found.ledger)} hedges, {len(final)} bills")  # noqa: T201
