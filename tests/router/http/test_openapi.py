"""The OpenAPI document is complete, and the two pages are whole in themselves."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from router.http.errors import decode_body
from router.http.openapi import BODIES
from router.http.openapi_examples import EXAMPLES
from tests.serving import Service, serving

POLICY = "version: 1\ndefault: extractive\n"


async def fetch(service: Service, path: str) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as session, session.get(service.url + path) as answer:
        return answer.status, answer.content_type, await (answer.json(content_type=None) if "json" in answer.content_type else answer.text())


@pytest.fixture
async def document(tmp_path: Path) -> dict[str, Any]:
    async with serving(POLICY, tmp_path) as service:
        status, _, found = await fetch(service, "/schema/openapi.json")
    assert status == 200
    answer: dict[str, Any] = found
    return answer


def test_a_chat_is_described_with_its_body(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/chat/completions"]["post"]
    body = document["components"]["schemas"][operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
    assert {"model", "messages", "stream", "tools", "headgate"} <= body["properties"].keys()
    assert sorted(body["required"]) == ["messages", "model"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


def test_the_three_dialects_describe_their_answers_and_their_errors(document: dict[str, Any]) -> None:
    for path, own, error in (
        ("chat/completions", "choices", {"error"}),
        ("responses", "output", {"error"}),
        ("messages", "content", {"type", "error", "request_id"}),
    ):
        answers = document["paths"][f"/v1/{path}"]["post"]["responses"]
        assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
        assert {own, "model", "usage", "headgate"} <= answers["200"]["content"]["application/json"]["schema"]["properties"].keys()
        refused = document["components"]["responses"][answers["404"]["$ref"].rpartition("/")[2]]
        shape = refused["content"]["application/json"]["schema"]
        shape = document["components"]["schemas"][shape["$ref"].rpartition("/")[2]] if "$ref" in shape else shape
        assert shape["properties"].keys() == error


def test_every_route_that_takes_a_body_describes_it(document: dict[str, Any]) -> None:
    bare = [
        f"{method} {path}"
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in ("post", "put") and "requestBody" not in operation
    ]
    assert bare == []


def test_every_json_body_has_an_example_that_its_own_shape_decodes(document: dict[str, Any]) -> None:
    for (method, path), shape in BODIES.items():
        if isinstance(shape, type):
            content = document["paths"][path][method]["requestBody"]["content"]["application/json"]
            assert content["examples"]
            for example in content["examples"].values():
                decode_body(msgspec.json.encode(example["value"]), shape)
    assert {(method.lower(), path) for method, path in EXAMPLES} <= BODIES.keys()


def test_every_reference_in_the_document_leads_to_a_schema(document: dict[str, Any]) -> None:
    references = re.findall(r"'\$ref': '([^']+)'", repr(document))
    assert references
    for reference in references:
        _, components, kind, name = reference.split("/")
        assert components == "components"
        assert name in document["components"][kind]


def test_every_route_behind_a_key_says_how_it_refuses(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            locked = bool(operation["security"])
            assert ({"400", "401", "403", "429", "500", "503"} <= operation["responses"].keys()) == locked
            if locked:
                assert ("404" in operation["responses"]) >= ("{" in path)
                assert ("413" in operation["responses"]) == ("requestBody" in operation)
            assert "default" not in operation["responses"]


def test_only_what_opens_without_a_key_says_so(document: dict[str, Any]) -> None:
    unlocked = {path for path, item in document["paths"].items() for operation in item.values() if operation["security"] == []}
    assert unlocked == {"/health", "/health/live", "/health/ready"}


async def test_the_pages_open_without_a_key_and_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        for path in ("/", "/docs"):
            status, kind, text = await fetch(service, path)
            assert (status, kind) == (200, "text/html")
            assert not re.findall(r"(?:src|href)=[\"'](?!/)|https?://|url\(|@import", text)
            for target in re.findall(r"href=\"(/[^\"]*)\"", text):
                assert (await fetch(service, target))[0] == 200


async def test_a_path_that_only_begins_like_an_open_one_is_not_open(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service:
        for path in ("/healthy", "/docs-internal", "/schemas"):
            assert (await fetch(service, path))[0] == 404


async def test_an_unknown_path_is_answered_in_our_shape_with_a_request_id(tmp_path: Path) -> None:
    async with serving(POLICY, tmp_path) as service, aiohttp.ClientSession() as session, session.get(f"{service.url}/v2/nothing") as answer:
        assert answer.status == 404
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
        assert (await answer.json())["error"]["code"] == "not_found"
        assert "/docs" in (await answer.json())["error"]["message"]


async def test_every_path_answers_options_with_all_of_its_methods(tmp_path: Path, document: dict[str, Any]) -> None:
    async with serving(POLICY, tmp_path / "again") as service, aiohttp.ClientSession(headers=service.bearer()) as session:
        for path, item in document["paths"].items():
            async with session.options(service.url + path.replace("{", "").replace("}", "")) as answer:
                assert (answer.status, answer.headers["allow"]) == (204, ", ".join(sorted({"OPTIONS", *(method.upper() for method in item)})))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/chat/completions", 401),
        ("POST", "/v1/messages", 401),
        ("GET", "/admin/ledger", 401),
        ("GET", "/v1/messages", 405),
        ("GET", "/health/live", 200),
    ],
)
async def test_every_answer_names_its_request_once_however_early_it_was_refused(tmp_path: Path, method: str, path: str, status: int) -> None:
    key = {"x-api-key": "hg-unknown"}
    async with serving(POLICY, tmp_path) as service, aiohttp.ClientSession() as session, session.request(method, service.url + path, headers=key) as answer:
        assert answer.status == status
        (request_id,) = answer.headers.getall("x-request-id")
        assert re.fullmatch(r"[0-9a-f]{32}", request_id)
        if path == "/v1/messages":
            assert answer.headers.getall("request-id") == [request_id] == [(await answer.json())["request_id"]]


async def test_a_body_that_is_too_large_is_refused_in_words_that_help(tmp_path: Path) -> None:
    body = io.BytesIO(b" " * (2**20 + 1))
    async with serving(f"{POLICY}settings: {{max_body_mb: 1}}\n", tmp_path) as service, aiohttp.ClientSession() as session:
        answer = await session.post(f"{service.url}/v1/chat/completions", headers=service.bearer(), data=body)
        assert answer.status == 413
        assert "max_body_mb" in (await answer.json())["error"]["message"]
