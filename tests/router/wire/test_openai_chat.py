"""What a chat request's body may say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import (
    AudioPart,
    FilePart,
    GenerateRequest,
    ImagePart,
    Message,
    ProviderPart,
    ProviderTool,
    RefusalPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
)
from router.http.errors import ApiError
from router.kept.sealing import Sealer
from router.wire.openai_chat import decode_chat

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")


def body(**fields: object) -> bytes:
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", 2**31), ("max_completion_tokens", 10**30), ("seed", 2**63), ("seed", -(10**30)), ("max_tokens", 0)]
)
def test_numbers_beyond_what_anything_stores_are_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(ApiError) as raised:
        decode_chat(body(**{field: value}), SEAL)
    assert (raised.value.status, raised.value.detail.param) == (400, field)


def test_the_largest_numbers_are_taken() -> None:
    request = decode_chat(body(max_tokens=2**31 - 1, seed=-(2**63)), SEAL).request
    assert (request.max_output_tokens, request.seed) == (2**31 - 1, -(2**63))


def decoded(*messages: dict[str, object], **fields: object) -> GenerateRequest:
    return decode_chat(body(**({"messages": list(messages)} if messages else {}), **fields), SEAL).request


def user(*parts: object) -> dict[str, object]:
    return {"role": "user", "content": list(parts)}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].vector_store_ids"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}}}, "tool_choice.allowed_tools.mode"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "shema": {}}}}, "response_format.json_schema.shema"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "x", "tool_call_id": "c1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [user({"type": "video_url", "video_url": {}})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "file", "file": {"filename": "a.pdf"}})]}, "messages[0].content[0].file"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c1", "type": "custom"}]}]}, "messages[0].tool_calls[0].custom"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c1", "type": "function"}]}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_its_place(fields: dict[str, object], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        decode_chat(body(**fields), SEAL)
    detail = raised.value.detail
    assert (raised.value.status, detail.code) == (400, "invalid_request")
    assert detail.param == param
    assert detail.message.startswith(param)


def test_nulls_are_as_good_as_nothing() -> None:
    nothing = dict.fromkeys(("functions", "function_call", "tools", "tool_choice", "stop", "n", "logprobs", "top_logprobs", "response_format", "metadata"))
    assert decoded(**nothing) == decoded()
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "audio": None, "function_call": None, "tool_calls": None, "name": None}
    assert decoded(answer).messages == (Message("assistant", (TextPart("Hi"),)),)


def test_every_kind_of_part_is_read_with_what_stands_beside_it() -> None:
    mark, data = {"mode": "explicit"}, "data:application/pdf;base64,JVBERg=="
    request = decoded(
        user(
            {"type": "text", "text": "a", "prompt_cache_breakpoint": mark, "vendor": 1},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low", "hint": 2}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}, "prompt_cache_breakpoint": mark},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
            {"type": "file", "file": {"filename": "a.txt", "file_data": "SGk="}},
            {"type": "file", "file": {"file_id": "file-1"}},
        )
    )
    assert request.messages[0].parts == (
        TextPart("a", mark, {"vendor": 1}),
        ImagePart("https://example.org/a.png", "low", extra={"image_url": {"hint": 2}}),
        AudioPart("AAAA", "mp3", mark),
        FilePart(data, "a.pdf"),
        FilePart("data:text/plain;base64,SGk=", "a.txt"),
        ProviderPart("openai.chat", {"type": "file", "file": {"file_id": "file-1"}}, required=True),
    )


def test_an_answer_that_comes_back_keeps_its_refusal_its_voice_its_calls_and_what_else_it_said() -> None:
    run = {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "print()"}}
    said = {"role": "assistant", "content": "Hi", "refusal": "No", "audio": {"id": "audio-1"}, "tool_calls": [CALL, run], "reasoning_content": "hm"}
    (message,) = decoded(said).messages
    assert message.parts == (
        TextPart("Hi"),
        ProviderPart("openai.chat", {"audio": {"id": "audio-1"}}, required=True),
        RefusalPart("No"),
        ToolCallPart("c1", "f", "{}"),
        ToolCallPart("c2", "run", "print()", extra={"type": "custom"}),
    )
    assert message.extra == {"reasoning_content": "hm"}


def test_tools_are_functions_or_somebodys_own() -> None:
    function = {"type": "function", "function": {"name": "f", "strict": True, "examples": [1]}, "defer_loading": True}
    custom, search = {"type": "custom", "custom": {"name": "run"}}, {"type": "browser_search"}
    request = decoded(tools=[function, custom, search, {"type": "file_search", "vector_store_ids": ["vs_1"]}])
    assert request.tools == (
        Tool("f", strict=True, extra={"defer_loading": True, "function": {"examples": [1]}}),
        ProviderTool("openai.chat", custom),
        ProviderTool("openai.chat", search),
    )


def test_choices_that_only_this_dialect_can_say_are_kept_in_its_words() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}}
    assert decoded(tool_choice=allowed).tool_choice == ToolChoice(item=allowed)
    own = {"type": "custom", "custom": {"name": "run"}}
    assert decoded(tool_choice=own).tool_choice == ToolChoice(item=own)
    assert decoded(tool_choice={"type": "function", "function": {"name": "f"}}).tool_choice == ToolChoice("function", "f")


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_no_json_is_an_error_of_ours(value: object) -> None:
    for name in ("messages", "tools", "tool_choice", "response_format", "stop", "headgate", "functions", "model"):
        try:
            decode_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], name: value}).encode(), SEAL)
        except ApiError as error:
            assert error.status == 400  # noqa: PT017 - any other exception fails the test
