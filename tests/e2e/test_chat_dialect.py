"""The chat dialect at full depth, with the official SDK on a real socket and an upstream that speaks the same dialect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.fakes.provider import FakeProvider, Reply
from tests.fakes.wire import Answer, Call, answering, sse
from tests.serving import serving

POLICY = """
version: 1
backends:
  up: {{kind: openai, model: m, base_url: "{url}/v1", price: {{input: 1.0, output: 4.0}}, pass_through: [file]{more}}}
default: up
fallback: []
moderation: {{output: []}}
"""
HELLO: Any = [{"role": "user", "content": "Hi"}]
LOOK: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}, "strict": True},
}


class Person(BaseModel):
    name: str
    age: int


@asynccontextmanager
async def speaking(folder: Path, *replies: Reply, more: str = "") -> AsyncIterator[tuple[openai.AsyncOpenAI, FakeProvider]]:
    async with (
        FakeProvider(list(replies)) as provider,
        serving(POLICY.format(url=provider.url, more=more), folder) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0) as client,
    ):
        yield client, provider


async def test_the_sdks_own_helper_puts_a_stream_together(tmp_path: Path) -> None:
    calls = [Call("a", "look", ['{"at":', '"sky"}']), Call("b", "look", ["{}"])]
    reply = answering("openai", Answer(calls=calls, reasoning=["Hm."]))
    async with (
        speaking(tmp_path, reply) as (client, _),
        client.chat.completions.stream(model="auto", messages=HELLO, tools=[LOOK], stream_options={"include_usage": True}) as stream,
    ):
        final = await stream.get_final_completion()
    (choice,) = final.choices
    assert choice.message.content == "Hello, world."
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()] == [
        ("a", "look", '{"at":"sky"}'),
        ("b", "look", "{}"),
    ]
    assert choice.finish_reason == "tool_calls"
    assert final.usage is not None
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (12, 7)


async def test_a_schema_goes_out_and_its_answer_is_parsed(tmp_path: Path) -> None:
    async with speaking(tmp_path, answering("openai", Answer(texts=['{"name": "Ada",', ' "age": 36}']))) as (client, provider):
        answer = await client.chat.completions.parse(model="auto", messages=HELLO, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    sent = json.loads(provider.exchanges[0].body)["response_format"]
    assert (sent["type"], sent["json_schema"]["strict"], sent["json_schema"]["name"]) == ("json_schema", True, "Person")


async def test_pictures_and_papers_reach_the_provider_as_they_were_given(tmp_path: Path) -> None:
    content: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
        {"type": "file", "file": {"filename": "paper.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
    ]
    async with speaking(tmp_path, answering("openai")) as (client, provider):
        await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": content}])
    assert json.loads(provider.exchanges[0].body)["messages"] == [{"role": "user", "content": content}]


async def test_a_backend_that_cannot_stream_answers_streams_and_whole_requests(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}).encode()
    reply = Reply([body], headers={"content-type": "application/json"})
    async with speaking(tmp_path, reply, reply, more=", streaming: false") as (client, provider):
        whole = await client.chat.completions.create(model="auto", messages=HELLO)
        chunks = [chunk async for chunk in await client.chat.completions.create(model="auto", messages=HELLO, stream=True)]
    assert whole.choices[0].message.content == "Hello."
    assert whole.usage is not None
    assert whole.usage.total_tokens == 7
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello."
    assert [json.loads(each.body)["stream"] for each in provider.exchanges] == [False, False]


async def test_a_conversation_of_every_kind_of_turn_is_sent_on_word_for_word(tmp_path: Path) -> None:
    """What the SDK's own answer objects become when a client appends them to its messages, our additions included."""
    refused = Reply(
        [sse({"choices": [{"index": 0, "delta": {"refusal": "I will not."}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n"],
        headers={"content-type": "text/event-stream"},
    )
    looked = answering("openai", Answer(texts=(), calls=[Call("a", "look", ["{}"])]))
    async with speaking(tmp_path, refused, looked, answering("openai")) as (client, provider):
        messages: list[Any] = [{"role": "developer", "content": "Be brief."}, *HELLO]
        for turn in ("Why not?", None):
            answer = await client.chat.completions.create(model="auto", messages=messages, tools=[LOOK])
            messages.append(answer.choices[0].message)
            messages += [{"role": "user", "content": turn}] if turn else [{"role": "tool", "tool_call_id": "a", "content": "a cat"}]
        await client.chat.completions.create(model="auto", messages=messages, tools=[LOOK])
    assert json.loads(provider.exchanges[-1].body)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "I will not."},
        {"role": "user", "content": "Why not?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "content": "a cat", "tool_call_id": "a"},
    ]


async def test_a_tool_that_no_backend_takes_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with speaking(tmp_path) as (client, provider):
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model="auto", messages=HELLO, tools=[{"type": "browser_search"}])  # type: ignore[list-item]
    assert raised.value.status_code in (400, 503)
    assert "openai.chat/browser_search" in raised.value.message
    assert provider.exchanges == []
