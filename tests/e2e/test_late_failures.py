"""A failure before the first event of a stream that has opened already: one terminal event of the dialect, for which the official SDKs raise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from tests.dialects import PATHS, ask, body
from tests.serving import Service, serving

POLICY = """
version: 1
settings: {commit_after_s: 0.05, heartbeat_s: 0.05}
backends:
  mini: {kind: scripted, text: "One two three four five.", directives: true, price: {input: 1.0, output: 4.0}}
default: mini
fallback: []
"""
LATE = "[[scripted first_delay=0.3 fault=backend_overloaded@first]]"
HEARTBEATS = {"chat": ": keep-alive", "responses": ": keep-alive", "messages": 'data: {"type":"ping"}'}
TERMINALS = {"chat": ["error", "done"], "responses": ["error"], "messages": ["error"]}


async def raw_of(service: Service, dialect: str, *, stream: bool) -> str:
    session = aiohttp.ClientSession(headers=service.bearer())
    async with session, session.post(service.url + PATHS[dialect], json=body(dialect, LATE, stream=stream)) as response:
        return await response.text()


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_late_failure_is_one_terminal_event_after_the_heartbeats(tmp_path: Path, dialect: str) -> None:
    async with serving(POLICY, tmp_path) as service:
        seen = await ask(service.url, service.key, dialect, LATE, stream=True)
        raw = await raw_of(service, dialect, stream=True)
    assert seen.status == 200
    assert seen.codes == ["backend_overloaded"]
    assert seen.terminals == TERMINALS[dialect]
    assert raw.count(HEARTBEATS[dialect]) >= 2
    assert raw.rindex(HEARTBEATS[dialect]) < raw.index("backend_overloaded")


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_whole_answer_has_no_heartbeats_however_late_it_fails_or_comes(tmp_path: Path, dialect: str) -> None:
    async with serving(POLICY, tmp_path) as service:
        failed = await ask(service.url, service.key, dialect, LATE, stream=False)
        answered = await ask(service.url, service.key, dialect, "[[scripted first_delay=0.3]]", stream=False)
        assert (await raw_of(service, dialect, stream=False)).startswith("{")
    assert (failed.status, failed.codes) == (503, ["backend_overloaded"])
    assert (answered.status, answered.text) == (200, "One two three four five.")


async def by_chat(service: Service) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        async for each in await sdk.chat.completions.create(model="auto", messages=[{"role": "user", "content": LATE}], stream=True):
            yield each


async def by_responses(service: Service) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as sdk:
        async for each in await sdk.responses.create(model="auto", input=LATE, stream=True):
            yield each


async def by_responses_helper(service: Service) -> AsyncIterator[Any]:
    sdk = openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)
    async with sdk, sdk.responses.stream(model="auto", input=LATE) as events:
        async for each in events:
            yield each


async def by_messages(service: Service) -> AsyncIterator[Any]:
    sdk = anthropic.AsyncAnthropic(base_url=service.url, api_key=service.key, max_retries=0)
    async with sdk, sdk.messages.stream(model="auto", max_tokens=50, messages=[{"role": "user", "content": LATE}]) as events:
        async for each in events:
            yield each


@pytest.mark.parametrize(
    ("by", "raised"),
    [
        (by_chat, openai.APIError),
        (by_responses, openai.APIError),
        (by_responses_helper, openai.APIError),
        (by_messages, anthropic.APIStatusError),
    ],
)
async def test_the_official_sdks_raise_for_a_late_failure(tmp_path: Path, by: Callable[[Service], AsyncIterator[Any]], raised: type[Exception]) -> None:
    async with serving(POLICY, tmp_path) as service:
        with pytest.raises(raised, match="overloaded"):
            [each async for each in by(service)]
