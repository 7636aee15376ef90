"""What a client sees of a budget that is nearly used up: a shorter answer, another backend, a wait, or 402."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from sqlalchemy import select

from router.tables import budgets, ledger
from tests.e2e.money_books import check_sums, read_books, settled_books
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {{kind: scripted, text: "one two three four five", price: {{input: 0.0, output: 1000.0}}, max_output_tokens: 1000}}
  slow: {{kind: scripted, text: "slowly", delay_s: 0.4, price: {{input: 0.0, output: 1000.0}}, max_output_tokens: 1000}}
default: [mini]
fallback: {fallback}
tenants:
  acme: {tenant}
"""


def policy(tenant: str, fallback: str = "[]") -> str:
    return POLICY.format(tenant=tenant, fallback=fallback)


async def ask(service: Service, *, model: str = "auto", stream: bool = False, **fields: object) -> tuple[int, dict[str, str], dict[str, object]]:
    body = {"model": model, "messages": [{"role": "user", "content": "go on"}], "stream": stream, **fields}
    async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as answer:
        return answer.status, {name.lower(): value for name, value in answer.headers.items()}, {} if stream else await answer.json()


async def test_a_maximum_that_the_budget_does_not_hold_is_clamped_and_the_header_names_it(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {month: 0.5}}"), tmp_path) as service:
        status, headers, body = await ask(service)
        assert (status, headers["x-headgate-clamped"]) == (200, "max_output_tokens=500")
        assert "clamped:max_output_tokens=500" in body["headgate"]["reasons"]  # type: ignore[index]
        status, headers, _ = await ask(service, stream=True, max_tokens=100)
        assert status == 200
        assert "x-headgate-clamped" not in headers
        check_sums(await settled_books(service.database), "acme", {"month": 5 * 10**11})


async def test_a_clamp_goes_no_lower_than_an_answer_is_worth(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {month: 0.2}}"), tmp_path) as service:
        status, _, body = await ask(service)
        assert (status, body["error"]["code"]) == (402, "budget_exceeded")  # type: ignore[index]
        assert (await ask(service, max_tokens=150))[0] == 200


async def test_a_models_budget_sends_its_requests_to_the_next_candidate(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {models: {mini: {day: 0.1}}}}", "[slow]"), tmp_path) as service:
        assert (await ask(service))[2]["headgate"]["backend"] == "slow"  # type: ignore[index]
        assert (await ask(service, max_tokens=50))[2]["headgate"]["backend"] == "mini"  # type: ignore[index]
        status, _, body = await ask(service, model="mini")
        assert (status, body["error"]["code"]) == (402, "budget_exceeded")  # type: ignore[index]


FAILING = """
version: 1
backends:
  first: {kind: scripted, fault: {error: backend_overloaded, at: 3}, price: {input: 0.0, output: 1000.0}, max_output_tokens: 1000, text: one two three four}
  second: {kind: scripted, text: "never", price: {input: 0.0, output: 1000.0}, max_output_tokens: 1000}
  third: {kind: scripted, text: "the third", price: {input: 0.0, output: 100.0}, max_output_tokens: 1000}
default: [first]
fallback: [FALLBACK]
tenants:
  acme: {budget_usd: {month: 5.0, models: {second: {day: MODEL}}}}
"""


def failing(fallback: str, model: float) -> str:
    return FAILING.replace("FALLBACK", fallback).replace("MODEL", f"{model}")


async def test_a_fallback_whose_models_budget_is_used_up_makes_way_for_the_next(tmp_path: Path) -> None:
    """Not even for as much as the attempt before it had set aside, which was of another model."""
    async with serving(failing("second, third", 0.1), tmp_path) as service:
        status, _, body = await ask(service)
        assert (status, body["headgate"]["backend"]) == (200, "third")  # type: ignore[index]
        check_sums(await settled_books(service.database), "acme", {"month": 5 * 10**12})


async def test_a_fallback_that_max_cost_usd_does_not_hold_any_more_makes_way_for_the_next(tmp_path: Path) -> None:
    """What the first attempt cost leaves the second one less than it may cost, though more than it needs."""
    async with serving(failing("second, third", 5.0), tmp_path) as service:
        status, _, body = await ask(service, headgate={"max_cost_usd": 1.0})
        assert (status, body["headgate"]["backend"]) == (200, "third")  # type: ignore[index]
        assert "excluded:second:max_cost" in body["headgate"]["reasons"]  # type: ignore[index]
        assert (await ask(service))[2]["headgate"]["backend"] == "second"  # type: ignore[index]


async def test_where_max_cost_usd_holds_no_fallback_the_client_gets_the_last_error(tmp_path: Path) -> None:
    async with serving(failing("second", 5.0), tmp_path) as service:
        status, _, body = await ask(service, headgate={"max_cost_usd": 1.0})
        assert (status, body["error"]["code"]) == (503, "backend_overloaded")  # type: ignore[index]
        assert 0 < body["headgate"]["cost_usd"] <= 1.0  # type: ignore[index]


async def test_each_keys_budget_is_its_own(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {per_key: {month: 0.3}}}"), tmp_path) as service:
        assert (await ask(service))[1]["x-headgate-clamped"] == "max_output_tokens=300"
        await settled_books(service.database)
        scopes = await service.database.read(lambda connection: connection.execute(select(budgets.c.scope)).scalars().all())
        key = await service.database.read(lambda connection: connection.execute(select(ledger.c.key_id)).scalar_one())
        assert sorted(scopes) == ["", "", f"key:{key}"]


async def test_a_request_waits_for_money_that_others_do_not_need(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {month: 1.0}, budget_wait_s: 20}"), tmp_path) as service:
        first = asyncio.create_task(ask(service, model="slow", max_tokens=900))
        await until_reserved(service)
        status, _, _ = await ask(service, max_tokens=200)
        assert status == 200
        assert first.done(), "it had to wait for the first one's settlement"
        assert (await first)[0] == 200


async def test_a_request_does_not_wait_for_what_is_spent(tmp_path: Path) -> None:
    async with serving(policy("{budget_usd: {month: 0.1}, budget_wait_s: 60}"), tmp_path) as service:
        async with asyncio.timeout(20):
            assert (await ask(service, max_tokens=200))[0] == 402


async def until_reserved(service: Service) -> None:
    async def reserved() -> bool:
        return bool((await read_books(service.database)).reservations)

    async with asyncio.timeout(30):
        while not await reserved():
            await asyncio.sleep(0.01)
