"""A conversation with Gemini through the service, with the OpenAI SDK: what Gemini signed comes back to it, and moderation hides what it repeats."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.money_books import settled_books
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.serving import Service, serving

POLICY = """
version: 1
backends:
  google: {{kind: gemini, model: gemini-3-flash-preview, base_url: "{url}", price: {{input: 1, output: 4}}, provider_tools: ["gcp.gemini/*"]}}
default: google
fallback: []
moderation: {{output: [pii]}}
"""
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 2, "totalTokenCount": 17}
FIRST: list[list[dict[str, Any]]] = [
    [{"text": "I should look at 4111 1111 ", "thought": True}],
    [{"text": "1111 1111.", "thought": True}],
    [
        {"text": "Looking."},
        {"functionCall": {"id": "g1", "name": "look", "args": {}}, "thoughtSignature": "c2lnMQ=="},
        {"functionCall": {"id": "g2", "name": "look", "args": {}}},
    ],
]
SECOND: list[list[dict[str, Any]]] = [[{"text": "Done.", "thoughtSignature": "c2lnMg=="}]]
THIRD: list[list[dict[str, Any]]] = [[{"text": "Bye."}]]


def streamed(chunks: list[list[dict[str, Any]]]) -> Reply:
    bodies: list[dict[str, Any]] = [{"candidates": [{"content": {"role": "model", "parts": parts}}], "modelVersion": "gemini-3"} for parts in chunks]
    bodies[-1]["candidates"][0]["finishReason"] = "STOP"
    bodies[-1]["usageMetadata"] = USAGE
    return Reply([f"data: {json.dumps(body)}\r\n\r\n".encode() for body in bodies])


@asynccontextmanager
async def talking(home: Path, script: Callable[[Exchange], Reply] | list[Reply]) -> AsyncIterator[tuple[Service, FakeProvider, openai.AsyncOpenAI]]:
    async with (
        FakeProvider(script) as provider,
        serving(POLICY.format(url=provider.url), home) as service,
        openai.AsyncOpenAI(api_key=service.key, base_url=f"{service.url}/v1", max_retries=0) as client,
    ):
        yield service, provider, client


@pytest.mark.parametrize("stream", [False, True])
async def test_signatures_go_back_to_their_parts_over_three_turns(tmp_path: Path, stream: bool) -> None:
    async with talking(tmp_path, [streamed(FIRST), streamed(SECOND), streamed(THIRD)]) as (_, provider, client):
        messages: list[Any] = [{"role": "user", "content": "Look twice."}]
        for turn in range(3):
            answer = await said(client, messages, stream=stream)
            assert "1111" not in json.dumps({key: value for key, value in answer.items() if key != "headgate"})
            messages.append(answer)
            if turn == 0:
                assert [call["id"] for call in answer["tool_calls"]] == ["g1", "g2"]
                messages += [{"role": "tool", "tool_call_id": call, "content": "{}"} for call in ("g1", "g2")]
            else:
                messages.append({"role": "user", "content": "And?"})
        sent = [each.json["contents"] for each in provider.exchanges]
    # The thoughts go back as they came, though the client saw them redacted.
    assert sent[1][1] == {"role": "model", "parts": [{"text": "I should look at 4111 1111 1111 1111.", "thought": True}, *FIRST[2]]}
    assert [list(part) for part in sent[1][2]["parts"]] == [["functionResponse"], ["functionResponse"]]
    assert sent[2][:3] == sent[1]
    assert sent[2][3] == {"role": "model", "parts": SECOND[0]}


async def said(client: openai.AsyncOpenAI, messages: list[Any], *, stream: bool) -> dict[str, Any]:
    """The answer as the message that a client would send back."""
    if not stream:
        whole = await client.chat.completions.create(model="auto", messages=messages, tools=TOOLS)
        return whole.choices[0].message.model_dump(exclude_none=True)
    message: dict[str, Any] = {"role": "assistant", "content": "", "headgate": {"sealed": []}}
    calls: dict[int, dict[str, Any]] = {}
    async for chunk in await client.chat.completions.create(model="auto", messages=messages, tools=TOOLS, stream=True):
        for choice in chunk.choices:
            message["content"] += choice.delta.content or ""
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                known = calls.setdefault(call.index, {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}})
                known["function"]["arguments"] += call.function.arguments or ""
            sealed = (choice.delta.model_extra or {}).get("headgate", {}).get("sealed")
            if sealed:
                message["headgate"]["sealed"].append(sealed)
    return {**message, "tool_calls": list(calls.values())} if calls else message


async def test_an_answer_that_gemini_refuses_is_an_error_with_its_usage_booked(tmp_path: Path) -> None:
    refusal = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}}
    async with talking(tmp_path, [Reply([f"data: {json.dumps(refusal)}\n\n".encode()])]) as (service, _, client):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x"}])
        assert caught.value.code == "content_refused"
        (row,) = (await settled_books(service.database)).ledger
        assert (row["usage_source"], row["input_tokens"], row["error"]) == ("provider", 7, "content_refused")
