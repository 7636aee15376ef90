"""An issuer's tokens at the running service: who gets in, as whom, on which routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.issuer import FakeIssuer, issuing, rsa_key
from tests.serving import Service, serving

KEY = rsa_key()
POLICY = """version: 1
settings: {{auth_failures_per_minute: 0}}
backends:
  echo: {{kind: scripted}}
default: echo
fallback: []
identity:
  issuers:
    corp:
      issuer: {url}
      audience: headgate
      tenant: {{claim: org, map: {{"1": acme, "2": globex, "3": nowhere}}}}
      role: {{claim: groups, map: {{admins: admin, users: member, auditors: auditor}}}}
      platform_role: {{claim: [realm_access, roles], map: {{llm-operator: operator}}}}
      team: {{claim: dept, map: {{d1: research}}}}
"""


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with issuing(one=KEY) as issuer:
        yield issuer


@pytest.fixture
async def service(issuer: FakeIssuer, tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY.format(url=issuer.url), tmp_path) as service:
        yield service


async def ask(service: Service, path: str, token: str, *, body: Any = None, header: str = "authorization") -> tuple[int, Any]:
    value = f"Bearer {token}" if header == "authorization" else token
    async with (
        aiohttp.ClientSession() as session,
        session.request("GET" if body is None else "POST", service.url + path, json=body, headers={header: value}) as answer,
    ):
        text = await answer.text()
        return answer.status, await answer.json() if "json" in answer.headers.get("content-type", "") else text


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **more}


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_token_chats_streamed_and_whole_and_its_cost_is_booked_on_its_tenant(service: Service, issuer: FakeIssuer, header: str) -> None:
    token = issuer.token(org="1", dept="d1")
    status, answer = await ask(service, "/v1/chat/completions", token, body=chat(), header=header)
    assert (status, answer["object"]) == (200, "chat.completion")
    status, text = await ask(service, "/v1/chat/completions", token, body=chat(stream=True), header=header)
    assert status == 200
    assert text.rstrip().endswith("data: [DONE]")
    _, ledger = await ask(service, "/admin/ledger", issuer.token(org="1", groups=["admins"]))
    assert {row["tenant"] for row in ledger["data"]} == {"acme"}
    assert {row["key_id"][:5] for row in ledger["data"]} == {"oidc:"}
    assert len({row["key_id"] for row in ledger["data"]}) == 1


async def test_a_role_is_what_the_claims_map_to_and_nothing_more(service: Service, issuer: FakeIssuer) -> None:
    assert (await ask(service, "/admin/keys", issuer.token(org="1", groups=["users"])))[0] == 403
    assert (await ask(service, "/admin/keys", issuer.token(org="1", groups=["other", "admins"])))[0] == 200
    assert (await ask(service, "/v1/chat/completions", issuer.token(org="1", groups=["auditors"]), body=chat()))[0] == 403
    assert (await ask(service, "/metrics", issuer.token(realm_access={"roles": ["llm-operator"]}, groups=None)))[0] == 200
    assert (await ask(service, "/metrics", issuer.token(org="1", groups=["operator", "llm-operator"])))[0] == 403


@pytest.mark.parametrize(
    "claims", [{"org": "1", "groups": []}, {"groups": ["users"]}, {"org": "9"}, {"org": ["1", "2"]}, {"org": "3"}, {"org": "1", "groups": {"users": 1}}]
)
async def test_a_genuine_token_without_a_role_or_a_tenant_here_is_403(service: Service, issuer: FakeIssuer, claims: dict[str, Any]) -> None:
    status, answer = await ask(service, "/v1/models", issuer.token(**claims))
    assert (status, answer["error"]["code"]) == (403, "no_access")


async def test_a_change_of_the_policy_takes_an_issuer_away_at_once(service: Service, issuer: FakeIssuer) -> None:
    token = issuer.token(org="1")
    assert (await ask(service, "/v1/models", token))[0] == 200
    policy = POLICY.format(url=issuer.url).partition("identity:")[0]
    headers = {**service.bearer(service.admin_key), "if-match": "*"}
    async with aiohttp.ClientSession() as session, session.put(service.url + "/admin/policy", data=policy, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    assert (await ask(service, "/v1/models", token))[0] == 401
    assert (await ask(service, "/v1/models", service.key))[0] == 200


async def test_an_issuer_that_never_answered_is_503_for_its_tokens_only(service: Service, issuer: FakeIssuer) -> None:
    issuer.status = 500
    status, answer = await ask(service, "/v1/models", issuer.token(org="1"))
    assert (status, answer["error"]["code"]) == (503, "issuer_unavailable")
    assert (await ask(service, "/v1/models", service.key))[0] == 200


async def test_a_key_made_with_a_token_is_its_users_where_they_are_on_record_and_nobodys_else(service: Service, issuer: FakeIssuer) -> None:
    async with aiohttp.ClientSession(service.url, headers=service.bearer()) as session:
        async with session.post("/admin/users", json={"role": "admin", "subject": "ada"}) as answer:
            ada = (await answer.json())["id"]
        for subject, user in (("ada", ada), ("eve", None)):
            token = issuer.token(org="1", groups=["admins"], sub=subject)
            status, key = await ask(service, "/admin/keys", token, body={"tenant": "acme", "role": "member"})
            assert status == 200, key
            async with session.get(f"/admin/keys/{key['id']}") as answer:
                assert (await answer.json())["user"] == user
