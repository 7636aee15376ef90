"""What a provider says beside its answer, and who sees it: the service tier in the answer, the rate limits in the administration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from tests.dialects import ask
from tests.fakes.provider import FakeProvider, Reply
from tests.fakes.wire import openai_chunk
from tests.serving import serving

HEADERS = {
    "content-type": "text/event-stream",
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-tokens": "6m0s",
}


def reply(tier: str) -> Reply:
    last: dict[str, Any] = json.loads(openai_chunk(finish="stop").decode().removeprefix("data: "))
    told = b"data: " + json.dumps({**last, "service_tier": tier}).encode() + b"\n\n"
    return Reply([openai_chunk({"content": "Hi"}), told, b"data: [DONE]\n\n"], headers=HEADERS)


@pytest.mark.parametrize(("said", "shown"), [("flex", "flex"), ("a tier of tomorrow", None)])
async def test_the_service_tier_and_the_rate_limits_of_a_provider_are_told(tmp_path: Path, said: str, shown: str | None) -> None:
    async with FakeProvider(lambda _: reply(said)) as provider:
        table = {"kind": "openai", "model": "gpt-5-mini", "base_url": provider.url + "/v1", "price": {"input": 1, "output": 1}}
        policy = json.dumps({"version": 1, "backends": {"far": table}, "default": "far", "fallback": []})
        async with serving(policy, tmp_path) as service, openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key) as sdk:
            completion = await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
            assert completion.service_tier == shown
            chunks = [chunk async for chunk in await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}], stream=True)]
            assert [chunk.service_tier for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == [shown]
            response = await sdk.responses.create(model="auto", input="Hi", store=False)
            assert response.service_tier == shown
            async with aiohttp.ClientSession(headers=service.bearer(service.admin_key)) as admin, admin.get(f"{service.url}/admin/backends") as answer:
                backends = {each["name"]: each for each in (await answer.json())["data"]}
    limit = backends["far"]["rate_limit"]
    assert (limit["requests_limit"], limit["requests_remaining"], limit["tokens_reset_s"]) == (500, 499, 360.0)
    assert backends["extractive"]["rate_limit"] is None


UNREAD = {
    "chat": (
        {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}, "colour": "red"},
            "stream_options": {"pace": 1},
        },
        ["stream_options.pace", "response_format.colour"],
    ),
    "responses": ({"text": {"format": {"type": "text", "colour": "red"}, "tone": "dry"}}, ["text.tone", "text.format.colour"]),
    "messages": ({"tool_choice": {"type": "auto", "mood": "good"}, "metadata": {"team": "a"}}, ["tool_choice.mood", "metadata.team"]),
}


@pytest.mark.parametrize("dialect", UNREAD)
async def test_a_field_that_nobody_reads_is_named_not_dropped_in_silence(tmp_path: Path, dialect: str) -> None:
    fields, named = UNREAD[dialect]
    policy = 'version: 1\nbackends: {mini: {kind: scripted, text: "{}"}}\ndefault: mini\nfallback: []\n'
    async with serving(policy, tmp_path) as service:
        seen = await ask(service.url, service.key, dialect, stream=False, **fields)
    assert seen.status == 200
    assert [name for name in seen.headers["x-headgate-ignored"].split(",") if "." in name] == named
