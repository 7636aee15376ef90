"""Canonical text to chunks: pieces an embedding model reads whole, cut where the text itself has a seam.

A heading opens a new chunk; within a section, sentences are packed into pieces of about equal size, so that no section ends in a scrap, and a
piece that is half full ends with its page. A sentence longer than a piece is cut between words. Chunks do not overlap: a citation names one place.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import ceil

from msgspec import Struct

from retrieval.parse.base import Parsed
from retrieval.sentences import Span, sentences

MAX_TOKENS = 220
"""MiniLM reads 256 tokens; the rest is room for the heading that goes before a chunk's text into the model."""

CountTokens = Callable[[Sequence[str]], Sequence[int]]
_WORD = re.compile(r"\S+")
_RUN = re.compile(r"[!-~]+|[^\s!-~]")


class Chunk(Struct, frozen=True):
    """A piece of canonical text: `text[start:end]`. `page` counts from 1; `marks` are `(offset, page)` of pages that start inside."""

    start: int
    end: int
    page: int | None
    marks: tuple[tuple[int, int], ...]


def chunk(parsed: Parsed, count: CountTokens | None = None, max_tokens: int = MAX_TOKENS) -> list[Chunk]:
    """Chunks in order, together holding every character that is not whitespace, each of at most `max_tokens` by `count` (or an estimate).

    `count` must be additive at spaces and punctuation, as word-piece tokenizers are.
    """
    count = count or estimate_tokens
    chunks: list[Chunk] = []
    for section in _sections(parsed):
        units = _units(parsed.text, section, count, max_tokens)
        for start, end in _packed(parsed, units, max_tokens):
            chunks.append(_located(parsed.pages, start, end))
    return chunks


def heading_before(headings: Sequence[Span], start: int) -> Span | None:
    """The heading under which the text at `start` stands, or None when it opens with one itself or has none."""
    at = bisect_right(headings, (start, -1)) - 1
    if at + 1 < len(headings) and headings[at + 1][0] == start:
        return None
    return headings[at] if at >= 0 else None


def embedding_text(text: str, headings: Sequence[Span], start: int, end: int) -> str:
    """What the model reads for the chunk `text[start:end]`: its heading first, which says what the words are about."""
    heading = heading_before(headings, start)
    if heading is None:
        return text[start:end]
    return f"{text[slice(*heading)][:120]}\n{text[start:end]}"


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """Word pieces without a vocabulary: four letters of an ASCII word make a piece, other letters one each. Meant to err upwards."""
    return [sum(1 + (len(run) - 1) // 4 for run in _RUN.findall(text)) for text in texts]


def _sections(parsed: Parsed) -> Iterator[Span]:
    """Spans from heading to heading; headings that follow each other directly open one section together."""
    cuts = [0]
    previous_end = -1
    for start, end in parsed.headings:
        if start > 0 and parsed.text[max(previous_end, 0) : start].strip():
            cuts.append(start)
        previous_end = end
    yield from pairwise((*cuts, len(parsed.text)))


def _units(text: str, section: Span, count: CountTokens, max_tokens: int) -> list[tuple[int, int, int]]:
    """`(start, end, tokens)` of each sentence; the too long ones in parts."""
    spans = sentences(text, *section)
    units: list[tuple[int, int, int]] = []
    for (start, end), tokens in zip(spans, count([text[start:end] for start, end in spans]), strict=True):
        if tokens <= max_tokens:
            units.append((start, end, tokens))
        else:
            units.extend(_parts(text, start, end, count, max_tokens))
    return units


def _parts(text: str, start: int, end: int, count: CountTokens, max_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Words packed into parts; a word of more code points than a part may have tokens (base64, Chinese) is cut."""
    pieces: list[Span] = []
    for word in _WORD.finditer(text, start, end):
        pieces += [(at, min(at + max_tokens, word.end())) for at in range(word.start(), word.end(), max_tokens)]
    sizes = count([text[a:b] for a, b in pieces])
    first, total = 0, 0
    for n, size in enumerate(sizes):
        if n > first and total + size > max_tokens:
            yield pieces[first][0], pieces[n - 1][1], total
            first, total = n, 0
        total += size
    yield pieces[first][0], pieces[-1][1], total


def _packed(parsed: Parsed, units: Sequence[tuple[int, int, int]], max_tokens: int) -> Iterator[Span]:
    left = sum(tokens for _, _, tokens in units)
    first, total = 0, 0
    for n, (start, _, tokens) in enumerate(units):
        if n > first:
            target = (total + left) / ceil((total + left) / max_tokens)
            turned = total * 2 >= max_tokens and bisect_right(parsed.pages, units[n - 1][0]) < bisect_right(parsed.pages, start)
            if total + tokens > max_tokens or total + tokens / 2 > target or turned:
                cut = n - 1 if n - 1 > first and tokens + units[n - 1][2] <= max_tokens and _is_title(parsed.text, units[n - 1]) else n
                yield units[first][0], units[cut - 1][1]
                first, total = cut, sum(unit[2] for unit in units[cut:n])
        total += tokens
        left -= tokens
    if units:
        yield units[first][0], units[-1][1]


def _is_title(text: str, unit: tuple[int, int, int]) -> bool:
    """A short line that ends without a mark belongs to what follows it."""
    start, end, _ = unit
    return text[end : end + 1] == "\n" and text[end - 1].isalnum() and text.count(" ", start, end) < 10


def _located(pages: Sequence[int], start: int, end: int) -> Chunk:
    if not pages:
        return Chunk(start, end, None, ())
    page = max(1, bisect_right(pages, start))
    marks = tuple((pages[n - 1], n) for n in range(page + 1, bisect_right(pages, end - 1) + 1))
    return Chunk(start, end, page, marks)
