"""Which sentences of the best passages fit the question: their embeddings against the question's."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from adapters.embedding import Embedder
from adapters.types import Highlight, Passage
from retrieval.sentences import Span, sentences

if TYPE_CHECKING:
    from adapters.embedding import Matrix

HIGHLIGHTED = 4
"""Passages whose sentences are embedded: the answer is in one of the first few, and each costs some 50 ms of a CPU the first time."""

REMEMBERED = 2_000
"""Chunks whose sentences' vectors are kept, about 15 kB each: a popular document is embedded once, not with every question."""

_ENDINGS = frozenset(".!?…。！？｡\"”’')」』")


class Highlighter:
    """Safe to use from several threads. A chunk's text never changes under its id, so what is remembered of it stays true."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: OrderedDict[str, tuple[list[Span], Matrix]] = OrderedDict()
        self._lock = threading.Lock()

    def highlight(self, passages: Sequence[Passage], question: Matrix) -> list[Passage]:
        """The passages, the first few with the cosine of each of their sentences. `question` is one row of unit length."""
        best = [passage for passage in passages[:HIGHLIGHTED] if passage.text]
        self._learn(best)
        with self._lock:
            known = {passage.chunk_id: self._known[passage.chunk_id] for passage in best if passage.chunk_id in self._known}
        marked = []
        for passage in passages:
            spans, vectors = known.get(passage.chunk_id, ([], None))
            if vectors is not None:
                scores = (vectors @ question[0]).tolist()
                marks = tuple(Highlight(passage.start + start, passage.start + end, score) for (start, end), score in zip(spans, scores, strict=True))
                passage = structs.replace(passage, highlights=marks)
            marked.append(passage)
        return marked

    def _learn(self, passages: Sequence[Passage]) -> None:
        """Embed, in one batch, the sentences of those passages that are not known yet."""
        with self._lock:
            for passage in passages:
                if passage.chunk_id in self._known:
                    self._known.move_to_end(passage.chunk_id)
            new = [(passage, spans) for passage in passages if passage.chunk_id not in self._known and (spans := statements(passage.text))]
        if not new:
            return
        vectors = self._embedder.embed([passage.text[start:end] for passage, spans in new for start, end in spans], "document")
        with self._lock:
            row = 0
            for passage, spans in new:
                self._known[passage.chunk_id] = (spans, vectors[row : row + len(spans)].copy())
                row += len(spans)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)


def statements(text: str) -> list[Span]:
    """The sentences, without short lines that state nothing (headings): they resemble a question more than any answer does."""
    spans = sentences(text)
    kept = [(start, end) for start, end in spans if text[end - 1] in _ENDINGS or any(c.isdigit() for c in text[start:end]) or len(text[start:end].split()) >= 6]
    return kept or spans
