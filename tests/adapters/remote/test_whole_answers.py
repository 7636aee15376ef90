"""Answers in one piece: from servers that cannot stream, and from those that answer so although a stream was asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.collect import Collector
from adapters.errors import ContextTooLong, ProviderFault, StreamBroken
from adapters.openai.chat_stream import ChatDecoder
from adapters.sse import SseEvent
from adapters.types import Event, Finished, ProviderItem, TextDelta, TokenLogprob, ToolCallDelta, Usage, UsageReported
from tests.adapters.remote.kit import ASKED, outcome, said, serving
from tests.fakes.provider import Cut, Reply

JSON = {"content-type": "application/json", "x-request-id": "req-7"}


def completion(message: dict[str, Any], **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", "logprobs": fields.pop("logprobs", None)}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "served", "choices": [choice], "usage": usage, **fields}


def whole(value: Any, choices: int = 1) -> list[Event]:
    decoder = ChatDecoder(choices)
    return [*decoder.whole(json.dumps(value).encode()), *decoder.finish()]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_answer_in_one_piece_is_an_answer_whether_or_not_it_was_asked_for(streaming: bool) -> None:
    body = json.dumps(completion({"content": "Hello."}, service_tier="flex")).encode()
    async with serving("openai", Reply([body[:20], body[20:]], headers=JSON), streaming=streaming) as (backend, provider):
        events, error, attempt = await outcome(backend)
    assert error is None
    assert [event.text for event in said(events, TextDelta)] == ["Hello."]
    assert isinstance(events[-1], Finished)
    assert (attempt.usage, attempt.provider_request_id, attempt.service_tier, attempt.model) == (Usage(5, 3), "req-7", "flex", "served")
    sent = json.loads(provider.exchanges[0].body)
    assert (sent["stream"], "stream_options" in sent) == (streaming, streaming)
    assert backend.capabilities.streaming is streaming


async def test_a_stream_is_read_as_one_although_a_whole_answer_was_asked_for() -> None:
    steps = [b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"]
    async with serving("openai", Reply(steps, headers={"content-type": "text/event-stream"}), streaming=False) as (backend, _):
        events, error, attempt = await outcome(backend)
    assert error is None
    assert [event.text for event in said(events, TextDelta)] == ["Hi"]
    assert attempt.usage is not None
    assert attempt.usage.source == "estimated"


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": []}', b'{"object": "list"}', b"null", b'{"choices": [{"message": {"content": 7}}]}'])
async def test_a_body_that_is_no_answer_is_a_fault(body: bytes) -> None:
    async with serving("openai", Reply([body], headers=JSON)) as (backend, _):
        events, error, _ = await outcome(backend)
    assert events == []
    assert isinstance(error, ProviderFault)
    assert error.provider_request_id == "req-7"


async def test_an_error_in_a_body_with_status_200_has_its_own_name() -> None:
    refusal = {"error": {"message": "maximum context length is 10", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    async with serving("openai", Reply([json.dumps(refusal).encode()], headers=JSON)) as (backend, _):
        _, error, _ = await outcome(backend)
    assert isinstance(error, ContextTooLong)


async def test_a_body_that_is_cut_is_broken() -> None:
    async with serving("openai", Reply([b'{"choices": [', Cut()], headers=JSON)) as (backend, _):
        _, error, attempt = await outcome(backend)
    assert isinstance(error, StreamBroken)
    assert attempt.usage is not None
    assert attempt.usage.input_tokens == backend.count(ASKED).n


def test_an_unfinished_choice_of_a_whole_answer_is_broken() -> None:
    with pytest.raises(StreamBroken):
        whole(completion({"content": "a"}), choices=2)


def test_calls_of_a_whole_answer_are_told_apart_whatever_their_ids() -> None:
    calls = [{"id": identity, "type": "function", "function": {"name": "f", "arguments": "{}"}} for identity in ("a", "a", "", None)]
    made = said(whole(completion({"content": None, "tool_calls": calls})), ToolCallDelta)
    assert [call.index for call in made] == [0, 1, 2, 3]
    assert [call.id for call in made[:2]] == ["a", "a"]
    assert all(call.id for call in made)


def test_a_custom_tools_input_is_its_arguments() -> None:
    call = {"id": "a", "type": "custom", "custom": {"name": "run", "input": "print()"}}
    assert said(whole(completion({"content": None, "tool_calls": [call]})), ToolCallDelta) == [ToolCallDelta(0, "a", "run", "print()")]


def test_a_whole_answer_and_its_stream_are_collected_to_the_same() -> None:
    token = {"token": "No", "logprob": -0.5, "bytes": [78, 111], "top_logprobs": []}
    notes = [{"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}]
    message = {
        "content": "Yes",
        "refusal": "No",
        "reasoning_content": "Hm",
        "annotations": notes,
        "tool_calls": [{"id": "a", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"google": {"s": "x"}}}],
    }
    one = completion(message, logprobs={"content": None, "refusal": [token]}, moderation={"input": {}})
    stream = {**one, "choices": [{"index": 0, "delta": message, "finish_reason": "stop", "logprobs": {"content": None, "refusal": [token]}}]}
    decoder = ChatDecoder()
    streamed = [*decoder.feed(SseEvent("", json.dumps(stream).encode())), *decoder.finish()]
    assert whole(one) == streamed
    assert UsageReported(Usage(5, 3)) in streamed
    collector = Collector()
    for event in streamed:
        collector.add(event)
    (choice,) = collector.result().choices
    assert (choice.text, choice.refusal, choice.reasoning, choice.refusal_logprobs) == ("Yes", "No", "Hm", (TokenLogprob("No", -0.5),))
    assert [item.item for item in said(streamed, ProviderItem)] == [
        {"extra_content": {"google": {"s": "x"}}, "toolCallId": "a"},
        {"annotations": notes},
        {"moderation": {"input": {}}},
    ]


def test_thoughts_that_are_counted_only_in_the_total_are_output() -> None:
    usage = {"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100}
    assert UsageReported(Usage(66, 34, reasoning_output_tokens=28)) in whole(completion({"content": "x"}, usage=usage))
    usage |= {"completion_tokens_details": {"reasoning_tokens": 28}}
    assert UsageReported(Usage(66, 34, reasoning_output_tokens=28)) in whole(completion({"content": "x"}, usage=usage))


def test_spoken_output_comes_as_one_item_before_the_end() -> None:
    decoder = ChatDecoder()
    pieces = [{"id": "s", "transcript": "Hel"}, {"data": "AAAA", "transcript": "lo"}, {"data": "BBBB", "expires_at": 9}]
    values = [{"choices": [{"index": 0, "delta": {"audio": piece}}]} for piece in pieces]
    values.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = [event for value in values for event in decoder.feed(SseEvent("", json.dumps(value).encode()))]
    spoken = {"id": "s", "data": "AAAABBBB", "transcript": "Hello", "expires_at": 9}
    assert said(events, ProviderItem) == [ProviderItem("openai.chat", {"audio": spoken})]
