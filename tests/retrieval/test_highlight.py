"""Sentences against a question: measured once a chunk, the same as measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adapters.embedding import Kind
from adapters.types import Passage
from retrieval.highlight import HIGHLIGHTED, Highlighter, statements


class Counting:
    """Vectors by the letters of a text, and a count of what was embedded."""

    space, dimensions, max_tokens = "letters", 26, 256

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str], kind: Kind, /) -> Any:
        self.texts += texts
        rows = np.array([[text.lower().count(chr(97 + letter)) + 0.01 for letter in range(26)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def count_tokens(self, texts: Sequence[str], /) -> list[int]:
        return [len(text) for text in texts]


def passage(number: int, text: str, start: int = 0) -> Passage:
    return Passage(chunk_id=f"chunk-{number}", file_id="file-1", filename="a.txt", text=text, start=start, end=start + len(text))


TEXTS = [f"Zebra number {number} eats grass. Another sentence says that it sleeps at night." for number in range(6)]


def test_the_first_passages_get_a_score_for_each_sentence_and_the_others_none() -> None:
    embedder = Counting()
    found = Highlighter(embedder).highlight([passage(number, text, 100) for number, text in enumerate(TEXTS)], embedder.embed(["zebra"], "query"))
    assert [len(each.highlights) for each in found] == [2] * HIGHLIGHTED + [0] * (len(TEXTS) - HIGHLIGHTED)
    for each in found[:HIGHLIGHTED]:
        assert [(mark.start - 100, mark.end - 100) for mark in each.highlights] == statements(each.text)
        assert each.highlights[0].score > each.highlights[1].score


def test_a_chunk_is_embedded_once_and_answers_the_same_again() -> None:
    embedder = Counting()
    highlighter = Highlighter(embedder)
    passages = [passage(number, text) for number, text in enumerate(TEXTS)]
    question = embedder.embed(["grass"], "query")
    first = highlighter.highlight(passages, question)
    embedder.texts.clear()
    assert highlighter.highlight(passages, question) == first
    assert embedder.texts == []
    highlighter.highlight([*passages[:1], passage(9, "A new chunk appears here today.")], question)
    assert embedder.texts == ["A new chunk appears here today."]


def test_a_passage_without_text_is_passed_on() -> None:
    embedder = Counting()
    assert Highlighter(embedder).highlight([passage(1, "")], embedder.embed(["x"], "query"))[0].highlights == ()
