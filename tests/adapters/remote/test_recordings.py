"""Every recorded stream, through the adapters and through the official SDKs: both must say the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import adapters.anthropic
import adapters.gemini
import adapters.openai  # noqa: F401 - importing an adapter registers it
from adapters.anthropic.messages_stream import FINISH as ANTHROPIC_FINISH
from adapters.backend import BackendContext, create_backend, kind_named
from adapters.collect import Collected, CollectedChoice, collect
from adapters.errors import BackendError, BackendUnavailable, InvalidRequest
from adapters.gemini.content_stream import FINISH as GEMINI_FINISH
from adapters.remote import RemoteBackend
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart, Usage
from tests.adapters.remote.recordings import ABSENT, WithHeaders, present, recorded_ids

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

ASKED = GenerateRequest(messages=(Message("user", (TextPart("what was recorded"),)),), max_output_tokens=100)


async def answered(kind: str, replay_url: str, recording: str) -> tuple[Collected, AttemptRecord]:
    """What the adapter makes of a recording."""
    base_url = f"{replay_url}/{kind}" + ("/v1" if kind == "openai" else "")
    spec = msgspec.convert({"kind": kind, "model": "recorded", "base_url": base_url}, kind_named(kind).spec)
    backend = create_backend("recorded", spec, BackendContext(environ={}))
    assert isinstance(backend, RemoteBackend)
    assert backend.sender is not None
    backend.sender = WithHeaders(backend.sender, {"x-replay-id": recording})
    attempt = AttemptRecord(backend="recorded")
    try:
        return await collect(backend.generate(ASKED, attempt)), attempt
    finally:
        await backend.aclose()


def arguments(choice: CollectedChoice) -> list[tuple[str, str, Any]]:
    return [(call.id, call.name, json.loads(call.arguments)) for call in choice.tool_calls]


@pytest.mark.parametrize("recording", recorded_ids("openai", "/chat/completions"))
async def test_an_openai_stream_says_what_the_sdk_says(replay_url: str, recording: str) -> None:
    import openai

    answer, attempt = await answered("openai", replay_url, recording)
    text, finish, usage, model, calls = "", None, None, None, {}  # type: ignore[var-annotated]
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/openai/v1", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="recorded", messages=[{"role": "user", "content": "x"}], stream=True, extra_headers={"x-replay-id": recording}
        )
        async for chunk in stream:
            model, usage = chunk.model, chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
                for call in choice.delta.tool_calls or []:
                    known = calls.setdefault(call.index, ["", "", ""])
                    known[0] += call.id or ""
                    known[1] += (call.function and call.function.name) or ""
                    known[2] += (call.function and call.function.arguments) or ""
    (mine,) = answer.choices
    assert mine.text == text
    assert [(call.id, call.name, call.arguments) for call in mine.tool_calls] == [tuple(call) for call in calls.values()]
    assert mine.finish is not None
    assert mine.finish.reason == finish
    assert answer.model == model
    assert usage is not None
    assert attempt.usage == answer.usage
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (usage.prompt_tokens, usage.completion_tokens)
    assert answer.usage.cache_read_input_tokens == (usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0)
    assert answer.usage.reasoning_output_tokens == (usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else 0)
    assert answer.usage.source == "provider"


@pytest.mark.parametrize("recording", recorded_ids("anthropic", "/v1/messages"))
async def test_an_anthropic_stream_says_what_the_sdk_says(replay_url: str, recording: str) -> None:
    import anthropic

    answer, attempt = await answered("anthropic", replay_url, recording)
    async with (
        anthropic.AsyncAnthropic(api_key="k", base_url=f"{replay_url}/anthropic", max_retries=0) as client,
        client.messages.stream(model="recorded", max_tokens=9, messages=[{"role": "user", "content": "x"}], extra_headers={"x-replay-id": recording}) as stream,
    ):
        message = await stream.get_final_message()
    (mine,) = answer.choices
    blocks = message.content
    assert mine.text == "".join(block.text for block in blocks if block.type == "text")
    assert mine.reasoning == "".join(block.thinking for block in blocks if block.type == "thinking")
    assert arguments(mine) == [(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"]
    opaque = [block for block in blocks if block.type not in ("text", "tool_use")]
    assert [item.item["type"] for item in mine.items] == [block.type for block in opaque]
    for item, block in zip(mine.items, opaque, strict=True):
        if block.type == "thinking":
            assert (item.item["thinking"], item.item["signature"]) == (block.thinking, block.signature)
        elif block.type == "server_tool_use":
            assert item.item["input"] == block.input
    assert mine.finish is not None
    assert message.stop_reason is not None
    assert mine.finish.provider_reason == message.stop_reason
    assert mine.finish.reason == ANTHROPIC_FINISH[message.stop_reason]
    assert answer.model == message.model
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    expected = Usage(usage.input_tokens + cached + written, usage.output_tokens, cached, written)
    assert answer.usage == attempt.usage == expected


# The SDK subclasses aiohttp's session, of which aiohttp disapproves.
@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
@pytest.mark.parametrize("recording", recorded_ids("gemini", ":streamGenerateContent"))
async def test_a_gemini_stream_says_what_the_sdk_says(replay_url: str, recording: str) -> None:
    from google import genai
    from google.genai.types import HttpOptions

    answer, attempt = await answered("gemini", replay_url, recording)
    options = HttpOptions(base_url=f"{replay_url}/gemini", api_version="v1beta", headers={"x-replay-id": recording})
    text, thoughts, calls, signatures, other, finish, usage, version = "", "", [], [], 0, None, None, None  # type: ignore[var-annotated]
    async with genai.Client(api_key="k", http_options=options).aio as client:
        async for chunk in await client.models.generate_content_stream(model="gemini-2.5-flash", contents="x"):
            usage, version = chunk.usage_metadata or usage, chunk.model_version
            for candidate in chunk.candidates or []:
                finish = candidate.finish_reason or finish
                for part in (candidate.content and candidate.content.parts) or []:
                    if part.function_call is not None:
                        calls.append((part.function_call.name, part.function_call.args))
                    elif part.text is None:
                        other += 1
                        continue
                    elif part.thought:
                        thoughts += part.text
                    else:
                        text += part.text
                    if part.thought_signature is not None:
                        signatures.append(part.thought_signature)
    (mine,) = answer.choices
    assert mine.text == text
    assert mine.reasoning == thoughts
    assert [(name, args) for _, name, args in arguments(mine)] == calls
    assert len({call.id for call in mine.tool_calls}) == len(calls)
    assert len([item for item in mine.items if "thoughtSignature" in item.item]) == len(signatures)
    assert len([item for item in mine.items if "part" in item.item]) == other
    assert mine.finish is not None
    assert finish is not None
    assert mine.finish.provider_reason == finish.name
    assert mine.finish.reason == ("tool_calls" if calls and finish.name == "STOP" else GEMINI_FINISH[finish.name])
    assert answer.model == version
    assert usage is not None
    assert answer.usage == attempt.usage
    assert answer.usage is not None
    assert answer.usage.total_tokens == usage.total_token_count
    assert answer.usage.reasoning_output_tokens == (usage.thoughts_token_count or 0)
    assert answer.usage.input_tokens == (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0)


REFUSED = [
    *((("openai", recording, InvalidRequest)) for recording in recorded_ids("openai", "/chat/completions", stream=False, status=400)),
    *((("anthropic", recording, BackendUnavailable)) for recording in recorded_ids("anthropic", "/v1/messages", stream=False, status=404)),
]


@pytest.mark.parametrize(("kind", "recording", "expected"), REFUSED)
async def test_a_recorded_error_keeps_status_code_and_message(kind: str, recording: str, expected: type[BackendError], replay_url: str) -> None:
    with pytest.raises(expected) as caught:
        await answered(kind, replay_url, recording)
    error = caught.value
    assert error.provider_status in (400, 404)
    assert len(error.message) > 10
    if kind == "openai":
        assert error.param is not None
        assert error.provider_code is not None
    else:
        assert error.provider_request_id is not None
        assert error.provider_code == "not_found_error"
