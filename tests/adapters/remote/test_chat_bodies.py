"""What goes out to OpenAI's chat completions and to servers that speak them, where the round trip of a chat request does not show it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from adapters.backend import BackendContext, missing_features, takes_tool
from adapters.errors import UnsupportedFeature
from adapters.openai.chat import OpenAIBackend
from adapters.openai.spec import OpenAISpec
from adapters.remote import WireCall
from adapters.remote_content import own_item
from adapters.types import (
    AudioPart,
    Capabilities,
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
)

ELSEWHERE = "http://127.0.0.1:1/v1"
PIXEL = ImagePart("data:image/png;base64,iVBORw0KGgo=")
PAPER = FilePart("data:application/pdf;base64,JVBERg==", "paper.pdf")
SPOKEN = AudioPart("AAAA", "wav")


def backend(model: str = "gpt-5-mini", **table: Any) -> OpenAIBackend:
    spec = msgspec.convert({"kind": "openai", "model": model, **table}, OpenAISpec)
    return OpenAIBackend("b", spec, BackendContext(environ={"OPENAI_API_KEY": "sk-1"}))


def encoded(request: GenerateRequest, **table: Any) -> tuple[dict[str, Any], WireCall]:
    call = backend(**table).encode(request)
    return json.loads(call.body), call


def asked(*messages: Message, **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=messages or (user(TextPart("x")),), **fields)


def user(*parts: Any) -> Message:
    return Message("user", parts)


def test_pictures_of_tool_results_follow_behind_all_results_of_the_turn() -> None:
    calls = Message("assistant", (ToolCallPart("a", "look", "{}"), ToolCallPart("b", "look", "{}")))
    seen = Message("tool", (TextPart("a cat"), PIXEL), tool_call_id="a")
    read = Message("tool", (PAPER,), tool_call_id="b")
    request = asked(user(TextPart("Look.")), calls, seen, read, user(TextPart("And?")))
    body, _ = encoded(request)
    assert body["messages"][2:] == [
        {"role": "tool", "content": "a cat", "tool_call_id": "a"},
        {"role": "tool", "content": "", "tool_call_id": "b"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "From the result of tool call a:"},
                {"type": "image_url", "image_url": {"url": PIXEL.url}},
                {"type": "text", "text": "From the result of tool call b:"},
                {"type": "file", "file": {"filename": "paper.pdf", "file_data": PAPER.url}},
            ],
        },
        {"role": "user", "content": "And?"},
    ]
    assert encoded(asked(calls, seen))[0]["messages"][-1]["role"] == "user"
    bare = asked(calls, msgspec.structs.replace(seen, parts=(TextPart("a cat"),)), user(PIXEL))
    assert backend().count(asked(calls, seen)).upper > backend().count(bare).upper


def test_a_refusal_is_said_in_openais_words_and_as_text_elsewhere() -> None:
    request = asked(user(TextPart("x")), Message("assistant", (RefusalPart("No."),)), user(TextPart("Why?")))
    assert encoded(request)[0]["messages"][1] == {"role": "assistant", "content": None, "refusal": "No."}
    assert encoded(request, base_url=ELSEWHERE)[0]["messages"][1] == {"role": "assistant", "content": "No."}


def test_an_assistant_of_whom_only_foreign_parts_are_left_says_an_empty_text() -> None:
    thought = ProviderPart("anthropic", {"type": "thinking", "thinking": "hm", "signature": "s"})
    body, _ = encoded(asked(user(TextPart("x")), Message("assistant", (thought,)), user(TextPart("y"))))
    assert body["messages"][1] == {"role": "assistant", "content": ""}


def test_a_part_that_the_message_needs_goes_to_nobody_but_its_provider() -> None:
    part = ProviderPart("anthropic", {"type": "container_upload", "file_id": "f"}, required=True)
    with pytest.raises(UnsupportedFeature, match="container_upload") as raised:
        encoded(asked(user(part)))
    assert raised.value.param == "messages"
    assert missing_features(asked(user(part)), backend().capabilities) == (("parts of anthropic's own", "messages"),)
    assert own_item(part, "openai.chat", "anthropic") == part.item
    assert own_item(msgspec.structs.replace(part, required=False), "openai.chat") is None


@pytest.mark.parametrize(
    ("role", "part", "name"),
    [
        ("user", ProviderPart("openai.chat", {"type": "file", "file": {"file_id": "file-1"}}, required=True), "file_id"),
        ("assistant", ProviderPart("openai.chat", {"audio": {"id": "audio-1"}}, required=True), "audio"),
    ],
)
def test_what_the_provider_keeps_is_named_only_where_the_table_allows_it_and_counts_a_whole_window(role: Any, part: ProviderPart, name: str) -> None:
    request = asked(Message(role, (part,)))
    with pytest.raises(UnsupportedFeature, match=name):
        encoded(request)
    body, _ = encoded(request, pass_through=[name])
    message = body["messages"][0]
    assert message["content"] == [part.item] if name == "file_id" else message["audio"] == {"id": "audio-1"}
    assert backend(context_window=7_000, pass_through=[name]).count(request).upper > 7_000
    assert backend(model="unknown", base_url=ELSEWHERE, pass_through=[name]).count(request).upper > 1_000_000


def test_a_file_goes_out_with_its_data_or_not_at_all() -> None:
    with pytest.raises(UnsupportedFeature, match="data: URL"):
        encoded(asked(user(FilePart("https://example.org/paper.pdf"))))
    body, _ = encoded(asked(user(FilePart(PAPER.url))))
    assert body["messages"][0]["content"][0]["file"] == {"filename": "document.pdf", "file_data": PAPER.url}


@pytest.mark.parametrize(("part", "need", "allowed"), [(PAPER, "files", "file"), (SPOKEN, "audio", "input_audio")])
def test_files_and_speech_are_openais_unless_the_table_says_so(part: Any, need: str, allowed: str) -> None:
    request = asked(user(part))
    assert missing_features(request, backend().capabilities) == ()
    assert missing_features(request, backend(base_url=ELSEWHERE).capabilities) == ((need, "messages"),)
    assert missing_features(request, backend(base_url=ELSEWHERE, pass_through=[allowed]).capabilities) == ()


def test_words_of_another_dialect_stay_here_and_are_named() -> None:
    request = asked(
        Message("user", (TextPart("x", cache={"type": "ephemeral"}, extra={"citations": {"enabled": True}}),), extra={"id": "msg_1"}),
        dialect="anthropic.messages",
        extra={"container": "c"},
        top_k=5,
        tools=(Tool("f", extra={"eager_input_streaming": True}),),
        tool_choice=ToolChoice(item={"type": "tool", "name": "bash"}),
    )
    body, call = encoded(request)
    assert body["messages"] == [{"role": "user", "content": "x"}]
    assert body["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert not {"container", "top_k"} & body.keys()
    assert body["tool_choice"] == "auto"
    assert set(call.ignored) == {"container", "top_k", "tool_choice", "cache_control"}
    body, call = encoded(request, base_url=ELSEWHERE)
    assert body["top_k"] == 5
    assert "top_k" not in call.ignored


def test_cache_marks_of_the_responses_dialect_are_the_same_words() -> None:
    request = asked(user(TextPart("x", cache={"mode": "explicit"})), dialect="openai.responses")
    body, call = encoded(request)
    assert body["messages"][0]["content"] == [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}]
    assert call.ignored == ()


@pytest.mark.parametrize(
    ("reasoning", "effort", "ignored"),
    [
        (Reasoning(effort="xhigh"), "xhigh", ()),
        (Reasoning(budget_tokens=1_024, enabled=True), "low", ()),
        (Reasoning(budget_tokens=8_192, enabled=True), "medium", ()),
        (Reasoning(budget_tokens=32_000), "high", ()),
        (Reasoning(adaptive=True), None, ("reasoning",)),
        (Reasoning(enabled=False), None, ("reasoning",)),
        (Reasoning(effort="low", summary="auto"), "low", ("reasoning",)),
    ],
)
def test_how_hard_to_think_is_translated_or_named(reasoning: Reasoning, effort: str | None, ignored: tuple[str, ...]) -> None:
    body, call = encoded(asked(dialect="anthropic.messages", reasoning=reasoning))
    assert (body.get("reasoning_effort"), call.ignored) == (effort, ignored)


def test_models_that_do_not_think_are_not_told_to() -> None:
    body, call = encoded(asked(reasoning=Reasoning(effort="low")), model="gpt-4o-mini")
    assert "reasoning_effort" not in body
    assert call.ignored == ("reasoning_effort",)
    assert not backend(model="gpt-4.1").capabilities.reasoning
    assert backend(model="gpt-4-like", base_url=ELSEWHERE).capabilities.reasoning


def test_fields_of_an_answer_that_come_back_with_it_go_only_where_they_are_known() -> None:
    said = Message("assistant", (TextPart("Hi"),), extra={"reasoning_content": "hm", "annotations": [], "vendor": 1})
    request = asked(user(TextPart("x")), said, user(TextPart("y")))
    assert encoded(request)[0]["messages"][1] == {"role": "assistant", "content": "Hi", "vendor": 1}
    body, call = encoded(request, base_url=ELSEWHERE)
    assert body["messages"][1] == {"role": "assistant", "content": "Hi", "vendor": 1}, "they may be another provider's thoughts"
    assert call.ignored == ("reasoning_content",)
    body, call = encoded(request, base_url=ELSEWHERE, pass_through=["reasoning_content"])
    assert body["messages"][1] == {"role": "assistant", "content": "Hi", "vendor": 1, "reasoning_content": "hm"}
    assert call.ignored == ()
    assert backend().count(request).upper > backend().count(asked(user(TextPart("x")), Message("assistant", (TextPart("Hi"),)), user(TextPart("y")))).upper


def test_geminis_signatures_go_back_to_their_calls_but_not_to_openai_nor_to_another_server() -> None:
    word = "openai.chat@127.0.0.1:1/v1"
    made = Message(
        "assistant",
        (
            ToolCallPart("a", "f", "{}"),
            ProviderPart(word, {"extra_content": {"google": {"thought_signature": "s"}}, "toolCallId": "a"}),
            ProviderPart(word, {"extra_content": {"google": {"thought_signature": "t"}}}),
            ProviderPart(word, {"annotations": []}),
        ),
    )
    said = backend(base_url=ELSEWHERE).decoder(asked(), None).whole(b'{"choices": [{"message": {"extra_content": {"a": 1}}, "finish_reason": "stop"}]}')
    assert [event.provider for event in said if isinstance(event, ProviderItem)] == [word]
    request = asked(user(TextPart("x")), made, Message("tool", (TextPart("y"),), tool_call_id="a"))
    message = encoded(request, base_url=ELSEWHERE)[0]["messages"][1]
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}
    assert message["extra_content"] == {"google": {"thought_signature": "t"}}
    assert "annotations" not in message
    for elsewhere in ({}, {"base_url": "http://127.0.0.1:2/v1"}, {"base_url": "http://127.0.0.1:1/other/v1"}):
        assert "extra_content" not in json.dumps(encoded(request, **elsewhere)[0])


def test_a_tool_of_a_providers_own_goes_only_to_a_backend_that_takes_it() -> None:
    custom, search = ProviderTool("openai.chat", {"type": "custom", "custom": {"name": "run"}}), ProviderTool("openai.chat", {"type": "browser_search"})
    other = ProviderTool("anthropic", {"type": "web_search_20250305"})
    assert missing_features(asked(tools=(custom,)), backend().capabilities) == ()
    assert missing_features(asked(tools=(search,)), backend().capabilities) == (("the tool openai.chat/browser_search", "tools"),)
    taking = backend(base_url=ELSEWHERE, provider_tools=["openai.chat/browser_*", "anthropic/*"])
    assert missing_features(asked(tools=(custom, search)), taking.capabilities) == ()
    assert json.loads(taking.encode(asked(tools=(custom, search))).body)["tools"] == [custom.item, search.item]
    with pytest.raises(UnsupportedFeature, match="web_search_20250305"):
        taking.encode(asked(tools=(other,)))
    with pytest.raises(ValueError, match="provider/type"):
        backend(provider_tools=["web_search"])
    assert not takes_tool(Capabilities(), "openai.chat/custom")


def test_a_function_without_parameters_is_one_without_at_openai_alone() -> None:
    request = asked(tools=(Tool("f"),))
    assert encoded(request)[0]["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert encoded(request, base_url=ELSEWHERE)[0]["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_schemas_description_and_the_verbosity_are_sent() -> None:
    request = asked(verbosity="low", response_format=ResponseFormat("json_schema", "place", {"type": "object"}, True, "Where it is"))
    body, _ = encoded(request)
    assert body["verbosity"] == "low"
    assert body["response_format"]["json_schema"] == {"name": "place", "schema": {"type": "object"}, "strict": True, "description": "Where it is"}
