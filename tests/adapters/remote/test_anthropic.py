"""What the adapter makes of requests that came in another dialect, and of the traits of a model."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adapters.anthropic  # noqa: F401 - importing an adapter registers it
from adapters.anthropic.bounds import SERVER_ROUNDS
from adapters.anthropic.content import INVALID_JSON, OPENING, fitting_id
from adapters.anthropic.messages import AnthropicBackend
from adapters.anthropic.messages_stream import MessageDecoder
from adapters.anthropic.models import traits_of
from adapters.backend import BackendContext, create_backend, kind_named, missing_features
from adapters.errors import Overloaded, ProviderFault, UnsupportedFeature
from adapters.remote import WireCall
from adapters.sse import SseEvent
from adapters.types import (
    Event,
    FilePart,
    GenerateRequest,
    Message,
    ProviderItem,
    ProviderPart,
    ProviderTool,
    Reasoning,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolChoice,
    Usage,
    UsageReported,
)

SONNET, OPUS_46, OPUS_48, OPUS_5, FABLE = "claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-4-8", "claude-opus-5", "claude-fable-5-1"


def backend(model: str = SONNET, **table: Any) -> AnthropicBackend:
    spec = msgspec.convert({"kind": "anthropic", "model": model, "base_url": "http://127.0.0.1:1", **table}, kind_named("anthropic").spec)
    made = create_backend("claude", spec, BackendContext(environ={}))
    assert isinstance(made, AnthropicBackend)
    return made


def user(text: str = "Hi") -> Message:
    return Message("user", (TextPart(text),))


def asking(*messages: Message, **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=messages or (user(),), **fields)


def sent(request: GenerateRequest, model: str = SONNET, **table: Any) -> tuple[dict[str, Any], WireCall]:
    call = backend(model, **table).encode(request)
    return json.loads(call.body), call


@pytest.mark.parametrize(
    ("name", "structured", "budgets", "adaptive", "sampling"),
    [
        ("claude-3-5-sonnet-20241022", False, False, False, True),
        ("claude-3-7-sonnet-latest", False, True, False, True),
        ("claude-sonnet-4-20250514", False, True, False, True),
        ("claude-sonnet-4-0", False, True, False, True),
        ("claude-opus-4-1-20250805", True, True, False, True),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", True, True, False, True),
        ("claude-haiku-4-5", True, True, False, True),
        ("claude-opus-4-6", True, True, True, True),
        ("claude-opus-4-7", True, False, True, False),
        ("claude-sonnet-5", True, False, True, False),
        ("claude-haiku-5-5", True, False, True, False),
    ],
)
def test_a_models_name_tells_what_it_can_do(name: str, structured: bool, budgets: bool, adaptive: bool, sampling: bool) -> None:
    traits = traits_of(name)
    assert traits.known
    assert (traits.structured, traits.budgets, traits.adaptive, traits.sampling) == (structured, budgets, adaptive, sampling)


def test_a_name_that_says_nothing_is_unknown() -> None:
    assert not traits_of("my-own-claude").known
    assert backend("my-own-claude").capabilities.json_schema == "prompted"
    assert backend("my-own-claude", json_schema="native").capabilities.json_schema == "native"
    assert backend(SONNET, json_schema="prompted").capabilities.json_schema == "prompted"


@pytest.mark.parametrize(
    ("model", "effort", "limit", "thinking", "said_effort", "ignored"),
    [
        (SONNET, "low", 10_000, {"type": "enabled", "budget_tokens": 2_048}, None, ()),
        (SONNET, "high", 10_000, {"type": "enabled", "budget_tokens": 7_500}, None, ()),
        (SONNET, "high", 1_200, None, None, ("reasoning",)),
        (SONNET, "none", 10_000, None, None, ()),
        (OPUS_46, "medium", 10_000, {"type": "adaptive"}, "medium", ()),
        (OPUS_46, "xhigh", 10_000, {"type": "adaptive"}, "high", ()),
        (OPUS_48, "minimal", 10_000, {"type": "adaptive"}, "low", ()),
        (OPUS_48, "xhigh", 10_000, {"type": "adaptive"}, "xhigh", ()),
        (OPUS_5, "none", 10_000, {"type": "disabled"}, None, ()),
        (FABLE, "none", 10_000, None, "low", ("reasoning",)),
        ("claude-3-5-haiku-latest", "high", 10_000, None, None, ("reasoning",)),
    ],
)
def test_openais_effort_becomes_what_the_model_has(
    model: str, effort: str, limit: int, thinking: dict[str, Any] | None, said_effort: str | None, ignored: tuple[str, ...]
) -> None:
    body, call = sent(asking(reasoning=Reasoning(effort=effort), max_output_tokens=limit), model)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == said_effort
    assert call.ignored == ignored


@given(
    st.sampled_from(["minimal", "low", "medium", "high", "xhigh", "max", None]),
    st.none() | st.integers(0, 200_000),
    st.integers(1, 200_000),
    st.sampled_from([SONNET, OPUS_46, OPUS_5, "claude-3-5-haiku-latest", "someone's"]),
    st.sampled_from(["openai.chat", "anthropic.messages"]),
)
def test_a_budget_is_always_below_the_output_limit_and_never_too_small(effort: str | None, budget: int | None, limit: int, model: str, dialect: Any) -> None:
    body, _ = sent(asking(reasoning=Reasoning(effort=effort, budget_tokens=budget), max_output_tokens=limit, dialect=dialect), model)
    thinking = body.get("thinking", {})
    if thinking.get("type") == "enabled":
        assert 1_024 <= thinking["budget_tokens"] < body["max_tokens"]
    assert body["max_tokens"] == limit


@pytest.mark.parametrize(
    ("model", "asked", "fields", "ignored"),
    [
        (SONNET, {"temperature": 0.3, "top_k": 5}, {"temperature": 0.3, "top_k": 5}, ()),
        (SONNET, {"temperature": 1.7}, {"temperature": 1.0}, ("temperature",)),
        (SONNET, {"temperature": 0.3, "top_p": 0.9}, {"temperature": 0.3}, ("top_p",)),
        ("claude-3-5-haiku-latest", {"temperature": 0.3, "top_p": 0.9}, {"temperature": 0.3, "top_p": 0.9}, ()),
        (OPUS_48, {"temperature": 0.3, "top_p": 0.9, "top_k": 5}, {}, ("temperature", "top_p", "top_k")),
        (SONNET, {"temperature": 0.3, "top_p": 0.96, "reasoning": Reasoning(effort="low"), "max_output_tokens": 9_000}, {"top_p": 0.96}, ("temperature",)),
        (SONNET, {"temperature": 1.0, "top_p": 0.5, "reasoning": Reasoning(effort="low"), "max_output_tokens": 9_000}, {}, ("top_p",)),
    ],
)
def test_sampling_goes_as_far_as_the_model_takes_it(model: str, asked: dict[str, Any], fields: dict[str, Any], ignored: tuple[str, ...]) -> None:
    body, call = sent(asking(**asked), model)
    assert {name: body[name] for name in ("temperature", "top_p", "top_k") if name in body} == fields
    assert call.ignored == ignored


CALLED = (user(), Message("assistant", (ToolCallPart("call_1", "f", "{}"),)), Message("tool", (TextPart("ok"),), tool_call_id="call_1"))


def test_calls_made_without_thinking_switch_thinking_off_and_say_so() -> None:
    asked = {"reasoning": Reasoning(effort="low"), "max_output_tokens": 9_000, "tools": (Tool("f"),)}
    body, call = sent(asking(*CALLED, **asked))
    assert "thinking" not in body
    assert call.ignored == ("reasoning",)
    body, call = sent(asking(*CALLED, user("and now?"), Message("assistant", (TextPart("hm"),)), user("well?"), **asked))
    assert body["thinking"]["type"] == "enabled"
    thought = ProviderPart("anthropic", {"type": "thinking", "thinking": "x", "signature": "s"})
    signed = (CALLED[0], Message("assistant", (thought, *CALLED[1].parts)), CALLED[2])
    assert sent(asking(*signed, **asked))[0]["thinking"]["type"] == "enabled"
    assert sent(asking(*CALLED, **asked), OPUS_48)[0]["thinking"] == {"type": "adaptive"}


def test_a_forced_choice_and_a_budget_exclude_each_other() -> None:
    body, call = sent(asking(tools=(Tool("f"),), tool_choice=ToolChoice("required"), reasoning=Reasoning(effort="low"), max_output_tokens=9_000))
    assert "thinking" not in body
    assert body["tool_choice"] == {"type": "any"}
    assert call.ignored == ("reasoning",)


@given(st.text(max_size=30), st.text(max_size=30))
def test_ids_of_calls_always_fit_and_stay_apart(one: str, other: str) -> None:
    fitted = fitting_id(one)
    assert fitted
    assert set(fitted) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert fitting_id(one) == fitted
    assert (fitted == fitting_id(other)) == (one == other)


def test_another_providers_id_is_the_same_in_the_call_and_in_its_result() -> None:
    messages = (user(), Message("assistant", (ToolCallPart("call|1", "f", "{}"),)), Message("tool", (TextPart("ok"),), tool_call_id="call|1"))
    turns = sent(asking(*messages))[0]["messages"]
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"] != "call|1"


@pytest.mark.parametrize("arguments", ["[1", "[1]", '"x"', '{"a": 1', "null"])
def test_arguments_that_are_no_object_go_back_as_what_they_are(arguments: str) -> None:
    turns = sent(asking(user(), Message("assistant", (ToolCallPart("c", "f", arguments),)), Message("tool", (TextPart("no"),), tool_call_id="c")))[0][
        "messages"
    ]
    assert turns[1]["content"][0]["input"] == {INVALID_JSON: arguments}


def test_empty_texts_are_left_out_and_the_user_comes_first() -> None:
    body, _ = sent(asking(Message("assistant", (TextPart("Welcome!"),)), Message("user", (TextPart("  \n"), TextPart("Hi")))))
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": OPENING}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Welcome!"}]},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    assert [turn["role"] for turn in sent(asking(Message("system", (TextPart("Be brief."),))))[0]["messages"]] == ["user"]


def test_a_started_answer_is_for_the_models_that_go_on_with_it() -> None:
    started = asking(user(), Message("assistant", (TextPart("The answer is \n"),)))
    assert sent(started)[0]["messages"][-1]["content"] == [{"type": "text", "text": "The answer is"}]
    with pytest.raises(UnsupportedFeature):
        sent(started, OPUS_48)
    paused = ProviderPart("anthropic", {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})
    assert sent(asking(user(), Message("assistant", (TextPart("Searching"), paused))), OPUS_48)[0]["messages"][-1]["role"] == "assistant"


def test_system_messages_stay_in_place_where_the_model_takes_them() -> None:
    later = asking(Message("system", (TextPart("one"),)), user(), Message("developer", (TextPart("two"),)))
    old, new = sent(later)[0], sent(later, OPUS_48)[0]
    assert (old["system"], len(old["messages"])) == ("one\n\ntwo", 1)
    assert (new["system"], new["messages"][1]) == ("one", {"role": "system", "content": [{"type": "text", "text": "two"}]})


def test_documents_go_as_pdf_text_or_address() -> None:
    parts = (
        FilePart("data:application/pdf;base64,JVBERg==", "a.pdf"),
        FilePart("data:text/markdown;base64,SGk=", "b.md"),
        FilePart("https://example.org/c.pdf"),
    )
    content = sent(asking(Message("user", parts)))[0]["messages"][0]["content"]
    assert [(block["source"]["type"], block.get("title")) for block in content] == [("base64", "a.pdf"), ("text", "b.md"), ("url", None)]
    assert content[1]["source"] == {"type": "text", "media_type": "text/plain", "data": "Hi"}
    with pytest.raises(UnsupportedFeature):
        sent(asking(Message("user", (FilePart("data:application/zip;base64,UEs="),))))


def test_other_providers_parts_are_left_out_unless_the_message_needs_them() -> None:
    foreign = ProviderPart("openai", {"type": "reasoning"})
    body, _ = sent(asking(user(), Message("assistant", (foreign, TextPart("ok"))), user()))
    assert body["messages"][1]["content"] == [{"type": "text", "text": "ok"}]
    with pytest.raises(UnsupportedFeature):
        sent(asking(Message("user", (ProviderPart("openai", {"type": "input_file", "file_id": "f"}, required=True),))))


def test_files_that_the_provider_keeps_need_leave() -> None:
    kept = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    for item in (kept, {"type": "container_upload", "file_id": "file_1"}, {"type": "search_result", "content": [kept]}):
        request = asking(Message("user", (ProviderPart("anthropic", item, required=True),)), dialect="anthropic.messages")
        with pytest.raises(UnsupportedFeature):
            sent(request)
        assert sent(request, pass_through=["file_id"])[0]["messages"][0]["content"] == [item]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}


def test_a_schema_of_another_dialect_is_said_as_far_as_the_grammar_goes() -> None:
    asked = asking(response_format=ResponseFormat("json_schema", "answer", SCHEMA, True))
    said = sent(asked)[0]["output_config"]["format"]
    assert said["type"] == "json_schema"
    assert said["schema"]["additionalProperties"] is False
    assert "minimum" not in said["schema"]["properties"]["n"]
    assert "minimum: 3" in said["schema"]["properties"]["n"]["description"]
    assert "output_config" not in sent(asked, "claude-sonnet-4-0")[0]
    native = sent(asking(response_format=ResponseFormat("json_schema", None, SCHEMA, True), dialect="anthropic.messages"))[0]
    assert native["output_config"]["format"]["schema"] == SCHEMA


def test_marks_of_an_hour_become_five_minutes_without_leave() -> None:
    mark = {"type": "ephemeral", "ttl": "1h"}
    asked = asking(Message("user", (TextPart("long", mark),)), tools=(Tool("f", cache=mark),), dialect="anthropic.messages", extra={"cache_control": mark})
    body, call = sent(asked)
    plain = {"type": "ephemeral"}
    assert (body["messages"][0]["content"][0]["cache_control"], body["tools"][0]["cache_control"], body["cache_control"]) == (plain, plain, plain)
    assert call.ignored == ("cache_control.ttl",)
    assert sent(asked, pass_through=["cache_ttl"], price={"input": 3, "output": 15, "cache_write": 6})[0]["cache_control"] == mark


def test_what_costs_more_is_not_sent_and_is_named() -> None:
    extra = {"service_tier": "priority", "mcp_servers": [], "betas": ["context-1m"], "diagnostics": {}, "output_config": {"task_budget": {"total": 9}}}
    asked = asking(extra=extra, dialect="anthropic.messages")
    body, call = sent(asked)
    assert set(call.ignored) == {"service_tier", "mcp_servers", "betas", "task_budget"}
    assert not {"service_tier", "mcp_servers", "betas", "output_config"} & set(body)
    assert (body["diagnostics"], call.headers) == ({}, {})
    body, call = sent(asked, pass_through=["service_tier", "betas", "task_budget", "mcp_servers"])
    assert (body["service_tier"], body["output_config"], call.headers) == ("priority", {"task_budget": {"total": 9}}, {"anthropic-beta": "context-1m"})
    assert sent(asking(extra=extra))[1].ignored == tuple(extra)


def test_a_client_cannot_replace_what_the_service_says() -> None:
    body, _ = sent(asking(extra={"model": "other", "stream": False, "max_tokens": 10**6, "messages": []}, dialect="anthropic.messages", max_output_tokens=7))
    assert (body["model"], body["stream"], body["max_tokens"], len(body["messages"])) == (SONNET, True, 7, 1)


def test_tools_of_the_providers_own_are_taken_where_they_cost_nothing_or_are_allowed() -> None:
    memory, search = (ProviderTool("anthropic", {"type": kind, "name": "x"}) for kind in ("memory_20250818", "web_search_20250305"))
    assert not missing_features(asking(tools=(memory,)), backend().capabilities)
    assert missing_features(asking(tools=(search,)), backend().capabilities)
    assert not missing_features(asking(tools=(search,)), backend(provider_tools=["anthropic/web_search_*"]).capabilities)


def test_what_nobody_can_measure_is_bounded_by_the_window() -> None:
    pdf = asking(Message("user", (FilePart("data:application/pdf;base64,JVBERg=="),)))
    assert backend().count(pdf).upper >= 200_000
    assert backend(OPUS_48).count(pdf).upper >= 1_000_000
    assert backend().count(asking(Message("user", (FilePart("data:text/plain;base64,SGk="),)))).upper < 2_000
    search = {"type": "web_search_20250305", "name": "web_search"}
    assert backend().count(asking(tools=(ProviderTool("anthropic", search),))).upper == SERVER_ROUNDS * 200_000
    assert backend().count(asking(tools=(ProviderTool("anthropic", {**search, "max_uses": 2}),))).upper == 3 * 200_000
    image = ProviderPart("anthropic", {"type": "image", "source": {"type": "file", "file_id": "f"}}, required=True)
    assert backend().count(asking(Message("user", (image,)))).upper > 50_000


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=500), max_size=4), st.text(max_size=2_000))
def test_everything_that_goes_out_counts_towards_the_bound(extra: dict[str, str], text: str) -> None:
    asked = asking(
        Message("user", (TextPart(text, extra={"citations": [extra]}),)),
        Message("assistant", (ToolCallPart("c", "f", "{}", extra={"caller": extra}),)),
        Message("tool", (TextPart(text),), tool_call_id="c", extra={"more": extra}),
        tools=(Tool("f", extra={"input_examples": [extra]}),),
        extra={"more": extra},
        dialect="anthropic.messages",
    )
    claude = backend()
    assert claude.count(asked).upper >= len(claude.encode(asked).body) - 600  # the rest is names of fields, which are no prompt


def fed(decoder: MessageDecoder, *values: dict[str, Any]) -> list[Event]:
    return [event for value in values for event in decoder.feed(SseEvent("", json.dumps(value).encode()))]


def test_arguments_that_are_cut_off_are_kept_as_they_came() -> None:
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}}
    piece = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"city": "Os'}}
    events = fed(MessageDecoder(), block, piece, {"type": "content_block_stop", "index": 0})
    assert events == [ToolCallDelta(0, "t", "f"), ToolCallDelta(0, arguments='{"city": "Os')]


def test_a_call_from_inside_a_sandbox_says_so_on_its_way_back() -> None:
    caller = {"type": "code_execution_20260120", "tool_id": "s"}
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": caller}
    body = {"type": "message", "id": "m", "model": "m", "content": [block], "stop_reason": "tool_use", "usage": {"input_tokens": 1, "output_tokens": 1}}
    events = MessageDecoder().whole(json.dumps(body).encode())
    fields = next(event for event in events if isinstance(event, ProviderItem))
    message = Message("assistant", (ProviderPart("anthropic", fields.item), ToolCallPart("t", "f", '{"a": 1}')))
    assert sent(asking(user(), message, Message("tool", (TextPart("ok"),), tool_call_id="t")))[0]["messages"][1]["content"] == [block]


def test_a_compaction_is_billed_though_the_total_leaves_it_out() -> None:
    rounds = [{"type": "compaction", "input_tokens": 900, "output_tokens": 30}, {"type": "message", "input_tokens": 50, "output_tokens": 5}]
    usage = {"input_tokens": 50, "output_tokens": 5, "iterations": rounds}
    body = {"type": "message", "id": "m", "model": "m", "content": [], "stop_reason": "end_turn", "usage": usage}
    report = next(event.usage for event in reversed(MessageDecoder().whole(json.dumps(body).encode())) if isinstance(event, UsageReported))
    assert (report.input_tokens, report.output_tokens) == (950, 35)


def test_an_error_that_comes_whole_is_an_error() -> None:
    with pytest.raises(Overloaded):
        MessageDecoder().whole(b'{"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}')


def test_an_hours_cache_is_let_out_only_at_a_price_of_the_tables_own() -> None:
    with pytest.raises(ValueError, match="cache_write"):
        backend(pass_through=["cache_ttl"])


def test_a_compaction_is_billed_once_however_often_it_is_told() -> None:
    decoder = MessageDecoder()
    done = [{"type": "compaction", "input_tokens": 100, "output_tokens": 10, "cache_read_input_tokens": 5}]
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 20, "cache_read_input_tokens": 3, "output_tokens": 1, "iterations": done}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7, "iterations": done}}
    told = [event for each in (start, end, end) for event in decoder.feed(SseEvent("", json.dumps(each).encode())) if isinstance(event, UsageReported)]
    assert told[-1].usage == Usage(input_tokens=20 + 3 + 100 + 5, output_tokens=7 + 10, cache_read_input_tokens=8)


def test_a_block_that_was_not_said_to_end_is_not_lost_and_a_piece_of_none_is_a_fault() -> None:
    decoder = MessageDecoder()
    said: list[Any] = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "Hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    events = [event for each in said for event in decoder.feed(SseEvent("", json.dumps(each).encode()))]
    assert [event.item for event in events if isinstance(event, ProviderItem)] == [{"type": "thinking", "thinking": "Hm", "signature": "c2ln"}]
    with pytest.raises(ProviderFault):
        decoder.feed(SseEvent("", b'{"type": "content_block_delta", "index": 9, "delta": {"type": "text_delta", "text": "lost"}}'))
