"""What goes out to Gemini, in its own words; what it does not have is refused or named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.errors import InvalidRequest, UnsupportedFeature
from adapters.gemini.content_request import NO_SIGNATURE
from adapters.types import (
    AudioPart,
    FilePart,
    GenerateRequest,
    ImagePart,
    Message,
    Part,
    ProviderPart,
    ProviderTool,
    Reasoning,
    ResponseFormat,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from tests.adapters.remote.gemini_turns import sent
from tests.adapters.remote.kit import remote

PIXEL = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="
SEARCH = ProviderTool("gcp.gemini", {"type": "googleSearch"})
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def asked(*messages: Message, **fields: Any) -> GenerateRequest:
    return GenerateRequest(messages=messages or (user(TextPart("x")),), **fields)


def user(*parts: Part) -> Message:
    return Message("user", parts)


def assistant(*parts: Part) -> Message:
    return Message("assistant", parts)


def ignored(request: GenerateRequest, **table: Any) -> tuple[str, ...]:
    return remote("gemini", "http://127.0.0.1:1", **table).encode(request).ignored


def parts_of(*messages: Message, model: str = "gemini-3-flash-preview") -> list[Any]:
    return [turn["parts"] for turn in sent(asked(*messages), model=model)["contents"]]


@pytest.mark.parametrize(
    ("model", "wanted", "config", "exact"),
    [
        ("gemini-3-flash-preview", Reasoning(effort="low"), {"thinkingLevel": "LOW"}, True),
        ("gemini-3-flash-preview", Reasoning(effort="none"), {"thinkingLevel": "MINIMAL"}, False),
        ("gemini-3-pro-preview", Reasoning(effort="minimal"), {"thinkingLevel": "LOW"}, False),
        ("gemini-3-pro-preview", Reasoning(effort="xhigh"), {"thinkingLevel": "HIGH"}, False),
        ("gemini-3-pro-preview", Reasoning(effort="high", summary="auto"), {"thinkingLevel": "HIGH", "includeThoughts": True}, True),
        ("gemini-3-pro-preview", Reasoning(budget_tokens=500), {"thinkingBudget": 500}, True),
        ("gemini-3-pro-preview", Reasoning(adaptive=True), None, True),
        ("gemini-2.5-flash", Reasoning(effort="medium"), {"thinkingBudget": 8192}, True),
        ("gemini-2.5-flash", Reasoning(effort="xhigh"), {"thinkingBudget": 24576}, True),
        ("gemini-2.5-flash", Reasoning(effort="none"), {"thinkingBudget": 0}, True),
        ("gemini-2.5-flash", Reasoning(enabled=False), {"thinkingBudget": 0}, True),
        ("gemini-2.5-flash", Reasoning(adaptive=True), {"thinkingBudget": -1}, True),
        ("gemini-2.5-flash", Reasoning(summary="none"), None, True),
        ("gemini-2.5-flash", Reasoning(effort="sideways"), None, False),
        ("gemini-2.5-pro", Reasoning(effort="none"), {"thinkingBudget": 128}, False),
        ("gemini-2.5-pro", Reasoning(effort="xhigh"), {"thinkingBudget": 32768}, True),
        ("gemini-2.0-flash", Reasoning(effort="high"), None, False),
        ("gemini-2.0-flash", Reasoning(effort="none"), None, True),
        ("gemini-2.5-flash-image", Reasoning(effort="high"), None, False),
        ("gemma-3-27b-it", Reasoning(effort="high"), None, False),
    ],
)
def test_thinking_is_asked_for_as_the_model_has_it(model: str, wanted: Reasoning, config: dict[str, Any] | None, exact: bool) -> None:
    request = asked(reasoning=wanted)
    assert sent(request, model=model).get("generationConfig", {}).get("thinkingConfig") == config
    assert ("reasoning" not in ignored(request, model=model)) == exact


def test_every_setting_has_its_place() -> None:
    from google.genai import types

    request = asked(
        max_output_tokens=9, temperature=0.1, top_p=0.2, top_k=3, stop=("a", "b"), seed=4, n=2, logprobs=5,
        extra={"presence_penalty": 0.5, "frequency_penalty": -0.5, "google": {"thinking_config": {"include_thoughts": True}}},
    )  # fmt: skip
    config = sent(request, model="gemini-2.5-flash")["generationConfig"]
    assert config == {
        "maxOutputTokens": 9, "temperature": 0.1, "topP": 0.2, "topK": 3, "stopSequences": ["a", "b"], "seed": 4, "candidateCount": 2,
        "responseLogprobs": True, "logprobs": 5, "presencePenalty": 0.5, "frequencyPenalty": -0.5, "thinkingConfig": {"includeThoughts": True},
    }  # fmt: skip
    types.GenerationConfig.model_validate(config)
    assert ignored(request, model="gemini-2.5-flash") == ()


def test_what_gemini_does_not_have_is_named() -> None:
    cached = TextPart("x", cache={"type": "ephemeral"})
    request = asked(
        user(cached),
        tools=(Tool("f", strict=True),),
        parallel_tool_calls=False,
        verbosity="low",
        extra={"service_tier": "flex", "google": {"safety_settings": [], "cached_content": "cachedContents/1"}},
    )
    named = ("parallel_tool_calls", "verbosity", "strict", "cache_control", "service_tier", "google.safety_settings", "google.cached_content")
    assert ignored(request, model="gemini-2.5-flash") == named
    assert "cachedContent" not in sent(request, model="gemini-2.5-flash")
    # Another dialect's words are not ours to understand.
    assert ignored(asked(dialect="anthropic.messages", extra={"presence_penalty": 1})) == ("presence_penalty",)


def test_cached_content_goes_out_where_the_backend_allows_it_and_is_reserved_for() -> None:
    request = asked(extra={"extra_body": {"google": {"cached_content": "cachedContents/1"}}})
    assert sent(request, cached_content_tokens=5000)["cachedContent"] == "cachedContents/1"
    plain = remote("gemini", "http://127.0.0.1:1").count(request)
    allowed = remote("gemini", "http://127.0.0.1:1", cached_content_tokens=5000).count(request)
    assert allowed.upper == plain.upper + 5000


@pytest.mark.parametrize("extra", [{"google": 1}, {"google": {"thinking_config": 1}}, {"google": {"cached_content": 1}}])
def test_a_malformed_google_object_is_the_clients_mistake(extra: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(asked(extra=extra), cached_content_tokens=1)
    assert caught.value.param is not None
    assert caught.value.param.startswith("google")


def test_media_goes_out_inline_or_by_address() -> None:
    (parts,) = parts_of(user(ImagePart(PIXEL), FilePart(PDF), AudioPart("UklGRg==", "wav"), ImagePart("https://example.org/cat.jpg?s=1")))
    assert parts == [
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.org/cat.jpg?s=1"}},
    ]


@pytest.mark.parametrize(
    ("part", "model"),
    [
        (ImagePart("https://example.org/cat.jpg"), "gemini-2.0-flash"),
        (FilePart("https://example.org/nameless"), "gemini-2.5-flash"),
        (AudioPart("", "midi"), "gemini-2.5-flash"),
        (ProviderPart("openai", {"type": "input_file"}, required=True), "gemini-2.5-flash"),
    ],
)
def test_media_that_gemini_cannot_have_is_another_backends(part: Part, model: str) -> None:
    with pytest.raises(UnsupportedFeature):
        parts_of(user(part), model=model)


VIDEO = ProviderPart(
    "gcp.gemini", {"part": {"fileData": {"fileUri": "https://www.youtube.com/watch?v=x"}, "videoMetadata": {"endOffset": "9s"}}}, required=True
)


def test_a_video_by_its_address_is_passed_on_and_may_fill_the_window() -> None:
    request = asked(user(VIDEO, TextPart("What happens?")))
    assert sent(request)["contents"][0]["parts"][0] == VIDEO.item["part"]
    backend = remote("gemini", "http://127.0.0.1:1", model="gemini-2.5-flash")
    assert backend.count(request).upper == 1_048_576
    assert backend.count(asked()).upper < 1000
    assert remote("gemini", "http://127.0.0.1:1", context_window=9000).count(request).upper == 9000
    for part in (
        FilePart(PDF),
        FilePart("https://example.org/a.pdf"),
        ProviderPart("gcp.gemini", {"part": {"inlineData": {"mimeType": "video/mp4", "data": ""}}}),
    ):
        assert backend.count(asked(user(part))).upper == 1_048_576
    assert backend.count(asked(user(FilePart("data:text/plain;base64,aGk=")))).upper < 1000


CALLS = (ToolCallPart("c1", "look", "{}"), ToolCallPart("c2", "look", "{}"))
RESULTS = (
    Message("tool", (TextPart("seen"), ImagePart(PIXEL)), tool_call_id="c1"),
    Message("tool", (TextPart("no such thing"),), tool_call_id="c2", is_error=True),
)


def test_results_hold_their_pictures_from_gemini_3_on() -> None:
    _, _, results, after = parts_of(user(TextPart("x")), assistant(*CALLS), *RESULTS, user(TextPart("and?")))
    picture = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
    assert results == [
        {"functionResponse": {"id": "c1", "name": "look", "response": {"result": "seen"}, "parts": [picture]}},
        {"functionResponse": {"id": "c2", "name": "look", "response": {"error": "no such thing"}}},
    ]
    assert after == [{"text": "and?"}]
    _, _, results, after = parts_of(user(TextPart("x")), assistant(*CALLS), *RESULTS, user(TextPart("and?")), model="gemini-2.5-flash")
    assert [list(part) for part in results] == [["functionResponse"], ["functionResponse"]]
    assert after == [picture, {"text": "and?"}]


def test_a_conversation_begins_with_the_user() -> None:
    body = sent(asked(Message("system", (TextPart("Be brief."),))))
    assert (body["contents"], body["systemInstruction"]) == ([{"role": "user", "parts": [{"text": ""}]}], {"parts": [{"text": "Be brief."}]})
    assert [turn["role"] for turn in sent(asked(assistant(TextPart("Hi"))))["contents"]] == ["user", "model"]


SIGNED = ProviderPart("gcp.gemini", {"thoughtSignature": "s1", "toolCallId": None, "onText": True})
AFTER = ProviderPart("gcp.gemini", {"thoughtSignature": "s2", "toolCallId": None})
THOUGHT = ProviderPart("gcp.gemini", {"part": {"text": "hm", "thought": True, "thoughtSignature": "s3"}})
FOREIGN = ProviderPart("anthropic", {"type": "thinking", "thinking": "hm", "signature": "a"})
GROUNDED = ProviderPart("gcp.gemini", {"groundingMetadata": {"webSearchQueries": ["x"]}})


@pytest.mark.parametrize(
    "given",
    [
        (THOUGHT, TextPart("one"), SIGNED, TextPart("two"), AFTER, GROUNDED, FOREIGN),
        (THOUGHT, SIGNED, TextPart("one"), TextPart("two"), AFTER),
        (SIGNED, AFTER, THOUGHT, TextPart("one"), TextPart("two")),
    ],
)
def test_signatures_find_their_texts_also_where_a_dialect_lost_the_order(given: tuple[Part, ...]) -> None:
    parts = parts_of(user(TextPart("x")), assistant(*given))[1]
    assert {"text": "hm", "thought": True, "thoughtSignature": "s3"} in parts
    assert {"text": "one", "thoughtSignature": "s1"} in parts
    assert {"text": "", "thoughtSignature": "s2"} in parts
    assert [part["text"] for part in parts if not part.get("thought") and part["text"]] == ["one", "two"]


def test_a_signature_without_any_text_goes_back_in_a_part_of_its_own() -> None:
    assert parts_of(user(TextPart("x")), assistant(AFTER))[1] == [{"text": "", "thoughtSignature": "s2"}]


def test_calls_that_gemini_did_not_sign_get_the_stand_in() -> None:
    signed = ProviderPart("gcp.gemini", {"thoughtSignature": "s", "toolCallId": "c1"})
    assert [part.get("thoughtSignature") for part in parts_of(user(TextPart("x")), assistant(*CALLS, FOREIGN))[1]] == [NO_SIGNATURE, None]
    assert [part.get("thoughtSignature") for part in parts_of(user(TextPart("x")), assistant(signed, *CALLS))[1]] == ["s", None]


def test_googles_own_tools_stand_beside_functions() -> None:
    from google.genai import types

    request = asked(tools=(Tool("f", "does it", SCHEMA), SEARCH, ProviderTool("gcp.gemini", {"type": "code_execution"})))
    body = sent(request, model="gemini-3-flash-preview", provider_tools=("gcp.gemini/*",))
    assert body["tools"] == [
        {"googleSearch": {}},
        {"codeExecution": {}},
        {"functionDeclarations": [{"name": "f", "description": "does it", "parametersJsonSchema": SCHEMA}]},
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "AUTO"}, "includeServerSideToolInvocations": True}
    for tool in body["tools"]:
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(body["toolConfig"])
    assert sent(asked(tools=(SEARCH,)), model="gemini-2.5-flash", provider_tools=("gcp.gemini/*",))["toolConfig"] == {}
    assert remote("gemini", "http://127.0.0.1:1", model="gemini-2.5-flash").count(asked(tools=(SEARCH,))).upper == 1_048_576
    with pytest.raises(UnsupportedFeature):
        sent(asked(tools=(ProviderTool("openai", {"type": "web_search"}),)))


ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
NESTED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}}


def test_a_choice_among_some_tools_is_kept() -> None:
    tools = (Tool("f"), Tool("g"))
    body = sent(asked(tools=tools, tool_choice=ToolChoice(item=ALLOWED)))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["f"]}
    body = sent(asked(tools=tools, tool_choice=ToolChoice(item=NESTED)))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "AUTO"}
    assert [tool["name"] for tool in body["tools"][0]["functionDeclarations"]] == ["f"]
    with pytest.raises(UnsupportedFeature):
        sent(asked(tools=tools, tool_choice=ToolChoice(item={"type": "web_search"})))
    with pytest.raises(InvalidRequest):
        sent(asked(tools=tools, tool_choice=ToolChoice(item={"type": "allowed_tools", "tools": 1})))


def test_json_beside_tools_is_for_gemini_3() -> None:
    request = asked(tools=(Tool("f"),), response_format=ResponseFormat("json_schema", "s", SCHEMA))
    assert sent(request, model="gemini-3-flash-preview")["generationConfig"]["responseJsonSchema"] == SCHEMA
    with pytest.raises(UnsupportedFeature) as caught:
        sent(request, model="gemini-2.5-flash")
    assert caught.value.param == "response_format"


def test_a_backend_that_must_not_stream_asks_for_the_whole_answer() -> None:
    call = remote("gemini", "http://127.0.0.1:1", model="models/gemini-2.5-flash", streaming=False).encode(asked())
    assert call.path == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert json.loads(call.body)["contents"][0]["parts"] == [{"text": "x"}]


def test_a_format_is_left_out_where_the_answer_must_be_a_call() -> None:
    tool = Tool("weather", parameters=SCHEMA)
    wanted = ResponseFormat("json_schema", "city", SCHEMA)
    body = sent(asked(tools=(tool,), tool_choice=ToolChoice("function", "weather"), response_format=wanted), model="gemini-2.5-flash")
    assert "responseMimeType" not in body.get("generationConfig", {})
    assert body["toolConfig"]["functionCallingConfig"]["mode"] == "ANY"
    with pytest.raises(UnsupportedFeature, match="while it has tools"):
        sent(asked(tools=(tool,), response_format=wanted), model="gemini-2.5-flash")
