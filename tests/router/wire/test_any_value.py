"""Any value in any place of a request: it is decoded or refused with a 400, and what was decoded can be written again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.errors import MOST_NESTED, ApiError, decode_body, nested_beyond
from router.http.items import kept_items
from router.kept.sealing import Seal, Sealer
from router.wire.anthropic_items import tool_input
from router.wire.anthropic_messages import decode_count, decode_messages
from router.wire.openai_chat import decode_chat
from router.wire.openai_responses import decode_responses

SEAL = Sealer(b"a secret of the tests, long enough").of("acme")
PIXEL = "data:image/png;base64,AA=="
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

CHAT = {
    "model": "auto",
    "messages": [
        {"role": "user", "name": "n", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}}]},
        {
            "role": "user",
            "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, {"type": "file", "file": {"file_data": "AA=="}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            "headgate": {"sealed": "hgs1.A"},
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
    ],
    "stop": ["x"],
    "seed": 1,
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}, {"type": "custom", "custom": {"name": "g"}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "metadata": {"a": "b"},
    "headgate": {"max_cost_usd": 1},
}
RESPONSES = {
    "model": "auto",
    "instructions": "i",
    "input": [
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": PIXEL}, {"type": "input_file", "file_url": "x"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}], "encrypted_content": "hgs1.A"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t", "annotations": [{"type": "file_citation", "index": 0}]}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "hi"}]},
        {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q"}},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}, {"type": "file_search", "vector_store_ids": ["vs_1"]}],
    "tool_choice": {"type": "function", "name": "f"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"a": "b"},
    "conversation": {"id": "conv_1"},
    "truncation": "auto",
}
MESSAGES = {
    "model": "auto",
    "max_tokens": 10,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]},
        {"role": "user", "content": [{"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}}]},
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "t", "signature": "hgs1.A"}, {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "r"}], "is_error": False}]},
    ],
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "metadata": {"user_id": "u"},
    "betas": ["b"],
}
DECODERS: dict[str, tuple[dict[str, Any], Callable[[bytes, Seal], Any]]] = {
    "chat": (CHAT, decode_chat),
    "responses": (RESPONSES, decode_responses),
    "messages": (MESSAGES, lambda body, seal: decode_messages(body, seal, ("beta",))),
    "count": (MESSAGES, decode_count),
}


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[step], (*path, step))


def with_value(body: dict[str, Any], path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    changed: Any = copy.deepcopy(body)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


def decoded_or_refused(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except ApiError as error:
        return error


WORDS = st.sampled_from(
    ["", "x", "a\0b", "\N{ZERO WIDTH SPACE}\N{GRINNING FACE}", "hgs1.", "hgs1.\u00e9", "data:", "data:;base64,%", "text", "tool_use", "item_reference"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
KEYS = st.sampled_from(["type", "id", "text", "content", "role", "name", "a", "\0"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)


@pytest.mark.parametrize("dialect", DECODERS)
@given(st.data())
def test_any_value_in_any_place_is_decoded_or_refused_and_what_was_decoded_can_be_kept_and_sent(dialect: str, data: st.DataObject) -> None:
    base, decode = DECODERS[dialect]
    body = with_value(base, data.draw(st.sampled_from(list(places(base)))), data.draw(VALUES))
    decoded = decoded_or_refused(lambda: decode(json.dumps(body).encode(), SEAL))
    if isinstance(decoded, ApiError):
        assert decoded.status == 400
        assert decoded.param or decoded.code == "invalid_json"
        return
    if dialect == "responses":
        msgspec.json.encode(kept_items(decoded.given))
    msgspec.json.encode(decoded)


@pytest.mark.parametrize("dialect", DECODERS)
def test_a_body_that_is_nested_too_deeply_is_refused_wherever_it_is_deep(dialect: str) -> None:
    """Deeper in the stack than the decoder, it could not be written again."""
    base, decode = DECODERS[dialect]
    for deep in ('{"a":', "["):
        inner = deep * MOST_NESTED + "1" + ("}" if deep[0] == "{" else "]") * MOST_NESTED
        text = json.dumps({**base, "unknown": "@"}).replace('"@"', inner)
        with pytest.raises(ApiError, match="nested too deeply"):
            decode(text.encode(), SEAL)


def test_depth_is_counted_in_objects_and_lists_inside_each_other() -> None:
    assert not nested_beyond([[{"a": 1}], "[[[["], 3)
    assert nested_beyond([[{"a": []}]], 3)
    wide = json.dumps([[]] * (2 * MOST_NESTED)).encode()
    assert decode_body(wide, list[Any]) == [[]] * (2 * MOST_NESTED)
    with pytest.raises(ApiError, match="nested too deeply"):
        decode_body(b"[" * (MOST_NESTED + 1) + b"]" * (MOST_NESTED + 1), list[Any])


def test_arguments_that_could_not_be_written_again_are_told_as_they_are() -> None:
    deep = '{"a":' * 700 + "1" + "}" * 700
    assert list(tool_input(deep).values()) == [deep]
    assert tool_input('{"a": {"b": [1]}}') == {"a": {"b": [1]}}
