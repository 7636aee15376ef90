"""Which sentences of some passages answer a question: pure, and the same for the same input.

A sentence is judged by its meaning, where the retriever measured it (the cosine of its embedding and the question's), and by the share of the
question's content words that it has. Headings and questions do not answer anything themselves: they point at the sentence that follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from adapters.sentences import content_words, sentences
from adapters.types import Passage

ABOUT_BY_SENTENCE = 0.55
"""From this cosine of the best sentence and the question on, the documents are about the question."""
ABOUT_BY_BOTH = 0.40
"""Or from this cosine of both the best passage and the best sentence on."""
ABOUT_BY_WORDS = (0.42, 0.6)
"""Or from this cosine of a sentence on, where it also has this share of the question's content words.

Measured with all-MiniLM-L6-v2 on Cranfield and CACM, the three together: of their own questions 99.6 % and 96.2 % pass, of each other's
5.8 % and 15.1 %, of unrelated everyday questions none of 32. Chosen and measured on the same questions.
"""
ANSWERS_BY_MEANING = 0.35
"""From this cosine of sentence and question on, a sentence answers."""
ANSWERS_BY_WORDS = (0.3, 0.5)
"""Or from this cosine of passage and question on, where the sentence also has this share of the question's content words."""
ANSWERS_BY_WORDS_ALONE = 0.75
"""Where the retriever measured no cosine at all, the share of the question's content words a sentence must have."""
MAX_QUOTES = 3
WORTH_ADDING = 0.75
"""A further quote must score this share of the best one."""
REDUNDANT = 0.6
"""Two sentences that share this much of their content words (Jaccard) say the same."""
MAX_QUOTE = 600
"""Code points; a longer sentence (a table read as text) is cut at a word."""
COVERAGE_WEIGHT = 0.5
"""What having all of the question's content words is worth, in cosine."""
HEADING_WORDS = 10
NUMBERED_HEADING_WORDS = 5

_NUMBER = re.compile(r"(?:\d+\.)*\d+[.)]?\s+(?=[^\W\d])")
_NOT_A_HEADING = re.compile(r"^[-*•‣◦▪–·]\s|:\s|@|(?<!\w)\d")


class Quote(Struct, frozen=True):
    """Words of a document: `text` is its canonical text from `start` to `end`, within the passage."""

    passage: Passage
    start: int
    end: int

    @property
    def text(self) -> str:
        return self.passage.text[self.start - self.passage.start : self.end - self.passage.start]


class _Sentence(Struct, frozen=True):
    quote: Quote
    stems: frozenset[str]
    cosine: float | None


class _Candidate(Struct, frozen=True):
    quote: Quote
    stems: frozenset[str]
    score: float


def quotes_for(question: str, passages: Sequence[Passage]) -> list[Quote]:
    """The one to three quotes that answer best, or none. Passages come in the order of their best quote; inside one, quotes keep the document's order."""
    wanted = content_words(question)
    if not _about(wanted, passages):
        return []
    candidates = sorted((candidate for passage in passages for candidate in _candidates(wanted, passage)), key=lambda candidate: -candidate.score)
    chosen: list[_Candidate] = []
    for candidate in candidates:
        if len(chosen) == MAX_QUOTES or candidate.score < WORTH_ADDING * candidates[0].score:
            break
        if not any(_says_the_same(candidate, other) for other in chosen):
            chosen.append(candidate)
    return _in_order([candidate.quote for candidate in chosen])


def shortened(quote: Quote, length: int) -> Quote:
    """The quote's beginning, of at most that many code points, cut between words; empty where not even one word fits."""
    text = quote.text
    if len(text) <= length:
        return quote
    end = max((at for at in range(max(length, 0), 0, -1) if text[at].isspace()), default=0)
    return Quote(quote.passage, quote.start, quote.start + len(text[:end].rstrip()))


def _candidates(wanted: set[str], passage: Passage) -> Iterator[_Candidate]:
    """The sentences of a passage that answer, with their scores.

    A sentence is read together with the question or heading it stands under: what follows a question takes its cosine, a heading lends half of it.
    """
    above: _Sentence | None = None
    asked = False
    for start, end in sentences(passage.text):
        sentence = _measured(passage, start + passage.start, end + passage.start)
        text = sentence.quote.text
        if _only_points(text):
            above, asked = sentence, text.rstrip().endswith(("?", "？"))
            continue
        cosine, coverage = sentence.cosine, _coverage(wanted, sentence.stems)
        together = coverage if above is None else _coverage(wanted, sentence.stems | above.stems)
        if above is not None and above.cosine is not None:
            own = 0.0 if cosine is None else cosine
            cosine = max(own, above.cosine if asked else (own + above.cosine) / 2)
        # A heading's words alone do not make a sentence an answer; those of the question it follows do.
        if _answers(passage, cosine, together if asked else coverage):
            meaning = passage.similarity if cosine is None else cosine
            yield _Candidate(shortened(sentence.quote, MAX_QUOTE), sentence.stems, meaning + COVERAGE_WEIGHT * together)
        if asked:
            above, asked = None, False


def _about(wanted: set[str], passages: Sequence[Passage]) -> bool:
    """Whether the retriever's cosines say that the documents are about the question at all; True where it measured none."""
    similarity = max((passage.similarity for passage in passages), default=0.0)
    marks = [(passage, mark) for passage in passages for mark in passage.highlights]
    if not marks:
        return similarity == 0.0 or similarity >= ABOUT_BY_BOTH
    best = max(mark.score for _, mark in marks)
    if best >= ABOUT_BY_SENTENCE or (best >= ABOUT_BY_BOTH and similarity >= ABOUT_BY_BOTH):
        return True
    least, share = ABOUT_BY_WORDS
    return any(mark.score >= least and _coverage(wanted, _measured(passage, mark.start, mark.end).stems) >= share for passage, mark in marks)


def _coverage(wanted: set[str], stems: frozenset[str]) -> float:
    return len(wanted & stems) / len(wanted) if wanted else 0.0


def _measured(passage: Passage, start: int, end: int) -> _Sentence:
    quote = Quote(passage, start, end)
    return _Sentence(quote, frozenset(content_words(quote.text)), _cosine(passage, start, end))


def _answers(passage: Passage, cosine: float | None, coverage: float) -> bool:
    if cosine is not None and cosine >= ANSWERS_BY_MEANING:
        return True
    if not passage.highlights and passage.similarity == 0.0:
        return coverage >= ANSWERS_BY_WORDS_ALONE
    least_similarity, least_coverage = ANSWERS_BY_WORDS
    return passage.similarity >= least_similarity and coverage >= least_coverage


def _cosine(passage: Passage, start: int, end: int) -> float | None:
    """The retriever's score for this sentence: that of the highlight that covers most of it, if any covers half of it."""
    overlaps = [(min(end, mark.end) - max(start, mark.start), mark.score) for mark in passage.highlights]
    most, score = max(overlaps, default=(0, 0.0))
    return score if 2 * most >= end - start else None


def _only_points(sentence: str) -> bool:
    """A question, or a heading: short, without a full stop at its end, and neither a list item nor a value after a colon."""
    closed = sentence.rstrip("\"'”’)]»")
    if closed.endswith(("?", "？", ":")) or sentence.startswith("#"):
        return True
    if closed.endswith((".", "!", "…", "。", "！", ";")):
        return False
    if (numbered := _NUMBER.match(sentence)) is not None:
        return len(sentence[numbered.end() :].split()) <= NUMBERED_HEADING_WORDS
    return len(sentence.split()) <= HEADING_WORDS and not _NOT_A_HEADING.search(sentence)


def _says_the_same(one: _Candidate, other: _Candidate) -> bool:
    a, b = one.quote, other.quote
    if a.passage.file_id == b.passage.file_id and a.start < b.end and b.start < a.end:
        return True
    union = one.stems | other.stems
    return bool(union) and len(one.stems & other.stems) >= REDUNDANT * len(union)


def _in_order(quotes: list[Quote]) -> list[Quote]:
    """Quotes of one passage together, in the document's order; neighbouring sentences become one quote."""
    ranks: dict[str, int] = {}
    for quote in quotes:
        ranks.setdefault(quote.passage.chunk_id, len(ranks))
    ordered = sorted(quotes, key=lambda quote: (ranks[quote.passage.chunk_id], quote.start))
    merged = ordered[:1]
    for before, quote in pairwise(ordered):
        last = merged[-1]
        between = quote.passage.text[last.end - quote.passage.start : quote.start - quote.passage.start]
        neighbours = before.passage is quote.passage and not between.strip() and between.count("\n") < 2
        if neighbours and quote.passage.page_at(last.start) == quote.passage.page_at(quote.start):
            merged[-1] = Quote(quote.passage, last.start, quote.end)
        else:
            merged.append(quote)
    return merged
