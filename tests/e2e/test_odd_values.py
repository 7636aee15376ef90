"""What no database can hold, put into everything that the OpenAPI document names: refused, or harmless; never a failure of the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.e2e.schema_fuzzing import Target, target

NUL = "a\0b"
BODIES: tuple[Any, ...] = (NUL, [NUL], {NUL: NUL}, 2**31, 2**63, -(10**20), 1e308)
QUERIES = ("a%00b", "9999999999999999999999", "-9999999999999999999999", "1e400", "%ED%A0%80")
VALID = {
    "messages": [{"role": "user", "content": "Hello"}],
    "items": [{"type": "message", "role": "user", "content": "Hello"}],
    "model": "auto",
    "max_tokens": 10,
    "role": "member",
    "tenant": "acme",
    "version": 1,
}
"""Fields that bodies must have; any other is a text."""


def requests(document: Mapping[str, Any], ids: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str | None]]:
    """Method, path and JSON body of every request: one odd value in each, in a path, a query or a body."""
    for template, item in document["paths"].items():
        for method, operation in item.items():

            def path(odd: str = "", template: str = template) -> str:
                return re.sub(r"\{(\w+)\}", lambda found: "a%00b" if found[1] == odd else ids[found[1]][0], template)

            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    yield method, path(parameter["name"]), None
                elif parameter["in"] == "query":
                    yield from ((method, f"{path()}?{parameter['name']}={value}", None) for value in QUERIES)
            if content := operation.get("requestBody", {}).get("content", {}).get("application/json"):
                shape = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
                whole = {name: VALID.get(name, ids.get(name, ["Hello"])[0]) for name in shape.get("required", ())}
                yield from ((method, path(), json.dumps({**whole, name: value})) for name in shape["properties"] for value in BODIES)


async def failures(aim: Target) -> tuple[int, list[str]]:
    """How many requests were made, and those that the service failed at."""
    found, made = [], 0
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{aim.service.url}/schema/openapi.json") as answer:
            document = await answer.json()
        for method, path, body in requests(document, aim.ids):
            headers = {**aim.headers("operator" if path.startswith("/admin") else "owner"), **({} if body is None else {"content-type": "application/json"})}
            async with session.request(method, URL(aim.service.url + path, encoded=True), data=body, headers=headers) as answer:
                made += 1
                if answer.status >= 500:
                    found.append(f"{method} {path} {body}: {answer.status} {(await answer.text())[:200]}")
    return made, found


async def test_what_no_database_can_hold_is_refused_or_harmless_wherever_it_is_put(tmp_path: Path, database_url: str) -> None:
    async with target(tmp_path / "service", copies=1, database_url=database_url) as aim:
        made, found = await failures(aim)
        assert found == []
        assert made > 500


@pytest.mark.parametrize("path", ["/v1/files/a%00b", "/v1/files?after=a%00b", "/admin/usage?tenant=a%00b"])
async def test_a_path_or_query_with_a_nul_is_refused_in_words(tmp_path: Path, path: str) -> None:
    async with target(tmp_path / "service", copies=0) as aim, aiohttp.ClientSession(headers=aim.headers("owner")) as session:
        answer = await session.get(URL(aim.service.url + path, encoded=True))
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (400, "invalid_request")
    assert "U+0000" in error["message"]


async def test_a_file_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    parts = (b'name="purpose"\r\n\r\nassistants', b'name="file"; filename="a\0b.txt"\r\n\r\nHello')
    body = b"".join(b"--edge\r\ncontent-disposition: form-data; " + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=edge"}
    async with target(tmp_path / "service", copies=0) as aim, aiohttp.ClientSession(headers=aim.headers("owner")) as session:
        answer = await session.post(f"{aim.service.url}/v1/files", data=body, headers=kind)
        assert (answer.status, (await answer.json())["error"]["param"]) == (400, "file")
