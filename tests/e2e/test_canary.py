"""Canaries in service: what is worse than its guard allows is rolled back without a person, what is not stays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import select

from router.audit.paths import replay
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
            answers = await asyncio.gather(*(ask(session, service, f"Question {len(answered)}.{number}?") for number in range(10)))
            answered += [answer["headgate"]["backend"] for answer in answers]
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


async def call(service: Service, method: str, path: str, key: str | None = None, **fields: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.url + path, headers=service.bearer(key or service.admin_key), **fields) as answer,
    ):
        return answer.status, await answer.json()


async def test_one_that_was_rolled_back_is_shown_with_its_figures_and_runs_again_when_an_operator_says_so(tmp_path: Path) -> None:
    async with serving(policy("breaker: null, fault: {error: provider_error}"), tmp_path) as service:
        assert (await call(service, "POST", "/admin/canaries/all/resume"))[0] == 409
        await ask_until(service, lambda: rolled_back(service), 2_000)
        (shown,) = (await call(service, "GET", "/admin/canaries"))[1]["data"]
        assert (shown["rule"], shown["state"], shown["use"], shown["instead_of"]) == ("all", "rolled_back", ["new"], ["steady"])
        assert shown["reason"]["metric"] == "error_rate_over"
        assert shown["reason"]["sides"]["candidate"]["error_rate"] == 1.0
        assert (await call(service, "POST", "/admin/canaries/none/resume"))[1]["error"]["code"] == "canary_not_found"
        assert (await call(service, "POST", "/admin/canaries/all/resume", service.key))[0] == 403
        await service.gateway.canaries.beat()
        status, resumed = await call(service, "POST", "/admin/canaries/all/resume")
        assert (status, resumed["state"], resumed["reason"], resumed["window"]["number"]) == (200, "running", None, 2)
        assert resumed["sides"]["candidate"]["window"]["requests"] == 0
        assert resumed["sides"]["candidate"]["whole"]["requests"] > 0
        assert not rolled_back(service)
        (entry,) = await audited(service, "policy.canary_resumed")
        assert (entry["actor_role"], entry["object_id"]) == ("operator", "all")
        metrics = service.gateway.metrics.render().decode()
        assert 'headgate_canary_rollbacks_total{rule="all"} 1.0' in metrics
        assert 'headgate_canary_rolled_back{rule="all"} 0.0' in metrics


async def test_it_stays_rolled_back_until_the_policy_changes(tmp_path: Path) -> None:
    text = policy("breaker: null, fault: {error: provider_error}")
    async with serving(text, tmp_path) as service:
        await ask_until(service, lambda: rolled_back(service), 2_000)

        async def put(changed: str) -> None:
            headers = {**service.bearer(service.admin_key), "if-match": "*", "content-type": "application/yaml"}
            async with aiohttp.ClientSession() as session, session.put(f"{service.url}/admin/policy", data=changed, headers=headers) as answer:
                assert answer.status == 200, await answer.text()

        await put(text + "# one more line\n")
        assert (await call(service, "GET", "/admin/canaries"))[1]["data"][0]["state"] == "running"
        assert not rolled_back(service)
        assert (await call(service, "POST", "/admin/policy/rollback", json={"version": 1}))[0] == 200
        assert rolled_back(service), "the first version's canary is still the one that failed"
        assert set(await ask_until(service, lambda: False, 20)) == {"steady"}


async def test_replicas_add_up_what_they_see_and_all_stop(tmp_path: Path, database_url: str) -> None:
    """Neither of two replicas alone sees enough; together they do, and the one that did not find out stops within a second, too."""
    text = policy("first_delay_s: 0.05", guard="{min_requests: 60, cost_ratio: null, error_rate_over: null, score_drop: null}")
    async with (
        serving(text, tmp_path / "one", database_url=database_url) as one,
        serving(text, tmp_path / "two", database_url=database_url, worker="worker-2") as two,
    ):
        assert one.gateway.policy.current.version == two.gateway.policy.current.version
        await ask_until(one, lambda: False, 90)
        await one.gateway.canaries.beat()
        await two.gateway.canaries.beat()
        alone = (await row_of(two)).whole
        assert alone.candidate.requests + alone.baseline.requests == 90
        assert not rolled_back(one)
        while not (rolled_back(one) or rolled_back(two)):
            await ask_until(two, lambda: rolled_back(two), 10)
        await until(lambda: rolled_back(one) and rolled_back(two), 1)
        assert len(await audited(one, "policy.canary_rolled_back")) == 1
        for service in (one, two):
            assert set(await ask_until(service, lambda: False, 20)) == {"steady"}


async def test_a_conversation_stays_on_its_side(tmp_path: Path) -> None:
    async with serving(policy().replace("sticky: request", "sticky: conversation"), tmp_path) as service, aiohttp.ClientSession() as session:
        sides = []
        for number in range(24):
            first = {"role": "user", "content": f"Conversation {number}"}
            turns = [[first], [first, {"role": "assistant", "content": "Well."}, {"role": "user", "content": "And then?"}]]
            seen = set()
            for messages in turns:
                body = {"model": "auto", "messages": messages}
                async with session.post(f"{service.url}/v1/chat/completions", json=body, headers=service.bearer()) as response:
                    seen.add((await response.json())["headgate"]["backend"])
            assert len(seen) == 1
            sides += seen
        assert set(sides) == {"steady", "new"}


async def test_a_canary_whose_answers_are_rated_worse_is_rolled_back(tmp_path: Path, database_url: str) -> None:
    async with serving(policy(), tmp_path, database_url=database_url) as service:
        version = service.gateway.policy.current.version
        for turn in range(40):
            answers: list[dict[str, Any]] = []
            async with aiohttp.ClientSession() as session:
                answers += await asyncio.gather(*(ask(session, service, f"Question {turn}.{number}?") for number in range(10)))
                await service.gateway.recorder.flush()
                told = [(each["headgate"]["decision_id"], 0.1 if each["headgate"]["backend"] == "new" else 0.9) for each in answers]
                await asyncio.gather(*(rate(session, service, *each) for each in told))
            await service.gateway.canaries.beat()
            if (await service.database.read(lambda connection: store.states(connection, version))).get("all") == "rolled_back":
                break
        row = await assert_rolled_back(service, "score_drop")
        assert row.reason is not None
        assert (round(row.reason.verdict.candidate, 3), round(row.reason.verdict.baseline or 0, 3)) == (0.1, 0.9)


async def rate(session: aiohttp.ClientSession, service: Service, request_id: str, score: float) -> None:
    body = {"request_id": request_id, "score": score}
    async with session.post(f"{service.url}/v1/feedback", json=body, headers=service.bearer()) as response:
        assert response.status == 200, await response.text()


async def test_the_policys_receiver_is_told(tmp_path: Path) -> None:
    alerted = policy("breaker: null, fault: {error: provider_error}") + "alerts: {url: 'http://127.0.0.1:9/hook', secret_env: HOOK_API_KEY}\n"
    async with serving(alerted, tmp_path) as service:
        await ask_until(service, lambda: rolled_back(service), 2_000)
        (alert,) = (await call(service, "GET", "/admin/alerts"))[1]["data"]
        assert (alert["type"], alert["scope"], alert["tenant"], alert["receiver"], alert["period"]) == (
            "canary.rolled_back",
            "rule:all",
            "",
            "policy",
            "policy:1.1",
        )


async def test_a_decision_of_a_canary_is_replayed_as_it_was_made(tmp_path: Path) -> None:
    async with serving(policy("breaker: null, fault: {error: provider_error}"), tmp_path) as service:
        ids: list[str] = []
        async with aiohttp.ClientSession() as session:
            while not rolled_back(service):
                ids += [(await ask(session, service, f"Question {len(ids)}?"))["headgate"]["decision_id"]]
            ids += [(await ask(session, service, "After it?"))["headgate"]["decision_id"]]
        await service.gateway.recorder.flush()
        found = [await service.database.read(lambda connection, each=each: replay(connection, each, "p")) for each in ids]  # type: ignore[misc]
        assert all(each is not None and each.equal for each in found)
        reasons = {each.recorded.reasons[-1] for each in found if each is not None and each.recorded is not None}
        assert reasons >= {"canary:all:candidate", "canary:all:baseline", "canary:all:rolled_back"}
