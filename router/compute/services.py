"""What the compute process can do, each part loaded when it is first asked for: embed, search, generate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

from adapters.backend import BackendSpec
from adapters.embedding import Embedder, EmbedderUnavailable, Kind
from adapters.errors import BackendUnavailable
from adapters.llama import EngineState, LlamaSpec
from adapters.types import AttemptRecord, BackendHealth, Event, GenerateRequest
from retrieval.values import SearchRequest, SearchResult
from router.compute.embedding import SLICES, EmbeddingQueue, QueuedEmbedder
from router.compute.protocol import Embeddings

if TYPE_CHECKING:
    from adapters.llama_engine import LlamaEngine

Search: TypeAlias = Callable[[SearchRequest], SearchResult]
SEARCH_THREADS = 4
NO_SEARCH = "search needs the extra 'documents': pip install 'headgate[documents]'"


class Services:
    """Used from one event loop; blocking work runs on threads of its own, so that the loop always answers.

    `open_search` makes the search function out of the shared embedder, on a thread, with the first search. What is missing or broken raises
    `BackendUnavailable`, each time it is asked for, with the reason.
    """

    def __init__(self, open_embedder: Callable[[], Embedder], open_search: Callable[[Embedder], Search]) -> None:
        self._jobs = EmbeddingQueue(open_embedder)
        self._open_search = open_search
        self._search: Search | None = None
        self._opening = threading.Lock()
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, "headgate-search")
        self._engines: dict[object, LlamaEngine] = {}

    def batches(self, spec: BackendSpec, request: GenerateRequest, attempt: AttemptRecord) -> AsyncGenerator[tuple[Event, ...], None]:
        return self._engine(spec).batches(request, attempt)

    async def warm(self, spec: BackendSpec) -> None:
        await self._engine(spec).warm()

    async def health(self, spec: BackendSpec) -> BackendHealth:
        return await self._engine(spec).health()

    async def search(self, request: SearchRequest) -> SearchResult:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._search_blocking, request)
        except EmbedderUnavailable as error:
            raise BackendUnavailable(str(error)) from error

    async def embed(self, texts: Sequence[str], kind: Kind, *, urgent: bool) -> Embeddings:
        step = SLICES[urgent]
        rows: list[bytes] = []
        try:
            for at in range(0, max(1, len(texts)), step):
                vectors = await asyncio.wrap_future(self._jobs.submit(texts[at : at + step], kind, urgent=urgent))
                rows.append(vectors.astype("<f4").tobytes())
        except EmbedderUnavailable as error:
            raise BackendUnavailable(str(error)) from error
        embedder = self._jobs.loaded
        assert embedder is not None
        return Embeddings(embedder.space, embedder.dimensions, embedder.max_tokens, b"".join(rows))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        def count() -> list[int]:
            return self._jobs.embedder().count_tokens(texts)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, count)
        except EmbedderUnavailable as error:
            raise BackendUnavailable(str(error)) from error

    def engines(self) -> tuple[EngineState, ...]:
        return tuple(engine.state() for engine in self._engines.values())

    @property
    def space(self) -> str:
        """The loaded embedder's space, or nothing yet."""
        return self._jobs.loaded.space if self._jobs.loaded else ""

    def close(self) -> None:
        """Stop every thread. Blocks for what each is in the middle of."""
        for engine in self._engines.values():
            engine.close()
        self._threads.shutdown(cancel_futures=True)
        self._jobs.close()

    def _search_blocking(self, request: SearchRequest) -> SearchResult:
        with self._opening:
            if self._search is None:
                try:
                    self._search = self._open_search(QueuedEmbedder(self._jobs))
                except ImportError as error:
                    raise BackendUnavailable(NO_SEARCH) from error
        return self._search(request)

    def _engine(self, spec: BackendSpec) -> LlamaEngine:
        """One engine for all backends that differ only in what the gateway does with them (price, clearance, time limits)."""
        if not isinstance(spec, LlamaSpec):
            raise BackendUnavailable(f"backends of kind {spec.kind!r} do not run in the compute process")
        key = (spec.model, spec.device, spec.dtype, spec.start, spec.threads, spec.context_window, spec.max_concurrency, spec.max_queue)
        engine = self._engines.get(key)
        if engine is None:
            from adapters.llama_engine import LlamaEngine

            engine = self._engines[key] = LlamaEngine(spec)
        return engine
