"""Citations out of the `[n]` marks a model writes: every mark is checked against the passage it names. Pure.

A mark that names no passage, or one that shares too few words with the claim, gives no citation: a citation says that the words are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from adapters.types import Citation, Passage
from retrieval.sentences import Span, content_words, sentences

MIN_COVERAGE = 0.2
"""Share of the claim's content words that the quoted sentences must hold."""

_MARK = re.compile(r"[\[【]\s*(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\s*[\]】]")
_NUMBER = re.compile(r"\d{1,3}")


class Claim(Struct, frozen=True):
    """Words of an answer and the passages (from 1) they are said to come from. Offsets are in the answer."""

    start: int
    end: int
    numbers: tuple[int, ...]


def cite(answer: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """The citations of an answer whose prompt numbered `passages` from 1, in the order of the answer.

    Guarantee: each quote is verbatim the passage's text at its offsets, and offsets of the answer count its code points, marks included.
    """
    found: list[Citation] = []
    for claim in claims(answer):
        words = content_words(answer[claim.start : claim.end])
        for number in claim.numbers:
            if not 1 <= number <= len(passages):
                continue
            passage = passages[number - 1]
            span = _carrier(words, passage)
            if span is not None:
                found.append(_citation(claim, passage, span))
    return tuple(dict.fromkeys(found))


def verify(citation: Citation, text: str) -> bool:
    """Whether the quote stands in the canonical text exactly where the citation says."""
    return 0 <= citation.start < citation.end <= len(text) and text[citation.start : citation.end] == citation.quote


def claims(answer: str) -> list[Claim]:
    """Each group of marks with the words before it, back to the sentence's start or the previous group; after a full stop, the sentence before."""
    found: list[Claim] = []
    groups = list(_groups(answer))
    spans = sentences(answer)
    after = 0  # the end of the previous group
    for start, end, numbers in groups:
        opening = max((left for left, _ in spans if left <= start), default=0)
        if not _has_words(answer[max(opening, after) : start]):  # the mark stands at the sentence's start: it speaks of the one before
            opening = max((left for left, _ in spans if left < opening and _has_words(answer[left:opening])), default=0)
        left, right = max(opening, after), start
        while left < right and answer[left] in " \t\n.,;:":
            left += 1
        while right > left and answer[right - 1].isspace():
            right -= 1
        if _has_words(answer[left:right]):
            found.append(Claim(left, right, numbers))
        after = end
    return found


def _groups(answer: str) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Marks with nothing but spaces between them, as one: `[1][2]`, `[1, 2]`."""
    marks = list(_MARK.finditer(answer))
    if not marks:
        return
    breaks = [0, *(n for n, (a, b) in enumerate(pairwise(marks), 1) if answer[a.end() : b.start()].strip(" ")), len(marks)]
    for first, last in pairwise(breaks):
        group = marks[first:last]
        numbers = tuple(dict.fromkeys(int(number) for mark in group for number in _NUMBER.findall(mark.group(1))))
        yield group[0].start(), group[-1].end(), numbers


def _carrier(words: set[str], passage: Passage) -> Span | None:
    """The sentence that holds most of the claim's words, or two neighbours where the second adds at least two more."""
    spans = sentences(passage.text)
    held = [content_words(passage.text[start:end]) for start, end in spans]
    best: tuple[float, int, int] | None = None
    for first in range(len(spans)):
        for last in range(first, min(first + 2, len(spans))):
            union = held[first] | (held[last] if last > first else set())
            shared = words & union
            if not shared or (last > first and min(len(shared - held[first]), len(shared - held[last])) < 2):
                continue
            score = len(shared) / len(words) + 0.1 * len(shared) / len(union)
            if best is None or score > best[0]:
                best = (score, first, last)
    if best is None or best[0] < MIN_COVERAGE:
        return None
    return spans[best[1]][0], spans[best[2]][1]


def _citation(claim: Claim, passage: Passage, span: Span) -> Citation:
    start, end = passage.start + span[0], passage.start + span[1]
    return Citation(
        file_id=passage.file_id,
        filename=passage.filename,
        page=passage.page_at(start),
        start=start,
        end=end,
        quote=passage.text[span[0] : span[1]],
        answer_start=claim.start,
        answer_end=claim.end,
    )


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in _MARK.sub("", text))
