"""Moderating a tool call's arguments: JSON text, judged by the values it stands for, however they are escaped.

One `Moderator` reads the text with its strings unescaped; what it lets pass comes out exactly as the model wrote it, so nothing is parsed and written anew.

Guarantees, for every text and every way of cutting it: the output is the same; nothing of a match to redact or block comes out, be it in a string, a key, a
number or a name (`true`, `null`); valid JSON stays valid. A redaction inside a string becomes its placeholder; a number or name with one becomes a string; a
match across several values, which no placeholder could replace, ends the stream like a match to block.

Text that is not JSON. From the first character that cannot be JSON the text also passes a plain `Moderator`, which sees it as written. A number longer than
`MAX_BARE` and nesting deeper than `MAX_DEPTH` count as not JSON. Memory is bounded by the rules' bounds and `MAX_BARE`.
"""

from __future__ import annotations

import re
from collections import deque
from itertools import takewhile
from typing import NamedTuple

import msgspec

from policies.moderation.json_text import MAX_BARE, MAX_DEPTH, JsonReader, Run
from policies.moderation.ruleset import RuleSet
from policies.moderation.stream import Moderator, Released

__all__ = ["MAX_BARE", "MAX_DEPTH", "ArgumentsModerator"]

_CLOSE = re.compile(r'^"|"$')


class _Redaction(NamedTuple):
    start: int
    end: int
    placeholder: str


class ArgumentsModerator:
    """Moderates one tool call's arguments; used like a `Moderator`. The offsets of its matches are those of the unescaped text."""

    def __init__(self, rules: RuleSet) -> None:
        self._values = Moderator(rules)
        self._plain = Moderator(rules)
        self._reader = JsonReader()
        self._runs: deque[Run] = deque()
        self._waiting: deque[_Redaction] = deque()
        self._released = 0  # characters the value moderator has released
        self._seen = 0  # how many of its redactions are known here
        self._at = 0  # unescaped characters put out or replaced
        self._blocked = False

    def feed(self, text: str) -> Released:
        """Takes the next piece; returns what is safe now."""
        if self._blocked:
            return Released("", (), True)
        return self._take(self._values.feed(self._read(text, final=False)), final=False)

    def finish(self) -> Released:
        """The end of the text: decides everything still held."""
        if self._blocked:
            return Released("", (), True)
        first = self._take(self._values.feed(self._read("", final=True)), final=False)
        if first.blocked:
            return first
        last = self._take(self._values.finish(), final=True)
        return Released(first.text + last.text, first.matches + last.matches, last.blocked)

    def _read(self, text: str, *, final: bool) -> str:
        runs = self._reader.read(text, final=final)
        self._runs += runs
        return "".join(run.value for run in runs)

    def _take(self, released: Released, *, final: bool) -> Released:
        for start, end, released_start, released_end in self._values.redactions[self._seen :]:
            self._waiting.append(_Redaction(start, end, released.text[released_start - self._released : released_end - self._released]))
            self._seen += 1
        self._released += len(released.text)
        self._blocked = released.blocked
        matches = list(released.matches)
        direct, suspect = self._put(self._bare_start(self._values.resolved))
        second = self._plain.feed(suspect)
        text, matches = direct + second.text, [*matches, *second.matches]
        if (self._blocked or final) and not second.blocked:
            last = self._plain.finish()
            text, matches = text + last.text, [*matches, *last.matches]
            second = last
        self._blocked = self._blocked or second.blocked
        self._forget()
        return Released(text, tuple(matches), self._blocked)

    def _bare_start(self, limit: int) -> int:
        """The limit, moved to the start of the number or name that it lies in: those come out whole."""
        for run in self._runs:
            if run.start >= limit:
                break
            bare = run.bare
            if bare is not None and bare.start < limit and (limit < bare.end or (limit == bare.end and not bare.closed)):
                return bare.start
        return limit

    def _put(self, limit: int) -> tuple[str, str]:
        """Put out what lies before the limit: the JSON part, and what comes after the first character that is not JSON."""
        pieces: tuple[list[str], list[str]] = ([], [])
        while self._waiting and self._waiting[0].end <= limit:
            redaction = self._waiting[0]
            touched = self._touched(redaction)
            run = touched[0]
            if self._broken(redaction.end):
                self._copy(redaction.start, pieces)
                self._replace(redaction.placeholder, redaction.end, pieces)
            elif run.bare is not None and redaction.end <= run.bare.end:
                self._copy(run.bare.start, pieces)
                self._replace_bare(run.bare.end, pieces)
                continue
            elif run.string is not None and all(other.string == run.string for other in touched):
                self._copy(redaction.start, pieces)
                self._replace(_CLOSE.sub("", msgspec.json.encode(redaction.placeholder).decode()), redaction.end, pieces)
            else:
                self._blocked = True
                limit = self._bare_start(redaction.start)
                break
            self._waiting.popleft()
        if self._waiting:
            limit = min(limit, self._bare_start(self._waiting[0].start))
        self._copy(limit, pieces)
        return "".join(pieces[0]), "".join(pieces[1])

    def _touched(self, redaction: _Redaction) -> list[Run]:
        return [run for run in takewhile(lambda run: run.start < redaction.end, self._runs) if run.end > redaction.start]

    def _broken(self, end: int) -> bool:
        """Whether the text up to `end` is not the beginning of any JSON."""
        invalid = self._reader.invalid_at
        return invalid is not None and end > invalid

    def _copy(self, until: int, pieces: tuple[list[str], list[str]]) -> None:
        """Put out as it was written."""
        while self._at < until:
            run = self._runs[0]
            end = min(until, run.end)
            invalid = self._reader.invalid_at
            if invalid is not None and self._at < invalid:
                end = min(end, invalid)
            pieces[self._broken(end)].append(run.slice(self._at, end))
            self._skip(end)

    def _replace(self, text: str, end: int, pieces: tuple[list[str], list[str]]) -> None:
        pieces[self._broken(self._at + 1)].append(text)
        self._skip(end)

    def _replace_bare(self, end: int, pieces: tuple[list[str], list[str]]) -> None:
        """A number or name with redactions becomes a string."""
        inside: tuple[list[str], list[str]] = ([], [])
        while self._waiting and self._waiting[0].end <= end:
            redaction = self._waiting.popleft()
            self._copy(redaction.start, inside)
            self._replace(redaction.placeholder, redaction.end, inside)
        self._copy(end, inside)
        pieces[0].append(msgspec.json.encode("".join(inside[0])).decode())

    def _skip(self, until: int) -> None:
        self._at = until
        while self._runs and self._runs[0].end <= until:
            self._runs.popleft()

    def _forget(self) -> None:
        """Join what is certain to be removed but still grows, without its text."""
        kept, resolved = self._values.kept_from, self._values.resolved
        if kept <= resolved or self._blocked:
            return
        runs: deque[Run] = deque()
        for run in self._runs:
            last = runs[-1] if runs else None
            gone = run.start >= resolved and run.end <= kept and run.bare is None
            if gone and last is not None and last.start >= resolved and last.bare is None and last.string == run.string:
                runs[-1] = Run(last.start, run.end, "", "", run.string, None)
            else:
                runs.append(Run(run.start, run.end, "", "", run.string, None) if gone else run)
        self._runs = runs
