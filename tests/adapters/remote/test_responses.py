"""OpenAI's responses as a backend: what it is sent, what it is not, and how its failures end."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, create_backend, kind_named, require_features
from adapters.errors import InvalidRequest, Overloaded, ProviderFault, RateLimited, StreamBroken, UnsupportedFeature
from adapters.openai import OpenAIResponsesBackend
from adapters.openai.responses_stream import ResponsesDecoder
from adapters.sse import SseEvent
from adapters.types import (
    FilePart,
    GenerateRequest,
    ImagePart,
    Message,
    ProviderItem,
    ProviderPart,
    ProviderTool,
    Reasoning,
    RefusalPart,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    Usage,
    UsageReported,
)
from tests.adapters.remote.kit import outcome, said, serving
from tests.fakes.provider import Cut, Reply
from tests.fakes.responses_wire import responding, responses_steps
from tests.fakes.wire import Answer, failing

USER = Message("user", (TextPart("Hi"),))


def backend(**table: Any) -> OpenAIResponsesBackend:
    spec = msgspec.convert({"kind": "openai", "api": "responses", "model": "gpt-5", **table}, kind_named("openai").spec)
    made = create_backend("subject", spec, BackendContext(environ={"OPENAI_API_KEY": "k"}))
    assert isinstance(made, OpenAIResponsesBackend)
    return made


def sent(request: GenerateRequest, **table: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(backend(**table).encode(request).body)
    return body


def asked(*messages: Message, **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=messages or (USER,), **fields)


def test_openai_keeps_nothing_and_hands_out_reasoning_encrypted() -> None:
    body = sent(asked(extra={"store": True}, dialect="openai.responses"))
    assert body["store"] is False
    assert body["include"] == ["reasoning.encrypted_content"]
    assert "include" not in sent(asked(), model="gpt-4o")
    assert "include" not in sent(asked(), base_url="http://127.0.0.1:1/v1")


def test_a_chat_with_tools_becomes_items() -> None:
    body = sent(
        asked(
            Message("developer", (TextPart("Be brief."),)),
            Message("user", (TextPart("Look"), ImagePart("https://a.b/c.png", "low"), FilePart("data:application/pdf;base64,AA=="))),
            Message("assistant", (TextPart("I look."), RefusalPart("Not there."), ToolCallPart("c1", "f", "{}"))),
            Message("tool", (TextPart("done"),), tool_call_id="c1"),
            tools=(Tool("f", "does it"),),
            tool_choice=ToolChoice("function", "f"),
            response_format=ResponseFormat("json_schema", "x", {"type": "object"}, True),
            reasoning=Reasoning(budget_tokens=8_000),
            logprobs=2,
        )
    )
    assert body["input"] == [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look"},
                {"type": "input_image", "image_url": "https://a.b/c.png", "detail": "low"},
                {"type": "input_file", "filename": "document.pdf", "file_data": "data:application/pdf;base64,AA=="},
            ],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}, {"type": "refusal", "refusal": "Not there."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
    ]
    assert body["tools"] == [{"type": "function", "name": "f", "description": "does it", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    assert body["tool_choice"] == {"type": "function", "name": "f"}
    assert body["text"] == {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}}
    assert body["reasoning"] == {"effort": "medium"}
    assert (body["top_logprobs"], "message.output_text.logprobs" in body["include"]) == (2, True)


def test_what_changes_the_price_is_withheld_and_named_unless_allowed() -> None:
    request = asked(
        dialect="openai.responses",
        extra={"service_tier": "priority", "background": True, "truncation": "auto"},
        reasoning=Reasoning(effort="high", extra={"mode": "pro", "context": "all_turns"}),
        seed=7,
    )
    call = backend().encode(request)
    body = json.loads(call.body)
    assert set(call.ignored) == {"service_tier", "background", "reasoning.mode", "seed"}
    assert not {"service_tier", "background"} & body.keys()
    assert (body["truncation"], body["reasoning"]) == ("auto", {"context": "all_turns", "effort": "high"})
    allowed = sent(request, pass_through=["service_tier", "reasoning.mode"])
    assert (allowed["service_tier"], allowed["reasoning"]["mode"]) == ("priority", "pro")


def test_another_dialects_unknown_fields_are_named_as_ignored() -> None:
    call = backend().encode(asked(extra={"prediction": {}, "prompt_cache_key": "k"}))
    assert call.ignored == ("prediction",)
    assert json.loads(call.body)["prompt_cache_key"] == "k"


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asked(stop=("x",)), "stop"),
        (asked(max_output_tokens=5), "max_output_tokens"),
        (asked(Message("user", (ProviderPart("anthropic", {"type": "file"}, required=True),))), "messages"),
        (asked(Message("user", (ProviderPart("openai", {"type": "input_file", "file_id": "file-1"}, required=True),))), "messages"),
        (asked(tool_choice=ToolChoice("auto", item={"type": "allowed_tools"}), tools=(Tool("f"),)), "tool_choice"),
    ],
)
def test_what_the_api_does_not_have_is_an_unsupported_feature(request_: GenerateRequest, param: str) -> None:
    with pytest.raises(UnsupportedFeature) as refused:
        backend().encode(request_)
    assert refused.value.param == param


def test_a_providers_own_tool_is_taken_only_where_it_is_configured() -> None:
    request = asked(tools=(ProviderTool("openai", {"type": "web_search"}),))
    with pytest.raises(UnsupportedFeature, match="openai/web_search"):
        require_features(request, backend().capabilities, "subject")
    require_features(request, backend(provider_tools=["openai/web_search"]).capabilities, "subject")
    require_features(asked(tools=(ProviderTool("openai", {"type": "custom", "name": "f"}),)), backend().capabilities, "subject")


def test_reasoning_without_its_encrypted_content_is_left_out_with_the_ids_that_hang_on_it() -> None:
    call = ToolCallPart("c1", "f", "{}", extra={"id": "fc_1"})
    bare = ProviderPart("openai", {"type": "reasoning", "id": "rs_1", "summary": []})
    whole = ProviderPart("openai", {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"})
    plain = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    assert sent(asked(Message("assistant", (bare, call)), dialect="openai.responses"))["input"] == [plain]
    assert sent(asked(Message("assistant", (whole, call)), dialect="openai.responses"))["input"] == [whole.item, {**plain, "id": "fc_1"}]
    foreign = ProviderPart("anthropic", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
    assert sent(asked(Message("assistant", (foreign, call)), dialect="openai.responses"))["input"] == [plain]


def test_everything_that_is_sent_is_counted_and_a_file_by_address_as_a_whole_window() -> None:
    plain = backend().count(asked()).upper
    assert backend().count(asked(dialect="openai.responses", extra={"user": "x" * 1_000})).upper >= plain + 1_000
    assert backend().count(asked(Message("user", (TextPart("Hi", extra={"note": "x" * 1_000}),)))).upper >= plain + 1_000
    by_address = asked(Message("user", (FilePart("https://a.b/c.pdf"),)))
    assert backend(context_window=200_000).count(by_address).upper >= 200_000
    assert backend(model="nobody-knows").count(by_address).upper >= 1_000_000


def event(**fields: Any) -> SseEvent:
    return SseEvent("", json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "server_error", "message": "it went wrong"}, ProviderFault),
        ({"code": "rate_limit_exceeded", "message": "slow down"}, RateLimited),
        ({"code": "invalid_image_url", "message": "no picture there"}, InvalidRequest),
        (None, ProviderFault),
    ],
)
def test_a_failed_response_raises_after_its_usage(error: Any, expected: type[Exception]) -> None:
    decoder = ResponsesDecoder()
    usage = {"input_tokens": 9, "output_tokens": 2, "total_tokens": 11}
    events = decoder.feed(event(type="response.failed", response={"id": "resp_1", "status": "failed", "error": error, "usage": usage}))
    assert UsageReported(Usage(9, 2)) in events
    assert decoder.usage_final
    with pytest.raises(expected):
        decoder.finish()


def test_an_error_event_raises_in_both_of_its_shapes() -> None:
    with pytest.raises(RateLimited):
        ResponsesDecoder().feed(event(type="error", code="rate_limit_exceeded", message="slow down", param=None))
    with pytest.raises(Overloaded):
        ResponsesDecoder().feed(event(type="error", error={"type": "overloaded", "message": "busy"}))


def test_a_call_with_a_namespace_and_a_message_with_a_phase_come_back_as_they_were() -> None:
    output = [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "a"}],
        },
        {"id": "msg_2", "type": "message", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "b"}]},
        {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "c1", "name": "f", "namespace": "n", "arguments": "{}"},
    ]
    from adapters.collect import Collector

    decoder, collector = ResponsesDecoder(), Collector()
    for each in decoder.whole(json.dumps({"id": "resp_1", "status": "completed", "output": output}).encode()):
        collector.add(each)
    items = sent(asked(collector.result().choices[0].message))["input"]
    assert [(item["type"], item.get("id"), item.get("phase"), item.get("namespace")) for item in items] == [
        ("message", "msg_1", "commentary", None), ("message", "msg_2", None, None), ("function_call", "fc_1", None, "n"),
    ]  # fmt: skip


async def test_an_answer_in_one_piece_is_read_as_such() -> None:
    body = responses_steps(Answer())[-1].decode().split("data: ")[1]
    whole = json.dumps(json.loads(body)["response"]).encode()
    reply = Reply([whole], headers={"content-type": "application/json"})
    async with serving("openai", reply, api="responses", streaming=False) as (subject, provider):
        events, error, _ = await outcome(subject)
        assert provider.exchanges[0].json["stream"] is False
    assert error is None
    assert "".join(each.text for each in said(events, type(events[1])) if hasattr(each, "text")) == "Hello, world."


async def test_a_cut_stream_is_broken_and_a_refused_one_keeps_its_wait() -> None:
    async with serving("openai", Reply([*responses_steps(Answer())[:3], Cut()]), api="responses") as (subject, _):
        _, error, attempt = await outcome(subject)
    assert isinstance(error, StreamBroken)
    assert attempt.usage is not None
    assert attempt.usage.source == "estimated"
    async with serving("openai", failing("openai", 429, "rate_limit_exceeded", retry_after="7"), api="responses") as (subject, _):
        _, error, _ = await outcome(subject)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7


async def test_the_attempt_names_the_providers_request() -> None:
    async with serving("openai", responding(), api="responses") as (subject, provider):
        _, error, attempt = await outcome(subject)
        assert provider.exchanges[0].path == "/v1/responses"
    assert error is None
    assert (attempt.provider_request_id, attempt.model) == ("req-1", "served-model")


HERE, THERE = "http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"
SEALED = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}


@pytest.mark.parametrize("maker", [None, HERE])
@pytest.mark.parametrize("asked_one", [None, HERE, THERE])
def test_encrypted_reasoning_goes_back_only_to_the_server_that_made_it(maker: str | None, asked_one: str | None) -> None:
    table = {} if maker is None else {"base_url": maker}
    answer = json.dumps({"status": "completed", "output": [SEALED]}).encode()
    made = [event for event in backend(**table).decoder(asked(), None).whole(answer) if isinstance(event, ProviderItem)]
    turn = Message("assistant", (*(ProviderPart(each.provider, each.item) for each in made), TextPart("Yes.")))
    body = sent(asked(USER, turn, USER), **({} if asked_one is None else {"base_url": asked_one}))
    assert made
    assert ("gAAAA" in json.dumps(body)) is (maker == asked_one)


def test_what_a_client_sends_unsealed_is_openais_own_and_its_readable_items_go_to_any_server() -> None:
    call = {"type": "custom_tool_call", "call_id": "c", "name": "run", "input": "ls"}
    turn = Message("assistant", (ProviderPart("openai", SEALED), ProviderPart("openai", call, required=True)))
    assert sent(asked(USER, turn))["input"][1:] == [SEALED, call]
    assert sent(asked(USER, turn), base_url=HERE)["input"][1:] == [call]
    kept = Message("assistant", (ProviderPart("openai", {"type": "compaction", "encrypted_content": "gAAAA"}, required=True),))
    with pytest.raises(UnsupportedFeature):
        backend(base_url=HERE).encode(asked(USER, kept))


@pytest.mark.parametrize("url", ["https://eu.api.openai.com/v1", "https://us.api.openai.com/v1"])
def test_openais_regions_are_openai_itself(url: str) -> None:
    body = sent(asked(), base_url=url)
    assert body["include"] == ["reasoning.encrypted_content"]


@pytest.mark.parametrize("url", ["https://api.openai.com.example.org/v1", "https://notapi.openai.com/v1"])
def test_a_host_that_only_looks_like_openais_is_not_openai(url: str) -> None:
    assert "include" not in sent(asked(), base_url=url)
