"""Every recorded exchange with Gemini: the adapter says of it what Google's SDK says of the same bytes, and what came can be sent back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.backend import BackendContext, create_backend
from adapters.collect import Collected, CollectedChoice, collect
from adapters.gemini.content_stream import ContentDecoder
from adapters.gemini.content_wire import FINISH
from adapters.openai.spec import OpenAISpec
from adapters.remote import RemoteBackend
from adapters.sse import SseParser
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart, Usage
from tests.adapters.remote.gemini_turns import as_messages, comparable, decoded, sent
from tests.adapters.remote.kit import ASKED, remote
from tests.adapters.remote.recordings import ABSENT, WithHeaders, interactions, present

pytestmark = [
    pytest.mark.skipif(not present(), reason=ABSENT),
    # The SDK subclasses aiohttp's session, of which aiohttp disapproves.
    pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning"),
]

EXCHANGES = [each for each in interactions() if each["provider"] == "gemini" and "enerateContent" in each["path"] and each["status"] == 200]
COUNTS = [each for each in interactions() if each["provider"] == "gemini" and "countTokens" in each["path"] and each["req"]]


def ids(exchanges: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in exchanges]


async def by_the_sdk(replay_url: str, exchange: dict[str, Any]) -> list[Any]:
    """The SDK's own objects: one for a whole answer, one for each event of a stream."""
    from google import genai
    from google.genai.types import HttpOptions

    options = HttpOptions(base_url=f"{replay_url}/gemini", api_version="v1beta", headers={"x-replay-id": exchange["id"]})
    async with genai.Client(api_key="k", http_options=options).aio as client:
        if "event-stream" in exchange["ct"]:
            return [chunk async for chunk in await client.models.generate_content_stream(model="gemini-2.5-flash", contents="x")]
        return [await client.models.generate_content(model="gemini-2.5-flash", contents="x")]


def ours(exchange: dict[str, Any]) -> tuple[Collected, ContentDecoder]:
    return decoded(exchange["body"].encode(), stream="event-stream" in exchange["ct"])


def seen_by_the_sdk(chunks: list[Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {"text": "", "thoughts": "", "calls": [], "signatures": 0, "other": 0, "finish": None}
    for chunk in chunks:
        for candidate in chunk.candidates or []:
            seen["finish"] = candidate.finish_reason or seen["finish"]
            for part in (candidate.content and candidate.content.parts) or []:
                seen["signatures"] += part.thought_signature is not None
                if part.function_call is not None:
                    seen["calls"].append((part.function_call.name, part.function_call.args or {}))
                elif part.text is None:
                    seen["other"] += 1
                elif part.thought:
                    seen["thoughts"] += part.text
                else:
                    seen["text"] += part.text
    return seen


def seen_by_us(choice: CollectedChoice) -> dict[str, Any]:
    assert choice.finish is not None
    parts = [item.item["part"] for item in choice.items if "part" in item.item]
    return {
        "text": choice.text,
        "thoughts": choice.reasoning,
        "calls": [(call.name, json.loads(call.arguments)) for call in choice.tool_calls],
        "signatures": sum("thoughtSignature" in part for part in [*parts, *(item.item for item in choice.items)]),
        "other": sum(not part.get("thought") for part in parts),
        "finish": choice.finish.provider_reason,
    }


@pytest.mark.parametrize("exchange", EXCHANGES, ids=ids(EXCHANGES))
async def test_an_answer_says_what_the_sdk_says(replay_url: str, exchange: dict[str, Any]) -> None:
    chunks = await by_the_sdk(replay_url, exchange)
    answer, decoder = ours(exchange)
    (mine,) = answer.choices
    theirs = seen_by_the_sdk(chunks)
    theirs["finish"] = theirs["finish"].name
    assert seen_by_us(mine) == theirs
    assert mine.finish is not None
    assert mine.finish.reason == ("tool_calls" if theirs["calls"] and theirs["finish"] == "STOP" else FINISH[theirs["finish"]])
    assert (answer.model, answer.provider_request_id) == (chunks[-1].model_version, chunks[-1].response_id)
    usage = next(chunk.usage_metadata for chunk in reversed(chunks) if chunk.usage_metadata)
    assert decoder.usage_final
    assert answer.usage == Usage(
        (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        usage.cached_content_token_count or 0,
        0,
        usage.thoughts_token_count or 0,
        sum(each.token_count or 0 for each in usage.prompt_tokens_details or [] if each.modality.name == "AUDIO"),
        sum(each.token_count or 0 for each in usage.candidates_tokens_details or [] if each.modality.name == "AUDIO"),
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens == usage.total_token_count
    for name, told in (("groundingMetadata", "grounding_metadata"), ("urlContextMetadata", "url_context_metadata")):
        given = [getattr(candidate, told) for chunk in chunks for candidate in chunk.candidates or []]
        assert sum(name in item.item for item in mine.items) == sum(bool(each and each.model_dump(exclude_none=True)) for each in given)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=ids(EXCHANGES))
def test_an_answer_goes_back_as_it_came(exchange: dict[str, Any]) -> None:
    answer, _ = ours(exchange)
    received: list[Any] = []
    if "event-stream" in exchange["ct"]:
        for event in SseParser().feed(exchange["body"].encode()):
            for candidate in json.loads(event.data).get("candidates", []):
                received += candidate["content"].get("parts", [])
    else:
        received = json.loads(exchange["body"])["candidates"][0]["content"].get("parts", [])
    back = sent(GenerateRequest(messages=(Message("user", (TextPart("x"),)), answer.choices[0].message)), model="gemini-2.5-flash")
    given_back = [part for turn in back["contents"][1:] for part in turn["parts"]]
    # Ids that Gemini did not give are ours: they go out with the call so that its result can name it.
    assert comparable(given_back, ids=False) == comparable(received, ids=False)


HISTORIES = [each for each in EXCHANGES if each["req"]]
OTHERWISE = {
    "test_google_model_empty_assistant_response.yaml#0": "a model's turn without any part, which is none here, so the two messages around it are one turn",
    "test_cross_provider_capability_replay[google-gemini-3-flash-preview-openai-responses-gpt-5.4].yaml#1": "two model turns in a row go out as one",
    "test_cross_provider_capability_replay[google-gemini-3-flash-preview-openai-responses-gpt-5.4].yaml#2": "two model turns in a row go out as one",
}
"""Recorded histories that go out in another form, and why."""


@pytest.mark.parametrize("exchange", HISTORIES, ids=ids(HISTORIES))
def test_a_recorded_history_goes_out_as_it_was_recorded(exchange: dict[str, Any]) -> None:
    from google.genai.types import Content

    model = exchange["path"].split("/models/")[1].split(":")[0]
    recorded = exchange["req"]
    body = sent(GenerateRequest(messages=as_messages(recorded["contents"])), model=model)
    for content in body["contents"]:
        Content.model_validate_json(json.dumps(content))
    same = comparable(body["contents"]) == comparable(recorded["contents"])
    assert same == (exchange["id"].split("/")[1] not in OTHERWISE)


@pytest.mark.parametrize("exchange", COUNTS, ids=ids(COUNTS))
async def test_our_count_of_a_recorded_prompt_is_a_bound(exchange: dict[str, Any]) -> None:
    backend = remote("gemini", "http://127.0.0.1:1", model="gemini-2.5-flash")
    counted = backend.count(GenerateRequest(messages=as_messages(exchange["req"]["contents"])))
    await backend.aclose()
    told = json.loads(exchange["body"])["totalTokens"]
    assert counted.upper >= told
    assert told / 3 <= counted.n <= told * 3


async def test_the_driver_and_the_decoder_alone_say_the_same(replay_url: str) -> None:
    streams = [each for each in EXCHANGES if "event-stream" in each["ct"]]
    for exchange in [*streams, *[each for each in EXCHANGES if each not in streams][::20]]:
        backend = remote("gemini", replay_url + "/gemini", streaming=exchange in streams)
        assert backend.sender is not None
        backend.sender = WithHeaders(backend.sender, {"x-replay-id": exchange["id"]})
        attempt = AttemptRecord(backend="subject")
        answer = await collect(backend.generate(ASKED, attempt))
        await backend.aclose()
        assert seen_by_us(answer.choices[0]) == seen_by_us(ours(exchange)[0].choices[0])
        assert attempt.usage == answer.usage == ours(exchange)[0].usage


COMPATIBLE = [each for each in interactions() if each["path"] == "/v1beta/openai/chat/completions"]


@pytest.mark.parametrize("exchange", COMPATIBLE, ids=ids(COMPATIBLE))
async def test_googles_own_openai_endpoint_is_read_like_openai(replay_url: str, exchange: dict[str, Any]) -> None:
    import openai

    said: dict[str, str] = {"x-replay-id": exchange["id"]}
    url = f"{replay_url}/gemini/v1beta/openai"
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        theirs = await client.chat.completions.create(model="recorded", messages=[{"role": "user", "content": "x"}], extra_headers=said)
    backend = create_backend("subject", OpenAISpec(kind="openai", model="recorded", base_url=url, streaming=False), BackendContext(environ={}))
    assert isinstance(backend, RemoteBackend)
    assert backend.sender is not None
    backend.sender = WithHeaders(backend.sender, said)
    answer = await collect(backend.generate(ASKED, AttemptRecord(backend="subject")))
    await backend.aclose()
    (mine,), (choice,) = answer.choices, theirs.choices
    assert mine.text == (choice.message.content or "")
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
    assert [(call.name, call.arguments) for call in mine.tool_calls] == [(call.function.name, call.function.arguments) for call in calls]
    # The recorded endpoint gave its calls no ids.
    assert all(made.id == given.id if given.id else made.id for made, given in zip(mine.tool_calls, calls, strict=True))
    assert mine.finish is not None
    assert mine.finish.provider_reason == choice.finish_reason
    assert theirs.usage is not None
    assert answer.usage is not None
    # Thoughts are in the total only.
    assert (answer.usage.input_tokens, answer.usage.total_tokens) == (theirs.usage.prompt_tokens, theirs.usage.total_tokens)
