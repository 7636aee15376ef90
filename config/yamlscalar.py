"""How a YAML scalar is read as a string, a number, a truth value or one of some words."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import yaml
from msgspec import Struct

from config.yamlproblems import nearest

INVALID: Final = object()
"""Stands for a value that was wrong (its problem is noted)."""

_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?(?:[eE][-+]?\d+)?|[-+]?\.\d[\d_]*(?:[eE][-+]?\d+)?", re.ASCII)
_LEADING_ZERO = re.compile(r"[-+]?0\d", re.ASCII)
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_YES = frozenset({"yes", "Yes", "YES", "on", "On", "ON"})
_NO = frozenset({"no", "No", "NO", "off", "Off", "OFF"})


class Wrong(Struct, frozen=True):
    message: str
    suggestion: str | None = None


def read_scalar(node: yaml.ScalarNode, wanted: Any) -> Any:
    """The scalar as `wanted` (str, int, float, bool, Path or a Literal), or what is wrong with it."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    if get_origin(wanted) is Literal:
        return _literal(node, get_args(wanted))
    reader = {str: _string, int: _int, float: _float, bool: _bool, Path: _path}.get(wanted)
    return reader(node) if reader else Wrong(f"expected {describe(wanted)}, found {found_word(node)}")


def read_plain(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """The scalar where anything may stand: JSON's own types, and a string for all the rest."""
    text = str(node.value)
    if not _is_plain(node):
        return text
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    number = _number(text)
    if number is not None and math.isfinite(number):
        digits = text.replace("_", "")
        return int(digits) if digits.lstrip("+-").isdigit() and len(digits) <= 20 else number
    return text


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _is_plain(node) and node.value in _NULLS


def found_word(node: yaml.Node) -> str:
    """What stands in the file, in words."""
    match node:
        case yaml.MappingNode():
            return "a mapping"
        case yaml.SequenceNode():
            return "a list"
        case _:
            pass
    text = node.value if len(node.value) <= 60 else node.value[:57] + "..."
    if is_null(node):
        return "nothing"
    if not _is_plain(node):
        return f"the string {text!r}"
    if text in _TRUE or text in _FALSE:
        return str(text).lower()
    return f"the number {text}" if _NUMBER.fullmatch(text) else repr(text)


def describe(wanted: Any) -> str:
    """A type in words."""
    while get_origin(wanted) is Annotated:
        wanted = get_args(wanted)[0]
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(argument) for argument in arguments)
    if origin in (tuple, list, frozenset):
        return "a list"
    if origin is dict or (isinstance(wanted, type) and issubclass(wanted, Struct)):
        return "a mapping"
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path", type(None): "nothing"}
    return words.get(wanted, "a value")


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style  # the C loader says "" where the Python loader says None


def _string(node: yaml.ScalarNode) -> str | Wrong:
    text = str(node.value)
    if _is_plain(node):
        if text in _NULLS:
            return Wrong("expected a string, found nothing")
        if text in _TRUE or text in _FALSE or _NUMBER.fullmatch(text):
            return Wrong(f"expected a string, found {found_word(node)}; put it in quotes: '{text}'")
    return text


def _path(node: yaml.ScalarNode) -> Path | Wrong:
    text = _string(node)
    return text if isinstance(text, Wrong) else Path(text)


def _number(text: str) -> float | None:
    """The number that a plain scalar is, or None. `012` is none: YAML's versions do not agree on it."""
    if not _NUMBER.fullmatch(text) or _LEADING_ZERO.match(text):
        return None
    return float(text.replace("_", ""))


def _int(node: yaml.ScalarNode) -> int | Wrong:
    number = _number(node.value) if _is_plain(node) else None
    if number is None or not math.isfinite(number):
        return Wrong(f"expected a whole number, found {found_word(node)}" + _number_hint(node))
    digits = node.value.replace("_", "")
    if digits.lstrip("+-").isdigit():
        return int(digits) if len(digits) <= 20 else Wrong(f"expected a whole number of at most 20 digits, found {found_word(node)}")
    if "." in digits or number != int(number):
        return Wrong(f"expected a whole number, found {found_word(node)}")
    return int(number)


def _float(node: yaml.ScalarNode) -> float | Wrong:
    number = _number(node.value) if _is_plain(node) else None
    if number is None or not math.isfinite(number):
        return Wrong(f"expected a number, found {found_word(node)}" + _number_hint(node))
    return number


def _number_hint(node: yaml.ScalarNode) -> str:
    if not _is_plain(node) and _NUMBER.fullmatch(node.value):
        return "; write it without quotes"
    if _is_plain(node) and _LEADING_ZERO.match(node.value):
        return "; write it without the leading zero"
    return ""


def _bool(node: yaml.ScalarNode) -> bool | Wrong:
    text = node.value
    if _is_plain(node):
        if text in _TRUE or text in _YES:
            return True
        if text in _FALSE or text in _NO:
            return False
    return Wrong(f"expected true or false, found {found_word(node)}")


def _literal(node: yaml.ScalarNode, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        value = read_scalar(node, type(choice))
        if not isinstance(value, Wrong) and value == choice:
            return choice
    return Wrong(f"expected one of {', '.join(map(str, choices))}; found {found_word(node)}", nearest(node.value, [c for c in choices if isinstance(c, str)]))
