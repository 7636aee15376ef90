"""Every recorded response of OpenAI's, streamed and whole, through the adapter and through the official SDK: both must say the same.

The four recorded calls of `/v1/responses/compact` are another operation, which no backend makes.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, create_backend, kind_named
from adapters.collect import Collected, CollectedChoice, collect
from adapters.errors import InvalidRequest, ProviderFault
from adapters.openai import OpenAIResponsesBackend
from adapters.openai.responses_items import is_note
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart
from tests.adapters.remote.recordings import ABSENT, WithHeaders, interactions, present

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

ASKED = GenerateRequest(messages=(Message("user", (TextPart("what was recorded"),)),), max_output_tokens=100)
UNFINISHED = ("queued", "in_progress")


def recorded(status: int, *, stream: bool) -> list[str]:
    return [
        each["id"]
        for each in interactions()
        if "/v1/responses" in each["path"] and not each["path"].endswith("/compact") and each["status"] == status and ("event-stream" in each["ct"]) == stream
    ]


async def answered(replay_url: str, recording: str) -> tuple[Collected, AttemptRecord]:
    spec = msgspec.convert({"kind": "openai", "api": "responses", "model": "recorded", "base_url": f"{replay_url}/openai/v1"}, kind_named("openai").spec)
    backend = create_backend("recorded", spec, BackendContext(environ={}))
    assert isinstance(backend, OpenAIResponsesBackend)
    assert backend.sender is not None
    backend.sender = WithHeaders(backend.sender, {"x-replay-id": recording})
    attempt = AttemptRecord(backend="recorded")
    try:
        return await collect(backend.generate(ASKED, attempt)), attempt
    finally:
        await backend.aclose()


def of_sdk(response: Any) -> dict[str, Any]:
    """What a parsed response says."""
    said: dict[str, Any] = {"text": "", "refusal": "", "reasoning": "", "calls": [], "items": [], "annotations": [], "phases": [], "logprobs": []}
    for item in response.output:
        match item.type:
            case "message":
                said["phases"] += [item.phase] if item.phase else []
                for part in item.content:
                    said["text"] += part.text if part.type == "output_text" else ""
                    said["refusal"] += part.refusal if part.type == "refusal" else ""
                    said["annotations"] += [note.model_dump(mode="json", exclude_unset=True) for note in getattr(part, "annotations", None) or []]
                    said["logprobs"] += [(each.token, each.logprob) for each in getattr(part, "logprobs", None) or []]
            case "reasoning":
                told = item.summary or item.content or []
                said["reasoning"] += "\n\n".join(part.text for part in told)
                said["items"] += [item.id] if item.encrypted_content else []
            case "function_call":
                said["calls"].append((item.call_id, item.name, item.arguments, getattr(item, "namespace", None)))
            case _:
                said["items"].append(item.id)
    said["items"].sort()  # the adapter tells them in the order in which they were done
    return said


def of_adapter(choice: CollectedChoice) -> dict[str, Any]:
    notes = [item.item for item in choice.items if is_note(item.item)]
    spaces = {note["call_id"]: note.get("namespace") for note in notes if note["type"] == "function_call"}
    return {
        "text": choice.text,
        "refusal": choice.refusal,
        "reasoning": choice.reasoning,
        "calls": [(call.id, call.name, call.arguments, spaces.get(call.id)) for call in choice.tool_calls],
        "items": sorted(item.item["id"] for item in choice.items if not is_note(item.item)),
        "annotations": [each for note in notes if note["type"] == "annotations" for each in note["annotations"]],
        "phases": [note["phase"] for note in notes if note.get("phase")],
        "logprobs": [(each.token, each.logprob) for each in choice.logprobs],
    }


def compare(answer: Collected, attempt: AttemptRecord, response: Any) -> None:
    (mine,) = answer.choices
    assert of_adapter(mine) == of_sdk(response)
    assert mine.finish is not None
    reason = response.incomplete_details.reason if response.incomplete_details else None
    calls = any(item.type == "function_call" for item in response.output)
    expected = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason or "", "tool_calls" if calls else "stop")
    assert mine.finish.reason == expected
    assert mine.finish.provider_reason == (reason or response.status)
    assert answer.model == response.model
    usage = response.usage
    assert answer.usage is not None
    assert answer.usage == attempt.usage
    if usage.total_tokens == 0:  # written by hand, with a count of nothing (1 of the recordings): that is no count
        assert answer.usage.source == "estimated"
        return
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (usage.input_tokens, usage.output_tokens, usage.total_tokens)
    assert answer.usage.cache_read_input_tokens == usage.input_tokens_details.cached_tokens
    assert answer.usage.cache_creation_input_tokens == (getattr(usage.input_tokens_details, "cache_write_tokens", None) or 0)
    assert answer.usage.reasoning_output_tokens == usage.output_tokens_details.reasoning_tokens
    assert answer.usage.source == "provider"


@pytest.mark.parametrize("recording", recorded(200, stream=False))
async def test_a_whole_response_says_what_the_sdk_says(replay_url: str, recording: str) -> None:
    import openai

    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/openai/v1", max_retries=0) as client:
        response = await client.responses.create(model="recorded", input="x", extra_headers={"x-replay-id": recording})
    if response.status in UNFINISHED:  # asked in the background: the SDK says that there is no answer yet, and so does the adapter
        assert response.output == []
        with pytest.raises(ProviderFault, match=response.status):
            await answered(replay_url, recording)
        return
    compare(*await answered(replay_url, recording), response)


@pytest.mark.parametrize("recording", recorded(200, stream=True))
async def test_a_streamed_response_says_what_the_sdk_says(replay_url: str, recording: str) -> None:
    import openai

    ended = None
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/openai/v1", max_retries=0) as client:
        stream = await client.responses.create(model="recorded", input="x", stream=True, extra_headers={"x-replay-id": recording})
        async for event in stream:
            if event.type in ("response.completed", "response.incomplete"):
                ended = event.response
    if ended is None:  # the recording was cut short, or its answer is still to come
        with pytest.raises(Exception, match="ended before"):
            await answered(replay_url, recording)
        return
    compare(*await answered(replay_url, recording), ended)


@pytest.mark.parametrize("recording", recorded(400, stream=False))
async def test_a_recorded_refusal_keeps_its_class_code_and_message(replay_url: str, recording: str) -> None:
    import openai

    async with openai.AsyncOpenAI(api_key="k", base_url=f"{replay_url}/openai/v1", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="recorded", input="x", extra_headers={"x-replay-id": recording})
    with pytest.raises(InvalidRequest) as caught:
        await answered(replay_url, recording)
    error = caught.value
    assert error.provider_status == refused.value.status_code
    assert (error.param, error.provider_code) == (refused.value.param, refused.value.code or refused.value.type)
    assert error.message in str(refused.value)
