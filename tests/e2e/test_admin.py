"""Administration over HTTP: tenants, keys, roles, the policy's life, usage, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, select

from router import policy_store
from router.tables import ledger
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Large.", model: big-1, price: {input: 10, output: 40}}
rules:
  - {name: code, when: {task: code}, use: [large]}
  - {name: half, when: {tenant: globex}, use: {weighted: {mini: 1, large: 1}}}
default: mini
fallback: []
"""
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path) as service:
        yield service


async def call(service: Service, method: str, path: str, key: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.url + path, json=body, headers={**service.bearer(key), **headers}) as answer,
    ):
        return answer.status, await answer.json(content_type=None)


async def test_a_tenant_and_its_key_are_made_and_the_key_works_at_once(service: Service) -> None:
    admin = service.admin_key
    assert await call(service, "POST", "/admin/tenants", admin, {"name": "initech"}) == (200, {"name": "initech"})
    assert (await call(service, "POST", "/admin/tenants", admin, {"name": "initech"}))[0] == 409
    assert (await call(service, "POST", "/admin/tenants", admin, {"name": "Not OK"}))[1]["error"]["param"] == "name"
    status, key = await call(service, "POST", "/admin/keys", admin, {"tenant": "initech", "role": "member"})
    assert status == 200
    assert key["key"].startswith("hg-")
    assert (await call(service, "POST", "/v1/chat/completions", key["key"], CHAT))[0] == 200
    listed = (await call(service, "GET", "/admin/keys?tenant=initech", admin))[1]["data"]
    assert [each["id"] for each in listed] == [key["id"]]
    assert key["key"] not in str(listed)


async def test_a_revoked_key_dies_in_a_worker_that_has_just_used_it(service: Service) -> None:
    key = (await call(service, "POST", "/admin/keys", service.key, {"tenant": "acme", "role": "member"}))[1]
    assert (await call(service, "GET", "/v1/models", key["key"]))[0] == 200
    assert (await call(service, "DELETE", f"/admin/keys/{key['id']}", service.key))[0] == 200
    async with asyncio.timeout(20):
        while (await call(service, "GET", "/v1/models", key["key"]))[0] != 401:
            pass


async def test_a_tenants_owner_administers_its_own_tenant_only(service: Service) -> None:
    assert (await call(service, "POST", "/admin/keys", service.key, {"tenant": "globex", "role": "member"}))[0] == 403
    assert (await call(service, "POST", "/admin/keys", service.key, {"role": "operator"}))[0] == 403
    others = (await call(service, "GET", "/admin/keys?tenant=globex", service.admin_key))[1]["data"]
    assert (await call(service, "DELETE", f"/admin/keys/{others[0]['id']}", service.key))[0] == 404
    assert {each["tenant"] for each in (await call(service, "GET", "/admin/keys", service.key))[1]["data"]} == {"acme"}
    assert (await call(service, "GET", "/admin/usage?tenant=globex", service.key))[0] == 404
    assert (await call(service, "PUT", "/admin/policy", service.key, {}, **{"if-match": "*"}))[0] == 403


async def test_a_tenant_sees_itself_among_the_tenants_and_an_operator_sees_all(service: Service) -> None:
    for key, seen in ((service.key, ["acme"]), (service.other_key, ["globex"]), (service.admin_key, ["acme", "globex"])):
        assert [each["name"] for each in (await call(service, "GET", "/admin/tenants", key))[1]["data"]] == seen


async def test_a_key_makes_no_key_that_may_do_more_than_itself(service: Service) -> None:
    async def make(key: str, **body: Any) -> tuple[int, Any]:
        return await call(service, "POST", "/admin/keys", key, {"tenant": "acme", **body})

    admin = (await make(service.key, role="admin", models=["mini"]))[1]["key"]
    for body, param in (({"role": "owner", "models": ["mini"]}, "role"), ({"role": "member"}, "models"), ({"role": "member", "models": ["large"]}, "models")):
        status, answer = await make(admin, **body)
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (403, "not_permitted", param)
    assert (await make(admin, role="member", models=["mini"]))[0] == 200
    owner = (await make(service.key, role="owner"))[1]["id"]
    assert (await call(service, "DELETE", f"/admin/keys/{owner}", admin))[0] == 403
    assert (await call(service, "DELETE", f"/admin/keys/{owner}", service.key))[0] == 200


async def test_a_name_of_a_key_that_is_too_long_is_refused(service: Service) -> None:
    status, answer = await call(service, "POST", "/admin/keys", service.key, {"tenant": "acme", "role": "member", "name": "x" * 201})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "invalid_request", "name")


async def test_usage_and_ledger_show_a_tenant_its_own_rows(service: Service) -> None:
    for key in (service.key, service.key, service.other_key):
        assert (await call(service, "POST", "/v1/chat/completions", key, CHAT))[0] == 200
    mine = (await call(service, "GET", "/admin/usage", service.key))[1]
    assert [(line["tenant"], line["requests"]) for line in mine["data"]] == [("acme", 2)]
    rows = (await call(service, "GET", "/admin/ledger", service.key))[1]["data"]
    assert len(rows) == 2
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(mine["data"][0]["cost_usd"])
    everybody = (await call(service, "GET", "/admin/usage", service.admin_key))[1]["data"]
    assert {line["tenant"] for line in everybody} == {"acme", "globex"}


async def test_explain_decides_like_the_request_and_bills_nothing(service: Service) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "Fix this function:\n```python\ndef f(): pass\n```"}]}
    status, decision = await call(service, "POST", "/v1/route/explain", service.key, body)
    assert (status, decision["candidates"], decision["rule"]) == (200, ["large"], "code")
    assert await service.database.read(lambda c: c.execute(select(func.count()).select_from(ledger)).scalar_one()) == 0
    answer = (await call(service, "POST", "/v1/chat/completions", service.key, body))[1]
    assert (answer["headgate"]["backend"], answer["headgate"]["rule"]) == ("large", "code")


async def test_a_weighted_rule_repeats_with_the_seed_and_shares_without(service: Service) -> None:
    async def backend(**hints: Any) -> str:
        answer = (await call(service, "POST", "/v1/chat/completions", service.other_key, {**CHAT, "headgate": hints}))[1]
        chosen: str = answer["headgate"]["backend"]
        return chosen

    assert len({await backend(seed=5) for _ in range(6)}) == 1
    assert {await backend() for _ in range(24)} == {"mini", "large"}


async def test_models_lists_what_the_key_may_use_and_a_model_id_pins(service: Service) -> None:
    key = (await call(service, "POST", "/admin/keys", service.key, {"tenant": "acme", "role": "member", "models": ["mini"]}))[1]["key"]
    assert [model["id"] for model in (await call(service, "GET", "/v1/models", key))[1]["data"]] == ["auto", "mini", "scripted"]
    assert [model["id"] for model in (await call(service, "GET", "/v1/models", service.key))[1]["data"]][-2:] == ["big-1", "scripted"]
    assert (await call(service, "GET", "/v1/models/big-1", service.key))[1]["owned_by"] == "local"
    assert (await call(service, "GET", "/v1/models/large", key))[0] == 404
    assert (await call(service, "POST", "/v1/chat/completions", key, {**CHAT, "model": "large"}))[1]["error"]["code"] == "not_permitted"
    assert (await call(service, "POST", "/v1/chat/completions", service.key, {**CHAT, "model": "big-1"}))[1]["headgate"]["backend"] == "large"


async def test_a_policy_can_be_rolled_back(service: Service) -> None:
    admin = service.admin_key
    async with aiohttp.ClientSession(headers=service.bearer(admin)) as session:
        changed = POLICY.replace("default: mini", "default: large")
        async with session.put(f"{service.url}/admin/policy", data=changed, headers={"if-match": "*"}) as answer:
            assert answer.status == 200
    assert (await call(service, "POST", "/v1/chat/completions", service.key, CHAT))[1]["headgate"]["backend"] == "large"
    assert (await call(service, "POST", "/admin/policy/rollback", admin, {"version": 9}))[0] == 404
    assert (await call(service, "POST", "/admin/policy/rollback", admin, {"version": 1}))[0] == 200
    assert (await call(service, "POST", "/v1/chat/completions", service.key, CHAT))[1]["headgate"]["backend"] == "mini"
    versions = (await call(service, "GET", "/admin/policy/versions", admin))[1]["data"]
    assert [(version["version"], version["active"]) for version in versions] == [(2, False), (1, True)]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("{kind: scripted, capabilities: {tools: 5}}", "backends.mini: this backend cannot be made"),
        ("{kind: scripted, bill_to: bills.jsonl}", "backends.mini.bill_to: names a file"),
        ("{kind: openai, model: gpt-5-mini, base_url: 'https://example.com:abc/v1'}", "backends.mini.base_url: expected an http or https URL"),
    ],
)
async def test_a_policy_that_no_worker_could_load_is_not_put_in_force(service: Service, table: str, says: str) -> None:
    async with aiohttp.ClientSession(headers=service.bearer(service.admin_key)) as session:
        changed = f"version: 1\nbackends:\n  mini: {table}\ndefault: mini\n"
        async with session.put(f"{service.url}/admin/policy", data=changed, headers={"if-match": "*"}) as answer:
            error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (400, "invalid_policy")
    assert says in error["message"]
    assert len((await call(service, "GET", "/admin/policy/versions", service.admin_key))[1]["data"]) == 1


async def test_an_earlier_version_that_no_worker_could_load_is_not_put_in_force_again(service: Service) -> None:
    text = "version: 1\nbackends: {mini: {kind: scripted, capabilities: {tools: 5}}}\ndefault: mini\n"

    def slip_in(connection: Any) -> None:
        version = policy_store.add_version(connection, text, source="api", author="test").version
        assert (version, policy_store.activate(connection, 1) is not None) == (2, True)

    await service.database.write(slip_in)
    status, answer = await call(service, "POST", "/admin/policy/rollback", service.admin_key, {"version": 2})
    assert (status, answer["error"]["code"]) == (409, "invalid_policy")


async def test_metrics_count_requests_tokens_and_cost_and_need_an_operators_key(service: Service) -> None:
    await call(service, "POST", "/v1/chat/completions", service.key, CHAT)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.url}/metrics", headers=service.bearer(service.admin_key)) as answer:
            text = await answer.text()
        async with session.get(f"{service.url}/metrics", headers=service.bearer()) as answer:
            assert answer.status == 403
    assert 'headgate_requests_total{backend="mini",outcome="ok"} 1.0' in text
    assert 'headgate_tokens_total{backend="mini",direction="output"}' in text
    assert "headgate_active_requests 0.0" in text


async def test_health_is_open_and_says_which_backends_are_ready(service: Service) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{service.url}/health/ready") as answer:
        body = await answer.json()
        assert (answer.status, body["status"], body["backends"]["mini"]["ready"]) == (200, "ready", True)
    async with aiohttp.ClientSession() as session, session.get(f"{service.url}/health/live") as answer:
        assert answer.status == 200
