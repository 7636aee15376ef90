"""What is refused: the right status, code and field each time, and nothing is billed or reserved."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sqlalchemy import func, select

from router.tables import budgets, ledger, reservations
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  mini: {kind: scripted, text: "Hello.", price: {input: 1.0, output: 4.0}, context_window: 4000, capabilities: {vision: false}}
  big: {kind: scripted, text: "Hello.", price: {input: 1000000, output: 1000000}}
  secret: {kind: scripted, text: "Hello.", clearance: public}
default: mini
fallback: []
input: {max_characters: 20000, max_messages: 20, deny_list: [xyzzy]}
tenants:
  globex: {budget_usd: {month: 0.0}}
"""
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY, tmp_path) as service:
        yield service


async def post(service: Service, body: Any, *, headers: dict[str, str] | None = None, path: str = "/v1/chat/completions") -> tuple[int, dict[str, Any], Any]:
    async with aiohttp.ClientSession() as session:
        raw = body if isinstance(body, bytes | io.BytesIO) else None
        async with session.post(
            service.url + path, data=raw, json=None if raw is not None else body, headers=service.bearer() if headers is None else headers
        ) as answer:
            return answer.status, await answer.json(content_type=None), answer.headers


async def nothing_was_billed(service: Service) -> bool:
    def work(connection: Any) -> bool:
        rows = (
            connection.execute(select(func.count()).select_from(ledger)).scalar_one()
            + connection.execute(select(func.count()).select_from(reservations)).scalar_one()
        )
        used = connection.execute(select(func.coalesce(func.sum(budgets.c.spent + budgets.c.reserved), 0))).scalar_one()
        return (rows, used) == (0, 0)

    return await service.database.read(work)


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": HELLO, **changes}


CASES: dict[str, tuple[Any, int, str, str | None]] = {
    "malformed JSON": (b'{"model": "auto", "messages": [', 400, "invalid_json", None),
    "not an object": (b"[1, 2]", 400, "invalid_json", None),
    "bytes that are no text": (b"\xff\xfe\x00", 400, "invalid_json", None),
    "an empty body": (b"", 400, "invalid_json", None),
    "nested too deeply": (b'{"model": "auto", "messages": [], "z": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "invalid_json", None),
    "no messages": ({"model": "auto"}, 400, "invalid_request", "messages"),
    "empty messages": (chat(messages=[]), 400, "invalid_request", "messages"),
    "no model": ({"messages": HELLO}, 400, "invalid_request", "model"),
    "an unknown model": (chat(model="gpt-99"), 404, "model_not_found", "model"),
    "a role that is none": (chat(messages=[{"role": "wizard", "content": "Hi"}]), 400, "invalid_request", "messages[0].role"),
    "content of a wrong type": (chat(messages=[{"role": "user", "content": 7}]), 400, "invalid_request", "messages[0].content"),
    "content that is missing": (chat(messages=[{"role": "user"}]), 400, "invalid_request", "messages[0].content"),
    "a tool answer without its call": (chat(messages=[*HELLO, {"role": "tool", "content": "4"}]), 400, "invalid_request", "messages[1].tool_call_id"),
    "max_tokens of a wrong type": (chat(max_tokens="many"), 400, "invalid_request", "max_tokens"),
    "max_tokens of zero": (chat(max_tokens=0), 400, "invalid_request", "max_tokens"),
    "a temperature out of range": (chat(temperature=3), 400, "invalid_request", "temperature"),
    "a stream flag of a wrong type": (chat(stream="yes"), 400, "invalid_request", "stream"),
    "a tool without a name": (chat(tools=[{"type": "function", "function": {}}]), 400, "invalid_request", "tools[0].function.name"),
    "a tool of an unknown type": (chat(tools=[{"type": "teleport"}]), 400, "unsupported_feature", "tools"),
    "a hint that is none": (chat(headgate={"max_cost": 1}), 400, "invalid_request", "headgate.max_cost"),
    "a data class that is none": (chat(headgate={"data_class": "top-secret"}), 400, "invalid_request", "headgate.data_class"),
    "a prompt over the characters": (chat(messages=[{"role": "user", "content": "a" * 20_001}]), 400, "context_length_exceeded", "messages"),
    "a prompt over the window": (chat(model="mini", messages=[{"role": "user", "content": "abc " * 4_500}]), 400, "context_length_exceeded", "messages"),
    "too many messages": (chat(messages=HELLO * 21), 400, "too_many_messages", "messages"),
    "a forbidden term": (chat(messages=[{"role": "user", "content": "say xyzzy now"}]), 400, "content_policy_violation", "messages"),
    "an unknown vector store": (
        chat(tools=[{"type": "file_search", "vector_store_ids": ["vs_nope"]}]),
        404,
        "vector_store_not_found",
        "tools[0].vector_store_ids",
    ),
    "an image to a model without eyes": (
        chat(model="mini", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}]),
        400,
        "unsupported_feature",
        "model",
    ),
    "a tool of an unknown type, with a pin": (chat(model="mini", tools=[{"type": "teleport"}]), 400, "unsupported_feature", "model"),
    "a pin above its clearance": (chat(model="secret"), 403, "not_permitted", "model"),
    "a cost above the hint": (chat(model="big", headgate={"max_cost_usd": 0.01}), 402, "budget_exceeded", None),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_request_is_refused_with_status_code_and_field_and_nothing_is_billed(service: Service, name: str) -> None:
    body, status, code, param = CASES[name]
    got, answer, headers = await post(service, body)
    assert (got, answer["error"]["code"], answer["error"]["param"]) == (status, code, param), answer
    assert answer["error"]["message"]
    assert headers["x-request-id"]
    assert await nothing_was_billed(service)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_streamed_request_is_refused_the_same_way(service: Service, stream: bool) -> None:
    status, answer, headers = await post(service, chat(model="gpt-99", stream=stream))
    assert (status, answer["error"]["code"], headers["content-type"]) == (404, "model_not_found", "application/json")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": "Basic abc"}, "missing_api_key"),
        ({"authorization": "Bearer "}, "missing_api_key"),
        ({"authorization": "Bearer hg-nobody"}, "invalid_api_key"),
        ({"x-api-key": "hg-' OR 1=1 --"}, "invalid_api_key"),
        ({"x-api-key": "hg-nobody", "authorization": "Bearer hg-somebody"}, "invalid_api_key"),
        ({"x-api-key": "hg-" + "k" * 8190}, "invalid_api_key"),
    ],
)
async def test_no_key_and_a_bad_key_are_401(service: Service, headers: dict[str, str], code: str) -> None:
    status, answer, _ = await post(service, chat(), headers=headers)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (401, code, "authentication_error")
    assert await nothing_was_billed(service)


async def test_a_platform_key_does_not_chat(service: Service) -> None:
    status, answer, _ = await post(service, chat(), headers=service.bearer(service.admin_key))
    assert (status, answer["error"]["code"]) == (403, "not_permitted")
    assert await nothing_was_billed(service)


async def test_a_tenant_without_money_is_402_and_an_sdk_does_not_retry_it(service: Service) -> None:
    status, answer, _ = await post(service, chat(), headers=service.bearer(service.other_key))
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (402, "budget_exceeded", "insufficient_quota")
    assert await nothing_was_billed(service)


async def test_a_body_over_the_limit_is_413(service: Service) -> None:
    status, answer, _ = await post(service, io.BytesIO(b"x" * (33 * 2**20)))
    assert (status, answer["error"]["code"]) == (413, "too_large")


async def test_unknown_routes_and_methods_answer_in_the_same_shape(service: Service) -> None:
    status, answer, _ = await post(service, {}, path="/v1/nothing")
    assert (status, answer["error"]["code"]) == (404, "not_found")
    status, answer, _ = await post(service, {}, path="/v1/models")
    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")


async def test_a_policy_with_a_typo_is_refused_with_line_and_suggestion_and_the_old_one_stays(service: Service) -> None:
    async with aiohttp.ClientSession(headers=service.bearer(service.admin_key)) as session:
        async with session.get(f"{service.url}/admin/policy") as current:
            text, etag = await current.text(), current.headers["etag"]
        broken = text.replace("default: mini", "defualt: mini")
        async with session.put(f"{service.url}/admin/policy", data=broken, headers={"if-match": etag}) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (400, "invalid_policy")
            assert "defualt" in error["message"]
            assert "did you mean 'default'" in error["message"]
            line = broken.splitlines().index("defualt: mini") + 1
            assert f":{line}:" in error["message"] or f"line {line}" in error["message"]
        async with session.post(f"{service.url}/admin/policy/validate", data=broken) as answer:
            assert (line, "default") in [(problem["line"], problem["suggestion"]) for problem in (await answer.json())["problems"]]
        async with session.put(f"{service.url}/admin/policy", data=text) as answer:
            assert answer.status == 428
        async with session.put(f"{service.url}/admin/policy", data=text, headers={"if-match": '"0-nope"'}) as answer:
            assert answer.status == 412
        changed = text.replace('text: "Hello."', 'text: "Changed."')
        async with session.put(f"{service.url}/admin/policy", data=changed, headers={"if-match": etag}) as answer:
            assert (answer.status, (await answer.json())["version"]) == (200, 2)
    _, answer_body, _ = await post(service, chat())
    assert answer_body["choices"][0]["message"]["content"] == "Changed."


async def test_a_file_that_nobody_would_index_is_refused_at_once(service: Service) -> None:
    store = (await post(service, {"name": "papers"}, path="/v1/vector_stores"))[1]["id"]
    for path, body in ((f"/v1/vector_stores/{store}/files", {"file_id": "file-1"}), ("/v1/vector_stores", {"name": "more", "file_ids": ["file-1"]})):
        status, answer, _ = await post(service, body, path=path)
        assert (status, answer["error"]["code"]) == (503, "documents_unavailable")
        assert "headgate[documents]" in answer["error"]["message"]
