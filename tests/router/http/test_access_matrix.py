"""Every endpoint × every role × own, foreign and missing objects, on a running service: all as the tables in `policies` say.

A route without a row in the matrix, and a row without a case here, fail.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from litestar import Litestar, get
from sqlalchemy import Connection, insert, select

from adapters.types import Message, TextPart
from policies.access import PLATFORM_ROLES, TENANT_ROLES, Principal, Scopes, allowed
from policies.access_matrix import ACCESS, OPEN, Endpoint
from retrieval import tables as documents_tables
from retrieval.values import NotFound, SearchRequest, SearchResult
from router.app import create_app
from router.audit.recording import Said
from router.audit.tables import decisions, prompts
from router.gateway import Gateway
from router.http.access import RouteWithoutRow, endpoints, require_rows
from router.identity import keys, teams, users
from router.identity.tenants import PLATFORM
from router.kept.conversations import Item
from router.kept.keeping import packed
from router.kept.turns import Turn
from tests.serving import SECRET, Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello."}
default: mini
fallback: []
"""
OWN, FOREIGN = "acme", "globex"
CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}

Ids = dict[str, str]
"""Of every kind of object, by kind; `tenant` too."""

MISSING: Ids = {
    "tenant": "nobody",
    "team": "team_" + "0" * 24,
    "user": "user_" + "0" * 24,
    "key": "key_" + "0" * 24,
    "file": "file-" + "0" * 24,
    "store": "vs_" + "0" * 24,
    "response": "resp_" + "0" * 32,
    "conversation": "conv_" + "0" * 32,
    "item": "msg_nobody",
    "request": "0" * 32,
}


@dataclass(frozen=True)
class Sent:
    query: str = ""
    json: Any = None
    data: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A request to an endpoint. `targets` are the kinds of objects that it names; each is tried as own, foreign and missing.

    `done` is the status where it may; `refused` where an object is not the caller's. The platform's keys reach every tenant's objects, where the
    target stands `alone` and need not be of the tenant of another object; of what is missing they find `platform_finds_nothing`.
    """

    targets: tuple[str, ...] = ()
    send: Callable[[Ids], Sent] = lambda ids: Sent()
    done: int = 200
    refused: int = 404
    platform_finds_nothing: int = 404
    alone: bool = True


def body(*targets: str, done: int = 200, refused: int = 404, alone: bool = True, **fields: Any) -> Case:
    """A JSON body; a value `<kind>` is that object's id."""

    def filled(value: Any, ids: Ids) -> Any:
        match value:
            case str() if value.startswith("<"):
                return ids[value[1:-1]]
            case list():
                return [filled(each, ids) for each in value]
            case dict():
                return {name: filled(each, ids) for name, each in value.items()}
        return value

    return Case(targets, lambda ids: Sent(json=filled(fields, ids)), done, refused, alone=alone)


def search_tool(*stores: str) -> list[dict[str, Any]]:
    return [{"type": "file_search", "vector_store_ids": list(stores)}]


def upload(ids: Ids) -> Sent:
    form = aiohttp.FormData()
    form.add_field("purpose", "assistants")
    form.add_field("file", b"words", filename="a.txt")
    return Sent(data=form)


PLAIN = (Case(),)
LISTED = (Case(), Case(("tenant",), lambda ids: Sent(query=f"?tenant={ids['tenant']}"), platform_finds_nothing=200))
"""A list, of one tenant where the query says so: the platform may look for any, and finds none of nobody's."""

CASES: dict[Endpoint, tuple[Case, ...]] = {
    ("GET", "/"): PLAIN,
    ("GET", "/docs"): PLAIN,
    ("GET", "/schema"): PLAIN,
    ("GET", "/schema/openapi.json"): PLAIN,
    ("GET", "/schema/{path}"): (Case(done=404),),
    ("GET", "/health"): PLAIN,
    ("GET", "/health/live"): PLAIN,
    ("GET", "/health/ready"): PLAIN,
    ("GET", "/metrics"): PLAIN,
    ("POST", "/v1/chat/completions"): (body(**CHAT), body("store", **CHAT, tools=search_tool("<store>"))),
    ("POST", "/v1/messages"): (body(**CHAT, max_tokens=10),),
    ("POST", "/v1/messages/count_tokens"): (body(**CHAT),),
    ("POST", "/v1/responses"): (
        body(model="auto", input="Hi"),
        body("store", model="auto", input="Hi", tools=search_tool("<store>")),
        body("response", model="auto", input="Hi", previous_response_id="<response>"),
        body("conversation", model="auto", input="Hi", conversation="<conversation>"),
    ),
    ("GET", "/v1/responses"): PLAIN,
    ("GET", "/v1/responses/{response_id}"): (Case(("response",)),),
    ("DELETE", "/v1/responses/{response_id}"): (Case(("response",)),),
    ("GET", "/v1/responses/{response_id}/input_items"): (Case(("response",)),),
    ("POST", "/v1/conversations"): (body(),),
    ("GET", "/v1/conversations"): PLAIN,
    ("GET", "/v1/conversations/{conversation_id}"): (Case(("conversation",)),),
    ("POST", "/v1/conversations/{conversation_id}"): (body("conversation", metadata={"changed": "yes"}),),
    ("DELETE", "/v1/conversations/{conversation_id}"): (Case(("conversation",)),),
    ("POST", "/v1/conversations/{conversation_id}/items"): (body("conversation", items=[{"type": "message", "role": "user", "content": "Hi"}]),),
    ("GET", "/v1/conversations/{conversation_id}/items"): (Case(("conversation",)),),
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id}"): (Case(("conversation", "item")),),
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}"): (Case(("conversation", "item")),),
    ("POST", "/v1/route/explain"): (body(**CHAT),),
    ("POST", "/v1/feedback"): (body("request", request_id="<request>", score=0.5),),
    ("POST", "/v1/embeddings"): (body(done=400),),  # no embedder runs here: who may gets as far as the decoder
    ("POST", "/v1/moderations"): (body(input="Hi"),),
    ("GET", "/v1/models"): PLAIN,
    ("GET", "/v1/models/{name}"): PLAIN,
    ("POST", "/v1/files"): (Case(send=upload),),
    ("GET", "/v1/files"): PLAIN,
    ("GET", "/v1/files/{file_id}"): (Case(("file",)),),
    ("GET", "/v1/files/{file_id}/content"): (Case(("file",)),),
    ("GET", "/v1/files/{file_id}/text"): (Case(("file",)),),
    ("DELETE", "/v1/files/{file_id}"): (Case(("file",)),),
    ("POST", "/v1/vector_stores"): (body(name="new"), body("file", name="new", file_ids=["<file>"])),
    ("GET", "/v1/vector_stores"): PLAIN,
    ("GET", "/v1/vector_stores/{store_id}"): (Case(("store",)),),
    ("POST", "/v1/vector_stores/{store_id}"): (body("store", name="changed"),),
    ("DELETE", "/v1/vector_stores/{store_id}"): (Case(("store",)),),
    ("POST", "/v1/vector_stores/{store_id}/files"): (body("store", "file", file_id="<file>"),),
    ("GET", "/v1/vector_stores/{store_id}/files"): (Case(("store",)),),
    ("GET", "/v1/vector_stores/{store_id}/files/{file_id}"): (Case(("store", "file")),),
    ("DELETE", "/v1/vector_stores/{store_id}/files/{file_id}"): (Case(("store", "file")),),
    ("POST", "/v1/vector_stores/{store_id}/search"): (body("store", query="words"),),
    ("GET", "/admin/policy"): PLAIN,
    ("PUT", "/admin/policy"): (Case(send=lambda ids: Sent(data=POLICY, headers={"if-match": "*"})),),
    ("POST", "/admin/policy/validate"): (Case(send=lambda ids: Sent(data=POLICY)),),
    ("POST", "/admin/policy/test"): (Case(send=lambda ids: Sent(data=POLICY)),),
    ("POST", "/admin/policy/diff"): (Case(send=lambda ids: Sent(data=POLICY)),),
    ("GET", "/admin/policy/status"): PLAIN,
    ("GET", "/admin/policy/versions"): PLAIN,
    ("POST", "/admin/policy/backtest"): (Case(send=lambda ids: Sent(data=POLICY)),),
    ("GET", "/admin/policy/versions/{version}"): PLAIN,
    ("POST", "/admin/policy/rollback"): (body(version=1),),
    ("GET", "/admin/tenants"): PLAIN,
    ("POST", "/admin/tenants"): (body(name="<fresh>"),),
    ("GET", "/admin/teams"): LISTED,
    ("POST", "/admin/teams"): (body("tenant", name="<fresh>", tenant="<tenant>"),),
    ("GET", "/admin/teams/{team_id}"): (Case(("team",)),),
    ("PATCH", "/admin/teams/{team_id}"): (body("team", archived=True),),
    ("GET", "/admin/users"): LISTED,
    ("POST", "/admin/users"): (
        body("tenant", role="member", tenant="<tenant>"),
        body("team", alone=False, role="member", tenant="<owner>", team="<team>"),
    ),
    ("GET", "/admin/users/{user_id}"): (Case(("user",)),),
    ("PATCH", "/admin/users/{user_id}"): (body("user", disabled=True), body("team", alone=False, team="<team>")),
    ("POST", "/admin/users/{user_id}/erase"): (Case(("user",)),),
    ("GET", "/admin/keys"): LISTED,
    ("POST", "/admin/keys"): (
        body("tenant", role="member", tenant="<tenant>", refused=403),
        body("team", alone=False, role="member", tenant="<owner>", team="<team>"),
        body("user", alone=False, role="member", tenant="<owner>", user="<user>"),
        body("store", alone=False, role="member", tenant="<owner>", stores=["<store>"]),
    ),
    ("GET", "/admin/keys/{key_id}"): (Case(("key",)),),
    ("DELETE", "/admin/keys/{key_id}"): (Case(("key",)),),
    ("POST", "/admin/keys/{key_id}/rotate"): (body("key", overlap_s=60),),
    ("GET", "/admin/usage"): LISTED,
    ("GET", "/admin/alerts"): LISTED,
    ("GET", "/admin/ledger"): LISTED,
    ("GET", "/admin/audit"): LISTED,
    ("GET", "/admin/audit/verify"): PLAIN,
    ("GET", "/admin/decisions/{request_id}"): (Case(("request",)),),
    ("GET", "/admin/prompts/{request_id}"): (Case(("request",)),),
    ("DELETE", "/admin/prompts/{request_id}"): (Case(("request",)),),
    ("GET", "/admin/statements/{tenant}/{month}"): (Case(("tenant",)),),
    ("POST", "/admin/ledger/reconcile"): (  # nothing was booked of any provider: who may gets as far as that
        Case(send=lambda ids: Sent(query="?provider=openai", data="provider_request_id,input_tokens,output_tokens\nx,1,1\n"), done=404),
    ),
    ("GET", "/admin/backends"): PLAIN,
}
"""How each endpoint is asked."""

CALLERS: dict[str, Principal | None] = {
    **{f"tenant {role}": Principal(role=role, tenant=OWN) for role in TENANT_ROLES},
    **{f"platform {role}": Principal(role=role, platform=True) for role in PLATFORM_ROLES},
    "no key": None,
}


class NoCompute:
    """Search that finds nothing."""

    async def search(self, request: SearchRequest) -> SearchResult:
        return SearchResult()

    async def aclose(self) -> None: ...


@dataclass
class World:
    """A service, a key for every caller, and objects."""

    service: Service
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    made: int = 0

    async def key(self, **fields: Any) -> str:
        made = await self.service.database.write(lambda connection: keys.create_key(connection, SECRET, **fields))
        return made.key

    async def objects(self, tenant: str) -> Ids:
        """One fresh object of every kind; the documents and what is kept are confidential."""
        gateway = self.service.gateway
        self.made += 1
        fresh = f"n{self.made}"

        def identities(connection: Any) -> Ids:
            team, user = teams.create_team(connection, tenant, fresh), users.create_user(connection, tenant, role="member", subject=fresh)
            key = keys.create_key(connection, SECRET, tenant=tenant, role="member")
            return {"tenant": tenant, "team": team.id, "user": user.id, "key": key.id}

        ids = await self.service.database.write(identities)
        store = await gateway.documents.create_store(tenant, name=fresh, data_class="confidential")
        file = await gateway.documents.add_file(tenant, filename="a.txt", data=b"words")
        await gateway.documents.attach(tenant, store.id, file.id)
        text = {"file": file.id, "tenant": tenant, "media_type": "text/plain", "text": "words", "sha256": "0" * 64, "pages": [], "headings": []}
        await self.service.database.write(lambda connection: connection.execute(insert(documents_tables.documents), text))
        item = {"id": f"msg_{fresh}", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        conversation = await gateway.conversations.create(tenant, {}, [Item(item)], "confidential")
        response = f"resp_{fresh:0>32}"
        said = Message("user", (TextPart("Hi"),)), Message("assistant", (TextPart("Hello."),))
        turn = Turn((said[0],), (said[1],), (item,), {"id": response, "object": "response", "output": []})
        await gateway.turns.keep(tenant, response, turn, previous=None, conversation=None, data_class="confidential")
        request = f"{self.made:0>32}"
        await self.service.database.write(lambda connection: self.requested(connection, tenant, request))
        kept = {"conversation": conversation.id, "item": item["id"], "response": response, "request": request}
        return {**ids, **kept, "store": store.id, "file": file.id, "fresh": f"{fresh}x"}

    def requested(self, connection: Connection, tenant: str, request: str) -> None:
        """What is recorded of a request, and its prompt."""
        about = {"request_id": request, "tenant": tenant, "data_class": "confidential", "created_at": 0.0, "expires_at": 9e9}
        said = packed(self.service.gateway.sealer.of(tenant), [Said("user", "Hi")], f"prompt/{request}")
        connection.execute(insert(prompts), {**about, "content": said})
        texts = {"key_id": "k", "dialect": "openai.chat", "outcome": "ok", "backend": "mini", "input_hash": "", "citations": "[]", "moderation": "{}"}
        connection.execute(insert(decisions), {**about, **texts, "policy_version": 1})

    async def ask(self, endpoint: Endpoint, case: Case, ids: Ids, key: str | None) -> tuple[int, str]:
        """Status and body, ids and what differs in every answer left out."""
        method, template = endpoint
        path = template.format(
            path="nothing",
            name="mini",
            response_id=ids["response"],
            conversation_id=ids["conversation"],
            item_id=ids["item"],
            file_id=ids["file"],
            store_id=ids["store"],
            team_id=ids["team"],
            user_id=ids["user"],
            key_id=ids["key"],
            request_id=ids["request"],
            tenant=ids["tenant"],
            month="2026-11",
            version=1,
        )
        sent = case.send(ids)
        headers = {**sent.headers, **({} if key is None else {"authorization": f"Bearer {key}"})}
        async with self.session.request(method, self.service.url + path + sent.query, json=sent.json, data=sent.data, headers=headers) as answer:
            text = re.sub(r'"request_id":"\w+"', "", (await answer.read()).decode("utf-8", "replace"))
        for kind, id in ids.items():
            text = text.replace(id, f"<{kind}>")
        return answer.status, text

    async def look(self, tenant: str, ids: Ids) -> list[Any]:
        """The objects as their own tenant sees them."""
        gateway = self.service.gateway
        found: list[Any] = []
        for reading in (
            gateway.documents.get_store(tenant, ids["store"]),
            gateway.documents.get_store_file(tenant, ids["store"], ids["file"]),
            gateway.turns.get(tenant, ids["response"]),
            gateway.conversations.items(tenant, ids["conversation"]),
            gateway.conversations.get(tenant, ids["conversation"]),
        ):
            try:
                found.append(await reading)
            except NotFound:
                found.append(None)

        def others(connection: Any) -> list[Any]:
            stored = [connection.execute(select(table).where(table.c.request_id == ids["request"])).all() for table in (prompts, decisions)]
            return [teams.get_team(connection, ids["team"]), users.get_user(connection, ids["user"]), keys.get_key(connection, ids["key"]), *stored]

        return found + await self.service.database.read(others)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(POLICY, tmp_path_factory.mktemp("matrix"), compute=NoCompute()) as service, aiohttp.ClientSession() as session:  # type: ignore[arg-type]
        world = World(service, session)
        for name, principal in CALLERS.items():
            if principal is not None:
                world.keys[name] = await world.key(tenant=principal.tenant or PLATFORM, role=principal.role)
        yield world


def with_target(ids: Ids, other: Ids, target: str) -> Ids:
    """The ids with the target from elsewhere. What lies inside it stays; the body's tenant too, unless it is the target."""
    return {**ids, target: other[target]}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("endpoint", list(CASES), ids=" ".join)
async def test_an_endpoint_answers_every_role_as_the_tables_say(world: World, endpoint: Endpoint) -> None:
    action = ACCESS[endpoint]
    for case in CASES[endpoint]:
        for name, principal in CALLERS.items():
            for target in case.targets or ("",):
                mine, theirs = {**await world.objects(OWN), "owner": OWN}, {**await world.objects(FOREIGN), "owner": FOREIGN}
                missing = {**MISSING, "owner": OWN, "fresh": "gone"}
                own, foreign, none = mine, with_target(mine, theirs, target) if target else mine, with_target(mine, missing, target) if target else mine
                about = f"{name}, {target or 'nothing named'}"
                key = world.keys.get(name)
                if action != OPEN and (principal is None or not allowed(principal, action)):
                    expected = 401 if principal is None else 403
                    answers = [await world.ask(endpoint, case, ids, key) for ids in (own, foreign, none)]
                    assert {status for status, _ in answers} == {expected}, about
                    assert len(set(answers)) == 1, about
                    assert ('"not_permitted"' in answers[0][1]) == (expected == 403), about
                    continue
                if target:
                    before = await world.look(FOREIGN, theirs)
                    absent = await world.ask(endpoint, case, none, key)
                    there = await world.ask(endpoint, case, foreign, key)
                    if principal is not None and principal.platform:
                        assert absent[0] == case.platform_finds_nothing, about
                        assert there[0] == (case.done if case.alone else case.refused), about
                    else:
                        assert there == absent, about
                        assert there[0] == case.refused, about
                        assert await world.look(FOREIGN, theirs) == before, about
                assert (await world.ask(endpoint, case, own, key))[0] == case.done, about


LIMITED: dict[str, tuple[str, ...]] = {"stores": ("store", "file"), "max_data_class": ("store", "file", "conversation", "item", "response", "request")}
REACHED = [each for each, cases in CASES.items() if each[1].startswith(("/v1", "/admin/prompts")) and any(case.targets for case in cases)]
"""Which objects are out of reach of a key that is limited so."""


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("endpoint", REACHED, ids=" ".join)
@pytest.mark.parametrize("limit", LIMITED)
async def test_what_is_out_of_a_keys_reach_is_answered_like_what_is_missing(world: World, endpoint: Endpoint, limit: str) -> None:
    for case in CASES[endpoint]:
        for target in case.targets:
            if target not in LIMITED[limit]:
                continue
            ids, other = await world.objects(OWN), await world.objects(OWN)
            scopes = Scopes(stores=(other["store"],)) if limit == "stores" else Scopes(max_data_class="internal")
            key = await world.key(tenant=OWN, role="owner", scopes=scopes)
            before = await world.look(OWN, ids)
            out = await world.ask(endpoint, case, ids, key)
            assert await world.look(OWN, ids) == before
            assert out == await world.ask(endpoint, case, with_target(ids, MISSING, target), key), target
            assert out[0] == (403 if limit == "stores" and endpoint == ("POST", "/v1/vector_stores") else 404), target
            if limit == "stores":
                reached = replace(case, done=403) if endpoint == ("POST", "/v1/vector_stores") else case
                assert (await world.ask(endpoint, case, other, key))[0] == reached.done, target


@pytest.mark.asyncio(loop_scope="module")
async def test_lists_leave_out_what_is_out_of_a_keys_reach(world: World) -> None:
    ids, other = await world.objects(OWN), await world.objects(OWN)
    by_store = await world.key(tenant=OWN, role="owner", scopes=Scopes(stores=(ids["store"],)))
    by_class = await world.key(tenant=OWN, role="owner", scopes=Scopes(max_data_class="internal"))
    for kind, path in (("store", "/v1/vector_stores"), ("file", "/v1/files")):
        for key, seen in ((by_store, True), (by_class, False)):
            _, text = await world.ask(("GET", path), Case(), {**MISSING, kind: ids[kind]}, key)
            assert (f"<{kind}>" in text, other[kind] in text) == (seen, False), path
    for kind, path in (("response", "/v1/responses"), ("conversation", "/v1/conversations")):
        for key, seen in ((by_store, True), (by_class, False)):
            assert (f"<{kind}>" in (await world.ask(("GET", path), Case(), {**MISSING, kind: ids[kind]}, key))[1]) is seen, path


def build() -> Litestar:
    async def never() -> Gateway:
        raise AssertionError("the application is not started here")

    return create_app(never, max_body_bytes=1)


def test_every_endpoint_has_a_row_and_a_case_and_nothing_else_has() -> None:
    assert endpoints(build()) == ACCESS.keys() == CASES.keys()


def test_an_application_with_a_route_that_has_no_row_does_not_start() -> None:
    @get("/v1/forgotten")
    async def forgotten() -> str:
        return ""

    app = build()
    app.register(forgotten)
    with pytest.raises(RouteWithoutRow, match=re.escape("no row in policies/access_matrix.py: GET /v1/forgotten")):
        require_rows(app)


@pytest.mark.asyncio(loop_scope="module")
async def test_even_the_methods_of_a_path_are_told_only_to_a_key(world: World) -> None:
    ids = await world.objects(OWN)
    assert (await world.ask(("OPTIONS", "/admin/keys"), Case(), ids, None))[0] == 401
    assert (await world.ask(("OPTIONS", "/admin/keys"), Case(), ids, world.keys["tenant service"]))[0] == 204
