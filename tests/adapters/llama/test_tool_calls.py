from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.llama_engine.tool_calls import could_be_call, parse_calls
from adapters.types import Tool

WEATHER = Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
SEARCH = Tool(name="brave_search", parameters={"type": "object", "properties": {"query": {"type": "string"}}})
TOOLS = (WEATHER, SEARCH)
NAMES = ("get_weather", "brave_search")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '  {"name": "get_weather", "parameters": {"city": "Paris"}}\n',
        '{"name": "get_weather", "arguments": {"city": "Paris"}}',
        '{"name": "get_weather", "parameters": "{\\"city\\": \\"Paris\\"}"}',
        '{"type": "function", "name": "get_weather", "parameters": {"city": "Paris"}}',
        '{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}',
        '{"function": "get_weather", "parameters": {"city": "Paris"}}',
        '[{"name": "get_weather", "parameters": {"city": "Paris"}}]',
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
        '[get_weather(city="Paris")]',
        "<|python_tag|>get_weather(city='Paris')",
        'get_weather.call(city="Paris")',
        '[get_weather("Paris")]',
    ],
)
def test_every_spelling_of_a_call_is_understood(text: str) -> None:
    calls, rest = parse_calls(text, TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("get_weather", {"city": "Paris"})]
    assert rest == ""


def test_the_arguments_are_the_text_the_model_wrote() -> None:
    calls, _ = parse_calls('{"name": "get_weather", "parameters": {"days" :  1.50, "city":"Köln"}}', TOOLS)
    assert calls[0].arguments == '{"days" :  1.50, "city":"Köln"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "parameters": {}}; {"name": "brave_search", "parameters": {"query": "x"}}',
        '{"name": "get_weather"}\n{"name": "brave_search", "parameters": {"query": "x"}}',
        '[{"name": "get_weather"}, {"name": "brave_search", "parameters": {"query": "x"}}]',
        '[get_weather(), brave_search(query="x")]',
    ],
)
def test_several_calls_are_all_found(text: str) -> None:
    calls, _ = parse_calls(text, TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("get_weather", {}), ("brave_search", {"query": "x"})]


def test_words_after_a_call_are_kept_as_text() -> None:
    calls, rest = parse_calls('{"name": "get_weather", "parameters": {}} I will look it up.', TOOLS)
    assert (calls[0].name, rest) == ("get_weather", "I will look it up.")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "delete_everything", "parameters": {}}',
        '{"name": "get_weather", "parameters": {"city": "Par',
        '{"name": "get_weather", "parameters": [1, 2]}',
        '{"city": "Paris"}',
        "[1, 2, 3]",
        "[]",
        "[get_weather(city=open('x'))]",
        "[get_weather(**{'city': 'x'})]",
        "get_weather",
        "(" * 5000,
        '{"name": "get_weather", "parameters": ' + "[" * 5000,
        "Paris is sunny.",
    ],
)
def test_what_is_no_call_of_a_known_tool_stays_text(text: str) -> None:
    assert parse_calls(text, TOOLS) == ((), text)


def test_json_words_in_a_pythonic_call_become_json_values() -> None:
    calls, _ = parse_calls("[get_weather(city=null, days=[true, False, None])]", TOOLS)
    assert json.loads(calls[0].arguments) == {"city": None, "days": [True, False, None]}


@given(st.sampled_from(['{"name": "get_weather", "parameters": {}}', '[get_weather(city="x")]', '[{"name": "brave_search"}]', "<|python_tag|>f()"]), st.data())
def test_every_beginning_of_a_call_is_held_back(text: str, data: st.DataObject) -> None:
    assert could_be_call(text[: data.draw(st.integers(0, len(text)))], NAMES)


@pytest.mark.parametrize("text", ["Paris", '{"city"', "{1", "[1", "[]", "[other", "[get_weather]", "<b>"])
def test_what_cannot_become_a_call_is_let_go(text: str) -> None:
    assert not could_be_call(text, NAMES)
