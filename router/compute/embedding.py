"""One thread that embeds for everybody: questions first, imports in the gaps between them."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog

from adapters.embedding import Embedder, Kind

if TYPE_CHECKING:
    from adapters.embedding import Matrix

log = structlog.get_logger("headgate.compute")

URGENT, LATER, STOP = 0, 1, 2
SLICES = {True: 32, False: 8}
"""Texts embedded at a stretch, by urgency: a question waits for at most one slice of an import."""


class EmbeddingQueue:
    """Loads the embedder with the first text. What is urgent overtakes what is not; among equals, first come first served."""

    def __init__(self, open_embedder: Callable[[], Embedder]) -> None:
        self._open = open_embedder
        self._embedder: Embedder | None = None
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def loaded(self) -> Embedder | None:
        return self._embedder

    def embedder(self) -> Embedder:
        """The embedder, loaded. Blocks. Raises `EmbedderUnavailable`."""
        self.submit((), "document").result()
        assert self._embedder is not None
        return self._embedder

    def submit(self, texts: Sequence[str], kind: Kind, *, urgent: bool = True) -> Future[Matrix]:
        """Embed one slice's worth of texts. A future that is cancelled in time costs nothing."""
        future: Future[Matrix] = Future()
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headgate-embed", daemon=True)
                self._thread.start()
        self._jobs.put(_Job(URGENT if urgent else LATER, next(self._numbers), texts, kind, future))
        return future

    def close(self) -> None:
        """Stop once what is queued is done."""
        if self._thread is not None:
            self._jobs.put(_Job(STOP, next(self._numbers), (), "document", Future()))
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()).rank != STOP:
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                if self._embedder is None:
                    self._embedder = self._open()
                    log.info("embedder_ready", space=self._embedder.space)
                vectors = self._embedder.embed(job.texts, job.kind)
            except Exception as error:  # handed to the caller, whole
                job.future.set_exception(error)
            else:
                job.future.set_result(vectors)


class _Job:
    __slots__ = ("future", "kind", "number", "rank", "texts")

    def __init__(self, rank: int, number: int, texts: Sequence[str], kind: Kind, future: Future[Matrix]) -> None:
        self.rank = rank
        self.number = number
        self.texts = texts
        self.kind: Kind = kind
        self.future = future

    def __lt__(self, other: _Job) -> bool:
        return (self.rank, self.number) < (other.rank, other.number)


class QueuedEmbedder:
    """The queue as an `Embedder`, for threads that wait: the searcher's. Its questions are urgent. Making it loads the model."""

    def __init__(self, jobs: EmbeddingQueue) -> None:
        embedder = jobs.embedder()
        self.space = embedder.space
        self.dimensions = embedder.dimensions
        self.max_tokens = embedder.max_tokens
        self.count_tokens = embedder.count_tokens
        self._jobs = jobs

    def embed(self, texts: Sequence[str], kind: Kind, /) -> Matrix:
        return self._jobs.submit(texts, kind).result()
