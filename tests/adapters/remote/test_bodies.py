"""What goes out: one request in three providers' words, checked word for word and against the official SDKs' own types."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

import adapters.anthropic
import adapters.gemini
import adapters.openai  # noqa: F401 - importing an adapter registers it
from adapters.backend import BackendContext, create_backend, kind_named
from adapters.errors import InvalidRequest, UnsupportedFeature
from adapters.gemini.content import NO_SIGNATURE
from adapters.remote import RemoteBackend, WireCall
from adapters.types import GenerateRequest, ImagePart, Message, ProviderPart, Reasoning, ResponseFormat, TextPart, Tool, ToolCallPart, ToolChoice

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def user(text: str) -> Message:
    return Message("user", (TextPart(text),))


CONVERSATION = (
    Message("system", (TextPart("Be brief."),)),
    user("Weather in Paris and Rome?"),
    Message(
        "assistant",
        (
            ProviderPart("anthropic", {"type": "thinking", "thinking": "hm", "signature": "sig-a"}),
            TextPart("I look."),
            ToolCallPart("c1", "weather", '{"city": "Paris"}'),
            ToolCallPart("c2", "weather", '{"city": "Rome"}'),
            ProviderPart("gcp.gemini", {"thoughtSignature": "c2lnLWc=", "toolCallId": "c1"}),
        ),
    ),
    Message("tool", (TextPart('{"sky": "grey"}'),), tool_call_id="c1"),
    Message("tool", (TextPart("sunny"),), tool_call_id="c2"),
)
FULL = GenerateRequest(
    messages=CONVERSATION,
    max_output_tokens=50,
    temperature=0.5,
    top_p=0.9,
    stop=("END",),
    seed=7,
    tools=(Tool("weather", "The weather of a city", SCHEMA),),
    tool_choice=ToolChoice("function", "weather"),
    parallel_tool_calls=False,
    reasoning=Reasoning(effort="low"),
    extra={"logit_bias": {"5": 1}},
)


def backend(kind: str, **table: Any) -> RemoteBackend:
    made = create_backend(
        "b", msgspec.convert({"kind": kind, "model": "some-model", **table}, kind_named(kind).spec), BackendContext(environ={"OPENAI_API_KEY": "sk-1"})
    )
    assert isinstance(made, RemoteBackend)
    return made


def encoded(kind: str, request: GenerateRequest, **table: Any) -> tuple[dict[str, Any], WireCall]:
    call = backend(kind, **table).encode(request)
    return json.loads(call.body), call


def test_openai_gets_everything_it_knows_and_the_unknown_fields() -> None:
    body, call = encoded("openai", FULL)
    assert call.path == "/chat/completions"
    assert call.ignored == ()
    assert body == {
        "logit_bias": {"5": 1},
        "model": "some-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris and Rome?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                ],
            },
            {"role": "tool", "content": '{"sky": "grey"}', "tool_call_id": "c1"},
            {"role": "tool", "content": "sunny", "tool_call_id": "c2"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 7,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "description": "The weather of a city"}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }


def test_anthropic_gets_its_own_words_its_own_signatures_and_both_results_in_one_turn() -> None:
    body, call = encoded("anthropic", FULL, base_url="http://127.0.0.1:1")
    assert call.path == "/v1/messages"
    assert call.ignored == ("seed", "reasoning", "logit_bias")
    assert body == {
        "model": "some-model",
        "max_tokens": 50,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather in Paris and Rome?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig-a"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": '{"sky": "grey"}'}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "sunny"}]},
                ],
            },
        ],
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "tools": [{"name": "weather", "description": "The weather of a city", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    }


def test_gemini_gets_its_own_words_and_signatures_at_their_calls() -> None:
    body, call = encoded("gemini", FULL, base_url="http://127.0.0.1:1")
    assert call.path == "/v1beta/models/some-model:streamGenerateContent?alt=sse"
    assert call.ignored == ("reasoning", "parallel_tool_calls", "logit_bias")
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Weather in Paris and Rome?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {"functionCall": {"id": "c1", "name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "c2lnLWc="},
                    {"functionCall": {"id": "c2", "name": "weather", "args": {"city": "Rome"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"sky": "grey"}}},
                    {"functionResponse": {"id": "c2", "name": "weather", "response": {"result": "sunny"}}},
                ],
            },
        ],
        "tools": [{"functionDeclarations": [{"name": "weather", "description": "The weather of a city", "parametersJsonSchema": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "generationConfig": {"maxOutputTokens": 50, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"], "seed": 7},
    }


def test_the_sdks_own_types_accept_the_bodies() -> None:
    from anthropic.types.message_create_params import MessageCreateParamsStreaming
    from google.genai import types
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
    from pydantic import TypeAdapter

    TypeAdapter(CompletionCreateParamsStreaming).validate_python(encoded("openai", FULL)[0])
    # The SDK has no parameter for these two any more; the API has.
    body = encoded("anthropic", FULL, base_url="http://127.0.0.1:1")[0]
    TypeAdapter(MessageCreateParamsStreaming).validate_python({key: value for key, value in body.items() if key not in ("temperature", "top_p")})
    body = encoded("gemini", FULL, base_url="http://127.0.0.1:1")[0]
    for content in body["contents"]:
        types.Content.model_validate_json(json.dumps(content))
    types.GenerationConfig.model_validate(body["generationConfig"])
    types.Tool.model_validate(body["tools"][0])
    types.ToolConfig.model_validate(body["toolConfig"])


def test_images_go_out_in_each_providers_way() -> None:
    request = GenerateRequest(messages=(Message("user", (TextPart("What is it?"), ImagePart(PIXEL, detail="low"))),))
    parts = encoded("openai", request)[0]["messages"][0]["content"]
    assert parts[1] == {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}
    parts = encoded("anthropic", request, base_url="http://127.0.0.1:1")[0]["messages"][0]["content"]
    assert parts[1] == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    parts = encoded("gemini", request, base_url="http://127.0.0.1:1")[0]["contents"][0]["parts"]
    assert parts[1] == {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}


def test_an_image_address_goes_to_those_who_fetch_it() -> None:
    request = GenerateRequest(messages=(Message("user", (ImagePart("https://example.org/cat.png"),)),))
    source = encoded("anthropic", request, base_url="http://127.0.0.1:1")[0]["messages"][0]["content"][0]["source"]
    assert source == {"type": "url", "url": "https://example.org/cat.png"}
    with pytest.raises(UnsupportedFeature):
        encoded("gemini", request, base_url="http://127.0.0.1:1")


def test_a_malformed_data_url_is_the_clients_mistake() -> None:
    request = GenerateRequest(messages=(Message("user", (ImagePart("data:image/png,notbase64"),)),))
    with pytest.raises(InvalidRequest):
        encoded("anthropic", request, base_url="http://127.0.0.1:1")


def test_a_json_schema_is_native_at_openai_and_gemini() -> None:
    request = GenerateRequest(messages=(user("x"),), response_format=ResponseFormat("json_schema", "place", SCHEMA, strict=True))
    assert encoded("openai", request)[0]["response_format"] == {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    config = encoded("gemini", request, base_url="http://127.0.0.1:1")[0]["generationConfig"]
    assert config == {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}


@pytest.mark.parametrize(("mode", "anthropic_word", "gemini_word"), [("auto", "auto", "AUTO"), ("none", "none", "NONE"), ("required", "any", "ANY")])
def test_the_choice_of_tools_is_translated(mode: Any, anthropic_word: str, gemini_word: str) -> None:
    request = GenerateRequest(messages=(user("x"),), tools=(Tool("f"),), tool_choice=ToolChoice(mode))
    assert encoded("openai", request)[0].get("tool_choice", "auto") == mode
    assert encoded("anthropic", request, base_url="http://127.0.0.1:1")[0]["tool_choice"] == {"type": anthropic_word}
    assert encoded("gemini", request, base_url="http://127.0.0.1:1")[0]["toolConfig"] == {"functionCallingConfig": {"mode": gemini_word}}


def test_the_output_limit_has_the_servers_name_and_the_tables_default() -> None:
    request = GenerateRequest(messages=(user("x"),))
    assert encoded("openai", request, max_output_tokens=9)[0]["max_completion_tokens"] == 9
    assert encoded("openai", request, max_output_tokens=9, base_url="http://127.0.0.1:1/v1")[0]["max_tokens"] == 9
    assert "max_tokens" not in encoded("openai", request, base_url="http://127.0.0.1:1/v1")[0]
    named = encoded("openai", request, max_output_tokens=9, base_url="http://127.0.0.1:1/v1", max_tokens_field="max_completion_tokens")[0]
    assert named["max_completion_tokens"] == 9
    assert encoded("anthropic", request, base_url="http://127.0.0.1:1")[0]["max_tokens"] == 4096
    assert encoded("gemini", request, max_output_tokens=9, base_url="http://127.0.0.1:1")[0]["generationConfig"] == {"maxOutputTokens": 9}


def test_a_client_cannot_replace_what_the_service_says_through_unknown_fields() -> None:
    request = GenerateRequest(messages=(user("x"),), extra={"model": "other", "stream": False, "stream_options": None, "user": "u1"})
    body, _ = encoded("openai", request)
    assert (body["model"], body["stream"], body["stream_options"], body["user"]) == ("some-model", True, {"include_usage": True}, "u1")


def test_fields_that_change_the_price_stay_here_unless_the_backend_passes_them_through() -> None:
    extra = {"service_tier": "priority", "prediction": {"type": "content"}, "store": True, "user": "u1"}
    request = GenerateRequest(messages=(user("x"),), extra=extra, metadata={"a": "b"})
    body, call = encoded("openai", request)
    assert body["user"] == "u1"
    assert not {"service_tier", "prediction", "store", "metadata"} & set(body)
    assert call.ignored == ("service_tier", "prediction", "store")
    body, call = encoded("openai", request, pass_through=["service_tier", "store"])
    assert (body["service_tier"], body["store"], body["metadata"], call.ignored) == ("priority", True, {"a": "b"}, ("prediction",))


@pytest.mark.parametrize(
    "request_",
    [
        GenerateRequest(messages=(user("x"),), extra={"documents": ["y" * 9_000]}),
        GenerateRequest(messages=(user("x"),), extra={"store": True}, metadata={"k": "y" * 9_000}),
        GenerateRequest(messages=(Message("user", (TextPart("x"),), name="n" * 9_000),)),
        GenerateRequest(messages=(Message("tool", (TextPart("x"),), tool_call_id="i" * 9_000),)),
        GenerateRequest(messages=(user("x"), Message("assistant", (ToolCallPart("i" * 9_000, "f", "{}"),)))),
        GenerateRequest(messages=(user("x"),), stop=("s" * 9_000,)),
        GenerateRequest(messages=(user("x"),), reasoning=Reasoning(effort="r" * 9_000)),
        GenerateRequest(messages=(user("x"),), response_format=ResponseFormat("json_schema", "n" * 9_000, {})),
    ],
)
def test_everything_that_is_sent_counts_towards_the_bound(request_: GenerateRequest) -> None:
    passing = backend("openai", pass_through=["store"])
    assert len(passing.encode(request_).body) > 9_000
    assert passing.count(request_).upper > 9_000


def test_what_is_not_sent_does_not_count() -> None:
    request = GenerateRequest(messages=(user("x"),), extra={"prediction": ["y" * 9_000]})
    assert backend("openai").count(request).upper < 1_000


def test_an_image_counts_what_the_dearest_rule_makes_of_it() -> None:
    request = GenerateRequest(messages=(Message("user", (ImagePart(PIXEL),)),))
    assert backend("openai").count(request).upper >= 2_833 + 8 * 5_667


def test_the_developer_role_is_openais_alone() -> None:
    request = GenerateRequest(messages=(Message("developer", (TextPart("rules"),)), user("x")))
    assert encoded("openai", request)[0]["messages"][0]["role"] == "developer"
    assert encoded("openai", request, base_url="http://127.0.0.1:1/v1")[0]["messages"][0]["role"] == "system"
    assert encoded("anthropic", request, base_url="http://127.0.0.1:1")[0]["system"] == "rules"


def test_gemini_3_gets_the_stand_in_signature_for_calls_that_another_model_made() -> None:
    call = Message("assistant", (ToolCallPart("c1", "f", "{}"), ToolCallPart("c2", "f", "{}")))
    request = GenerateRequest(messages=(user("x"), call))
    parts = encoded("gemini", request, model="gemini-3-pro", base_url="http://127.0.0.1:1")[0]["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [NO_SIGNATURE, None]
    parts = encoded("gemini", request, model="gemini-2.5-pro", base_url="http://127.0.0.1:1")[0]["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [None, None]


def test_arguments_that_are_no_json_object_are_the_clients_mistake() -> None:
    request = GenerateRequest(messages=(user("x"), Message("assistant", (ToolCallPart("c1", "f", "[1"),))))
    for kind in ("gemini",):
        with pytest.raises(InvalidRequest, match="c1"):
            encoded(kind, request, base_url="http://127.0.0.1:1")


def test_a_table_without_model_or_with_a_strange_address_is_refused() -> None:
    with pytest.raises(ValueError, match="model"):
        backend("openai", model=None)
    with pytest.raises(ValueError, match="base_url"):
        backend("anthropic", base_url="ftp://example.org")
