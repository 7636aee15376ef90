"""Reading JSON text piece by piece: what its characters stand for, and where it stops being JSON. Nothing is kept but the nesting and one unfinished token."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_BARE = 1_024
"""Characters of the longest number."""

MAX_DEPTH = 512

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_CONTROL = re.compile(r"[\x00-\x1f]+")
_SPACE = re.compile(r"[ \t\r\n]+")
_BARE = re.compile(r'[^\s"{}\[\],:]+')
_OTHER = re.compile(r'[^"]+')
_NUMBER_BEGUN = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:[.][0-9]*)?(?:(?<=[0-9])[eE](?:[-+]?[0-9]*))?)?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:[.][0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NAMES = ("true", "false", "null")
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_HEX = re.compile(r"[0-9a-fA-F]*")
_LOW = re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LOW_BEGUN = re.compile(r"(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?")


class Bare:
    """A number or a name: where it lies in the unescaped text. It grows until it is `closed`."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = start
        self.text = ""
        self.closed = False


class Run(NamedTuple):
    """A piece of the text. `start` and `end` count unescaped characters; `raw` is as written, `value` what it stands for: the same, or one character.

    `string` is the number of the string whose inside it belongs to; `bare` the number or name it is part of.
    """

    start: int
    end: int
    raw: str
    value: str
    string: int | None
    bare: Bare | None

    def slice(self, start: int, end: int) -> str:
        """As written, from one unescaped offset to another."""
        return self.raw[start - self.start : end - self.start] if len(self.raw) == self.end - self.start else self.raw


class JsonReader:
    """Reads one text. `invalid_at` is the first unescaped offset at which the text cannot be JSON (of a wrong number or name, its start), once it is known."""

    def __init__(self) -> None:
        self.invalid_at: int | None = None
        self._at = 0
        self._pending = ""
        self._strings = 0
        self._inside = False
        self._bare: Bare | None = None
        self._expect = "value"
        self._nesting: list[str] = []
        self._runs: list[Run] = []

    def read(self, text: str, *, final: bool) -> list[Run]:
        """The runs of the next piece. An escape that is not complete waits, until the text is `final`."""
        text, self._pending, self._runs = self._pending + text, "", []
        at = 0
        while at < len(text):
            after = self._in_string(text, at, final=final) if self._inside else self._outside(text, at)
            if after is None:
                self._pending = text[at:]
                break
            at = after
        if final:
            self._close_bare()
        return self._runs

    def _add(self, raw: str, value: str | None = None, *, string: bool = False, bare: Bare | None = None) -> None:
        value = raw if value is None else value
        self._runs.append(Run(self._at, self._at + len(value), raw, value, self._strings if string else None, bare))
        self._at += len(value)

    def _fail(self, at: int) -> None:
        if self.invalid_at is None:
            self.invalid_at = at

    # --- strings ---------------------------------------------------------------------------------------------------------------------

    def _in_string(self, text: str, at: int, *, final: bool) -> int | None:
        if found := _PLAIN.match(text, at):
            self._add(found[0], string=True)
            return found.end()
        if text[at] == '"':
            self._inside = False
            self._add('"')
            return at + 1
        if found := _CONTROL.match(text, at):
            self._fail(self._at)
            self._add(found[0], string=True)
            return found.end()
        escape = read_escape(text[at : at + 12], final=final)
        if escape is None:
            return None
        length, value, valid = escape
        if not valid:
            self._fail(self._at)
        self._add(text[at : at + length], value, string=True)
        return at + length

    # --- between strings -------------------------------------------------------------------------------------------------------------

    def _outside(self, text: str, at: int) -> int:
        char = text[at]
        if char == '"':
            self._close_bare()
            self._begin_value(string=True)
            self._strings += 1
            self._inside = True
            self._add(char)
            return at + 1
        if self.invalid_at is not None:
            found = _OTHER.match(text, at)
            assert found is not None
            self._add(found[0])
            return found.end()
        if found := _SPACE.match(text, at):
            self._close_bare()
            if self.invalid_at is None:
                self._add(found[0])
                return found.end()
            return at
        if found := _BARE.match(text, at):
            return self._word(found[0], at)
        self._close_bare()
        if self.invalid_at is None:
            self._punctuation(char)
        self._add(char)
        return at + 1

    def _word(self, word: str, at: int) -> int:
        """Part of a number or a name. As soon as it cannot be one, nothing of it is any more."""
        bare = self._bare
        if bare is None:
            self._begin_value(string=False)
            if self.invalid_at is not None:
                return at
            bare = self._bare = Bare(self._at)
        fits = longest_beginning(bare.text, word)
        if fits:
            bare.text += word[:fits]
            bare.end = self._at + fits
            self._add(word[:fits], bare=bare)
        if fits < len(word):
            self._fail(bare.start)
            bare.closed = True
            self._bare = None
        return at + fits

    def _close_bare(self) -> None:
        bare, self._bare = self._bare, None
        if bare is not None:
            bare.closed = True
            if bare.text not in _NAMES and not _NUMBER.fullmatch(bare.text):
                self._fail(bare.start)

    def _begin_value(self, *, string: bool) -> None:
        if self._expect in ("value", "value or end"):
            self._expect = "comma or end" if self._nesting else "nothing"
        elif string and self._expect in ("key", "key or end"):
            self._expect = "colon"
        else:
            self._fail(self._at)

    def _punctuation(self, char: str) -> None:
        expect, within = self._expect, self._nesting[-1] if self._nesting else ""
        if char in "{[" and expect in ("value", "value or end") and len(self._nesting) < MAX_DEPTH:
            self._nesting.append(char)
            self._expect = "key or end" if char == "{" else "value or end"
        elif (char == "}" and within == "{" and expect in ("key or end", "comma or end")) or (
            char == "]" and within == "[" and expect in ("value or end", "comma or end")
        ):
            self._nesting.pop()
            self._expect = "comma or end" if self._nesting else "nothing"
        elif char == "," and expect == "comma or end":
            self._expect = "key" if within == "{" else "value"
        elif char == ":" and expect == "colon":
            self._expect = "value"
        else:
            self._fail(self._at)


def longest_beginning(before: str, word: str) -> int:
    """How many characters of the word may follow `before` in a number or a name."""
    whole = before + word
    if len(whole) <= MAX_BARE and _begins(whole):
        return len(word)
    return next((size for size in range(min(len(word), MAX_BARE - len(before)), 0, -1) if _begins(before + word[:size])), 0)


def _begins(text: str) -> bool:
    return any(name.startswith(text) for name in _NAMES) or _NUMBER_BEGUN.fullmatch(text) is not None


def read_escape(rest: str, *, final: bool) -> tuple[int, str, bool] | None:
    r"""A string's escape at the start of `rest` (12 characters are enough): its length, its character, and whether it is one; None where more is needed.

    What is no escape is a lone backslash. A surrogate without its other half stands for no character, which is U+FFFD.
    """
    nothing = (1, "\\", False)
    if len(rest) < 2:
        return nothing if final else None
    if short := _SHORT.get(rest[1]):
        return 2, short, True
    if rest[1] != "u":
        return nothing
    found = _HEX.match(rest[:6], 2)
    digits = found[0] if found is not None else ""
    if len(digits) < 4:
        return None if not final and len(rest) == 2 + len(digits) else nothing
    code = int(digits, 16)
    if 0xD800 <= code < 0xDC00:
        if _LOW.match(rest, 6):
            return 12, chr(0x10000 + ((code - 0xD800) << 10) + int(rest[8:12], 16) - 0xDC00), True
        if not final and len(rest) < 12 and _LOW_BEGUN.fullmatch(rest, 6):
            return None
    return (6, "\ufffd", True) if 0xD800 <= code < 0xE000 else (6, chr(code), True)
