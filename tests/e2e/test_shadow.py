"""Shadows: sent again after the answer, never seen, never in the way, paid from a budget of their own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.cost import picodollars
from router.audit.paths import path_of
from router.trials import shadows
from tests.e2e.money_books import read_books, settled_books, verify_books
from tests.serving import Service, serving, until

POLICY = """
version: 1
backends:
  local: {{kind: scripted, text: "The answer.", clearance: restricted, max_output_tokens: 50, price: {{input: 1.0, output: 1.0}}}}
  new: {{kind: scripted, text: "Another answer.", max_output_tokens: 50, price: {{input: 1.0, output: 1.0}}, bill_to: {bills!r}, {keys}}}
rules:
  - name: secret
    when: {{data_class: [confidential, restricted]}}
    use: [local]
    lock: true
  - name: all
    use: [local]
    shadow: {{to: [new], share: {share}, budget_usd: {{day: {day}}}}}
fallback: []
tenants: {{acme: {{budget_usd: {{day: 1.0}}}}}}
"""


def policy(tmp_path: Path, *, share: float = 1.0, day: float = 1.0, keys: str = "retry: {attempts: 1}") -> str:
    return POLICY.format(bills=str(tmp_path / "bills"), share=share, day=day, keys=keys)


def seen(tmp_path: Path) -> int:
    """How many requests the shadowed backend got."""
    bills = tmp_path / "bills"
    return len(bills.read_text().splitlines()) if bills.exists() else 0


async def ask(service: Service, question: str = "What is new?", *, key: str | None = None, stream: bool = False, model: str = "auto", **hints: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "headgate": hints, "stream": stream}
    async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer(key)) as response:
        said = await response.text()
        assert response.status == 200, said
        return said


async def quiet(service: Service) -> None:
    await until(lambda: service.gateway.shadows.idle)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_shadow_is_booked_apart_from_the_tenant_and_seen_by_nobody(tmp_path: Path, database_url: str, stream: bool) -> None:
    async with serving(policy(tmp_path), tmp_path, database_url=database_url) as service:
        said = await ask(service, stream=stream)
        assert "Another" not in said
        await quiet(service)
        books = await settled_books(service.database)
        rows = {row["purpose"]: row for row in books.ledger}
        assert set(rows) == {"answer", "shadow"}
        assert (rows["answer"]["tenant"], rows["answer"]["backend"]) == ("acme", "local")
        assert (rows["shadow"]["tenant"], rows["shadow"]["backend"], rows["shadow"]["outcome"]) == ("shadow:all", "new", "ok")
        assert rows["shadow"]["request_id"] == rows["answer"]["request_id"]
        assert rows["shadow"]["cost"] > 0
        spent = {(row["tenant"], row["period"].partition(":")[0]): row["spent"] for row in books.budgets}
        assert spent["acme", "day"] == rows["answer"]["cost"]
        assert spent["shadow:all", "day"] == rows["shadow"]["cost"]
        assert {row["tenant"]: row["cap"] for row in books.budgets if row["period"].startswith("day")} == {
            "acme": picodollars(1.0),
            "shadow:all": picodollars(1.0),
        }
        await verify_books(service.database, service.gateway.secret)
        await service.gateway.recorder.flush()
        path = await service.database.read(lambda connection: path_of(connection, rows["answer"]["request_id"], "acme"))
        assert path is not None
        assert [row["purpose"] for row in path.attempts] == ["answer", "shadow"]
        assert 'headgate_shadow_requests_total{backend="new",outcome="ok"} 1.0' in service.gateway.metrics.render().decode()


async def test_a_share_of_the_requests_is_shadowed(tmp_path: Path) -> None:
    async with serving(policy(tmp_path, share=0.3), tmp_path) as service:
        for number in range(10):
            await asyncio.gather(*(ask(service, f"Question {number}.{each}?") for each in range(10)))
            await quiet(service)
        assert 15 <= seen(tmp_path) <= 45


async def test_its_budget_bounds_it_and_nothing_else(tmp_path: Path, database_url: str) -> None:
    bound = 0.0003
    async with serving(policy(tmp_path, day=bound), tmp_path, database_url=database_url) as service:
        for number in range(4):
            await asyncio.gather(*(ask(service, f"Question {number}.{each}?") for each in range(10)))
            await quiet(service)
        books = await settled_books(service.database)
        shadowed = [row for row in books.ledger if row["purpose"] == "shadow"]
        assert 0 < len(shadowed) < 40
        assert sum(row["cost"] for row in shadowed) <= picodollars(bound)
        assert len([row for row in books.ledger if row["purpose"] == "answer" and row["outcome"] == "ok"]) == 40
        assert 'headgate_shadow_requests_total{backend="new",outcome="over_budget"}' in service.gateway.metrics.render().decode()
        await verify_books(service.database, service.gateway.secret)


async def test_one_that_fails_or_hangs_is_in_nobodys_way(tmp_path: Path) -> None:
    async with serving(policy(tmp_path, keys="breaker: null, retry: {attempts: 1}, fault: {error: provider_error}"), tmp_path / "failing") as service:
        await ask(service)
        await quiet(service)
        books = await settled_books(service.database)
        assert {(row["purpose"], row["outcome"]) for row in books.ledger} == {("answer", "ok"), ("shadow", "error")}
    async with serving(policy(tmp_path, keys="hang_after: 1"), tmp_path / "hanging") as service:
        for number in range(10):
            await asyncio.gather(*(ask(service, f"Question {number}.{each}?") for each in range(shadows.MOST_WAITING // 5)))
        metrics = service.gateway.metrics.render().decode()
        assert 'headgate_shadow_requests_total{backend="",outcome="dropped"}' in metrics
        assert not service.gateway.shadows.idle
    # It stopped: what hung was cancelled and booked, and what waited never began.
    assert seen(tmp_path) <= 1 + shadows.AT_ONCE


async def test_what_a_stop_interrupts_is_booked(tmp_path: Path, database_url: str) -> None:
    from config.database import open_database

    async with serving(policy(tmp_path, keys="hang_after: 1"), tmp_path, database_url=database_url) as service:
        await ask(service)
        await until(lambda: seen(tmp_path) or not service.gateway.shadows.idle)
        url = database_url
    database = open_database(url)
    try:
        books = await read_books(database)
        assert books.reservations == []
        assert {row["outcome"] for row in books.ledger if row["purpose"] == "shadow"} <= {"cancelled"}
    finally:
        await database.aclose()


async def test_a_client_that_leaves_has_no_shadow(tmp_path: Path) -> None:
    text = policy(tmp_path).replace('text: "The answer."', 'text: "The answer.", delay_s: 0.2, chunk: 1')
    async with serving(text, tmp_path) as service:
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
        async with aiohttp.ClientSession() as session, session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
            await response.content.readany()
            response.close()
        books = await settled_books(service.database)
        await quiet(service)
        assert [row["outcome"] for row in books.ledger] == ["cancelled"]
        assert seen(tmp_path) == 0


@pytest.mark.parametrize("data_class", ["confidential", "restricted"])
async def test_what_is_locked_or_beyond_a_clearance_is_never_shadowed(tmp_path: Path, data_class: str) -> None:
    text = policy(tmp_path).replace("fallback: []", "shadow: {to: [new], share: 1.0, budget_usd: {day: 1}}\nfallback: []")
    async with serving(text, tmp_path) as service:
        await ask(service, data_class=data_class)
        await quiet(service)
        assert seen(tmp_path) == 0
        assert 'headgate_shadow_requests_total{backend="new",outcome="not_permitted"} 1.0' in service.gateway.metrics.render().decode()
        await ask(service, data_class="internal")
        await quiet(service)
        assert seen(tmp_path) == 1


async def test_what_pins_its_backend_stays_there_and_a_key_reaches_only_what_it_may(tmp_path: Path) -> None:
    from router.identity.keys import create_key
    from tests.serving import SECRET

    text = policy(tmp_path).replace("fallback: []", "shadow: {to: [new], share: 1.0, budget_usd: {day: 1}}\nfallback: []")
    async with serving(text, tmp_path) as service:
        await ask(service, model="local")
        narrow = await service.database.write(lambda connection: create_key(connection, SECRET, tenant="acme", role="member", models=("local",)).key)
        body = json.loads(await ask(service, key=narrow, model="local"))
        assert body["headgate"]["backend"] == "local"
        await quiet(service)
        assert seen(tmp_path) == 0
