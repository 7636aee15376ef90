"""Schemas and the answers that must fit them."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.structured import AnswerFormat, Fit, InvalidSchema, Problem, answer_format
from adapters.types import ResponseFormat

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "born": {"type": "string", "format": "date"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def by_schema(schema: dict[str, Any]) -> AnswerFormat:
    found = answer_format(ResponseFormat("json_schema", "answer", schema))
    assert found is not None
    return found


def taken(schema: dict[str, Any], text: str) -> str | None:
    match by_schema(schema).check(text):
        case Fit(start, end):
            return text[start:end]
        case Problem():
            return None


def test_text_demands_nothing_of_an_answer() -> None:
    assert answer_format(ResponseFormat()) is None


@pytest.mark.parametrize("text", ['{"name": "Ada", "age": 36}', ' {"age":0,"name":""}\n', '{"name": "Ada", "age": 36, "born": "1815-12-10"}'])
def test_an_answer_that_fits_is_taken_as_it_is(text: str) -> None:
    assert taken(PERSON, text) == text


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"name": "Ada", "age": 36}\n```',
        '```\n\n  {"name": "Ada", "age": 36}  \n```\n',
        'Here you go:\n```json\n{"name": "Ada", "age": 36}```\nAnything else?',
        'Sure! {"name": "Ada", "age": 36} I hope that helps {or not.',
        '[note {"name": "Ada", "age": 36}',
    ],
)
def test_a_fence_and_words_around_an_answer_are_left_out(text: str) -> None:
    assert taken(PERSON, text) == '{"name": "Ada", "age": 36}'


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"name": "Ada", "age": 36,}', ""),
        ("{'name': 'Ada', 'age': 36}", ""),
        ('{"name": "Ada", "age": 3', ""),
        ('{"name": "Ada", "age": NaN}', ""),
        ("", ""),
        ("I cannot do that.", ""),
        ('{"name": "Ada", "age": 36} {"name": "Bob", "age": 1}', ""),
        ('{"name": "Ada", "age": "36"}', "properties/age/type"),
        ('{"name": "Ada", "age": -1}', "properties/age/minimum"),
        ('{"name": "Ada"}', "required"),
        ('{"name": "Ada", "age": 36, "x": 1}', "additionalProperties"),
        ('{"name": "Ada", "age": 36, "born": "1815-13-10"}', "properties/born/format"),
        ('```json\n{"name": "Ada"}\n```', "required"),
        ("[]", "type"),
        ("null", "type"),
    ],
)
def test_what_does_not_fit_is_told_with_the_place_in_the_schema(text: str, where: str) -> None:
    found = by_schema(PERSON).check(text)
    assert isinstance(found, Problem)
    assert found.where == where
    assert found.message


def test_json_mode_wants_one_object_and_any() -> None:
    mode = answer_format(ResponseFormat("json_object"))
    assert mode is not None
    assert mode.check('{"a": [1]}') == Fit(0, 10)
    assert mode.check('```json\n{"a": [1]}\n```') == Fit(8, 18)
    for text in ("[1]", '"a"', "{", '{"a":1}{"b":2}'):
        assert isinstance(mode.check(text), Problem), text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "objekt"}, "type"),
        ({"properties": 3}, "properties"),
        ({"$ref": "https://example.com/schema.json"}, "leaves the schema"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "leaves the schema"),
        ({"$ref": "#/$defs/missing"}, "does not exist"),
        ({"$dynamicRef": "#node"}, "not supported"),
        ({"$defs": {"a": {"$id": "https://example.com/a"}}}, "not supported"),
        ({"$schema": "https://example.com/my-own"}, "meta-schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "draft 4"),
        ({"pattern": "(unclosed"}, "pattern"),
        ({"description": "x" * 300_000}, "bytes"),
    ],
)
def test_a_schema_that_is_none_is_refused_with_the_reason(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSchema, match=words):
        by_schema(schema)


def test_a_schema_of_an_earlier_draft_and_with_an_id_of_its_own_is_read() -> None:
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://example.com/x", "items": [{"type": "string"}], "additionalItems": False}
    assert taken(schema, '["a"]') is not None
    assert taken(schema, '["a", 1]') is None


def test_a_pattern_that_looks_ahead_works_and_one_that_explodes_ends() -> None:
    decimal = {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}
    assert taken(decimal, '"1.50"') is not None
    assert taken(decimal, '"-"') is None
    began = time.process_time()
    assert taken({"pattern": r"^(?=a)(a+)+$"}, f'"{"a" * 60}b"') is None
    assert time.process_time() - began < 1


def doubling(levels: int) -> dict[str, Any]:
    defs: dict[str, Any] = {"a0": {"type": "object"}}
    for level in range(1, levels):
        defs[f"a{level}"] = {"allOf": [{"$ref": f"#/$defs/a{level - 1}"}] * 2}
    return {"$defs": defs, "$ref": f"#/$defs/a{levels - 1}"}


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        (doubling(60), "{}"),
        ({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}}}, '{"a":' * 200 + "{}" + "}" * 200),
        ({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}, "[" * 200 + "]" * 200),
        ({"items": {"$ref": "#"}}, "[" * 20_000 + "]" * 20_000),
    ],
)
def test_a_schema_that_would_take_for_ever_is_a_problem_at_once(schema: dict[str, Any], answer: str) -> None:
    began = time.process_time()
    assert isinstance(by_schema(schema).check(answer), Problem)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "schema", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}]
)
def test_a_circle_of_references_ends(schema: dict[str, Any]) -> None:
    assert taken(schema, "{}") == "{}"


def test_a_recursive_schema_is_followed_into_the_answer() -> None:
    tree = {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["v"]}}, "$ref": "#/$defs/node"}
    assert taken(tree, '{"v":1,"next":{"v":2,"next":{"v":3}}}') is not None
    assert taken(tree, '{"v":1,"next":{"v":2,"next":{}}}') is None


SCHEMAS = [
    PERSON,
    {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 1},
    {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["x"]}]},
    {"type": "object", "additionalProperties": {"type": "number", "exclusiveMaximum": 3}},
]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["a", "name", "x", "1815-12-10"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "age", "born", "x"]), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200)
@given(schema=st.sampled_from(SCHEMAS), value=values, before=st.sampled_from(["", "So: ", "```json\n"]), after=st.sampled_from(["", "\n```", " done"]))
def test_whatever_is_taken_fits_by_another_validator_too(schema: dict[str, Any], value: Any, before: str, after: str) -> None:
    text = before + json.dumps(value) + after
    found = taken(schema, text)
    fits = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker(["date"])).is_valid(value)
    if found is not None:
        assert json.loads(found) == value
        assert fits
    if not before and not after:
        assert (found is not None) == fits
