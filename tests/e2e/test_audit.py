"""Who did what, over HTTP: entries in the transaction of their change, decisions without prompts, prompts where they are wanted, users erased."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from sqlalchemy import func, insert, select, update

from policies.access import Scopes
from router.audit.erasing import LATE_S
from router.audit.ledger_check import check_ledger
from router.audit.reading import head, verify_chain
from router.audit.recording import MOST_NOTES, Note, Recorder
from router.audit.tables import audit_log, decisions, prompts
from router.audit.triggers import allow_changes
from router.identity.keys import create_key
from router.identity.tables import tenants, users
from router.kept.tables import conversations, idempotency, kept_responses, remembered_parts
from router.tables import budgets, ledger, reservations
from tests.e2e.test_cancel import policy as cancel_policy
from tests.e2e.test_cancel import raw_client, scenes
from tests.fakes.provider import FakeProvider
from tests.serving import SECRET, Service, headgate_json, served, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
  large: {kind: scripted, text: "Large.", price: {input: 10, output: 40}}
rules:
  - {name: half, when: {tenant: globex}, use: {weighted: {mini: 1, large: 1}}}
default: mini
fallback: []
tenants:
  acme: {budget_usd: {month: 5}, prompts: {store: true, redact: [pii, deny-list]}, moderation: {output: [deny-list], deny_list: [bluebird]}}
"""
SECRET_TEXT = "My address is jane.doe@example.com and the project is bluebird."
CHAT = {"model": "auto", "messages": [{"role": "user", "content": SECRET_TEXT}]}


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path, database_url=database_url) as service:
        yield service


async def call(service: Service, method: str, path: str, key: str | None = None, body: Any = None, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, service.url + path, json=body, headers={**service.bearer(key), **headers}) as answer,
    ):
        shown = await answer.json(content_type=None) if "json" in answer.content_type else await answer.text()
        if isinstance(shown, dict):
            shown["x-request-id"] = answer.headers["x-request-id"]
        return answer.status, shown


async def key_of(service: Service, role: str, tenant: str = "acme", **fields: Any) -> str:
    return await service.database.write(lambda connection: create_key(connection, SECRET, tenant=tenant, role=role, **fields).key)


async def made(service: Service, path: str, body: Any, key: str | None = None) -> Any:
    status, answer = await call(service, "POST", f"/admin/{path}", key or service.key, body)
    assert status == 200, answer
    return answer


async def log_of(service: Service, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    status, page = await call(service, "GET", f"/admin/audit?limit=1000&{query}", service.admin_key)
    assert status == 200, page
    found: list[dict[str, Any]] = page["data"]
    return found


async def count(service: Service, table: Any) -> int:
    found = await service.database.read(lambda connection: connection.execute(select(func.count()).select_from(table)).scalar())
    assert found is not None
    return found


async def test_every_administrative_change_and_sensitive_read_leaves_an_entry_that_names_its_request(service: Service) -> None:
    admin = service.admin_key
    version = (await call(service, "GET", "/admin/policy", admin))[1]
    assert "mini" in version
    changed = POLICY.replace("month: 5", "month: 7")
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{service.url}/admin/policy", data=changed, headers={**service.bearer(admin), "if-match": "*"}) as put,
    ):
        assert put.status == 200
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{service.url}/admin/policy", data=POLICY, headers={**service.bearer(admin), "if-match": '"0"'}) as late,
    ):
        assert late.status == 412
    await call(service, "POST", "/admin/policy/rollback", admin, {"version": 1})
    tenant = await call(service, "POST", "/admin/tenants", admin, {"name": "initech"})
    key = (await call(service, "POST", "/admin/keys", admin, {"tenant": "initech", "role": "member", "name": "the first"}))[1]
    await call(service, "DELETE", f"/admin/keys/{key['id']}", admin)
    await call(service, "GET", "/admin/keys?tenant=acme", admin)
    await call(service, "GET", "/admin/ledger", admin)
    entries = await log_of(service)
    assert [(each["action"], each["outcome"], each["tenant"]) for each in reversed(entries)] == [
        ("policy.read", "ok", ""),
        ("policy.put", "ok", ""),
        ("budget.change", "ok", "acme"),
        ("policy.put", "refused", ""),
        ("policy.rollback", "ok", ""),
        ("budget.change", "ok", "acme"),
        ("tenant.create", "ok", "initech"),
        ("key.create", "ok", "initech"),
        ("key.revoke", "ok", "initech"),
        ("key.read", "ok", "acme"),
        ("ledger.read", "ok", ""),
    ]
    assert {each["actor_role"] for each in entries} == {"operator"}
    by_action = {each["action"]: each for each in reversed(entries)}
    assert by_action["tenant.create"]["request_id"] == tenant[1]["x-request-id"]
    assert by_action["key.create"]["object_id"] == key["id"]
    assert by_action["budget.change"]["details"] == {"before": {"month": 7}, "after": {"month": 5}, "policy_version": 1}
    assert key["key"] not in str(entries)
    assert [each["action"] for each in await log_of(service, action="audit.read")] == ["audit.read"]
    assert (await service.database.read(lambda connection: verify_chain(connection, service.gateway.audit.key))).ok


async def test_changes_of_teams_users_and_keys_leave_entries_that_name_nobody(service: Service) -> None:
    """By id alone: entries cannot be changed, and a user can be erased."""
    team = await made(service, "teams", {"name": "Research"})
    for change in ({"name": "Science"}, {"archived": True}, {"archived": False, "name": "Research"}, {"archived": False}):
        assert (await call(service, "PATCH", f"/admin/teams/{team['id']}", service.key, change))[0] == 200
    jane = {"subject": "jane-at-idp", "email": "jane@example.com", "display_name": "Jane Doe"}
    user = await made(service, "users", {"role": "member", **jane})
    for change in ({"team": team["id"], "email": None, "display_name": "Jane D."}, {"disabled": True}, {"disabled": False, "role": "admin"}, {"role": "admin"}):
        assert (await call(service, "PATCH", f"/admin/users/{user['id']}", service.key, change))[0] == 200
    about = {"tenant": "acme", "role": "member", "user": user["id"], "name": "Jane's laptop"}
    key = await made(service, "keys", {**about, "routes": ["chat"], "networks": ["10.0.0.0/8"]})
    new = await made(service, f"keys/{key['id']}/rotate", {"overlap_s": 60})
    for _ in range(2):
        assert (await call(service, "DELETE", f"/admin/keys/{new['id']}", service.key))[0] == 200
    for path in ("users", f"users/{user['id']}", "keys", f"keys/{key['id']}"):
        assert (await call(service, "GET", f"/admin/{path}", service.key))[0] == 200
    await made(service, f"users/{user['id']}/erase", None)
    entries = [each for each in reversed(await log_of(service, tenant="acme")) if each["action"] != "audit.read"]
    limits = {"role": "member", "user": user["id"], "routes": ["chat"], "networks": ["10.0.0.0/8"], "max_data_class": "restricted"}
    nothing = {"prompts": 0, "responses": 0, "conversations": 0, "idempotent_answers": 0, "remembered_parts": 0, "feedback": 0, "embeddings": 0}
    ends = entries[11]["details"].pop("expires_at")
    assert ends == pytest.approx(time.time() + 60, abs=30)
    assert [(each["action"], each["object_id"], each["details"]) for each in entries] == [
        ("team.create", team["id"], {"name": "Research"}),
        ("team.update", team["id"], {"name": {"before": "Research", "after": "Science"}}),
        ("team.archive", team["id"], {}),
        ("team.update", team["id"], {"name": {"before": "Science", "after": "Research"}}),
        ("team.restore", team["id"], {}),
        ("user.create", user["id"], {"role": "member", "team": None}),
        ("user.update", user["id"], {"team": {"before": None, "after": team["id"]}, "changed": ["email", "display_name"]}),
        ("user.disable", user["id"], {}),
        ("user.update", user["id"], {"role": {"before": "member", "after": "admin"}}),
        ("user.enable", user["id"], {}),
        ("key.create", key["id"], limits),
        ("key.rotate", key["id"], {"replaced_by": new["id"]}),
        ("key.create", new["id"], {**limits, "follows": key["id"]}),
        ("key.revoke", new["id"], limits),
        ("user.read", "", {"count": 1}),
        ("user.read", user["id"], {}),
        ("key.read", "", {"count": 3}),
        ("key.read", key["id"], {}),
        ("user.erase", user["id"], {"deleted": nothing}),
    ]
    assert "ane" not in str(entries)
    assert {each["tenant"] for each in entries} == {"acme"}


async def test_what_is_refused_or_fails_changes_nothing_and_says_nothing(service: Service) -> None:
    before = await count(service, audit_log)
    for body in ({"name": "acme"}, {"name": "Not OK"}):
        assert (await call(service, "POST", "/admin/tenants", service.admin_key, body))[0] in (400, 409)
    assert (await call(service, "POST", "/admin/keys", service.admin_key, {"tenant": "nobody", "role": "member"}))[0] == 404
    assert (await call(service, "POST", "/admin/tenants", service.key, {"name": "mine"}))[0] == 403
    assert await count(service, audit_log) == before


async def test_documents_and_vector_stores_leave_entries_with_their_change(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        file = await sdk.files.create(file=("a.txt", b"A text."), purpose="assistants")
        store = await sdk.vector_stores.create(name="mine")
        await sdk.vector_stores.update(store.id, name="ours")
        assert (await sdk.files.content(file.id)).content == b"A text."
        await sdk.vector_stores.delete(store.id)
        await sdk.files.delete(file.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.delete(file.id)
    entries = [each for each in await log_of(service, tenant="acme") if each["object_kind"] in ("file", "vector_store")]
    assert [(each["action"], each["object_id"]) for each in reversed(entries)] == [
        ("file.create", file.id),
        ("store.create", store.id),
        ("store.update", store.id),
        ("file.read", file.id),
        ("store.delete", store.id),
        ("file.delete", file.id),
    ]
    assert "a.txt" not in str(entries)


async def test_a_tenant_sees_its_own_entries_and_only_the_platform_verifies(service: Service) -> None:
    for tenant, key in (("acme", service.key), ("globex", service.other_key)):
        await call(service, "POST", "/admin/keys", key, {"tenant": tenant, "role": "member"})
    auditor, platform_auditor, member = await key_of(service, "auditor"), await key_of(service, "auditor", ""), await key_of(service, "member")
    for key in (service.key, auditor):
        status, page = await call(service, "GET", "/admin/audit", key)
        assert (status, {each["tenant"] for each in page["data"]}) == (200, {"acme"})
        assert (await call(service, "GET", "/admin/audit?tenant=globex", key))[0] == 404
        assert (await call(service, "GET", "/admin/audit/verify", key))[0] == 403
    for key in (service.admin_key, platform_auditor):
        status, page = await call(service, "GET", "/admin/audit", key)
        assert {"acme", "globex"} <= {each["tenant"] for each in page["data"]}
        status, said = await call(service, "GET", f"/admin/audit/verify?head={page['data'][0]['seq']}:{page['data'][0]['hash']}", key)
        assert (status, said["ok"], said["found"]) == (200, True, 0)
    assert (await call(service, "GET", "/admin/audit", member))[0] == 403
    assert (await call(service, "GET", "/admin/audit/verify?head=nonsense", service.admin_key))[1]["error"]["param"] == "head"
    for query in ("limit=0", "limit=5000"):
        assert (await call(service, "GET", f"/admin/audit?{query}", service.admin_key))[1]["error"]["param"] == "limit"
    for query in ("before=0", f"before={2**63}"):
        assert (await call(service, "GET", f"/admin/audit?{query}", service.admin_key))[1]["error"]["param"] == "before"


async def test_of_what_the_log_is_asked_it_keeps_ids_and_no_other_text(service: Service) -> None:
    user = "user_" + "0" * 24
    await log_of(service, actor=user, object_id="jane.doe@example.com", request_id="x" * 2000, action="key.create", tenant="Jane Doe", since="7")
    (entry,) = await log_of(service, action="audit.read")
    kept = {"actor": user, "object_id": "(a text)", "request_id": "(a text)", "action": "key.create", "tenant": "(a text)", "since": 7.0}
    assert (entry["details"], entry["tenant"]) == ({"asked": kept, "rows": 0}, "")


async def test_the_log_is_read_page_by_page_to_its_first_entry(service: Service) -> None:
    for number in range(5):
        await call(service, "POST", "/admin/tenants", service.admin_key, {"name": f"tenant-{number}"})
    seen, before = [], ""
    while True:
        page = (await call(service, "GET", f"/admin/audit?action=tenant.create&limit=2{before}", service.admin_key))[1]
        seen += [each["object_id"] for each in page["data"]]
        if not page["has_more"]:
            break
        before = f"&before={page['next']}"
    assert seen == [f"tenant-{number}" for number in reversed(range(5))]


async def test_the_path_of_a_request_is_shown_without_its_prompt_and_looking_is_recorded(service: Service) -> None:
    status, answer = await call(service, "POST", "/v1/chat/completions", service.key, CHAT)
    assert status == 200
    request_id = answer["headgate"]["decision_id"]
    auditor = await key_of(service, "auditor", "")
    status, path = await call(service, "GET", f"/admin/decisions/{request_id}", auditor)
    assert status == 200
    assert path["decision"]["decision"]["candidates"] == ["mini"]
    assert (path["decision"]["outcome"], path["decision"]["backend"], path["decision"]["dialect"]) == ("ok", "mini", "openai.chat")
    assert [(row["purpose"], row["outcome"], row["cost_usd"]) for row in path["attempts"]] == [("answer", "ok", answer["headgate"]["cost_usd"])]
    assert "jane" not in str(path)
    assert "bluebird" not in str(path)
    again = (await call(service, "GET", f"/admin/decisions/{request_id}", service.key))[1]
    assert [(each["action"], each["actor_role"]) for each in again["audit"]] == [("decision.read", "auditor")]
    other = await call(service, "GET", f"/admin/decisions/{request_id}", service.other_key)
    nothing = await call(service, "GET", "/admin/decisions/" + "0" * 32, service.other_key)
    assert other[0] == nothing[0] == 404
    assert other[1]["error"]["message"].replace(request_id, "ID") == nothing[1]["error"]["message"].replace("0" * 32, "ID")


async def test_refused_requests_are_recorded_too_and_equal_prompts_have_equal_hashes(service: Service) -> None:
    refused = await call(service, "POST", "/v1/chat/completions", service.key, {**CHAT, "model": "nobody"})
    assert refused[0] == 404
    twice = [(await call(service, "POST", "/v1/messages", service.other_key, {**CHAT, "max_tokens": 10}))[1] for _ in range(2)]
    await service.gateway.recorder.flush()
    rows = await service.database.read(lambda connection: connection.execute(select(decisions).order_by(decisions.c.created_at)).mappings().all())
    assert [(row["outcome"], row["error"], row["dialect"]) for row in rows] == [
        ("refused", "model_not_found", "openai.chat"),
        ("ok", None, "anthropic.messages"),
        ("ok", None, "anthropic.messages"),
    ]
    assert rows[0]["request_id"] == refused[1]["x-request-id"]
    assert msgspec.json.decode(rows[0]["decision"])["outcome"] == "model_not_found"
    assert rows[1]["input_hash"] == rows[2]["input_hash"]
    assert twice[0]["headgate"]["decision_id"] == rows[1]["request_id"]


async def test_a_decision_replays_to_itself_bit_for_bit_under_its_own_policy_version(service: Service) -> None:
    from router.audit.paths import replay

    ids = [(await call(service, "POST", "/v1/chat/completions", service.other_key, CHAT))[1]["headgate"]["decision_id"] for _ in range(6)]
    refused = (await call(service, "POST", "/v1/chat/completions", service.key, {**CHAT, "headgate": {"max_cost_usd": 0}}))[1]["x-request-id"]
    changed = POLICY.replace("weighted: {mini: 1, large: 1}", "weighted: {mini: 0, large: 1}")
    async with aiohttp.ClientSession() as session:
        headers = {**service.bearer(service.admin_key), "if-match": "*"}
        assert (await session.put(f"{service.url}/admin/policy", data=changed, headers=headers)).status == 200
    await service.gateway.recorder.flush()
    for request_id in (*ids, refused):
        done = await service.database.read(lambda connection, request_id=request_id: replay(connection, request_id, "policy.yaml"))  # type: ignore[misc]
        assert done is not None
        assert (done.equal, done.problem) == (True, None), done
    first = await service.database.read(lambda connection: connection.execute(select(decisions).where(decisions.c.request_id == ids[0])).mappings().one())
    forged = msgspec.json.decode(first["decision"]) | {"candidates": ["large"], "reasons": []}
    await service.database.write(
        lambda connection: connection.execute(update(decisions).where(decisions.c.request_id == ids[0]).values(decision=msgspec.json.encode(forged).decode()))
    )
    done = await service.database.read(lambda connection: replay(connection, ids[0], "policy.yaml"))
    assert done is not None
    assert not done.equal


async def test_a_decision_by_what_a_budget_leaves_replays_to_itself(tmp_path: Path) -> None:
    """The smallest answer that is worth having decides what a budget still affords."""
    from router.audit.paths import replay

    text = """
version: 1
backends:
  dear: {kind: scripted, text: "Hello.", price: {input: 0, output: 1000}, max_output_tokens: 1000}
  mini: {kind: scripted, text: "Hello.", price: {input: 0, output: 1000}, max_output_tokens: 1000}
default: dear
fallback: [mini]
tenants:
  acme: {budget_usd: {month: 0.5, models: {dear: {day: 0.1}}}}
  globex: {budget_usd: {month: 0.3}}
"""
    async with serving(text, tmp_path) as service:
        for key, backend, excluded in ((service.key, "mini", ["dear"]), (service.other_key, "dear", [])):
            answer = (await call(service, "POST", "/v1/chat/completions", key, CHAT))[1]
            assert answer["headgate"]["backend"] == backend
            request_id = answer["headgate"]["decision_id"]
            await service.gateway.recorder.flush()
            done = await service.database.read(lambda connection, request_id=request_id: replay(connection, request_id, "policy.yaml"))  # type: ignore[misc]
            assert done is not None
            assert (done.equal, done.problem) == (True, None)
            assert done.replayed is not None
            assert [each.backend for each in done.replayed.excluded if each.code == "budget"] == excluded


async def test_prompts_are_stored_redacted_and_sealed_only_where_the_tenant_wants_it_and_only_its_administrators_read_them(service: Service) -> None:
    mine = (await call(service, "POST", "/v1/chat/completions", service.key, CHAT))[1]["headgate"]["decision_id"]
    theirs = (await call(service, "POST", "/v1/chat/completions", service.other_key, CHAT))[1]["headgate"]["decision_id"]
    status, stored = await call(service, "GET", f"/admin/prompts/{mine}", service.key)
    assert status == 200
    assert stored["messages"] == [{"role": "user", "text": "My address is [EMAIL] and the project is [REDACTED].", "other": []}]
    assert stored["expires_at"] - stored["created_at"] == pytest.approx(30 * 86_400, abs=60)
    (row,) = await service.database.read(lambda connection: connection.execute(select(prompts)).mappings().all())
    assert b"address" not in row["content"]
    for key in (service.admin_key, await key_of(service, "auditor", ""), await key_of(service, "auditor"), await key_of(service, "member")):
        assert (await call(service, "GET", f"/admin/prompts/{mine}", key))[0] == 403
        assert (await call(service, "DELETE", f"/admin/prompts/{mine}", key))[0] == 403
    assert (await call(service, "GET", f"/admin/prompts/{theirs}", service.other_key))[0] == 404
    assert (await call(service, "GET", f"/admin/prompts/{mine}", service.other_key))[0] == 404
    assert (await call(service, "DELETE", f"/admin/prompts/{mine}", service.other_key))[0] == 404
    assert (await call(service, "DELETE", f"/admin/prompts/{mine}", service.key))[0] == 200
    assert (await call(service, "GET", f"/admin/prompts/{mine}", service.key))[0] == 404
    assert [each["action"] for each in await log_of(service, object_id=mine)] == ["prompt.delete", "prompt.read"]


async def test_a_key_reads_no_stored_prompt_that_is_more_sensitive_than_it_may(service: Service) -> None:
    lower, higher = await key_of(service, "owner", scopes=Scopes(max_data_class="internal")), await key_of(service, "owner")
    for data_class, seen in (("internal", True), ("confidential", False)):
        asked = {**CHAT, "headgate": {"data_class": data_class}}
        request_id = (await call(service, "POST", "/v1/chat/completions", service.key, asked))[1]["headgate"]["decision_id"]
        assert (await call(service, "GET", f"/admin/prompts/{request_id}", lower))[0] == (200 if seen else 404)
        assert (await call(service, "DELETE", f"/admin/prompts/{request_id}", lower))[0] == (200 if seen else 404)
        assert (await call(service, "GET", f"/admin/prompts/{request_id}", higher))[0] == (404 if seen else 200)


async def test_what_has_expired_is_swept(service: Service) -> None:
    await call(service, "POST", "/v1/chat/completions", service.key, CHAT)
    await service.gateway.recorder.flush()
    assert (await count(service, decisions), await count(service, prompts)) == (1, 1)
    await service.gateway.recorder.sweep()
    assert (await count(service, decisions), await count(service, prompts)) == (1, 1)
    await service.database.write(
        lambda connection: (connection.execute(update(decisions).values(expires_at=1)), connection.execute(update(prompts).values(expires_at=1)))
    )
    await service.gateway.recorder.sweep()
    assert (await count(service, decisions), await count(service, prompts)) == (0, 0)


async def test_erasing_a_user_takes_what_they_said_and_who_they_are_and_leaves_sums_and_chain_as_they_were(service: Service) -> None:
    jane = await made(service, "users", {"role": "member", "subject": "jane-at-idp", "email": "jane@example.com", "display_name": "Jane Doe"})
    joe = await made(service, "users", {"role": "member", "display_name": "Joe"})
    keys = [await made(service, "keys", {"tenant": "acme", "role": "member", "user": user["id"], "name": "a laptop"}) for user in (jane, joe)]
    for key in keys:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key["key"], max_retries=0) as sdk:
            await sdk.responses.create(model="auto", input=SECRET_TEXT, extra_headers={"Idempotency-Key": f"once-{key['id']}"})
            await sdk.conversations.create(items=[{"role": "user", "content": "Hello."}])
    await service.gateway.recorder.flush()
    parts = {"id": "x", "tenant": "acme", "user_id": jane["id"], "content": b"", "expires_at": 9e9}
    await service.database.write(lambda connection: connection.execute(insert(remembered_parts), parts))
    kept = (prompts, kept_responses, conversations, idempotency)
    assert [await count(service, table) for table in kept] == [2, 2, 2, 2]
    sums = await call(service, "GET", "/admin/usage", service.admin_key)
    status, done = await call(service, "POST", f"/admin/users/{jane['id']}/erase", service.key)
    assert status == 200
    assert (done["user"], done["tenant"]) == (jane["id"], "acme")
    assert done["deleted"] == {"prompts": 1, "responses": 1, "conversations": 1, "idempotent_answers": 1, "remembered_parts": 1, "feedback": 0, "embeddings": 0}
    assert [await count(service, table) for table in kept] == [1, 1, 1, 1]
    assert await count(service, decisions) == 2
    after = await call(service, "GET", "/admin/usage", service.admin_key)
    assert (after[1]["data"], after[1]["budgets"]) == (sums[1]["data"], sums[1]["budgets"])
    assert (await service.database.read(lambda connection: verify_chain(connection, service.gateway.audit.key))).ok
    assert await service.database.read(lambda connection: check_ledger(connection, service.gateway.secret)) == []
    shown = (await call(service, "GET", f"/admin/users/{jane['id']}", service.key))[1]
    assert (shown["subject"], shown["email"], shown["display_name"], shown["erased_at"] is not None) == (None, None, None, True)
    assert [(await call(service, "GET", f"/admin/keys/{key['id']}", service.key))[1]["name"] for key in keys] == ["erased", "a laptop"]
    async with asyncio.timeout(20):
        while (await call(service, "GET", "/v1/models", keys[0]["key"]))[0] != 401:
            pass
    assert (await call(service, "GET", "/v1/models", keys[1]["key"]))[0] == 200
    changed = await call(service, "PATCH", f"/admin/users/{jane['id']}", service.key, {"display_name": "Jane"})
    assert changed[1]["error"]["message"].startswith("user: user ")
    again = await made(service, f"users/{jane['id']}/erase", None)
    assert set(again["deleted"].values()) == {0}
    assert (await call(service, "GET", f"/admin/users/{jane['id']}", service.key))[1]["erased_at"] == shown["erased_at"]
    assert [(each["object_id"], each["tenant"]) for each in await log_of(service, action="user.erase")] == [(jane["id"], "acme")] * 2
    assert (await made(service, f"users/{joe['id']}/erase", None, service.admin_key))["deleted"]["prompts"] == 1


async def test_only_those_who_may_erase_a_user_do_and_others_users_are_like_missing_ones(service: Service) -> None:
    boss, clerk = await made(service, "users", {"role": "owner"}), await made(service, "users", {"role": "member"})
    admin = await key_of(service, "admin")
    assert (await call(service, "POST", f"/admin/users/{boss['id']}/erase", admin))[0] == 403
    assert (await call(service, "POST", f"/admin/users/{clerk['id']}/erase", admin, {"tenant": "acme"}))[1]["error"]["param"] == "tenant"
    nobody = "user_" + "0" * 24
    for key in (service.other_key, service.admin_key, service.key):
        for wanted in (nobody, "a%20b"):
            status, answer = await call(service, "POST", f"/admin/users/{wanted}/erase", key)
            assert (status, answer["error"]["code"]) == (404, "user_not_found")
    foreign = await call(service, "POST", f"/admin/users/{clerk['id']}/erase", service.other_key)
    missing = await call(service, "POST", f"/admin/users/{nobody}/erase", service.other_key)
    assert foreign[0] == 404
    assert foreign[1]["error"]["message"].replace(clerk["id"], "ID") == missing[1]["error"]["message"].replace(nobody, "ID")
    assert await log_of(service, action="user.erase") == []
    assert await service.database.read(lambda connection: connection.execute(select(users.c.id).where(users.c.erased_at.is_not(None))).all()) == []
    assert (await call(service, "POST", f"/admin/users/{clerk['id']}/erase", admin))[0] == 200
    assert (await call(service, "POST", f"/admin/users/{boss['id']}/erase", service.key))[0] == 200


async def test_what_is_kept_of_a_user_after_they_were_erased_is_swept(service: Service) -> None:
    """By a request that was running then, or by the notes of another worker."""
    jane, joe = await made(service, "users", {"role": "member"}), await made(service, "users", {"role": "member"})
    for user in (jane, joe):
        key = await key_of(service, "member", user=user["id"])
        assert (await call(service, "POST", "/v1/chat/completions", key, CHAT))[0] == 200
    await made(service, f"users/{jane['id']}/erase", None)
    await service.gateway.recorder.flush()
    (left,) = await service.database.read(lambda connection: connection.execute(select(prompts)).mappings().all())
    assert left["user_id"] == joe["id"]
    for each in ("late-1", "late-2"):
        late = {**left, "request_id": each, "user_id": jane["id"]}
        await service.database.write(lambda connection, late=late: connection.execute(insert(prompts), late))  # type: ignore[misc]
    await service.gateway._sweep()
    assert await count(service, prompts) == 1
    long_ago = {"erased_at": time.time() - 2 * LATE_S}
    await service.database.write(lambda connection: connection.execute(update(users).where(users.c.id == joe["id"]).values(**long_ago)))
    await service.gateway._sweep()
    assert await count(service, prompts) == 1  # nobody is looked for for ever


async def test_the_books_are_checked_and_every_problem_is_located(service: Service) -> None:
    for key in (service.key, service.other_key):
        await call(service, "POST", "/v1/chat/completions", key, CHAT)
    assert await service.database.read(lambda connection: check_ledger(connection, service.gateway.secret)) == []
    (row, _) = await service.database.read(lambda connection: connection.execute(select(ledger).order_by(ledger.c.tenant)).mappings().all())

    def found_after(*statements: Any) -> Any:
        class Undone(Exception):
            pass

        async def run() -> set[tuple[str, str, str]]:
            said: set[tuple[str, str, str]] = set()

            def work(connection: Any) -> None:
                for statement in statements:
                    statement(connection) if callable(statement) else connection.execute(statement)
                said.update((each.table, each.row, each.column) for each in check_ledger(connection, service.gateway.secret))
                raise Undone

            with pytest.raises(Undone):
                await service.database.write(work)
            return said

        return run()

    def loose(connection: Any) -> None:
        allow_changes(connection, "ledger")

    gone = {("ledger", "ledger_no_update", ""), ("ledger", "ledger_no_delete", "")}
    month = await service.database.read(
        lambda connection: connection.execute(select(budgets.c.period).where(budgets.c.period.like("month:%")).limit(1)).scalar()
    )
    spent = await found_after(update(budgets).where(budgets.c.tenant == "acme", budgets.c.period == month).values(spent=budgets.c.spent + 1))
    assert spent == {("budgets", f"acme {month}", "spent"), ("budgets", "acme", "spent")}
    assert ("budgets", f"acme {month}", "reserved") in await found_after(update(budgets).where(budgets.c.period == month).values(reserved=-1))
    attempt = f"{row['request_id']} answer 1"
    twice = await found_after(insert(ledger).values({**row, "id": "another", "cost": 0}))
    assert {each for each in twice if each[0] != "usage_days"} == {("ledger", attempt, "entry"), ("ledger", "another", "seal")}
    assert {column for table, _, column in twice if table == "usage_days"} >= {"requests", "attempts"}
    orphan = await found_after(insert(ledger).values({**row, "id": "another", "cost": 0, "attempt": 9, "entry": "correction"}))
    assert {each for each in orphan if each[0] != "usage_days"} == {("ledger", f"{row['request_id']} answer 9", "entry"), ("ledger", "another", "seal")}
    assert "corrections" in {column for table, _, column in orphan if table == "usage_days"}
    cheaper = await found_after(loose, update(ledger).where(ledger.c.id == row["id"]).values(cost=ledger.c.cost - 1))
    assert gone < cheaper
    assert ("budgets", f"acme {month}", "spent") in cheaper
    open_one = {"request_id": "r", "purpose": "answer", "worker": "w", "tenant": "acme", "key_id": "k", "day": month, "month": month, "amount": 5}
    phantom = await found_after(insert(reservations).values({**open_one, "attempt": 1, "plan": "{}", "policy_version": 1, "created_at": 0}))
    assert ("budgets", f"acme {month}", "reserved") in phantom
    for statement in (update(ledger).values(cost=0), ledger.delete()):
        with pytest.raises(Exception, match="append only"):
            await service.database.write(lambda connection, statement=statement: connection.execute(statement))  # type: ignore[misc]


async def test_a_database_that_is_away_holds_up_no_answer_and_loses_no_decision(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from sqlalchemy.exc import OperationalError

    recorder, write = service.gateway.recorder, service.database.write
    away = True

    async def failing(work: Any) -> Any:
        if away and work.__qualname__.startswith("Recorder.flush"):
            raise OperationalError("", None, Exception("away"))
        return await write(work)

    monkeypatch.setattr(service.database, "write", failing)
    assert (await call(service, "POST", "/v1/chat/completions", service.key, CHAT))[0] == 200
    with pytest.raises(OperationalError):
        await recorder.flush()
    away = False
    await recorder.flush()
    assert await count(service, decisions) == 1


async def test_more_notes_than_may_wait_are_dropped_and_counted(service: Service) -> None:
    dropped: list[int] = []
    recorder = Recorder(service.database, SECRET, service.gateway.sealer, 90, dropped.append)
    note = Note(
        request_id="r",
        tenant="acme",
        key_id="k",
        user="",
        created_at=0.0,
        policy_version=1,
        dialect="openai.chat",
        data_class="internal",
        outcome="ok",
        error=None,
        backend="mini",
        input_hash="",
        decision=None,
        state=None,
        citations=(),
        moderation={},
    )
    for number in range(MOST_NOTES + 3):
        recorder.put(msgspec.structs.replace(note, request_id=f"r{number}"))
    assert dropped == [1, 1, 1]
    await recorder.flush()
    assert await count(service, decisions) == MOST_NOTES


async def test_the_head_is_logged_for_those_who_keep_it_elsewhere(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    await call(service, "POST", "/admin/tenants", service.admin_key, {"name": "initech"})
    capfd.readouterr()
    await service.gateway._sweep()
    await service.gateway._sweep()
    kept = str(await service.database.read(head))
    said = capfd.readouterr()  # on standard error where a command was run in this process before
    assert (said.out + said.err).count(kept) == 1


async def test_changes_at_the_same_time_are_recorded_one_after_the_other(service: Service) -> None:
    done = await asyncio.gather(*(call(service, "POST", "/admin/tenants", service.admin_key, {"name": f"tenant-{number}"}) for number in range(20)))
    assert {status for status, _ in done} == {200}
    assert len(await log_of(service, action="tenant.create")) == 20
    assert await count(service, tenants) == 22
    assert (await service.database.read(lambda connection: verify_chain(connection, service.gateway.audit.key))).ok


async def test_a_request_whose_client_left_is_recorded_as_cancelled(tmp_path: Path) -> None:
    scene = scenes("openai")["in the middle of a stream"]()
    async with FakeProvider(scene.script) as upstream, serving(cancel_policy("openai", upstream.url), tmp_path) as service:
        async with raw_client(service, scene) as leave:
            async with asyncio.timeout(20):
                await scene.reached.wait()
            await leave()

        async def recorded() -> list[tuple[str, str]]:
            await service.gateway.recorder.flush()
            query = select(decisions.c.outcome, decisions.c.backend)
            return [(row.outcome, row.backend) for row in await service.database.read(lambda connection: connection.execute(query).all())]

        async with asyncio.timeout(20):
            while not (found := await recorded()):
                await asyncio.sleep(0.01)
        assert found == [("cancelled", "remote")]


def test_a_start_and_an_edited_policy_file_leave_entries_of_the_system_and_the_file(tmp_path: Path) -> None:
    policy = tmp_path / "headgate.yaml"
    policy.write_text(POLICY)
    with served(tmp_path, "--config", str(policy), models=False):
        policy.write_text(POLICY.replace("month: 5", "month: 6"))
        end = time.monotonic() + 30
        while len(found := headgate_json(tmp_path, "audit", "list", "--actor", "file", HEADGATE_CONFIG=str(policy))["data"]) < 4:
            assert time.monotonic() < end, found
    entries = headgate_json(tmp_path, "audit", "list", HEADGATE_CONFIG=str(policy))["data"]
    mine = [(each["actor"], each["action"], each["tenant"]) for each in reversed(entries) if each["action"] != "audit.read"]
    assert mine[0] == ("system", "ledger.seal", "")
    assert mine[1:4] == [("file", "policy.import", ""), ("file", "budget.change", "acme"), ("system", "tenant.create", "default")]
    assert sorted(mine[4:6]) == [("system", "key.create", ""), ("system", "key.create", "default")]
    assert mine[6:] == [("file", "policy.import", ""), ("file", "budget.change", "acme")]
    assert headgate_json(tmp_path, "audit", "verify", HEADGATE_CONFIG=str(policy))["ok"]
    with served(tmp_path, "--config", str(policy), models=False):  # an unchanged start says nothing
        assert len(headgate_json(tmp_path, "audit", "list", "--actor", "file", HEADGATE_CONFIG=str(policy))["data"]) == 4
