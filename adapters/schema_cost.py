"""How much work it is to check an answer against a schema: a bound, so that no schema can hold a worker up. Pure.

A few references that each name the one before twice unfold to 2^n checks of one value, and a recursive schema does the same along a nested
answer. The walk takes every branch that a validator could take and gives up at a budget. It knows references inside the schema (`#`,
`#/$defs/name`); others, and what moves their base, are refused before it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

MAX_CHECKS = 50_000
"""Subschemas that one answer may be checked against, each counted with every value that it meets: about 30 ms of walking."""

_SAME_PLACE = ("allOf", "anyOf", "oneOf")
_SAME_PLACE_ONE = ("not", "if", "then", "else")
_EVERY_ITEM = ("items", "additionalItems", "unevaluatedItems", "contains")
_EVERY_VALUE = ("additionalProperties", "unevaluatedProperties")
_FOREIGN = ("$dynamicRef", "$recursiveRef")


class UnsupportedReference(ValueError):
    """The schema refers to something by other means than a place within itself."""


class TooMuchWork(Exception):
    """The answer would have to be checked more than `MAX_CHECKS` times."""


def check_references(schema: object, *, root: bool = True) -> None:
    """Raises `UnsupportedReference` unless every reference is `#` or `#/…` of the whole schema, and `RecursionError` for one nested too deeply."""
    match schema:
        case dict():
            for name, value in schema.items():
                if name == "$ref" and isinstance(value, str) and not (value == "#" or value.startswith("#/")):
                    raise UnsupportedReference(f"the reference {value!r} leaves the schema: only references within it, such as '#/$defs/name', are followed")
                if name in _FOREIGN and isinstance(value, str):
                    raise UnsupportedReference(f"{name} is not supported: use $ref with a place in the schema, such as '#/$defs/name'")
                if name == "$id" and isinstance(value, str) and not root:
                    raise UnsupportedReference("an $id inside the schema is not supported: references start at the schema's own root")
            for value in schema.values():
                check_references(value, root=False)
        case list():
            for value in schema:
                check_references(value, root=False)
        case _:
            pass


def check_cost(schema: dict[str, Any], answer: object) -> None:
    """Raises `TooMuchWork` where checking the answer could take more than `MAX_CHECKS` steps."""
    _Walk(schema).visit(schema, answer, ())


class _Walk:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._left = MAX_CHECKS

    def visit(self, schema: object, value: object, following: tuple[str, ...]) -> None:
        """`following` are the references on the way to this place in the answer: a circle of them checks nothing new."""
        options = schema.get("enum") if isinstance(schema, dict) else None
        self._left -= 1 + (len(options) if isinstance(options, list) else 0)
        if self._left < 0:
            raise TooMuchWork
        if not isinstance(schema, dict):
            return
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference not in following:
            self.visit(_at(self._root, reference), value, (*following, reference))
        for name in _SAME_PLACE:
            for inner in _listed(schema.get(name)):
                self.visit(inner, value, following)
        for name in _SAME_PLACE_ONE:
            if name in schema:
                self.visit(schema[name], value, following)
        match value:
            case dict():
                self._members(schema, value, following)
            case list():
                self._items(schema, value)
            case _:
                pass

    def _members(self, schema: dict[str, Any], value: dict[str, Any], following: tuple[str, ...]) -> None:
        for name in ("dependentSchemas", "dependencies"):
            for inner in _mapped(schema.get(name)).values():
                self.visit(inner, value, following)
        if "propertyNames" in schema:
            for key in value:
                self.visit(schema["propertyNames"], key, ())
        properties = _mapped(schema.get("properties"))
        for key in value.keys() & properties.keys():
            self.visit(properties[key], value[key], ())
        for inner in (*_mapped(schema.get("patternProperties")).values(), *(schema[name] for name in _EVERY_VALUE if name in schema)):
            for member in value.values():
                self.visit(inner, member, ())

    def _items(self, schema: dict[str, Any], value: list[Any]) -> None:
        for name in ("prefixItems", "items"):
            for inner, item in zip(_listed(schema.get(name)), value, strict=False):
                self.visit(inner, item, ())
        for name in _EVERY_ITEM:
            if name in schema and not isinstance(schema[name], list):
                for item in value:
                    self.visit(schema[name], item, ())


def _at(root: dict[str, Any], reference: str) -> object:
    """The subschema at a place of the schema (a JSON pointer); `{}` where there is none, which the validator has refused before."""
    found: object = root
    for word in unquote(reference[1:]).split("/")[1:]:
        key = word.replace("~1", "/").replace("~0", "~")
        match found:
            case dict():
                found = found.get(key, {})
            case list():
                found = found[int(key)] if key.isdecimal() and int(key) < len(found) else {}
            case _:
                return {}
    return found


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapped(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
