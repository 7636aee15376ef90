"""From an uploaded file to chunks that can be found: runs in a process of its own and blocks.

Crash-safe by leases: a job is claimed for a while, and when its holder dies the next `run_once` claims it again, three times at most. All
that indexing writes is written in one transaction together with the status `completed`, so a file is found whole or not at all; when the
file, the store or the claim is gone by then, nothing is written.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from adapters.embedding import Embedder, EmbedderUnavailable
from config.database import Database
from retrieval import job_rows
from retrieval.blobs import BlobStore
from retrieval.chunk import Chunk, chunk, embedding_text
from retrieval.job_rows import Job, NewChunk
from retrieval.parse import Limits, Parsed, ParseError, parse
from retrieval.store import sweep_blobs
from retrieval.text_index import grams_of
from retrieval.values import ErrorCode

if TYPE_CHECKING:
    from adapters.embedding import Matrix

LEASE_S = 120.0
MAX_ATTEMPTS = 3
BATCH = 64
SWEEP_EVERY_S = 60.0

_log = logging.getLogger(__name__)


class ClaimLost(Exception):
    """The file or the store was deleted, or another worker took over: what was done so far is dropped."""


class Ingestor:
    """Indexes one file at a time. Several may run, in several processes: a job is held by one of them."""

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        embedder: Embedder,
        *,
        limits: Limits | None = None,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._blobs, self._embedder = db, blobs, embedder
        self._limits = limits or Limits()
        self._lease_s = lease_s
        self._clock = clock
        self._swept_at = float("-inf")

    def run_once(self) -> bool:
        """Do one piece of work: index the oldest waiting file, or embed some chunks anew after a change of model. False when there was none."""
        if self._clock() - self._swept_at >= SWEEP_EVERY_S:
            self._swept_at = self._clock()
            sweep_blobs(self._db, self._blobs, self._swept_at)
        claim = f"claim-{secrets.token_hex(8)}"
        job = self._db.write_blocking(lambda c: job_rows.claim_next(c, claim, self._clock(), self._lease_s))
        if job is None:
            return self._embed_missing()
        try:
            self._index(job)
        except ClaimLost:
            _log.info("dropped the indexing of %s in %s: it was deleted or taken over", job.file, job.store)
        except ParseError as error:
            self._fail(job, error.code, error.message)
        except EmbedderUnavailable as error:  # not the file's fault: it waits until there is an embedder again
            _log.warning("indexing %s in %s waits: %s", job.file, job.store, error)
            self._db.write_blocking(lambda c: job_rows.release(c, job, tried=False))
            return False
        except Exception:  # the queue must go on whatever one file does; the reason is logged whole
            _log.exception("indexing %s in %s failed (attempt %d)", job.file, job.store, job.attempts)
            if job.attempts >= MAX_ATTEMPTS:
                self._fail(job, "server_error", f"Indexing failed {job.attempts} times; the server's log says why.")
            else:
                self._db.write_blocking(lambda c: job_rows.release(c, job))
        return True

    def _index(self, job: Job) -> None:
        if job.attempts > MAX_ATTEMPTS:
            raise ParseError("server_error", f"Indexing did not come to an end in {MAX_ATTEMPTS} attempts.")
        parsed = self._parsed(job)
        rows: list[NewChunk] = []
        chunks = chunk(parsed, self._embedder.count_tokens)
        for first in range(0, len(chunks), BATCH):
            rows += self._embedded(parsed, chunks[first : first + BATCH])
            self._renew(job)
        digest = hashlib.sha256(parsed.text.encode()).hexdigest()
        if not self._db.write_blocking(lambda c: job_rows.complete(c, job, parsed, digest, self._embedder.space, rows)):
            raise ClaimLost

    def _parsed(self, job: Job) -> Parsed:
        known = self._db.read_blocking(lambda c: job_rows.known_text(c, job))
        if known is not None:  # indexed for another store before: one file has one canonical text, whatever today's parsers would say
            return known
        try:
            with self._blobs.open(job.blob) as original:
                data = original.read()
        except FileNotFoundError as error:
            raise ParseError("server_error", "The original is missing from the file store.") from error
        if hashlib.sha256(data).hexdigest() != job.sha256:
            raise ParseError("server_error", "The original was changed in the file store.")
        return parse(job.filename, data, self._limits)

    def _embedded(self, parsed: Parsed, chunks: list[Chunk]) -> list[NewChunk]:
        matrix = self._embedder.embed([embedding_text(parsed.text, parsed.headings, c.start, c.end) for c in chunks], "document")
        found = []
        for piece, vector in zip(chunks, stored(matrix), strict=True):
            text = parsed.text[piece.start : piece.end]
            found.append(NewChunk(piece.page, piece.marks, piece.start, piece.end, text, grams_of(text), vector))
        return found

    def _renew(self, job: Job) -> None:
        if self._clock() < job.claimed_until - self._lease_s / 2:
            return
        until = self._clock() + self._lease_s
        if not self._db.write_blocking(lambda c: job_rows.renew(c, job, until)):
            raise ClaimLost
        job.claimed_until = until

    def _fail(self, job: Job, code: ErrorCode, message: str) -> None:
        self._db.write_blocking(lambda c: job_rows.fail(c, job, code, message))

    def _embed_missing(self) -> bool:
        """Chunks without a vector in this embedder's space get one, beside those of the old space, so that search goes on meanwhile."""
        space = self._embedder.space
        missing = self._db.read_blocking(lambda c: job_rows.chunks_without_vector(c, space, BATCH))
        if not missing:
            return False
        texts = [embedding_text(item.document, item.headings, item.start, item.end) for item in missing]
        vectors = stored(self._embedder.embed(texts, "document"))
        self._db.write_blocking(lambda c: job_rows.add_vectors(c, space, missing, vectors))
        return True


def stored(matrix: Matrix) -> list[bytes]:
    """Rows as they stand in the table `vectors`: float16, little-endian."""
    return [row.astype("<f2").tobytes() for row in matrix]
