"""Every recorded chat completion, streamed and whole, through the adapter and through the official SDK: both must say the same.

Two of them are Gemini's, which speaks this dialect too and counts its thoughts only in the total. There are no exceptions.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, create_backend, kind_named
from adapters.collect import Collected, collect
from adapters.errors import InvalidRequest
from adapters.openai import OpenAIBackend
from adapters.openai.chat_stream import FINISH
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart
from tests.adapters.remote.recordings import ABSENT, WithHeaders, interactions, present

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

ASKED = GenerateRequest(messages=(Message("user", (TextPart("what was recorded"),)),), max_output_tokens=100)


def recorded(status: int, *, stream: bool = False) -> list[tuple[str, str]]:
    """The provider's root below the replaying server, and the recording."""
    return [
        (each["provider"] + each["path"].removesuffix("/chat/completions"), each["id"])
        for each in interactions()
        if each["path"].endswith("/chat/completions") and each["status"] == status and ("event-stream" in each["ct"]) == stream
    ]


async def answered(base_url: str, recording: str) -> tuple[Collected, AttemptRecord]:
    spec = msgspec.convert({"kind": "openai", "model": "recorded", "base_url": base_url}, kind_named("openai").spec)
    backend = create_backend("recorded", spec, BackendContext(environ={}))
    assert isinstance(backend, OpenAIBackend)
    assert backend.sender is not None
    backend.sender = WithHeaders(backend.sender, {"x-replay-id": recording})
    attempt = AttemptRecord(backend="recorded")
    try:
        return await collect(backend.generate(ASKED, attempt)), attempt
    finally:
        await backend.aclose()


def fields(value: Any, *names: str) -> list[Any]:
    return [getattr(value, name) or 0 if value is not None else 0 for name in names]


def require_same(answer: Collected, attempt: AttemptRecord, said: dict[str, Any]) -> None:
    """`said` is what the SDK's parsed objects hold."""
    (mine,) = answer.choices
    assert mine.text == said["text"]
    assert mine.refusal == said["refusal"]
    assert mine.reasoning == said["reasoning"]
    assert all(call.id for call in mine.tool_calls)
    # One recorded call, Gemini's, has no id: the adapter makes one.
    assert [(theirs[0] and call.id, call.name, call.arguments) for call, theirs in zip(mine.tool_calls, said["calls"], strict=True)] == said["calls"]
    assert [(item.token, item.logprob) for item in mine.logprobs] == said["logprobs"]
    assert [note for item in mine.items for note in item.item.get("annotations", ())] == said["annotations"]
    assert [item.item["moderation"] for item in mine.items if "moderation" in item.item] == said["moderation"]
    assert mine.finish is not None
    assert (mine.finish.provider_reason, mine.finish.reason) == (said["finish"], FINISH[said["finish"]])
    assert answer.model == said["model"]
    assert attempt.service_tier == said["service_tier"]
    usage, theirs = answer.usage, said["usage"]
    assert usage is not None
    assert attempt.usage == usage
    assert usage.source == "provider"
    thoughts = theirs.total_tokens - theirs.prompt_tokens - theirs.completion_tokens
    assert [usage.input_tokens, usage.output_tokens, usage.total_tokens] == [
        theirs.prompt_tokens, theirs.completion_tokens + thoughts, theirs.total_tokens
    ]  # fmt: skip
    prompt, completion = theirs.prompt_tokens_details, theirs.completion_tokens_details
    assert [usage.cache_read_input_tokens, usage.audio_input_tokens] == fields(prompt, "cached_tokens", "audio_tokens")
    assert usage.cache_creation_input_tokens == (getattr(prompt, "cache_write_tokens", None) or 0)
    assert [usage.reasoning_output_tokens - thoughts, usage.audio_output_tokens] == fields(completion, "reasoning_tokens", "audio_tokens")


@pytest.mark.parametrize(("root", "recording"), recorded(200))
async def test_a_whole_completion_says_what_the_sdk_says(root: str, recording: str, replay_url: str) -> None:
    import openai

    answer, attempt = await answered(f"{replay_url}/{root}", recording)
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/{root}", max_retries=0) as client:
        whole = await client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": "x"}], extra_headers={"x-replay-id": recording})
    (choice,) = whole.choices
    message = choice.message
    moderation = (whole.model_extra or {}).get("moderation") or getattr(whole, "moderation", None)
    said = {
        "text": message.content or "",
        "refusal": message.refusal or "",
        "reasoning": (message.model_extra or {}).get("reasoning_content") or "",
        "calls": [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"],
        "logprobs": [(item.token, item.logprob) for item in (choice.logprobs and choice.logprobs.content) or ()],
        "annotations": [note.model_dump(exclude_unset=True) for note in message.annotations or ()],
        "moderation": [] if moderation is None else [moderation if isinstance(moderation, dict) else moderation.model_dump(exclude_unset=True)],
        "finish": choice.finish_reason,
        "model": whole.model,
        "service_tier": whole.service_tier,
        "usage": whole.usage,
    }
    assert len(said["calls"]) == len(message.tool_calls or ())
    require_same(answer, attempt, said)


@pytest.mark.parametrize(("root", "recording"), recorded(200, stream=True))
async def test_a_streamed_completion_says_what_the_sdk_says(root: str, recording: str, replay_url: str) -> None:
    import openai

    answer, attempt = await answered(f"{replay_url}/{root}", recording)
    said: dict[str, Any] = {
        **dict.fromkeys(("text", "refusal", "reasoning"), ""),
        **dict.fromkeys(("finish", "service_tier", "usage")),
        **{name: [] for name in ("logprobs", "annotations", "moderation")},
    }
    calls: dict[int, list[str]] = {}
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/{root}", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="recorded", messages=[{"role": "user", "content": "x"}], stream=True, extra_headers={"x-replay-id": recording}
        )
        async for chunk in stream:
            said["model"], said["usage"] = chunk.model, chunk.usage or said["usage"]
            said["service_tier"] = chunk.service_tier or said["service_tier"]
            moderation = (chunk.model_extra or {}).get("moderation") or getattr(chunk, "moderation", None)
            if moderation is not None:
                said["moderation"].append(moderation if isinstance(moderation, dict) else moderation.model_dump(exclude_unset=True))
            for choice in chunk.choices:
                said["text"] += choice.delta.content or ""
                said["refusal"] += choice.delta.refusal or ""
                said["reasoning"] += (choice.delta.model_extra or {}).get("reasoning_content") or ""
                said["finish"] = choice.finish_reason or said["finish"]
                said["logprobs"] += [(item.token, item.logprob) for item in (choice.logprobs and choice.logprobs.content) or ()]
                for call in choice.delta.tool_calls or []:
                    known = calls.setdefault(call.index, ["", "", ""])
                    known[0] += call.id or ""
                    known[1] += (call.function and call.function.name) or ""
                    known[2] += (call.function and call.function.arguments) or ""
    require_same(answer, attempt, {**said, "calls": [tuple(call) for call in calls.values()]})


@pytest.mark.parametrize(("root", "recording"), recorded(400))
async def test_a_recorded_refusal_says_what_the_sdks_error_says(root: str, recording: str, replay_url: str) -> None:
    import openai

    with pytest.raises(InvalidRequest) as caught:
        await answered(f"{replay_url}/{root}", recording)
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/{root}", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as theirs:
            await client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": "x"}], extra_headers={"x-replay-id": recording})
    mine, body = caught.value, theirs.value.body
    assert isinstance(body, dict)
    assert (mine.provider_status, mine.message, mine.param) == (theirs.value.status_code, body["message"], theirs.value.param)
    assert mine.provider_code == (theirs.value.code or theirs.value.type)


def test_every_recorded_chat_completion_is_among_these() -> None:
    assert (len(recorded(200)), len(recorded(200, stream=True)), len(recorded(400))) == (105, 21, 3)
    assert len([each for each in interactions() if each["path"].endswith("/chat/completions")]) == 129
