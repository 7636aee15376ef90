"""Tool calls as Llama 3.2 writes them: JSON `{"name": …, "parameters": {…}}`, pythonic `[f(a=1)]`, and either behind `<|python_tag|>`.

All pure. A call counts only when it names a tool of the request; anything else is text.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from adapters.types import JsonObject, Tool

PYTHON_TAG = "<|python_tag|>"
_KEYS = frozenset({"name", "parameters", "arguments", "function", "type", "id"})
_FIRST_KEY = re.compile(r'\{\s*"([^"]*)"')
_IDENTIFIER = re.compile(r"[A-Za-z_][\w.-]*")
_SEPARATORS = " \t\r\n;,"


class ToolCall(Struct, frozen=True):
    """`arguments` is the text of a JSON object."""

    name: str
    arguments: str


class _Function(Struct):
    name: str
    parameters: Raw = Raw()
    arguments: Raw = Raw()


class _Written(Struct):
    name: str | None = None
    parameters: Raw = Raw()
    arguments: Raw = Raw()
    function: _Function | str | None = None


def could_be_call(text: str, names: Sequence[str]) -> bool:
    """Whether text that begins an answer may still turn out to be a tool call: while it may, it is held back."""
    text = text.lstrip()
    if not text or PYTHON_TAG.startswith(text) or text.startswith(PYTHON_TAG):
        return True
    if text[0] == "{":
        rest = text[1:].lstrip()
        if rest and rest[0] != '"':
            return False
        key = _FIRST_KEY.match(text)
        return key is None or key.group(1) in _KEYS
    if text[0] != "[":
        return False
    rest = text[1:].lstrip()
    if not rest:
        return True
    if rest[0] == "{":
        return could_be_call(rest, names)
    word = _IDENTIFIER.match(rest)
    if word is None:
        return False
    if word.end() == len(rest):
        return any(name.startswith(word.group()) or word.group().startswith(name) for name in names)
    return rest[word.end()] in "( " and _base_name(word.group(), names) is not None


def parse_calls(text: str, tools: Sequence[Tool]) -> tuple[tuple[ToolCall, ...], str]:
    """The calls in an answer, and the text around them that is no call. No call: `((), text)`, unchanged."""
    body = text.strip().removeprefix(PYTHON_TAG).strip()
    schemas = {tool.name: tool.parameters for tool in tools}
    calls, rest = _json_calls(body, schemas) if body.startswith(("{", "[")) else ((), body)
    if not calls:
        calls, rest = _pythonic_calls(body, schemas), ""
    return (calls, rest) if calls else ((), text)


def _json_calls(text: str, schemas: Mapping[str, JsonObject]) -> tuple[tuple[ToolCall, ...], str]:
    calls: list[ToolCall] = []
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        try:
            _, end = decoder.raw_decode(text, at)
            written = msgspec.json.decode(text[at:end], type=list[_Written] | _Written)
        except (ValueError, RecursionError):
            break
        found = [_json_call(each, schemas) for each in (written if isinstance(written, list) else [written])]
        if not found or None in found:
            break
        calls += [call for call in found if call is not None]
        while end < len(text) and text[end] in _SEPARATORS:
            end += 1
        at = end
    return tuple(calls), text[at:]


def _json_call(written: _Written, schemas: Mapping[str, JsonObject]) -> ToolCall | None:
    inner = written.function if isinstance(written.function, _Function) else written
    name = inner.name if inner.name is not None else written.function
    text = bytes(inner.parameters or inner.arguments).decode()
    if not isinstance(name, str) or name not in schemas:
        return None
    if text in ("", "null"):
        return ToolCall(name, "{}")
    if text.startswith('"'):  # an object written as a string
        text = msgspec.json.decode(text, type=str).strip()
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return ToolCall(name, text)


def _pythonic_calls(text: str, schemas: Mapping[str, JsonObject]) -> tuple[ToolCall, ...]:
    try:
        tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List | ast.Tuple) else [tree]
        return tuple(_pythonic_call(node, schemas) for node in nodes)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # not a list of plain calls: it is text
        return ()


def _pythonic_call(node: ast.expr, schemas: Mapping[str, JsonObject]) -> ToolCall:
    """Raises `ValueError` for anything but a call of a known tool with literal arguments."""
    if not isinstance(node, ast.Call):
        raise ValueError("not a call")
    name = _base_name(ast.unparse(node.func), tuple(schemas))
    if name is None:
        raise ValueError("not a tool of this request")
    parameters = list(schemas[name].get("properties") or {})
    values = {parameters[n]: _literal(argument) for n, argument in enumerate(node.args) if n < len(parameters)}
    if len(values) < len(node.args):
        raise ValueError("more positional arguments than the tool has parameters")
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("not a literal argument")
        values[keyword.arg] = _literal(keyword.value)
    return ToolCall(name, json.dumps(values, ensure_ascii=False, allow_nan=False))


def _literal(node: ast.expr) -> Any:
    """A Python literal, in which JSON's true, false and null are also understood."""
    constants: dict[str, Any] = {"true": True, "false": False, "null": None}

    class Constants(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            return ast.Constant(constants[name.id]) if name.id in constants else name

    return ast.literal_eval(Constants().visit(node))


def _base_name(written: str, names: Sequence[str]) -> str | None:
    """The tool a call names: `search`, or `search.call` as Llama writes its built-in tools."""
    if written in names:
        return written
    base = written.removesuffix(".call")
    return base if base in names else None
