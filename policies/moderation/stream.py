"""Moderating one text stream: text in, redacted text out, nothing of a match ever among it.

What is removed. The spans of all matches (see `scan`) whose action is redact or block; spans that share a character are one span, and each becomes one
placeholder, that of its longest match. A span that holds a match to block ends the stream: what stands before the span comes out, then nothing more ever.
`flag` only reports: it neither changes nor delays the text.

Guarantees, for every text and every way of cutting it: the concatenated output, and with no block the concatenated matches, are the same; no character of a
match to redact or block comes out; text without a candidate comes out unchanged. A character waits only while it is at or behind the first character of a
candidate that is still undecided, so at most as long as the rule's bound (`RuleSet.bounds`); a token or key that is certain but still grows is not kept, so
memory is bounded whatever the text.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

import msgspec

from policies.moderation.ruleset import RuleSet
from policies.moderation.scan import Found, Match, Reports, Scanner


class Released(msgspec.Struct, frozen=True):
    """Redacted text that may be delivered, and the matches that became certain with it, by start."""

    text: str
    matches: tuple[Match, ...]
    blocked: bool


class _Span(NamedTuple):
    start: int
    end: int
    longest: tuple[int, int, int]  # (-length, start, rule): the smallest names the placeholder
    blocks: bool


class Moderator:
    """Moderates one text: a choice's content, one tool call's arguments, one reasoning stream."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._scanner = Scanner(rules)
        self._reports = Reports(rules)
        self._spans: list[_Span] = []  # merged, not yet put out; sorted, disjoint
        self._out = 0  # original characters put out or replaced
        self._released = 0
        self._redactions: list[tuple[int, int, int, int]] = []  # original start, end; released start, end
        self._blocked = False
        self._finished = False

    def feed(self, text: str) -> Released:
        """Takes the next piece; returns what is safe now. Raises `ValueError` after `finish`."""
        if self._finished:
            raise ValueError("this stream is finished: one Moderator moderates one text")
        if self._blocked:
            return Released("", (), True)
        self._scanner.feed(text)
        return self._release()

    def finish(self) -> Released:
        """The end of the text: decides everything still held. Calling it again returns nothing more."""
        if self._finished or self._blocked:
            self._finished = True
            return Released("", (), self._blocked)
        self._finished = True
        self._scanner.finish()
        return self._release()

    @property
    def held(self) -> int:
        """How many original characters wait, those included that are certain to be removed."""
        return 0 if self._blocked else self._scanner.at - self._out

    @property
    def resolved(self) -> int:
        """How many original characters are put out or replaced; where the text is blocked, the offset at which it ends."""
        return self._out

    @property
    def kept_from(self) -> int:
        """The first original character whose text is still kept; those between `resolved` and here are certain to be removed."""
        return self._scanner.base

    @property
    def redactions(self) -> list[tuple[int, int, int, int]]:
        """Every redaction so far: start and end in the original text, start and end in the released one."""
        return self._redactions

    def to_released(self, original_offset: int, *, end: bool = False) -> int:
        """Where an offset of the original text lies in the released one.

        Inside a redaction it is the placeholder's start, or its end where `end` says that the offset ends a range. Past the text resolved so far it is the
        end of the released text, so ask after the text in question is out.
        """
        index = bisect_right(self._redactions, original_offset, key=lambda redaction: redaction[0]) - 1
        if index < 0:
            return min(original_offset, self._released)
        start, stop, released_start, released_end = self._redactions[index]
        if original_offset >= stop:
            return min(original_offset - stop + released_end, self._released)
        return released_end if end and original_offset > start else released_start

    def _hold_from(self) -> int:
        """Nothing at or behind this position may come out yet."""
        return self._scanner.undecided_from(holding=True)

    def _release(self) -> Released:
        if decided := self._scanner.take():
            self._reports.add(decided)
            self._merge(decided)
        hold_from = self._hold_from()
        pieces: list[str] = []
        final = bisect_right(self._spans, hold_from, key=lambda span: span.end) if self._spans else 0
        for span in self._spans[:final]:
            self._put(pieces, span.start)
            if span.blocks:
                self._blocked = True
                return Released("".join(pieces), self._reports.settled(span.end), True)
            placeholder = self._rules.rules[span.longest[2]].placeholder
            self._redactions.append((span.start, span.end, self._released, self._released + len(placeholder)))
            self._released += len(placeholder)
            self._out = span.end
            pieces.append(placeholder)
        del self._spans[:final]
        self._put(pieces, min(hold_from, self._spans[0].start) if self._spans else hold_from)
        self._scanner.forget()
        return Released("".join(pieces), self._reports.settled(self._scanner.undecided_from(holding=False)), False)

    def _merge(self, decided: list[Found]) -> None:
        """Joins the spans that share a character; spans that only touch stay two."""
        fresh = []
        for start, end, rule in decided:
            if self._rules.actions[rule] != "flag":
                fresh.append(_Span(start, end, (start - end, start, rule), self._rules.actions[rule] == "block"))
        if not fresh:
            return
        merged: list[_Span] = []
        for span in sorted(self._spans + fresh):
            if merged and span.start < merged[-1].end:
                last = merged[-1]
                merged[-1] = _Span(last.start, max(last.end, span.end), min(last.longest, span.longest), last.blocks or span.blocks)
            else:
                merged.append(span)
        self._spans = merged

    def _put(self, pieces: list[str], until: int) -> None:
        if until > self._out:
            base = self._scanner.base
            pieces.append(self._scanner.buffer[self._out - base : until - base])
            self._released += until - self._out
            self._out = until


def moderate(rules: RuleSet, text: str) -> Released:
    """A whole text at once: the same as one `feed` and `finish`."""
    moderator = Moderator(rules)
    first = moderator.feed(text)
    last = moderator.finish()
    return Released(first.text + last.text, first.matches + last.matches, last.blocked)
