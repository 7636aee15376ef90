"""The walk of YAML nodes against a type. `config.yamlfile` is the way in."""

from __future__ import annotations

import operator
import re
import types
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin

import msgspec
import yaml
from msgspec import NODEFAULT, Struct

from config.yamlproblems import Path, Places, Problem, nearest
from config.yamlscalar import INVALID, Wrong, describe, found_word, is_null, read_plain, read_scalar

MAX_DEPTH = 64
MAX_VALUES = 200_000
MAX_PROBLEMS = 100
SCALARS: Final = (str, int, float, bool, FilePath)


class Schema(Struct, frozen=True):
    """What a type does not say by itself.

    `by_kind`: for a base struct, the struct that each value of its `kind` key selects. `later`: for a struct, keys of the documented format
    that this release does not have yet, so that they are refused as such. `partial`: structs that describe only some keys of their mapping;
    the others are passed over unread.
    """

    by_kind: Mapping[type[Struct], Mapping[str, type[Struct]]] = {}
    later: Mapping[type[Struct], frozenset[str]] = {}
    partial: frozenset[type[Struct]] = frozenset()


PLAIN: Final = Schema()


class _Stop(Exception):
    """Enough problems, or too many values: the walk ends here."""


class Walk:
    """One pass over one document. A value that is wrong becomes `INVALID`, and so does everything that holds it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.problems: list[Problem] = []
        self.places = Places()
        self.sections: dict[str, Any] = {}
        self._values = 0

    def root(self, node: yaml.Node, wanted: type[Any]) -> Any:
        try:
            return self.visit(node, wanted, ())
        except _Stop:
            return INVALID

    def wrong(self, node: yaml.Node, path: Path, message: str, suggestion: str | None = None, *, key: yaml.Node | None = None) -> Any:
        self.places.note(path, node, key)
        self._add(path, message, suggestion, key=key is not None)
        return INVALID

    def _add(self, path: Path, message: str, suggestion: str | None = None, *, key: bool = False) -> None:
        self.problems.append(self.places.problem(path, message, suggestion, key=key))
        if len(self.problems) >= MAX_PROBLEMS:
            raise _Stop

    def visit(self, node: yaml.Node, wanted: Any, path: Path) -> Any:
        self._values += 1
        self.places.note(path, node)
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:  # the depth bounds an alias to its own parent
            self._add(path, f"more than {MAX_VALUES:,} values, or nested deeper than {MAX_DEPTH} levels, once aliases are expanded")
            raise _Stop
        if wanted is Any or wanted is object:
            return self._anything(node, path)
        origin, arguments = get_origin(wanted), get_args(wanted)
        if origin is Annotated:
            return self._constrained(node, arguments[0], arguments[1:], path)
        if origin is Union or origin is types.UnionType:
            return self._union(node, arguments, path)
        if isinstance(wanted, type) and issubclass(wanted, Struct):
            return self._struct(node, wanted, path)
        if origin is dict or wanted is dict:
            return self._dict(node, arguments[1] if arguments else Any, path)
        if origin in (tuple, list, frozenset) or wanted in (tuple, list):
            return self._list(node, wanted, origin or wanted, arguments, path)
        return self._scalar(node, wanted, path)

    def _scalar(self, node: yaml.Node, wanted: Any, path: Path) -> Any:
        value = read_scalar(node, wanted) if isinstance(node, yaml.ScalarNode) else Wrong(f"expected {describe(wanted)}, found {found_word(node)}")
        return self.wrong(node, path, value.message, value.suggestion) if isinstance(value, Wrong) else value

    def _anything(self, node: yaml.Node, path: Path) -> Any:
        match node:
            case yaml.MappingNode():
                return self._dict(node, Any, path)
            case yaml.SequenceNode():
                return self._list(node, list[Any], list, (Any,), path)
            case _:
                return read_plain(cast(yaml.ScalarNode, node))

    def _constrained(self, node: yaml.Node, wanted: Any, metas: tuple[Any, ...], path: Path) -> Any:
        value = self.visit(node, wanted, path)
        for meta in metas:
            if value is not INVALID and isinstance(meta, msgspec.Meta):
                message = _breach(value, meta)
                if message:
                    value = self.wrong(node, path, message)
        return value

    def _list(self, node: yaml.Node, wanted: Any, origin: Any, arguments: tuple[Any, ...], path: Path) -> Any:
        if not isinstance(node, yaml.SequenceNode):
            hint = f"; write [{node.value}]" if isinstance(node, yaml.ScalarNode) and node.value and not is_null(node) else ""
            return self.wrong(node, path, f"expected {describe(wanted)}, found {found_word(node)}{hint}")
        item = arguments[0] if arguments else Any
        fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
        if fixed and len(node.value) != len(arguments):
            return self.wrong(node, path, f"expected {len(arguments)} items, found {len(node.value)}")
        values = [self.visit(child, arguments[index] if fixed else item, (*path, index)) for index, child in enumerate(node.value)]
        return INVALID if any(value is INVALID for value in values) else origin(values)

    def _dict(self, node: yaml.Node, item: Any, path: Path) -> Any:
        pairs = self._pairs(node, path, "a mapping")
        if pairs is None:
            return INVALID
        values = {name: self.visit(child, item, (*path, name)) for name, (_, child) in pairs.items()}
        return INVALID if len(values) != len(node.value) or any(value is INVALID for value in values.values()) else values

    def _pairs(self, node: yaml.Node, path: Path, expected: str) -> dict[str, tuple[yaml.Node, yaml.Node]] | None:
        """The keys and values of a mapping; keys stay the strings they were written as, and a repeated one is a problem."""
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, path, f"expected {expected}, found {found_word(node)}")
            return None
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                self.wrong(key, (*path, "?"), f"a key must be a string, found {found_word(key)}")
            elif key.value == "<<" and not key.style:
                self.wrong(value, (*path, "<<"), "merge keys (<<) are not supported; write the keys out", key=key)
            elif key.value in pairs:
                first = pairs[key.value][0].start_mark.line + 1
                self.wrong(value, (*path, key.value), f"the key {key.value!r} is already there, in line {first}", key=key)
            else:
                pairs[key.value] = (key, value)
                self.places.note_key((*path, key.value), key)
        return pairs

    def _struct(self, node: yaml.Node, wanted: type[Struct], path: Path) -> Any:
        pairs = self._pairs(node, path, "a mapping")
        if pairs is None:
            return INVALID
        if (kinds := self.schema.by_kind.get(wanted)) is not None:
            chosen = self._kind(node, pairs, kinds, path)
            if chosen is None:
                return INVALID
            wanted = chosen
        fields = {field.encode_name: field for field in msgspec.structs.fields(wanted)}
        tag = wanted.__struct_config__.tag_field if wanted.__struct_config__.tag is not None else None
        values: dict[str, Any] = {}
        good = len(pairs) == len(cast(yaml.MappingNode, node).value)
        for name, (key, child) in pairs.items():
            if name == tag:
                continue
            if name not in fields and wanted in self.schema.partial:
                continue
            if name not in fields:
                self._unknown_key(wanted, name, key, child, fields, path)
                good = False
                continue
            value = self.visit(child, fields[name].type, (*path, name))
            if value is INVALID:
                good = False
            else:
                values[fields[name].name] = value
                if not path:
                    self.sections[fields[name].name] = value
        for name, field in fields.items():
            if name not in pairs and field.default is NODEFAULT and field.default_factory is NODEFAULT:
                self._add(path, f"the key {name!r} is missing")
                good = False
        return self._build(wanted, values, node, path) if good else INVALID

    def _build(self, wanted: type[Struct], values: dict[str, Any], node: yaml.Node, path: Path) -> Any:
        try:
            return wanted(**values)
        except ValueError as error:  # a struct's own check, in __post_init__
            return self.wrong(node, path, str(error))

    def _unknown_key(self, wanted: type[Struct], name: str, key: yaml.Node, child: yaml.Node, fields: Any, path: Path) -> None:
        for base in wanted.__mro__:
            if name in self.schema.later.get(base, ()):
                self.wrong(child, (*path, name), f"{name!r} is not supported yet", key=key)
                return
        near = nearest(name, fields)
        self.wrong(child, (*path, name), f"unknown key {name!r}" + ("" if near else f"; known: {', '.join(fields)}"), near, key=key)

    def _kind(self, node: yaml.Node, pairs: dict[str, tuple[yaml.Node, yaml.Node]], kinds: Any, path: Path) -> type[Struct] | None:
        if "kind" not in pairs:
            self._add(path, f"the key 'kind' is missing; one of {', '.join(sorted(kinds))}")
            return None
        child = pairs["kind"][1]
        if not isinstance(child, yaml.ScalarNode):
            self.wrong(child, (*path, "kind"), f"expected a string, found {found_word(child)}")
            return None
        if child.value not in kinds:
            near = nearest(child.value, kinds)
            self.wrong(child, (*path, "kind"), f"unknown kind {child.value!r}" + ("" if near else f"; one of {', '.join(sorted(kinds))}"), near)
            return None
        return cast(type[Struct], kinds[child.value])

    def _union(self, node: yaml.Node, members: tuple[Any, ...], path: Path) -> Any:
        if is_null(node) and type(None) in members:
            return None
        members = tuple(member for member in members if member is not type(None))
        if Any in members:
            return self._anything(node, path)
        fitting = [member for member in members if _fits(node, member)]
        if len(fitting) > 1 and isinstance(node, yaml.MappingNode):
            fitting = _tagged(node, fitting) or fitting
        if len(fitting) == 1:
            return self.visit(node, fitting[0], path)
        if isinstance(node, yaml.ScalarNode):
            for member in sorted(fitting, key=_preference):
                value = read_scalar(node, member)
                if not isinstance(value, Wrong):
                    return value
        expected = " or ".join(describe(member) for member in members)
        return self.wrong(node, path, f"expected {expected}, found {found_word(node)}")


def _fits(node: yaml.Node, member: Any) -> bool:
    """Whether a member of a union can be written as this kind of node."""
    while get_origin(member) is Annotated:
        member = get_args(member)[0]
    origin = get_origin(member) or member
    match node:
        case yaml.MappingNode():
            return origin is dict or (isinstance(origin, type) and issubclass(origin, Struct))
        case yaml.SequenceNode():
            return origin in (tuple, list, frozenset)
        case _:
            return origin is Literal or origin in SCALARS


def _tagged(node: yaml.Node, members: list[Any]) -> list[Any]:
    """The members whose tag the mapping carries."""
    written = {key.value: value.value for key, value in node.value if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)}
    found = []
    for member in members:
        config = getattr(member, "__struct_config__", None)
        if config is not None and config.tag is not None and written.get(config.tag_field) == str(config.tag):
            found.append(member)
    return found


def _preference(member: Any) -> int:
    """Of a union's scalars, the narrower is tried first."""
    while get_origin(member) is Annotated:
        member = get_args(member)[0]
    # A string goes before true or false: it refuses those two words and keeps `on` and `yes`.
    return 0 if get_origin(member) is Literal else {int: 1, float: 2, str: 3, bool: 4}.get(member, 5)


def _breach(value: Any, meta: msgspec.Meta) -> str | None:
    """How a value breaks a constraint, or None."""
    for limit, breaks, word in (
        (meta.ge, operator.lt, "at least"),
        (meta.gt, operator.le, "more than"),
        (meta.le, operator.gt, "at most"),
        (meta.lt, operator.ge, "less than"),
    ):
        if limit is not None and breaks(value, limit):
            return f"must be {word} {limit:g}, found {value:g}"
    if meta.min_length is not None and len(value) < meta.min_length:
        return "must not be empty" if meta.min_length == 1 else f"must not be shorter than {meta.min_length}"
    if meta.max_length is not None and len(value) > meta.max_length:
        return f"must not be longer than {meta.max_length}"
    if meta.pattern is not None and re.search(meta.pattern, value) is None:
        return f"must match {meta.pattern}, found {value!r}" if meta.description is None else f"expected {meta.description}; found {value!r}"
    return None
