"""Strict YAML: text in, typed values out, and every problem of the file with its line, its column and a suggestion.

`read_yaml` composes PyYAML's nodes (so positions survive) and walks them against a type. What a file may hold is exactly what the type says:
an unknown key, a wrong type, a missing or a repeated key is a problem, and all problems are collected. Two things of YAML 1.1 are mended:
`on`, `off`, `yes` and `no` are strings wherever a string is expected, and a number there is a problem that says "quote it".
Anchors and aliases work; tags, merge keys and several documents in one file are refused. Size, depth and the number of values after
expanding aliases are bounded, so no text can use up time or memory.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import yaml
from msgspec import Struct
from yaml.reader import Reader

from config.yamlproblems import Path, Places, Problem, YamlError, format_path, mark_of, nearest
from config.yamlscalar import INVALID
from config.yamlwalk import MAX_DEPTH, PLAIN, Schema, Walk

__all__ = ["Document", "Path", "Places", "Problem", "Schema", "YamlError", "compose", "decode_yaml", "format_path", "nearest", "read_yaml"]

T = TypeVar("T")

MAX_CHARACTERS = 1_000_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document(Struct, Generic[T]):
    """What was read. `value` is None when there are problems; `sections` holds the top-level values that are valid in any case."""

    value: T | None
    sections: dict[str, Any]
    places: Places
    problems: list[Problem]


def read_yaml(text: str, type: type[T], *, schema: Schema = PLAIN) -> Document[T]:
    """Decode `text` as `type` (a struct). Never raises for what the text holds: see `Document.problems`."""
    root = compose(text)
    if isinstance(root, Problem):
        return Document(None, {}, Places(), [root])
    walk = Walk(schema)
    value = walk.root(root, type)
    return Document(None if walk.problems or value is INVALID else value, walk.sections, walk.places, walk.problems)


def decode_yaml(text: str, type: type[T], *, source: str, schema: Schema = PLAIN) -> T:
    """Decode `text` as `type`. Raises `YamlError` with every problem."""
    document = read_yaml(text, type, schema=schema)
    if document.value is None:
        raise YamlError(document.problems, source)
    return document.value


def compose(text: str) -> yaml.Node | Problem:
    """The node tree of one YAML document, or what keeps it from being one."""
    if len(text) > MAX_CHARACTERS:
        return Problem(1, 1, "", f"the file has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    if (bad := Reader.NON_PRINTABLE.search(text)) is not None:
        return Problem(*_line_and_column(text, bad.start()), "", f"not valid YAML: the character U+{ord(bad[0]):04X} may not stand here")
    try:
        refused = _scan(text)
        if refused is not None:
            return refused
        root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        return Problem(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "", f"not valid YAML: {message}")
    return root if root is not None else Problem(1, 1, "", "the file is empty")


def _scan(text: str) -> Problem | None:
    """Refuse tags and deep nesting before anything recursive touches the text."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        match event:
            case yaml.CollectionStartEvent():
                depth += 1
            case yaml.CollectionEndEvent():
                depth -= 1
            case _:
                pass
        if depth > MAX_DEPTH:
            return Problem(*mark_of(event), "", f"nested deeper than {MAX_DEPTH} levels")
        tag = getattr(event, "tag", None)
        if tag is not None:
            return Problem(*mark_of(event), "", f"tags are not supported: {tag}")
    return None


def _line_and_column(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1
