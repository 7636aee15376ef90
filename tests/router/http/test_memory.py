"""Opaque parts of tool calls come back to their provider although the client dropped them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import event, select

from router.kept.tables import remembered_parts
from tests.fakes.provider import FakeProvider
from tests.fakes.wire import Answer, Call, answering
from tests.serving import Service, serving

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
QUESTION = {"role": "user", "content": "What is the weather in Paris?"}
ANSWER = Answer(texts=(), reasoning=("I should ask.",), calls=(Call("toolu_1", "weather", ('{"city": ', '"Paris"}')),))


def policy(upstream: FakeProvider, settings: str = "") -> str:
    return f"""
version: 1
settings: {{{settings}}}
backends:
  remote: {{kind: anthropic, model: claude-sonnet-4-5, base_url: "{upstream.url}", price: {{input: 1.0, output: 4.0}}, max_output_tokens: 2000}}
default: remote
fallback: []
"""


def client(service: Service, key: str | None = None) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key or service.key, max_retries=0)


async def turn(sdk: openai.AsyncOpenAI, *messages: Any, stream: bool = False) -> list[dict[str, Any]]:
    """The calls of an answer, as a client keeps them that knows no field of ours."""
    asked: dict[str, Any] = {"model": "auto", "messages": [QUESTION, *messages], "tools": TOOLS, "reasoning_effort": "low"}
    if not stream:
        answer = await sdk.chat.completions.create(**asked)
        return [{"id": call.id, "type": "function", "function": call.function.model_dump()} for call in answer.choices[0].message.tool_calls or ()]
    calls: dict[int, dict[str, Any]] = {}
    async for chunk in await sdk.chat.completions.create(**asked, stream=True):
        for call in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            kept = calls.setdefault(call.index, {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}})
            kept["function"]["arguments"] += call.function.arguments
    return list(calls.values())


def answered(calls: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "tool_call_id": calls[0]["id"], "content": "22 degrees"}


def thoughts(upstream: FakeProvider, number: int) -> list[Any]:
    """The thinking blocks that the provider got back."""
    blocks = [block for message in upstream.exchanges[number].json["messages"] if isinstance(message["content"], list) for block in message["content"]]
    return [(block["thinking"], block["signature"]) for block in blocks if block["type"] == "thinking"]


async def rows(service: Service) -> Sequence[Any]:
    return await service.database.read(lambda connection: connection.execute(select(remembered_parts)).all())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_thought_comes_back_with_the_call_it_led_to(stream: bool, tmp_path: Path, database_url: str) -> None:
    async with FakeProvider([answering("anthropic", ANSWER), answering("anthropic"), answering("anthropic")]) as upstream:
        async with serving(policy(upstream), tmp_path, database_url=database_url) as service, client(service) as sdk:
            calls = await turn(sdk, stream=stream)
            (row,) = await rows(service)
            assert b"should ask" not in row.content
            await turn(sdk, *answered(calls))
            async with client(service, service.other_key) as other:
                await turn(other, *answered(calls))
        assert [thoughts(upstream, number) for number in range(3)] == [[], [("I should ask.", "c2ln")], []]


async def test_a_call_that_the_client_changed_gets_no_thought(tmp_path: Path) -> None:
    async with FakeProvider([answering("anthropic", ANSWER), answering("anthropic"), answering("anthropic")]) as upstream:
        async with serving(policy(upstream), tmp_path) as service, client(service) as sdk:
            (call,) = await turn(sdk)
            rewritten = {**call, "function": {"name": "weather", "arguments": '{"city":"Par\\u0069s"}'}}
            await turn(sdk, *answered([rewritten]))
            await turn(sdk, *answered([{**call, "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]))
        assert [len(thoughts(upstream, number)) for number in (1, 2)] == [1, 0]


async def test_nothing_is_remembered_where_it_is_switched_off_and_what_expired_is_gone(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic", ANSWER)) as upstream:
        async with serving(policy(upstream, "tool_memory_s: 0"), tmp_path / "off") as service, client(service) as sdk:
            await turn(sdk)
            assert await rows(service) == []
        async with serving(policy(upstream), tmp_path / "on") as service, client(service) as sdk:
            calls = await turn(sdk)
            (row,) = await rows(service)
            service.gateway.remembered._clock = lambda: row.expires_at + 1
            before = len(upstream.exchanges)
            upstream.script = answering("anthropic")
            await turn(sdk, *answered(calls))
            assert thoughts(upstream, before) == []
            await service.gateway.remembered.sweep()
            assert await rows(service) == []


async def test_the_database_is_read_only_for_a_message_that_may_have_parts(tmp_path: Path) -> None:
    async with FakeProvider(answering("anthropic")) as upstream, serving(policy(upstream), tmp_path) as service, client(service) as sdk:
        statements: list[str] = []
        engine = service.database._engine  # type: ignore[attr-defined]
        event.listen(engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: statements.append(statement))
        await turn(sdk, {"role": "assistant", "content": "Hm."}, QUESTION)
        assert not [statement for statement in statements if "remembered_parts" in statement]
