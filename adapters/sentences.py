"""Sentences and words of plain text, without models: shared by chunking, highlights, citations and the extractive backend.

Everything here is pure, linear in the text, and works on code-point offsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
"""`(start, end)` in code points; the text is `text[start:end]`."""

_ABBREVIATION_LIST = """
mr mrs ms dr prof st sr jr vs etc eg ie e.g i.e cf al approx dept est fig figs no nos vol ch sec sect art eq eqs pp p ed eds inc ltd co corp gen col
lt sgt capt gov sen rep hon rev jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k u.n a.m p.m ph.d viz resp ref refs
"""
_ABBREVIATIONS = frozenset(_ABBREVIATION_LIST.split())
_PARAGRAPH = re.compile(r"\n[ \t]*\n\s*")
_STOP = re.compile(r"[.!?…]+[\"'”’)\]»]*(?=\s)|[。！？｡]+[」』”’）]*")
_LINE_ITEM = re.compile(r"\n[ \t]*(?=(?:[-*•‣◦▪–·]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|#{1,6})[ \t])")
_LAST_TOKEN = re.compile(r"[^\s(\[\"'“‘]*\Z")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]+")

_FUNCTION_WORDS = """
a about above after again against all also am an and any are as at be because been before being below between both but by can could did do does doing
down during each few for from further had has have having he her here hers him his how i if in into is it its itself just may me might more most must
my no nor not now of off on once only or other our ours out over own please same shall she should so some such tell than that the their theirs them
then there these they this those through to too under until up upon us very was we were what when where which while who whom whose why will with would
you your yours
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English function words: they carry a sentence's grammar, not its subject."""


def paragraphs(text: str, start: int = 0, end: int | None = None) -> Iterator[Span]:
    """The spans between blank lines, without surrounding whitespace; empty ones are left out."""
    end = len(text) if end is None else end
    for match in _PARAGRAPH.finditer(text, start, end):
        yield from _trimmed(text, start, match.start())
        start = match.end()
    yield from _trimmed(text, start, end)


def sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """The sentences of `text[start:end]` in order, without surrounding whitespace.

    A blank line, a list item and a line much shorter than its paragraph (a heading, the last line before a table) end a sentence too. Every
    character that is not whitespace is in exactly one span.
    """
    spans: list[Span] = []
    for paragraph_start, paragraph_end in paragraphs(text, start, end):
        marks = sorted({*_line_breaks(text, paragraph_start, paragraph_end), *_stops(text, paragraph_start, paragraph_end)})
        for left, right in pairwise((paragraph_start, *marks, paragraph_end)):
            spans.extend(_trimmed(text, left, right))
    return spans


def words(text: str) -> list[str]:
    """The words in order, lower-cased; runs written without spaces (Chinese, Japanese, Thai) become overlapping pairs of characters."""
    found: list[str] = []
    for match in _WORD.finditer(text.casefold()):
        token = match.group()
        if _UNSPACED.search(token) is None:
            found.append(token)
            continue
        at = 0
        for run in _UNSPACED.finditer(token):
            if run.start() > at:
                found.append(token[at : run.start()])
            found.extend(_pairs(run.group()))
            at = run.end()
        if at < len(token):
            found.append(token[at:])
    return found


def unspaced_grams(text: str) -> list[str]:
    """Single characters and pairs of every run written without spaces: what a word index needs to find parts of such a run."""
    grams: list[str] = []
    for run in _UNSPACED.finditer(text):
        grams.extend(run.group())
        if len(run.group()) > 1:
            grams.extend(_pairs(run.group()))
    return grams


def content_words(text: str) -> set[str]:
    """The stems of the words that carry the subject: no function words, endings of English plurals and verbs cut off."""
    return {stem(word) for word in words(text) if word not in STOP_WORDS}


def stem(word: str) -> str:
    """A light English stem (Harman's S-stemmer, then -ed and -ing): enough to match `refunds` with `refund`, never across letters."""
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            word = word[: -len(ending)]
            return word[:-1] if word[-1] == word[-2] and word[-1] not in "lsz" else word
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def _stops(text: str, start: int, end: int) -> Iterator[int]:
    for match in _STOP.finditer(text, start, end):
        if _ends_sentence(text, match.start(), match.end(), start, end):
            yield match.end()


def _ends_sentence(text: str, mark: int, after: int, start: int, end: int) -> bool:
    if text[mark] in "。！？｡":
        return True
    following = after
    while following < end and text[following].isspace():
        following += 1
    if following == end:
        return False  # the paragraph's end is a mark already
    if mark > start and text[mark - 1].isspace():
        return True  # a full stop set apart by spaces, as in tokenised text
    if text[following].islower():
        return False
    if text[mark] != "." or after - mark > 1:
        return True
    token = _LAST_TOKEN.search(text, max(start, mark - 24), mark)
    before = token.group() if token else ""
    if len(before) == 1 and before.isalpha() and before.isupper() and text[following].isupper():
        return False  # an initial: J. Smith
    if before.isdigit() and _opens_line(text, mark - len(before), start):
        return False  # a list number: 3. Refunds
    return before.lower() not in _ABBREVIATIONS or (before.lower() == "no" and not text[following].isdigit())


def _opens_line(text: str, at: int, start: int) -> bool:
    while at > start and text[at - 1] in " \t":
        at -= 1
    return at == start or text[at - 1] == "\n"


def _line_breaks(text: str, start: int, end: int) -> Iterator[int]:
    """Line ends inside a paragraph that end a sentence although no mark says so."""
    for item in _LINE_ITEM.finditer(text, start, end):
        yield item.end()
    lines: list[Span] = []
    at = start
    while at < end:
        stop = text.find("\n", at, end)
        stop = end if stop < 0 else stop
        lines.append((at, stop))
        at = stop + 1
    longest = max(stop - at for at, stop in lines)
    for (left, right), (following, _) in pairwise(lines):
        opening = text[following : following + 1]
        short = right - left < 0.6 * longest or right - left < 40
        if short and right > left and text[right - 1] not in ",;-–" and (opening.isupper() or opening.isdigit()):
            yield following
