"""Limits as clients meet them: what passes, what is refused in which words, and that everything held is given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapters.backend import estimate_tokens
from adapters.types import GenerateRequest, Message, TextPart
from policies.access import Principal
from policies.rate_limits import merged, scopes_of
from router.limits.shared_memory import SharedMemory
from router.limits.values import Charge, Give, Take
from tests.dialects import PATHS, body
from tests.e2e.test_supervisor import named, wait, write_policy
from tests.fakes.provider import FakeProvider
from tests.router.http.test_embeddings import answering
from tests.serving import Serve, Service, served, serving, until

POLICY = """
version: 1
backends:
  mini: {{kind: scripted, text: "Hello.", price: {{input: 1.0, output: 4.0}}}}
  other: {{kind: scripted, text: "Other."}}
  dear: {{kind: scripted, text: "Dear.", price: {{input: 1000000, output: 1000000}}}}
  endless: {{kind: scripted, text: "A long text that never ends.", hang_after: 2}}
default: [mini, other]
fallback: []
tenants:
  acme: {{budget_usd: {{day: 1}}, limits: {{{limits}}}}}
"""


@asynccontextmanager
async def running(home: Path, limits: str, more: str = "") -> AsyncIterator[tuple[Service, httpx2.AsyncClient]]:
    async with (
        serving(POLICY.format(limits=limits) + more, home) as service,
        httpx2.AsyncClient(base_url=service.url, headers=service.bearer(), timeout=20) as client,
    ):
        yield service, client


def chat(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


async def ask(client: httpx2.AsyncClient, path: str = "/v1/chat/completions", *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    return await client.post(path, json=chat(**fields), headers=headers)


def left(service: Service, measure: str = "tokens") -> float:
    """What the tenant's bucket holds now."""
    file = service.gateway.policy.current.policy.file
    scopes = scopes_of(merged(file.limits, file.tenants["acme"].limits), Principal(role="owner", tenant="acme"))
    (scope,) = scopes.tokens if measure == "tokens" else scopes.requests
    store = service.gateway.limits._store
    assert isinstance(store, SharedMemory)
    taken = store.take_now(Take((Charge(scope, 1),)))
    assert taken.passed
    store.give(Give((Charge(scope, -1),)))
    return taken.levels[0] + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", PATHS)
async def test_every_answer_and_every_refusal_says_how_the_narrowest_limit_stands_in_its_dialects_words(tmp_path: Path, dialect: str, stream: bool) -> None:
    async with running(tmp_path, "rpm: 6, tpm: 1000000, models: {mini: {tpm: 100000}}") as (_, client):
        answers = [await client.post(PATHS[dialect], json=body(dialect, "Hi", stream=stream)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    told, refused = ({name: value for name, value in answer.headers.items() if "ratelimit" in name} for answer in answers)
    if dialect == "messages":
        assert told.keys() == {f"anthropic-ratelimit-{what}-{which}" for what in ("requests", "tokens") for which in ("limit", "remaining", "reset")}
        assert (told["anthropic-ratelimit-requests-limit"], told["anthropic-ratelimit-requests-remaining"]) == ("6", "0")
        assert told["anthropic-ratelimit-tokens-limit"] == "100000"
        assert told["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert refused["anthropic-ratelimit-requests-remaining"] == "0"
    else:
        assert told.keys() == {f"x-ratelimit-{which}-{what}" for what in ("requests", "tokens") for which in ("limit", "remaining", "reset")}
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"], told["x-ratelimit-reset-requests"]) == ("6", "0", "10s")
        assert (told["x-ratelimit-limit-tokens"], refused["x-ratelimit-limit-tokens"]) == ("100000", "1000000")
    error = answers[1].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].startswith("Limit reached for tenant 'acme': 6 requests per minute. Try again in ")
    assert 9 <= int(answers[1].headers["retry-after"]) <= 10
    assert int(answers[1].headers["retry-after"]) - 1 < int(answers[1].headers["retry-after-ms"]) / 1000 <= int(answers[1].headers["retry-after"])


async def test_a_tenant_without_limits_is_told_nothing_and_costs_nothing(tmp_path: Path) -> None:
    async with running(tmp_path, "") as (service, client):
        answer = await ask(client)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if "ratelimit" in name]
        assert service.gateway.limits._store is None
    assert not (tmp_path / "run" / "limits").exists()


async def test_tokens_are_charged_in_advance_and_made_good_with_what_was_used(tmp_path: Path) -> None:
    async with running(tmp_path, "tpm: 600, burst_s: 60") as (service, client):
        answer = await ask(client, max_tokens=200)
        used = answer.json()["usage"]["total_tokens"]
        estimate = estimate_tokens(GenerateRequest(messages=(Message("user", (TextPart("Hi"),)),))).n
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(600 - 200 - estimate)
        assert left(service) == pytest.approx(600 - used, abs=10)


async def test_a_request_that_its_budget_refuses_gives_its_tokens_back(tmp_path: Path) -> None:
    async with running(tmp_path, "tpm: 600, burst_s: 60, concurrency: 1") as (service, client):
        for _ in range(3):
            answer = await ask(client, model="dear", max_tokens=300)
            assert answer.status_code == 402
            assert answer.headers["x-ratelimit-limit-tokens"] == "600"
        await until(lambda: left(service) == pytest.approx(600, abs=1))


async def test_a_replayed_answer_costs_nothing_and_does_not_repeat_how_limits_stood(tmp_path: Path) -> None:
    async with running(tmp_path, "rpm: 6") as (_, client):
        first, second = [await ask(client, headers={"idempotency-key": "one"}) for _ in range(2)]
        assert (first.status_code, second.status_code, second.headers["idempotency-replayed"]) == (200, 200, "true")
        assert second.content == first.content
        assert "x-ratelimit-limit-requests" in first.headers
        assert "x-ratelimit-limit-requests" not in second.headers


async def test_a_refused_request_with_an_idempotency_key_may_be_sent_again(tmp_path: Path) -> None:
    async with running(tmp_path, "concurrency: 1") as (service, client):
        async with client.stream("POST", "/v1/chat/completions", json=chat(model="endless", stream=True)) as holding:
            assert holding.status_code == 200
            refused = await ask(client, headers={"idempotency-key": "one"})
            assert refused.status_code == 429
            assert "1 requests at once" in refused.json()["error"]["message"]
        await until(lambda: _held(service) == 0)
        assert (await ask(client, headers={"idempotency-key": "one"})).status_code == 200


def _held(service: Service) -> int:
    """How many of the tenant's requests run, as the shared memory has it."""
    store = service.gateway.limits._store
    if not isinstance(store, SharedMemory):
        return 0
    file = service.gateway.policy.current.policy.file
    (scope,) = scopes_of(merged(file.limits, file.tenants["acme"].limits), Principal(role="owner", tenant="acme")).slots
    return store._running(store._slot(scope))


@pytest.mark.parametrize("path", ["stream", "whole"])
async def test_a_client_that_leaves_gives_its_slot_back(tmp_path: Path, path: str) -> None:
    async with running(tmp_path, "concurrency: 2") as (service, client):
        tasks = [asyncio.create_task(ask(client, model="endless", stream=path == "stream")) for _ in range(2)]
        await until(lambda: _held(service) == 2)
        assert (await ask(client)).status_code == 429
        for task in tasks:
            task.cancel()
        await until(lambda: _held(service) == 0)
        assert [(await ask(client)).status_code for _ in range(3)] == [200, 200, 200]


async def test_where_the_policy_says_wait_a_request_waits_and_its_stream_stays_alive(tmp_path: Path) -> None:
    async with running(tmp_path, "rpm: 120, on_limit: wait", "settings: {heartbeat_s: 0.1, commit_after_s: 0.1}\n") as (service, client):
        answers = await asyncio.gather(*(ask(client, stream=True) for _ in range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all(answer.text.rstrip().endswith("[DONE]") for answer in answers)
        assert any(answer.text.startswith(":") for answer in answers)
        metrics = await client.get("/metrics", headers=service.bearer(service.admin_key))
        assert "headgate_limit_waiting 0.0" in metrics.text
        (line,) = [line for line in metrics.text.splitlines() if line.startswith("headgate_limit_wait_seconds_count")]
        assert float(line.split()[1]) >= 2


async def test_a_model_at_its_limit_is_passed_over_and_one_that_was_asked_for_by_name_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, "rpm: 6000, models: {mini: {rpm: 1}}") as (service, client):
        answers = [await ask(client) for _ in range(2)]
        assert [answer.json()["headgate"]["backend"] for answer in answers] == ["mini", "other"]
        assert "excluded:mini:rate_limit" in answers[1].json()["headgate"]["reasons"]
        before = left(service, "requests")
        refused = await ask(client, model="mini")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "model 'mini' for tenant 'acme': 1 requests per minute" in refused.json()["error"]["message"]
        assert refused.headers["x-ratelimit-limit-requests"] == "1"
        assert left(service, "requests") >= before, "what one limit refuses costs nothing of the others"


async def test_a_request_that_can_never_pass_is_told_so(tmp_path: Path) -> None:
    async with running(tmp_path, "tpm: 1000") as (_, client):
        refused = await ask(client, max_tokens=5000)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "request_too_large_for_limit")
        assert "retry-after" not in refused.headers
        assert "1000 tokens per minute" in refused.json()["error"]["message"]
        assert (await ask(client)).status_code == 200, "one that does not say how long its answer may become is charged what there is"


async def test_questions_about_requests_are_no_requests(tmp_path: Path) -> None:
    async with running(tmp_path, "rpm: 1") as (_, client):
        for _ in range(3):
            assert (await ask(client, "/v1/route/explain")).status_code == 200
            assert (await ask(client, "/v1/messages/count_tokens")).status_code == 200
        assert (await ask(client)).status_code == 200


async def test_embeddings_and_moderations_are_counted_too(tmp_path: Path) -> None:
    embedders = 'embedders:\n  small: {{kind: openai, model: text-embedding-3-small, base_url: "{url}/v1", price: {{input: 1.0, output: 0}}}}\n'
    async with (
        FakeProvider(answering) as provider,
        running(tmp_path, "tpm: 600, burst_s: 60, models: {small: {rpm: 1}}", embedders.format(url=provider.url)) as (
            service,
            client,
        ),
    ):
        answer = await client.post("/v1/embeddings", json={"model": "small", "input": "a text"}, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.headers["x-ratelimit-limit-requests"]) == (200, "1"), answer.text
        assert left(service) == pytest.approx(600 - 11, abs=2)
        refused = await client.post("/v1/embeddings", json={"model": "small", "input": "a text"})
        assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert left(service) == pytest.approx(600 - 11, abs=2)
    async with running(tmp_path / "moderations", "rpm: 1, tpm: 1") as (_, client):
        answers = [await client.post("/v1/moderations", json={"input": "a text"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["1", "1"]
        assert answers[1].headers["retry-after"] == "60"


async def test_an_address_without_a_valid_key_is_slowed_and_one_with_a_key_is_not(tmp_path: Path) -> None:
    async with running(tmp_path, "", "limits: {per_ip: {rpm: 100}}\n") as (_, client):
        statuses = [(await client.get("/v1/models", headers={"authorization": f"Bearer hg-{number}"})).status_code for number in range(4)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        refused = await client.post("/v1/messages", json={}, headers={"authorization": ""})
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert refused.json()["type"] == "error"
        assert (await client.get("/health/live", headers={"authorization": ""})).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200


def test_kill_9_of_a_worker_leaves_no_slot_behind(tmp_path: Path) -> None:
    """Over the whole service: two workers, one slot, and the one that runs it dies."""
    policy = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello."}
  endless: {kind: scripted, text: "A long text that never ends.", hang_after: 2}
default: mini
fallback: []
tenants: {default: {limits: {concurrency: 1}}}
"""
    config = write_policy(tmp_path, policy)
    with served(tmp_path, "--config", str(config), "--workers", "2", models=False) as serve, _client(serve) as client:
        with pytest.raises(httpx2.HTTPError):
            _killed_while_it_answers(serve, client)
        wait(lambda: client.post("/v1/chat/completions", json=chat()).status_code == 200, "the slot did not come back")


def _client(serve: Serve) -> httpx2.Client:
    return httpx2.Client(base_url=serve.url, headers={"authorization": f"Bearer {serve.keys['chat']}"}, timeout=20)


def _killed_while_it_answers(serve: Serve, client: httpx2.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat(model="endless", stream=True)) as holding:
        assert holding.status_code == 200
        assert client.post("/v1/chat/completions", json=chat()).status_code == 429
        own = holding.extensions["network_stream"].get_extra_info("client_addr")
        (busy,) = [worker for worker in named(serve, "router.worker") if own[1] in [each.raddr.port for each in worker.net_connections("tcp") if each.raddr]]
        busy.kill()
        for _ in holding.iter_bytes():
            pass
