"""A canary in the whole service, with two workers: all stop within a second, and the commands say so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.serving import Serve, headgate, headgate_json, served

POLICY = """
version: 1
backends:
  steady: {kind: scripted, text: "Steady.", retry: {attempts: 1}}
  new: {kind: scripted, text: "New.", retry: {attempts: 1}, breaker: null, fault: {error: provider_error, times: 100000}}
rules:
  - {name: all, use: [steady], canary: {use: [new], share: 0.3, sticky: request}}
fallback: []
"""


async def ask(url: str, key: str, number: int) -> list[str]:
    """The reasons of an answer, over a connection of its own: whichever worker takes it."""
    body = {"model": "auto", "messages": [{"role": "user", "content": f"Question {number}"}]}
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        reasons: list[str] = (await response.json())["headgate"]["reasons"]
        return reasons


async def canary(serve: Serve) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {serve.keys['admin']}"}
    async with aiohttp.ClientSession() as session, session.get(f"{serve.url}/admin/canaries", headers=headers) as response:
        found: dict[str, Any] = (await response.json())["data"][0]
        return found


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_all_workers_stop_within_a_second_and_the_commands_say_so(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    variables = {"DATABASE_URL": request.getfixturevalue("postgres_url")} if kind == "postgresql" else {}
    home = tmp_path / "home"
    home.mkdir()
    (home / "headgate.yaml").write_text(POLICY)
    with served(home, "--workers", "2", models=False, **variables) as serve:
        key, number = serve.keys["chat"], 0
        last_tried, turned = 0.0, 0.0
        async with asyncio.timeout(60):
            while not turned:
                for reasons in await asyncio.gather(*(ask(serve.url, key, number + each) for each in range(8))):
                    number += 1
                    if "canary:all:candidate" in reasons:
                        last_tried = time.monotonic()
                if (await canary(serve))["state"] == "rolled_back":
                    turned = time.monotonic()
            while time.monotonic() < turned + 1.0 + 1.0:  # a second for all to follow, and a second in which nobody may try it any more
                for reasons in await asyncio.gather(*(ask(serve.url, key, number + each) for each in range(8))):
                    number += 1
                    if "canary:all:candidate" in reasons:
                        last_tried = time.monotonic()
        assert last_tried < turned + 1.0
        shown = headgate_json(home, "policy", "canaries", **variables)[0]
        assert (shown["state"], shown["reason"]["metric"], shown["sides"]["candidate"]["whole"]["error_rate"]) == ("rolled_back", "error_rate_over", 1.0)
        said = headgate(home, "policy", "canaries", **variables).stdout
        assert "all was rolled back: error_rate_over was 1 beside 0, and its bound is 0.05" in said
        missing = headgate(home, "policy", "resume", "nothing", **variables)
        assert (missing.returncode, "headgate policy canaries" in missing.stderr) == (1, True)
        assert headgate(home, "policy", "resume", "all", **variables).stdout == "the canary of rule 'all' runs again\n"
        again = headgate(home, "policy", "resume", "all", **variables)  # nobody asks anything meanwhile
        assert (again.returncode, "it runs" in again.stderr) == (1, True)
        async with asyncio.timeout(5):
            while not any("canary:all:candidate" in reasons for reasons in await asyncio.gather(*(ask(serve.url, key, number + each) for each in range(8)))):
                number += 8
        entries = headgate_json(home, "audit", "list", "--action", "policy.canary_resumed", **variables)["data"]
        assert [(entry["actor"], entry["object_id"]) for entry in entries] == [("cli", "all")]
