"""The policy's life over HTTP: versions with author and reason, its own cases, comparing, what a bad file leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import select

from config.yamlfile import Problem
from policies.decision import Decision
from policies.record import Record
from router.audit.replaying import records
from router.pipeline import Exchange
from router.policy_file import FileStatus, write_status
from router.tables import ledger
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Large.", price: {input: 10, output: 40}}
default: mini
fallback: []
cases:
  - {given: {}, expect: {backend: mini}, name: plain questions stay cheap}
"""
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path, database_url=database_url) as service:
        yield service


async def call(service: Service, method: str, path: str, body: Any = None, key: str | None = None, **headers: str) -> tuple[int, Any]:
    kind = {"data": body.encode()} if isinstance(body, str) else {"json": body}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.url + path, **kind, headers={**service.bearer(key or service.admin_key), **headers}) as answer,  # type: ignore[arg-type]
    ):
        return answer.status, await (answer.json() if "json" in answer.content_type else answer.text())


async def put(service: Service, text: str, query: str = "", **headers: str) -> tuple[int, Any]:
    return await call(service, "PUT", f"/admin/policy{query}", text, **{"if-match": "*", **headers})


async def entries(service: Service, action: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await call(service, "GET", f"/admin/audit?action={action}"))[1]["data"]
    return found


async def test_a_version_says_who_made_it_and_why(service: Service) -> None:
    large = POLICY.replace("default: mini", "default: large").replace("{backend: mini}", "{backend: large}")
    status, made = await put(service, large, **{"x-headgate-comment": "mini is ill — größer"})
    assert (status, made["comment"]) == (200, "mini is ill — größer")
    assert (await put(service, POLICY, "?comment=mini%20is%20well"))[1]["comment"] == "mini is well"
    _, listed = await call(service, "GET", "/admin/policy/versions")
    assert [(each["version"], each["comment"], each["active"]) for each in listed["data"]] == [
        (3, "mini is well", True),
        (2, "mini is ill — größer", False),
        (1, "", False),
    ]
    status, shown = await call(service, "GET", "/admin/policy/versions/2")
    assert (status, shown["text"], shown["author"]) == (200, large, listed["data"][1]["author"])
    assert (await call(service, "POST", "/admin/policy/rollback", {"version": 2, "comment": "it was\nnot"}))[0] == 200
    assert (await entries(service, "policy.rollback"))[0]["details"]["comment"] == "it was not"
    assert (await entries(service, "policy.put"))[0]["details"]["comment"] == "mini is well"
    assert (await put(service, POLICY, f"?comment={'x' * 501}"))[1]["error"]["param"] == "comment"
    for name in ("99", "0", "-1", "x", "²", "9" * 30):
        assert (await call(service, "GET", f"/admin/policy/versions/{name}"))[0] == 404, name


async def test_a_policy_whose_own_cases_do_not_hold_is_put_in_force_only_when_that_is_insisted_on(service: Service) -> None:
    large = POLICY.replace("default: mini", "default: large")
    status, refused = await put(service, large)
    line = large.splitlines().index("  - {given: {}, expect: {backend: mini}, name: plain questions stay cheap}") + 1
    assert (status, refused["error"]["code"], refused["error"]["param"]) == (400, "policy_cases_failed", "cases[0]")
    assert f"line {line}, column 5" in refused["error"]["message"]
    assert "expected backend 'mini', got 'large'" in refused["error"]["message"]
    assert "force=true" in refused["error"]["message"]
    assert (await call(service, "GET", "/admin/policy/status"))[1]["version"] == 1
    status, report = await call(service, "POST", "/admin/policy/test", large)
    assert (status, report["ok"], report["cases"][0]["name"], report["cases"][0]["ok"]) == (200, False, "plain questions stay cheap", False)
    assert (await call(service, "POST", "/admin/policy/test"))[1]["ok"] is True, "without a body, the policy in force"
    assert (await put(service, large, "?force=true"))[0] == 200
    assert (await call(service, "POST", "/admin/policy/test"))[1]["ok"] is False
    assert (await call(service, "POST", "/admin/policy/rollback", {"version": 1}))[0] == 200
    assert (await call(service, "POST", "/admin/policy/rollback", {"version": 2}))[0] == 200, "going back asks no cases"
    status, refused = await call(service, "POST", "/admin/policy/test", "version: 1\ndefault: nobody\n")
    assert (status, refused["error"]["code"]) == (400, "invalid_policy")
    assert "line 2, column 10" in refused["error"]["message"]


async def test_two_policies_are_compared_over_what_was_asked(service: Service) -> None:
    for _ in range(3):
        assert (await call(service, "POST", "/v1/chat/completions", CHAT, service.key))[0] == 200
    assert (await call(service, "POST", "/v1/chat/completions", {**CHAT, "model": "large"}, service.other_key))[0] == 200
    candidate = POLICY.replace("default: mini", "default: large")
    status, found = await call(service, "POST", "/admin/policy/diff", candidate)
    assert (status, found["requests"], found["changed"]) == (200, 4, 3)
    [group] = found["groups"]
    assert (group["before"], group["after"], group["requests"], len(group["examples"])) == ("mini", "large", 3, 3)
    assert group["cost_after_usd"] > group["cost_before_usd"] > 0
    assert "-default: mini\n+default: large" in found["text"]
    assert (await call(service, "GET", "/admin/policy/status"))[1]["version"] == 1, "nothing is put in force"
    assert (await call(service, "POST", "/admin/policy/diff?tenant=globex", candidate))[1]["requests"] == 1
    assert (await call(service, "POST", "/admin/policy/diff?limit=2", candidate))[1]["requests"] == 2
    assert (await call(service, "POST", "/admin/policy/diff?until=1", candidate))[1]["requests"] == 0
    assert (await put(service, candidate, "?force=true"))[0] == 200
    status, back = await call(service, "POST", "/admin/policy/diff?old=2&new=1")
    assert (status, back["changed"], back["groups"][0]["before"]) == (200, 3, "large")
    assert (await entries(service, "policy.diff"))[0]["details"] == {"compared": 4, "changed": 3}


@pytest.mark.parametrize(
    ("query", "body", "status", "param"),
    [
        ("", "", 400, "new"),
        ("?new=1", POLICY, 400, "new"),
        ("?new=7", "", 404, "new"),
        ("?old=7", POLICY, 404, "old"),
        ("?limit=0", POLICY, 400, "limit"),
        ("?tenant=%00", POLICY, 400, None),
        ("?tenant=no%20such", POLICY, 404, "tenant"),
        ("", "version: 1\ndefault: nobody\n", 400, "default"),
    ],
)
async def test_a_comparison_that_cannot_be_made_says_why(tmp_path: Path, query: str, body: str, status: int, param: str | None) -> None:
    async with serving(POLICY, tmp_path) as service:
        found, answer = await call(service, "POST", f"/admin/policy/diff{query}", body)
        assert (found, answer["error"]["param"]) == (status, param)


async def test_the_status_tells_of_a_file_that_is_not_in_force(service: Service, tmp_path: Path) -> None:
    _, before = await call(service, "GET", "/admin/policy/status")
    assert (before["version"], before["serving"], before["file"]) == (1, 1, None), "nobody watches a file here"
    problem = Problem(3, 5, "rules[0].use", "there is no backend 'nobody'")
    (tmp_path / "run").mkdir(exist_ok=True)
    write_status(tmp_path, FileStatus(path="/etc/headgate.yaml", hash="h", valid=False, problems=(problem,), version=1, at=1.0))
    await service.gateway._tell_policy()
    _, after = await call(service, "GET", "/admin/policy/status")
    assert after["file"]["problems"] == [
        {"line": 3, "column": 5, "path": "rules[0].use", "message": "there is no backend 'nobody'", "suggestion": None, "file": ""}
    ]
    _, metrics = await call(service, "GET", "/metrics")
    assert "headgate_policy_file_valid 0.0" in metrics
    assert "headgate_policy_version 1.0" in metrics


async def test_what_came_of_a_request_stands_with_its_decision(service: Service) -> None:
    _, answer = await call(service, "POST", "/v1/chat/completions", CHAT, service.key)
    _, path = await call(service, "GET", f"/admin/decisions/{answer['headgate']['decision_id']}", service.key)
    made = path["decision"]
    assert (made["model"], made["attempts"], made["input_tokens"]) == ("scripted", 1, answer["usage"]["prompt_tokens"])
    assert made["cost"] == round(answer["headgate"]["cost_usd"] * 1e12)
    assert 0 < made["first_ms"] <= made["latency_ms"]
    assert made["policy_hash"].startswith(made["decision"]["policy_version"])


async def test_an_embedding_is_recorded_but_for_confidential_data(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Exchange.prepare

    async def embedded(self: Exchange, **options: Any) -> Decision:
        decision = await prepare(self, **options)
        self.embedding = b"\x00\x3c\x00\xbc"
        return decision

    monkeypatch.setattr(Exchange, "prepare", embedded)
    for data_class in ("internal", "confidential", "restricted"):
        await call(service, "POST", "/v1/chat/completions", {**CHAT, "headgate": {"data_class": data_class}}, service.key)
    await service.gateway.recorder.flush()
    found = await service.database.read(lambda connection: list(records(connection)))
    assert {record.features.data_class: record.embedding for record in found} == {
        "internal": b"\x00\x3c\x00\xbc",
        "confidential": None,
        "restricted": None,
    }


async def test_what_a_request_cost_is_recorded_also_where_its_client_left(tmp_path: Path) -> None:
    policy = POLICY.replace('text: "Hello."', 'text: "Hello, hello.", delay_s: 0.05')
    async with serving(policy, tmp_path) as service:
        async with (
            aiohttp.ClientSession(headers=service.bearer()) as session,
            session.post(f"{service.url}/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
        ):
            await answer.content.readany()
        found: list[Record] = []
        async with asyncio.timeout(20):
            while not found:
                await service.gateway.recorder.flush()
                found = await service.database.read(lambda connection: list(records(connection)))
        [record] = found
        booked = await service.database.read(lambda connection: connection.execute(select(ledger)).one())
        assert (record.outcome, record.cost, record.input_tokens) == ("cancelled", booked.cost, booked.input_tokens)
        assert record.cost > 0
        assert record.first_ms is not None
