"""The pure decoders: what servers of the three dialects really send, to events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.anthropic.messages_stream import FINISH as ANTHROPIC_FINISH
from adapters.anthropic.messages_stream import MessageDecoder
from adapters.errors import ProviderFault, StreamBroken
from adapters.gemini.content_stream import FAILED, ContentDecoder
from adapters.gemini.content_stream import FINISH as GEMINI_FINISH
from adapters.openai.chat_stream import ChatDecoder
from adapters.remote import StreamDecoder
from adapters.sse import SseEvent
from adapters.types import Event, Finished, ProviderItem, ReasoningDelta, ResponseStarted, TextDelta, TokenLogprob, ToolCallDelta, Usage, UsageReported


def fed(decoder: StreamDecoder, *values: Any) -> list[Event]:
    return [event for value in values for event in decoder.feed(SseEvent("", json.dumps(value).encode()))]


def chunk(*deltas: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta} for delta in deltas], **fields}


def call(arguments: str, **fields: Any) -> dict[str, Any]:
    return chunk({"tool_calls": [{"function": {"arguments": arguments, "name": fields.pop("name", None)}, **fields}]})


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    events = fed(ChatDecoder(), call("{}", index=0, id="a", name="f"), call("{}", index=0, id="b", name="g"))
    assert events[1:] == [ToolCallDelta(0, "a", "f", "{}"), ToolCallDelta(1, "b", "g", "{}")]


def test_id_and_name_that_come_with_every_piece_are_told_once() -> None:
    events = fed(ChatDecoder(), call('{"a"', index=0, id="a", name="f"), call(": 1}", index=0, id="a", name="f"))
    assert events[1:] == [ToolCallDelta(0, "a", "f", '{"a"'), ToolCallDelta(0, arguments=": 1}")]


def test_a_call_without_an_id_gets_one() -> None:
    events = fed(ChatDecoder(), call("{}", index=0, name="f"), call("{}", index=1, name="g"))
    ids = [event.id for event in events if isinstance(event, ToolCallDelta)]
    assert len(set(ids)) == 2
    assert all(ids)


def test_reasoning_is_read_by_each_of_its_names_and_from_parts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "three"}]}, {"type": "text", "text": "answer"}]
    events = fed(ChatDecoder(), chunk({"reasoning_content": "one"}), chunk({"reasoning": "two"}), chunk({"content": parts}))
    assert events[1:] == [ReasoningDelta("one"), ReasoningDelta("two"), ReasoningDelta("three"), TextDelta("answer")]


def test_choices_keep_apart_and_each_has_its_finish() -> None:
    decoder = ChatDecoder(choices=2)
    choices = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]
    assert fed(decoder, {"choices": choices})[1:] == [TextDelta("b", choice=1), TextDelta("a", choice=0)]
    fed(decoder, {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]})
    with pytest.raises(StreamBroken):
        decoder.finish()
    fed(decoder, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert decoder.finish() == [Finished("stop", 0, "stop"), Finished("length", 1, "length")]


def test_log_probabilities_come_with_their_text() -> None:
    logprobs = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": [72], "top_logprobs": [{"token": "Yo", "logprob": -1.5, "bytes": None}]}]}
    value = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": logprobs}]}
    assert fed(ChatDecoder(), value)[1] == TextDelta("Hi", logprobs=(TokenLogprob("Hi", -0.5, (("Yo", -1.5),)),))


def test_every_part_of_openais_usage_is_read_and_running_totals_are_not_final() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 2},
    }
    decoder = ChatDecoder()
    assert fed(decoder, chunk({"content": "x"}, usage=usage))[-1] == UsageReported(Usage(10, 5, 4, 2, 3, 1, 2))
    assert not decoder.usage_final
    fed(decoder, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    assert decoder.usage_final


def start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg", "model": "m", "usage": usage}}


def end(reason: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, **fields}, "usage": {"output_tokens": 9}}


@pytest.mark.parametrize("reason", [*ANTHROPIC_FINISH, "of_tomorrow"])
def test_every_stop_reason_of_anthropic_ends_the_answer(reason: str) -> None:
    decoder = MessageDecoder()
    fed(decoder, start(input_tokens=3), end(reason, stop_sequence="END" if reason == "stop_sequence" else None), {"type": "message_stop"})
    (finished,) = decoder.finish()
    assert finished == Finished(ANTHROPIC_FINISH.get(reason, "stop"), 0, reason, "END" if reason == "stop_sequence" else None)


def test_anthropics_cached_tokens_count_as_input_and_the_last_report_wins() -> None:
    decoder = MessageDecoder()
    events = fed(decoder, start(input_tokens=3, cache_read_input_tokens=20, cache_creation_input_tokens=5, output_tokens=1), end("end_turn"))
    reports = [event.usage for event in events if isinstance(event, UsageReported)]
    assert reports == [Usage(28, 1, 20, 5), Usage(28, 9, 20, 5)]
    revised = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 100, "output_tokens": 30}}
    assert fed(decoder, revised)[-1] == UsageReported(Usage(125, 30, 20, 5))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    events = fed(
        MessageDecoder(),
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"type": "content_block_stop", "index": 0},
    )
    assert events == [ToolCallDelta(0, "t", "f", ""), ToolCallDelta(0, arguments="{}")]


def test_a_message_without_its_stop_event_is_broken() -> None:
    decoder = MessageDecoder()
    fed(decoder, start(input_tokens=3), end("end_turn"))
    with pytest.raises(StreamBroken):
        decoder.finish()


def candidate(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **fields}], "responseId": "r", "modelVersion": "m"}


@pytest.mark.parametrize("reason", sorted(GEMINI_FINISH))
def test_every_finish_reason_of_gemini_ends_the_answer(reason: str) -> None:
    decoder = ContentDecoder()
    fed(decoder, candidate({"text": "x"}, finishReason=reason))
    assert decoder.finish() == [Finished(GEMINI_FINISH[reason], provider_reason=reason)]


@pytest.mark.parametrize("reason", sorted(FAILED))
def test_a_reason_of_failure_is_a_fault_whatever_came_before(reason: str) -> None:
    decoder = ContentDecoder()
    fed(decoder, candidate({"text": "x"}, finishReason=reason))
    with pytest.raises(ProviderFault, match=reason):
        decoder.finish()


def test_every_reason_the_sdk_knows_is_known() -> None:
    from google.genai.types import FinishReason

    named = {reason.name for reason in FinishReason} - {"FINISH_REASON_UNSPECIFIED", "OTHER", "PUP_LIMITED_DISABLED"}
    assert named == set(GEMINI_FINISH) | FAILED


def test_an_unexplained_end_is_an_answer_only_if_there_was_one() -> None:
    decoder = ContentDecoder()
    fed(decoder, candidate({"text": "x"}, finishReason="OTHER"))
    assert decoder.finish() == [Finished("stop", provider_reason="OTHER")]
    decoder = ContentDecoder()
    fed(decoder, candidate(finishReason="OTHER"))
    with pytest.raises(ProviderFault):
        decoder.finish()


def test_geminis_thoughts_and_tool_results_are_counted_in() -> None:
    usage = {"promptTokenCount": 10, "toolUsePromptTokenCount": 4, "candidatesTokenCount": 3, "thoughtsTokenCount": 2, "cachedContentTokenCount": 6}
    events = fed(ContentDecoder(), candidate({"text": "x"}) | {"usageMetadata": usage})
    assert events == [ResponseStarted("r", "m"), TextDelta("x"), UsageReported(Usage(14, 5, 6, 0, 2))]


def test_a_signature_says_to_which_call_it_belongs() -> None:
    parts = (
        {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "s1"},
        {"text": "", "thoughtSignature": "s2"},
        {"executableCode": {"code": "1"}},
    )
    decoder = ContentDecoder()
    _, made, first, second, third = fed(decoder, candidate(*parts, finishReason="STOP"))
    assert isinstance(made, ToolCallDelta)
    assert made.arguments == '{"a": 1}'
    assert first == ProviderItem("gcp.gemini", {"thoughtSignature": "s1", "toolCallId": made.id})
    assert second == ProviderItem("gcp.gemini", {"thoughtSignature": "s2", "toolCallId": None})
    assert third == ProviderItem("gcp.gemini", {"part": {"executableCode": {"code": "1"}}})
    assert decoder.finish() == [Finished("tool_calls", provider_reason="STOP")]
