"""Canaries in service: what is worse than its guard allows is rolled back without a person, what is not stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import select

from router.audit.tables import audit_log
from router.trials import store
from tests.serving import Service, serving, until

POLICY = """
version: 1
backends:
  steady: {{kind: scripted, text: "The answer of the old one.", price: {{input: 1.0, output: 1.0}}, max_output_tokens: 50, retry: {{attempts: 1}}}}
  new: {{kind: scripted, text: "The answer of the new one.", price: {{input: {price}, output: {price}}}, max_output_tokens: 50, retry: {{attempts: 1}}, {keys}}}
rules:
  - name: all
    use: [steady]
    canary: {{use: [new], share: 0.5, sticky: request, guard: {guard}}}
fallback: []
"""


def policy(keys: str = "breaker: null", *, guard: str = "{min_requests: 20}", price: float = 1.0) -> str:
    return POLICY.format(keys=keys, guard=guard, price=price)


async def ask(session: aiohttp.ClientSession, service: Service, question: str = "What is new?") -> dict[str, Any]:
    body = {"model": "auto", "messages": [{"role": "user", "content": question}]}
    async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def ask_until(service: Service, condition: Any, most: int) -> list[str]:
    """The backends that answered, until the condition holds or so many requests were sent."""
    answered: list[str] = []
    async with aiohttp.ClientSession() as session:
        while len(answered) < most and not condition():
            for answer in await asyncio.gather(*(ask(session, service, f"Question {len(answered)}.{number}?") for number in range(10))):
                answered.append(answer["headgate"]["backend"])
    return answered


def rolled_back(service: Service) -> bool:
    return service.gateway.policy.current.canaries.get("all") == "rolled_back"


async def audited(service: Service, action: str) -> list[dict[str, Any]]:
    query = select(audit_log).where(audit_log.c.action == action).order_by(audit_log.c.seq)
    return await service.database.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


async def row_of(service: Service) -> store.CanaryRow:
    version = service.gateway.policy.current.version
    return (await service.database.read(lambda connection: store.listed(connection, version)))["all"]


async def assert_rolled_back(service: Service, metric: str) -> store.CanaryRow:
    await until(lambda: rolled_back(service), 5)
    (entry,) = await audited(service, "policy.canary_rolled_back")
    details = msgspec.json.decode(entry["details"])
    assert (entry["actor"], entry["object_kind"], entry["object_id"], details["metric"]) == ("system", "rule", "all", metric)
    assert details["sides"]["candidate"]["requests"] > 0
    row = await row_of(service)
    assert row.state == "rolled_back"
    answered = await ask_until(service, lambda: False, 40)
    assert set(answered) == {"steady"}
    return row


async def test_a_canary_that_only_fails_is_rolled_back_within_its_least_number_of_requests(tmp_path: Path, database_url: str) -> None:
    async with serving(policy("breaker: null, fault: {error: provider_error}"), tmp_path, database_url=database_url) as service:
        answered = await ask_until(service, lambda: rolled_back(service), 2_000)
        assert set(answered) == {"steady"}, "nobody has seen a failure"
        row = await assert_rolled_back(service, "error_rate_over")
        assert row.reason is not None
        assert row.reason.candidate.errors == row.reason.candidate.requests


async def test_a_canary_that_costs_too_much_is_rolled_back(tmp_path: Path) -> None:
    async with serving(policy(price=3.0), tmp_path) as service:
        answered = await ask_until(service, lambda: rolled_back(service), 2_000)
        assert set(answered) == {"steady", "new"}
        await assert_rolled_back(service, "cost_ratio")


async def test_a_canary_that_is_slower_is_rolled_back(tmp_path: Path) -> None:
    async with serving(policy("first_delay_s: 0.3", guard="{min_requests: 20, cost_ratio: null}"), tmp_path) as service:
        await ask_until(service, lambda: rolled_back(service), 3_000)
        await assert_rolled_back(service, "latency_ratio")


async def test_a_healthy_canary_stays(tmp_path: Path, database_url: str) -> None:
    async with serving(policy(), tmp_path, database_url=database_url) as service:
        answered = await ask_until(service, lambda: False, 300)
        assert 90 < answered.count("new") < 210
        await service.gateway.canaries.beat()
        row = await row_of(service)
        assert (row.state, row.whole.candidate.requests + row.whole.baseline.requests) == ("running", 300)
        assert row.whole.candidate.requests == answered.count("new")
        assert await audited(service, "policy.canary_rolled_back") == []


@pytest.mark.parametrize("error", ["invalid_request", "content_refused", "unsupported_feature"])
async def test_what_is_the_clients_fault_does_not_count(tmp_path: Path, error: str) -> None:
    async with serving(policy(f"breaker: null, fault: {{error: {error}}}"), tmp_path) as service, aiohttp.ClientSession() as session:
        body = {"model": "auto", "messages": [{"role": "user", "content": "What is new?"}]}
        for _ in range(40):
            async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
                await response.read()
        await service.gateway.canaries.beat()
        row = await row_of(service)
        assert (row.state, row.whole.candidate.requests) == ("running", 0)
        assert row.whole.baseline.requests > 0
