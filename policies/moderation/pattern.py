"""The pattern language of moderation rules: a small, strict part of regular expressions.

Allowed: literal characters, `\\d \\w \\s` (and their complements), `\\n \\r \\t`, escaped punctuation, `[classes]`, `(groups)`, `(?:groups)`, `|`, and the
repeats `? * + {m} {m,} {m,n}`. Everything else is refused with the reason. What a class contains is exactly what Python's `re` says, because `re` decides it,
one character at a time. Repeats are neither greedy nor lazy here: the scan looks for the longest valid match of the whole pattern.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from msgspec import Struct

from policies.moderation.errors import RuleError

_MAX_REPEAT = 20_000


class Chars(Struct, frozen=True):
    """One character of a class; `source` is the class as `re` reads it."""

    source: str


class Sequence(Struct, frozen=True):
    items: tuple[Node, ...]


class Alternatives(Struct, frozen=True):
    items: tuple[Node, ...]


class Repeat(Struct, frozen=True):
    """`item` at least `low` times and at most `high` (None: without end)."""

    item: Node
    low: int
    high: int | None


Node: TypeAlias = "Chars | Sequence | Alternatives | Repeat"


def parse(pattern: str) -> Node:
    """The syntax tree of a pattern. Raises `RuleError`, with the place and the reason, for anything outside the language."""
    parser = _Parser(pattern)
    node = parser.alternatives()
    if parser.at < len(pattern):
        raise parser.error("unbalanced ')'")
    return node


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def error(self, reason: str) -> RuleError:
        return RuleError(f"pattern {self.pattern!r}, at {self.at}: {reason}")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def alternatives(self) -> Node:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else Alternatives(tuple(branches))

    def sequence(self) -> Node:
        items: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            items.append(self.repeat(self.atom()))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def atom(self) -> Node:
        match self.peek():
            case "(":
                return self.group()
            case "[":
                return self.char_class()
            case "\\":
                return self.escape()
            case ".":
                raise self.error("'.' is refused: say which characters are meant, as a class")
            case "^" | "$":
                raise self.error("anchors are refused: declare what may not stand before or after the match in `not_before` and `not_after`")
            case "*" | "+" | "?" | "{":
                raise self.error("there is nothing to repeat")
            case char:
                self.at += 1
                return Chars(re.escape(char))

    def group(self) -> Node:
        if self.pattern.startswith("(?", self.at) and not self.pattern.startswith("(?:", self.at):
            raise self.error("look-around, named groups, flags and conditions are refused: only (…) and (?:…) groups")
        self.at += 3 if self.pattern.startswith("(?:", self.at) else 1
        node = self.alternatives()
        if self.peek() != ")":
            raise self.error("a group is not closed")
        self.at += 1
        return node

    def char_class(self) -> Node:
        end = self.at + 1
        if self.pattern.startswith("^", end):
            end += 1
        if self.pattern.startswith("]", end):
            end += 1
        while end < len(self.pattern) and self.pattern[end] != "]":
            end += 2 if self.pattern[end] == "\\" else 1
        source = self.pattern[self.at : end + 1]
        if end >= len(self.pattern):
            raise self.error("a class is not closed")
        try:
            re.compile(source)
        except re.error as error:
            raise self.error(f"the class {source} is not valid: {error}") from error
        self.at = end + 1
        return Chars(source)

    def escape(self) -> Node:
        char = self.pattern[self.at + 1 : self.at + 2]
        if not char:
            raise self.error("a lone backslash at the end")
        if char in "bBAZ":
            raise self.error("boundaries inside a pattern are refused: declare them in `not_before` and `not_after`")
        if char.isdigit():
            raise self.error("back-references are refused: no automaton can follow them")
        if char.isalpha() and char not in "dDwWsSnrt":
            raise self.error(f"the escape \\{char} is refused")
        self.at += 2
        return Chars("\\" + char if char.isalpha() else re.escape(char))

    def repeat(self, item: Node) -> Node:
        bounds = re.compile(r"\?|\*|\+|\{(\d+)(,?)(\d*)\}").match(self.pattern, self.at)
        if bounds is None:
            return item
        low: int
        high: int | None
        match bounds[0]:
            case "?":
                low, high = 0, 1
            case "*":
                low, high = 0, None
            case "+":
                low, high = 1, None
            case _:
                low = int(bounds[1])
                high = int(bounds[3]) if bounds[3] else (None if bounds[2] else low)
        if (high is not None and high < low) or max(low, high or 0) > _MAX_REPEAT:
            raise self.error(f"the repeat {bounds[0]} is not possible")
        self.at = bounds.end()
        if self.peek() in ("?", "+", "*"):
            raise self.error("lazy, possessive and doubled repeats are refused: the longest valid match is taken")
        return Repeat(item, low, high)
