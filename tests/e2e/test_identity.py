"""Identity over HTTP: teams, users, what narrows a key, where it is good from, rotation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from policies.access import ROUTE_GROUPS
from retrieval.values import SearchRequest, SearchResult
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}}
default: mini
fallback: []
"""
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


class Searched:
    """Search that finds nothing and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[SearchRequest] = []

    async def search(self, request: SearchRequest) -> SearchResult:
        self.asked.append(request)
        return SearchResult()

    async def aclose(self) -> None: ...


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


async def made(service: Service, path: str, body: Any, key: str | None = None) -> Any:
    status, answer = await call(service, "POST", f"/admin/{path}", key or service.key, body)
    assert status == 200, answer
    return answer


async def new_key(service: Service, maker: str | None = None, **fields: Any) -> str:
    key: str = (await made(service, "keys", {"tenant": "acme", "role": "member", **fields}, maker))["key"]
    return key


async def refusal(service: Service, method: str, path: str, key: str, body: Any = None) -> tuple[int, str, str | None]:
    status, answer = await call(service, method, path, key, body)
    return status, answer["error"]["code"], answer["error"]["param"]


async def dies(service: Service, key: str) -> None:
    async with asyncio.timeout(20):
        while (await call(service, "GET", "/v1/models", key))[0] != 401:
            pass


async def test_an_admin_builds_a_team_with_users_and_keys_and_closes_it_again(service: Service) -> None:
    admin = await new_key(service, role="admin")
    team = await made(service, "teams", {"name": "Research"}, admin)
    assert (team["id"][:5], team["tenant"], team["archived_at"]) == ("team_", "acme", None)
    user = await made(service, "users", {"role": "member", "team": team["id"], "display_name": "Ada"}, admin)
    assert (user["id"][:5], user["team"], user["disabled_at"]) == ("user_", team["id"], None)
    theirs, teams_own = await new_key(service, admin, user=user["id"]), await new_key(service, admin, team=team["id"])
    for query in (f"?user={user['id']}", f"?team={team['id']}"):
        (line,) = (await call(service, "GET", f"/admin/keys{query}", admin))[1]["data"]
        assert line["role"] == "member"
    assert (await call(service, "POST", "/v1/chat/completions", theirs, CHAT))[0] == 200
    disabled = (await call(service, "PATCH", f"/admin/users/{user['id']}", admin, {"disabled": True}))[1]
    assert disabled["disabled_at"] is not None
    await dies(service, theirs)
    assert (await call(service, "GET", "/v1/models", teams_own))[0] == 200
    assert (await call(service, "PATCH", f"/admin/teams/{team['id']}", admin, {"archived": True}))[1]["archived_at"] is not None
    await dies(service, teams_own)
    assert await refusal(service, "POST", "/admin/teams", admin, {"name": "Research"}) == (409, "exists", "name")
    assert await refusal(service, "POST", "/admin/users", admin, {"role": "member", "team": team["id"]}) == (400, "invalid_request", "team")


async def test_the_platform_names_the_tenant_that_it_makes_something_in(service: Service) -> None:
    admin = service.admin_key
    assert await refusal(service, "POST", "/admin/teams", admin, {"name": "x"}) == (400, "invalid_request", "tenant")
    assert await refusal(service, "POST", "/admin/users", admin, {"role": "member"}) == (400, "invalid_request", "tenant")
    assert (await made(service, "teams", {"name": "x", "tenant": "globex"}, admin))["tenant"] == "globex"


async def test_an_admin_neither_makes_nor_changes_nor_unmakes_an_owner(service: Service) -> None:
    admin, owner = await new_key(service, role="admin"), service.key
    boss = await made(service, "users", {"role": "owner"}, owner)
    clerk = await made(service, "users", {"role": "member"}, owner)
    owners_key = await made(service, "keys", {"tenant": "acme", "role": "owner"}, owner)
    for method, path, body in (
        ("POST", "/admin/users", {"role": "owner"}),
        ("PATCH", f"/admin/users/{boss['id']}", {"disabled": True}),
        ("PATCH", f"/admin/users/{boss['id']}", {"role": "member"}),
        ("PATCH", f"/admin/users/{clerk['id']}", {"role": "owner"}),
        ("POST", f"/admin/keys/{owners_key['id']}/rotate", {}),
    ):
        assert await refusal(service, method, path, admin, body) == (403, "not_permitted", "role"), path
    assert (await call(service, "DELETE", f"/admin/keys/{owners_key['id']}", admin))[0] == 403
    assert (await call(service, "PATCH", f"/admin/users/{clerk['id']}", owner, {"role": "owner"}))[0] == 200


async def test_a_key_that_a_user_makes_is_theirs_unless_the_body_says_whose(service: Service) -> None:
    team = (await made(service, "teams", {"name": "a"}))["id"]
    ada, bob = [(await made(service, "users", {"role": "admin", "team": each}))["id"] for each in (team, None)]
    adas = await new_key(service, role="admin", user=ada)
    users = []
    for body in ({}, {"user": None}, {"user": bob}):
        key = await made(service, "keys", {"tenant": "acme", "role": "service", **body}, adas)
        users.append((await call(service, "GET", f"/admin/keys/{key['id']}", service.key))[1]["user"])
    assert users == [ada, None, bob]
    other = (await made(service, "teams", {"name": "b"}))["id"]
    assert await refusal(service, "POST", "/admin/keys", adas, {"tenant": "acme", "role": "service", "team": other}) == (400, "invalid_request", "team")
    assert (await call(service, "POST", "/admin/keys", adas, {"tenant": "acme", "role": "service", "team": other, "user": None}))[0] == 200
    assert await refusal(service, "POST", "/admin/keys", adas, {"tenant": "acme", "role": "owner", "user": None}) == (403, "not_permitted", "role")
    own = await new_key(service, adas)
    assert (await call(service, "GET", "/v1/models", own))[0] == 200
    assert (await call(service, "PATCH", f"/admin/users/{ada}", service.key, {"disabled": True}))[0] == 200
    await dies(service, own)


async def test_no_key_is_made_that_an_archived_team_of_its_user_would_kill(service: Service) -> None:
    team = (await made(service, "teams", {"name": "a"}))["id"]
    user = (await made(service, "users", {"role": "member", "team": team}))["id"]
    assert (await call(service, "PATCH", f"/admin/teams/{team}", service.key, {"archived": True}))[0] == 200
    body = {"tenant": "acme", "role": "member", "user": user}
    assert await refusal(service, "POST", "/admin/keys", service.key, body) == (400, "invalid_request", "team")


async def test_only_an_owner_or_the_platform_gives_a_user_a_subject_or_takes_it_away(service: Service) -> None:
    admin, owner = await new_key(service, role="admin"), service.key
    refused = (403, "not_permitted", "subject")
    assert await refusal(service, "POST", "/admin/users", admin, {"role": "member", "subject": "the-owners"}) == refused
    clerk = await made(service, "users", {"role": "member", "subject": "auth0|1"}, owner)
    nameless = await made(service, "users", {"role": "member"}, admin)
    for user, subject in ((clerk, None), (clerk, "the-owners"), (nameless, "the-owners")):
        assert await refusal(service, "PATCH", f"/admin/users/{user['id']}", admin, {"subject": subject}) == refused
    same = {"subject": "auth0|1", "display_name": "Ada"}
    assert (await call(service, "PATCH", f"/admin/users/{clerk['id']}", admin, same))[1]["display_name"] == "Ada"
    assert (await call(service, "PATCH", f"/admin/users/{clerk['id']}", owner, {"subject": "auth0|2"}))[1]["subject"] == "auth0|2"
    await made(service, "users", {"role": "member", "tenant": "acme", "subject": "auth0|1"}, service.admin_key)
    assert await refusal(service, "POST", "/admin/users", owner, {"role": "member", "subject": "auth0|1"}) == (409, "exists", "subject")


async def test_only_an_owner_archives_or_brings_back_a_team_that_an_owner_comes_in_by(service: Service) -> None:
    admin, owner = await new_key(service, role="admin"), service.key
    for kind in ("user", "key"):
        team = (await made(service, "teams", {"name": kind}, admin))["id"]
        if kind == "user":
            boss = await made(service, "users", {"role": "owner", "team": team}, owner)
        else:
            key = await made(service, "keys", {"tenant": "acme", "role": "owner", "team": team}, owner)
        path = f"/admin/teams/{team}"
        assert await refusal(service, "PATCH", path, admin, {"archived": True}) == (403, "not_permitted", "archived")
        assert (await call(service, "PATCH", path, admin, {"name": f"{kind} again"}))[0] == 200
        assert (await call(service, "PATCH", path, owner, {"archived": True}))[1]["archived_at"] is not None
        assert await refusal(service, "PATCH", path, admin, {"archived": False}) == (403, "not_permitted", "archived")
        if kind == "user":
            assert (await call(service, "PATCH", f"/admin/users/{boss['id']}", owner, {"disabled": True}))[0] == 200
        else:
            assert (await call(service, "DELETE", f"/admin/keys/{key['id']}", owner))[0] == 200
        for archived in (False, True):
            assert (await call(service, "PATCH", path, admin, {"archived": archived}))[0] == 200


async def test_a_limited_key_archives_a_team_and_does_not_bring_it_back(service: Service) -> None:
    limited = await new_key(service, role="owner", routes=["identity"])
    path = f"/admin/teams/{(await made(service, 'teams', {'name': 'x'}))['id']}"
    assert (await call(service, "PATCH", path, limited, {"archived": True}))[0] == 200
    assert await refusal(service, "PATCH", path, limited, {"archived": False}) == (403, "not_permitted", None)
    assert (await call(service, "GET", path, limited))[1]["archived_at"] is not None
    assert (await call(service, "PATCH", path, service.key, {"archived": False}))[0] == 200


LIMITS: dict[str, Any] = {
    "routes": ["identity", "chat"],
    "models": ["mini"],
    "networks": ["127.0.0.0/8"],
    "max_data_class": "confidential",
    "expires_at": time.time() + 3600,
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limited_key_makes_only_keys_limited_as_much_and_no_users(service: Service, limit: str) -> None:
    admin = await new_key(service, role="admin", **{limit: LIMITS[limit]})
    assert await refusal(service, "POST", "/admin/keys", admin, {"tenant": "acme", "role": "member"}) == (403, "not_permitted", limit)
    same = await made(service, "keys", {"tenant": "acme", "role": "member", limit: LIMITS[limit]}, admin)
    unlimited = await made(service, "keys", {"tenant": "acme", "role": "member"})
    assert (await refusal(service, "POST", f"/admin/keys/{unlimited['id']}/rotate", admin, {})) == (403, "not_permitted", limit)
    rotated = await call(service, "POST", f"/admin/keys/{same['id']}/rotate", admin, {"expires_at": time.time() + 1800})
    assert rotated[0] == 200
    user = await made(service, "users", {"role": "member"})
    assert (await call(service, "POST", "/admin/users", admin, {"role": "member"}))[0] == 403
    assert (await call(service, "PATCH", f"/admin/users/{user['id']}", admin, {"subject": "me"}))[0] == 403
    assert (await call(service, "PATCH", f"/admin/users/{user['id']}", admin, {"disabled": True}))[0] == 200
    assert (await call(service, "PATCH", f"/admin/users/{user['id']}", admin, {"disabled": False}))[0] == 403


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"routes": ["chats"]}, "routes[0]"),
        ({"routes": []}, "routes"),
        ({"networks": ["10.0.0.1/8"]}, "networks"),
        ({"max_data_class": "secret"}, "max_data_class"),
        ({"expires_at": 5.0}, "expires_at"),
        ({"stores": ["vs_nothing"]}, "stores"),
        ({"team": "team_nothing"}, "team"),
        ({"user": "user_nothing"}, "user"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": {}}, "scopes"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_its_field_and_not_made(service: Service, fields: dict[str, Any], param: str) -> None:
    count = len((await call(service, "GET", "/admin/keys", service.key))[1]["data"])
    status, _, named = await refusal(service, "POST", "/admin/keys", service.key, {"tenant": "acme", "role": "member", **fields})
    assert (status, named) == (404 if param in ("stores", "team", "user") else 400, param)
    assert len((await call(service, "GET", "/admin/keys", service.key))[1]["data"]) == count


ASKED: dict[str, tuple[str, str, Any]] = {
    "chat": ("POST", "/v1/chat/completions", CHAT),
    "embeddings": ("POST", "/v1/embeddings", {}),
    "moderations": ("POST", "/v1/moderations", {"input": "Hi"}),
    "documents": ("GET", "/v1/files", None),
    "usage": ("GET", "/admin/usage", None),
    "identity": ("GET", "/admin/keys", None),
    "audit": ("GET", "/admin/audit", None),
}


async def test_a_key_for_some_routes_is_refused_at_all_others_in_words_that_help(service: Service) -> None:
    for group in ASKED:
        key = await new_key(service, role="owner", routes=[group])
        for other, (method, path, body) in ASKED.items():
            status, answer = await call(service, method, path, key, body)
            assert (status == 403) == (other != group), (group, other)
            if status == 403:
                assert f"limited to other routes ({group})" in answer["error"]["message"]
    metrics = (await made(service, "keys", {"role": "operator", "routes": ["metrics"]}, service.admin_key))["key"]
    assert (await call(service, "GET", "/admin/policy", metrics))[0] == 403
    assert ASKED.keys() | {"metrics", "policy"} == ROUTE_GROUPS.keys()


async def test_a_key_is_refused_from_outside_its_networks_in_the_words_of_an_unknown_one(tmp_path: Path) -> None:
    async with serving(POLICY.replace("backends:", "settings: {trusted_proxies: [127.0.0.1]}\nbackends:"), tmp_path) as service:
        key = await new_key(service, networks=["10.0.0.0/8", "2001:db8::/32"])
        unknown = await call(service, "GET", "/v1/models", "hg-unknown")
        for forwarded, good in (("10.1.1.1", True), ("9.9.9.9, 10.1.1.1", True), ("10.1.1.1, 9.9.9.9", False), ("2001:db8::7", True), ("unknown", False)):
            answer = await call(service, "GET", "/v1/models", key, **{"x-forwarded-for": forwarded})
            assert (answer[0] == 200) is good, forwarded
            assert good or answer == unknown, forwarded
        assert await call(service, "GET", "/v1/models", key) == unknown


async def test_without_trusted_proxies_what_a_client_says_of_its_address_counts_for_nothing(service: Service) -> None:
    elsewhere, here = await new_key(service, networks=["10.0.0.0/8"]), await new_key(service, networks=["127.0.0.0/8"])
    for headers in ({}, {"x-forwarded-for": "10.1.1.1"}, {"forwarded": "for=10.1.1.1"}, {"x-real-ip": "10.1.1.1"}):
        assert (await call(service, "GET", "/v1/models", elsewhere, **headers))[0] == 401
        assert (await call(service, "GET", "/v1/models", here, **headers))[0] == 200


async def test_a_key_is_rotated_over_http_and_both_work_until_the_overlap_ends(service: Service) -> None:
    old = await made(service, "keys", {"tenant": "acme", "role": "service", "routes": ["chat"], "name": "ci"})
    new = await made(service, f"keys/{old['id']}/rotate", {"overlap_s": 3600})
    for key in (old["key"], new["key"]):
        assert (await call(service, "POST", "/v1/chat/completions", key, CHAT))[0] == 200
        assert (await call(service, "GET", "/v1/files", key))[0] == 403
    line = (await call(service, "GET", f"/admin/keys/{old['id']}", service.key))[1]
    assert line["replaced_by"] == new["id"]
    assert line["expires_at"] == pytest.approx(time.time() + 3600, abs=60)
    assert await refusal(service, "POST", f"/admin/keys/{old['id']}/rotate", service.key, {}) == (400, "invalid_request", "key")
    last = await made(service, f"keys/{new['id']}/rotate", {})
    await dies(service, new["key"])
    assert (await call(service, "GET", "/v1/models", last["key"]))[0] == 200
    assert (await refusal(service, "POST", f"/admin/keys/{last['id']}/rotate", service.key, {"overlap_s": -1}))[2] == "overlap_s"


async def test_a_key_touches_no_request_that_is_more_sensitive_than_it_may(service: Service) -> None:
    key = await new_key(service, max_data_class="internal")
    for hinted, status in (("public", 200), ("internal", 200), ("confidential", 403), ("restricted", 403)):
        assert (await call(service, "POST", "/v1/chat/completions", key, {**CHAT, "headgate": {"data_class": hinted}}))[0] == status, hinted
    lowest = await new_key(service, max_data_class="public")
    assert (await call(service, "POST", "/v1/chat/completions", lowest, CHAT))[0] == 403
    for data_class, status in (("internal", 200), ("confidential", 403)):
        store = {"name": "x", "headgate": {"data_class": data_class}}
        assert (await call(service, "POST", "/v1/vector_stores", key, store))[0] == status, data_class


async def test_an_idempotency_key_leads_to_no_answer_that_another_reach_was_given(service: Service) -> None:
    narrow, same = await new_key(service, models=["mini"], max_data_class="internal"), await new_key(service, max_data_class="internal", models=["mini"])
    other = await new_key(service)

    async def ask(key: str) -> str:
        answer: str = (await call(service, "POST", "/v1/chat/completions", key, CHAT, **{"idempotency-key": "one"}))[1]["id"]
        return answer

    first = await ask(service.key)
    assert await ask(other) == first
    narrowed = await ask(narrow)
    assert narrowed != first
    assert await ask(same) == narrowed


@asynccontextmanager
async def grounded(home: Path) -> AsyncIterator[tuple[Service, Searched, list[str]]]:
    """A service whose policy grounds everything on two stores."""
    compute = Searched()
    async with serving(POLICY, home, compute=compute) as service:  # type: ignore[arg-type]
        stores = [(await call(service, "POST", "/v1/vector_stores", service.key, {"name": name}))[1]["id"] for name in ("one", "two")]
        async with aiohttp.ClientSession(headers=service.bearer(service.admin_key)) as session:
            text = f"{POLICY}tenants:\n  acme: {{grounding: {{stores: [{', '.join(stores)}]}}}}\n"
            async with session.put(f"{service.url}/admin/policy", data=text, headers={"if-match": "*"}) as answer:
                assert answer.status == 200, await answer.text()
        yield service, compute, stores


async def test_the_policys_stores_are_searched_as_far_as_the_key_may(tmp_path: Path) -> None:
    async with grounded(tmp_path) as (service, compute, stores):
        third = (await call(service, "POST", "/v1/vector_stores", service.key, {"name": "three"}))[1]["id"]
        for own, searched in ((None, tuple(stores)), ([stores[1]], (stores[1],)), ([third], None)):
            key = await new_key(service, stores=own, max_data_class="internal")
            compute.asked.clear()
            assert (await call(service, "POST", "/v1/chat/completions", key, CHAT))[0] == 200
            assert [(asked.stores, asked.max_data_class) for asked in compute.asked] == ([] if searched is None else [(searched, "internal")])


async def test_a_key_limited_to_stores_uploads_into_its_own_and_deletes_only_what_is_nowhere_else(tmp_path: Path) -> None:
    async with grounded(tmp_path) as (service, _, stores):
        key = await new_key(service, stores=[stores[0]])
        form = aiohttp.FormData()
        form.add_field("purpose", "assistants")
        form.add_field("file", b"words", filename="a.txt")
        async with (
            aiohttp.ClientSession(headers=service.bearer(key)) as session,
            session.post(f"{service.url}/v1/files", data=form) as answer,
        ):
            file = (await answer.json())["id"]
        stranger = await new_key(service, stores=[stores[1]])
        assert (await call(service, "GET", f"/v1/files/{file}", key))[0] == 200
        assert (await call(service, "GET", f"/v1/files/{file}", stranger))[0] == 404
        assert (await call(service, "POST", f"/v1/vector_stores/{stores[0]}/files", key, {"file_id": file}))[0] == 200
        assert (await call(service, "POST", f"/v1/vector_stores/{stores[1]}/files", service.key, {"file_id": file}))[0] == 200
        assert (await call(service, "GET", f"/v1/files/{file}", stranger))[0] == 200
        assert await refusal(service, "DELETE", f"/v1/files/{file}", key) == (403, "not_permitted", None)
        assert (await call(service, "DELETE", f"/v1/vector_stores/{stores[1]}/files/{file}", stranger))[0] == 200
        assert (await call(service, "DELETE", f"/v1/files/{file}", key))[0] == 200
        assert (await call(service, "POST", "/v1/vector_stores", key, {"name": "mine"}))[0] == 403
