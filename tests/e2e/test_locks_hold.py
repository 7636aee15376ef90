"""What is locked reaches no other backend, whatever happens: fallbacks, hedges, canaries, shadows, pairs and their judge, over many random requests.

The long form (`HEADGATE_TEST_LONG=1`) asks 100,000 of them.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from adapters.errors import BackendError
from policies.access import Principal
from router.http.errors import ApiError
from router.pipeline import Exchange
from router.tables import ledger
from router.wire.openai_chat import decode_chat
from tests.e2e.money_books import settled_books
from tests.serving import Service, serving, until

POLICY = """
version: 1
backends:
  local: {{kind: scripted, text: "At home.", {home}, price: {{input: 1.0, output: 1.0}}, hedge: {{after_s: 0.002, backend: remote}}}}
  vault: {{kind: scripted, text: "In the vault.", {home}, hedge: {{after_s: 0.002, backend: far}}}}
  remote: {{kind: scripted, text: "Abroad.", clearance: restricted, {abroad}}}
  far: {{kind: scripted, text: "Far abroad.", {abroad}}}
  judge: {{kind: scripted, text: '{{"a": 3, "b": 8}}', clearance: restricted, {abroad}}}
rules:
  - name: secret
    when: {{data_class: [confidential, restricted]}}
    use: [local]
    lock: true
  - name: own
    when: {{tenant: globex}}
    use: [local, vault]
    lock: true
    canary: {{use: [vault], share: 0.5, sticky: request, guard: {{cost_ratio: null, latency_ratio: null, error_rate_over: 0.9}}}}
  - name: tools
    when: {{model: try}}
    use: [local, vault]
    canary: {{use: [far], share: 0.5, sticky: request, guard: {{cost_ratio: null, latency_ratio: null, error_rate_over: 0.9}}}}
    shadow: {{to: [remote, far], share: 0.5, budget_usd: {{day: 1000}}}}
complexity: {{weak: local, strong: remote, threshold: 0.3, pairs: {{share: 0.3, budget_usd: {{day: 1000}}, judge: judge}}}}
shadow: {{to: [remote, vault], share: 0.5, budget_usd: {{month: 1000}}}}
fallback: [vault, remote, far]
"""
HOME = "directives: true, clearance: restricted, max_output_tokens: 20, breaker: null, retry: {attempts: 1}"
ABROAD = "bill_to: %r, max_output_tokens: 20, breaker: null, price: {input: 1.0, output: 1.0}"
AT_HOME = {"local", "vault"}
QUESTIONS = (
    "Hi",
    "What is two and two?",
    "Prove that there are infinitely many primes, step by step, and derive a bound on the n-th prime.",
    "Write a function in Rust that solves the equation x^2 + 3x = 7 and explain its complexity.",
)
FAULTS = (
    "",
    "[[scripted fault=provider_error]]",
    "[[scripted fault=backend_overloaded]]",
    "[[scripted fault=provider_error@1]]",
    "[[scripted first_delay=0.01]]",
)


def random_body(chance: random.Random) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    if chance.random() < 0.5:
        hints["data_class"] = chance.choice(["public", "internal", "confidential", "restricted"])
    if chance.random() < 0.2:
        hints["max_cost_usd"] = chance.choice([0.0, 0.00001, 1.0])
    question = chance.choice(QUESTIONS) + " " + chance.choice(FAULTS)
    model = chance.choice(["auto", "auto", "auto", "try", "try", "remote", "local"])
    return {"model": model, "messages": [{"role": "user", "content": question}], "stream": chance.random() < 0.5, "headgate": hints}


def locked(body: dict[str, Any], tenant: str) -> bool:
    return tenant == "globex" or body["headgate"].get("data_class") in ("confidential", "restricted")


async def answer(service: Service, body: dict[str, Any], tenant: str, request_id: str) -> str:
    """The request as a route serves it, without its sockets."""
    gateway = service.gateway
    call = decode_chat(json.dumps(body).encode(), gateway.sealer.of(tenant))
    exchange = Exchange(gateway, Principal(role="member", tenant=tenant, key_id="key"), call, request_id)
    try:
        await exchange.prepare()
        async with aclosing(exchange.events()) as events:
            async for _ in events:
                pass
    except (BackendError, ApiError) as error:
        return error.code
    else:
        gateway.shadows.offer(exchange)
        return "ok"
    finally:
        exchange.close()


async def test_what_is_locked_reaches_no_other_backend(tmp_path: Path) -> None:
    await ask_many(tmp_path, 1_200, random.Random(7))


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_what_is_locked_reaches_no_other_backend_in_a_hundred_thousand_requests(tmp_path: Path) -> None:
    await ask_many(tmp_path, 100_000, random.Random())


async def ask_many(tmp_path: Path, requests: int, chance: random.Random) -> None:
    bills = tmp_path / "bills"
    async with serving(POLICY.format(home=HOME, abroad=ABROAD % str(bills)), tmp_path) as service:
        asked: dict[str, bool] = {}
        outcomes: Counter[str] = Counter()

        async def client() -> None:
            while len(asked) < requests:
                body, tenant, request_id = random_body(chance), chance.choice(["acme", "acme", "globex"]), uuid4().hex
                asked[request_id] = locked(body, tenant)
                outcomes[await answer(service, body, tenant, request_id)] += 1

        await asyncio.gather(*(client() for _ in range(16)))
        await until(lambda: service.gateway.shadows.idle, 60)
        await settled_books(service.database)
        columns = (ledger.c.request_id, ledger.c.backend, ledger.c.purpose)
        rows = await service.database.read(lambda connection: connection.execute(select(*columns)).all())
        metrics = service.gateway.metrics.render().decode()
    called = [json.loads(line)["reference"].split("/") for line in bills.read_text().splitlines()]
    assert [request_id for request_id, *_ in called if asked[request_id]] == [], "no backend that is billed saw one"
    assert [row for row in rows if asked[row.request_id] and row.backend not in AT_HOME] == [], "and none was even reserved for"
    print(f"\n{len(asked)} requests, {sum(asked.values())} of them locked: {dict(outcomes)}; {dict(Counter(purpose for _, purpose, _ in called))} abroad")  # noqa: T201
    assert {purpose for _, purpose, _ in called} == {"answer", "hedge", "shadow", "shadow_judge"}
    assert {row.purpose for row in rows if asked[row.request_id]} >= {"answer", "shadow"}
    assert min(sum(asked.values()), outcomes["ok"]) > requests // 3
    for rule in ("own", "tools"):
        assert f'headgate_canary_requests_total{{outcome="ok",rule="{rule}",side="candidate"}}' in metrics
