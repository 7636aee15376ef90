from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import func, select, update

from adapters.embedding import EmbedderUnavailable, SentenceEmbedder
from config.database import Database
from retrieval import job_rows, tables
from retrieval.blobs import FolderBlobs
from retrieval.ingest import MAX_ATTEMPTS, Ingestor
from retrieval.store import Documents

TEXT = b"Refunds take fourteen days.\n\nBatteries last three years."


class Hooked:
    """The real embedder, with something happening just before it works."""

    def __init__(self, embedder: SentenceEmbedder, hook: Callable[[], None], space: str | None = None) -> None:
        self._embedder, self._hook = embedder, hook
        self.space = space or embedder.space
        self.dimensions, self.max_tokens = embedder.dimensions, embedder.max_tokens
        self.count_tokens = embedder.count_tokens

    def embed(self, texts: Sequence[str], kind: Any, /) -> Any:
        self._hook()
        return self._embedder.embed(texts, kind)


def rows(db: Database, table: Any) -> int:
    return db.read_blocking(lambda c: int(c.execute(select(func.count()).select_from(table)).scalar_one()))


async def test_a_file_is_indexed_whole_with_text_chunks_and_vectors(documents: Documents, index: Callable[[], int], db: Database, pdf: bytes) -> None:
    file = await documents.add_file("acme", filename="policy.pdf", data=pdf)
    store = await documents.create_store("acme", file_ids=[file.id])
    assert index() == 1
    done = await documents.get_store_file("acme", store.id, file.id)
    assert (done.status, done.error_code) == ("completed", None)
    assert done.chunks == rows(db, tables.chunks) == rows(db, tables.vectors) > 0
    assert done.usage_bytes > 0
    text = await documents.get_text("acme", file.id)
    assert len(text.pages) == 3
    for row in db.read_blocking(lambda c: c.execute(select(tables.chunks)).all()):
        assert row.text == text.text[row.start_offset : row.end_offset]
    counts = (await documents.get_store("acme", store.id)).counts
    assert (counts.completed, counts.total) == (1, 1)


async def test_a_file_that_cannot_be_read_fails_with_its_reason_and_may_be_tried_anew(documents: Documents, index: Callable[[], int]) -> None:
    store = await documents.create_store("acme")
    image = await documents.add_file("acme", filename="a.png", data=b"\x89PNG\r\n\x1a\n0")
    broken = await documents.add_file("acme", filename="a.pdf", data=b"%PDF-1.7 broken")
    for file, code in ((image, "unsupported_file"), (broken, "invalid_file")):
        await documents.attach("acme", store.id, file.id)
        assert index() == 1
        failed = await documents.get_store_file("acme", store.id, file.id)
        assert (failed.status, failed.error_code) == ("failed", code)
        assert failed.error_message
        assert (await documents.attach("acme", store.id, file.id)).status == "in_progress"
        assert index() == 1


async def test_a_lost_original_is_the_servers_fault(documents: Documents, index: Callable[[], int], blobs: FolderBlobs) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])
    blobs.delete(file.blob)
    index()
    failed = await documents.get_store_file("acme", store.id, file.id)
    assert (failed.status, failed.error_code) == ("failed", "server_error")


async def test_nothing_is_written_for_a_file_deleted_while_it_was_indexed(
    documents: Documents, db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])
    other = await documents.create_store("acme", file_ids=[])
    steps: list[Callable[[], Any]] = [
        lambda: documents.delete_file("acme", file.id),
        lambda: documents.delete_store("acme", store.id),
        lambda: documents.detach("acme", other.id, third.id),
    ]
    second = await documents.add_file("acme", filename="b.txt", data=TEXT)
    third = await documents.add_file("acme", filename="c.txt", data=TEXT)
    await documents.attach("acme", store.id, second.id)
    await documents.attach("acme", other.id, third.id)
    loop = asyncio.get_running_loop()
    remaining = iter(steps)
    ingestor = Ingestor(db, blobs, Hooked(embedder, lambda: asyncio.run_coroutine_threadsafe(next(remaining)(), loop).result()))
    for _ in steps:
        assert await asyncio.to_thread(ingestor.run_once)
    assert not await asyncio.to_thread(ingestor.run_once)
    assert next(remaining, None) is None
    assert rows(db, tables.chunks) == rows(db, tables.vectors) == rows(db, tables.documents) == 0


async def test_a_dead_workers_job_is_taken_over_when_its_lease_ends(
    documents: Documents, db: Database, clock: Any, ingestor: Ingestor, index: Callable[[], int]
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])
    dead = db.write_blocking(lambda c: job_rows.claim_next(c, "dead", clock(), 120.0))
    assert dead is not None
    assert not await asyncio.to_thread(ingestor.run_once), "another worker holds it"
    clock.advance(121)
    assert await asyncio.to_thread(index) == 1
    assert (await documents.get_store_file("acme", store.id, file.id)).status == "completed"
    assert not db.write_blocking(lambda c: job_rows.fail(c, dead, "server_error", "late")), "the dead worker's word no longer counts"


async def test_a_job_that_kills_its_workers_is_given_up(documents: Documents, db: Database, clock: Any, index: Callable[[], int]) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])
    for n in range(MAX_ATTEMPTS):
        assert db.write_blocking(lambda c, n=n: job_rows.claim_next(c, f"dead-{n}", clock(), 120.0)) is not None  # type: ignore[misc]
        clock.advance(121)
    index()
    failed = await documents.get_store_file("acme", store.id, file.id)
    assert (failed.status, failed.error_code) == ("failed", "server_error")


async def test_an_unexpected_fault_is_tried_three_times_and_then_told(
    documents: Documents, db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])

    def fault() -> None:
        raise ZeroDivisionError("a fault of the model")

    ingestor = Ingestor(db, blobs, Hooked(embedder, fault))
    for status in ("in_progress", "in_progress", "failed"):
        assert await asyncio.to_thread(ingestor.run_once)
        assert (await documents.get_store_file("acme", store.id, file.id)).status == status
    assert "a fault of the model" in caplog.text
    assert rows(db, tables.chunks) == 0


async def test_two_workers_never_do_the_same_file(documents: Documents, db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder) -> None:
    store = await documents.create_store("acme")
    for n in range(6):
        file = await documents.add_file("acme", filename=f"{n}.txt", data=TEXT + b" %d" % n)
        await documents.attach("acme", store.id, file.id)
    embedded: list[int] = []
    lock = threading.Lock()

    def note() -> None:
        with lock:
            embedded.append(1)

    def work() -> None:
        ingestor = Ingestor(db, blobs, Hooked(embedder, note))
        while ingestor.run_once():
            pass

    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(3)))
    assert len(embedded) == 6
    assert (await documents.get_store("acme", store.id)).counts.completed == 6
    assert (await documents.get_store("acme", store.id)).version == 6


async def test_a_long_job_keeps_its_lease(documents: Documents, db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder, clock: Any) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=b"\n\n".join(b"Paragraph %d. " % n + b"word " * 215 for n in range(130)))
    store = await documents.create_store("acme", file_ids=[file.id])
    stolen: list[object] = []

    def slow() -> None:
        clock.advance(80)
        stolen.append(db.write_blocking(lambda c: job_rows.claim_next(c, "thief", clock(), 120.0)))

    class Light(Hooked):
        def embed(self, texts: Sequence[str], kind: Any, /) -> Any:
            import numpy as np

            self._hook()
            return np.eye(len(texts), self.dimensions, dtype=np.float32)

    ingestor = Ingestor(db, blobs, Light(embedder, slow, "light"), clock=clock)
    assert await asyncio.to_thread(ingestor.run_once)
    assert stolen == [None, None, None]
    assert (await documents.get_store_file("acme", store.id, file.id)).status == "completed"


async def test_the_canonical_text_never_changes_once_it_was_given_out(documents: Documents, index: Callable[[], int], db: Database) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    await documents.create_store("acme", file_ids=[file.id])
    index()
    # As if an older parser had read it differently.
    db.write_blocking(lambda c: c.execute(update(tables.documents).values(text="Refunds take 14 days.")))
    second = await documents.create_store("acme", file_ids=[file.id])
    index()
    texts = db.read_blocking(lambda c: c.execute(select(tables.chunks.c.text).where(tables.chunks.c.store == second.id)).scalars().all())
    assert texts == ["Refunds take 14 days."]


async def test_a_new_model_gets_its_vectors_beside_the_old_ones(
    documents: Documents, index: Callable[[], int], db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])
    index()
    before = (await documents.get_store("acme", store.id)).version
    newer = Ingestor(db, blobs, Hooked(embedder, lambda: None, space="newer"))
    assert await asyncio.to_thread(newer.run_once)
    assert not await asyncio.to_thread(newer.run_once)
    spaces = db.read_blocking(lambda c: c.execute(select(tables.vectors.c.space).order_by(tables.vectors.c.id)).scalars().all())
    assert spaces == [embedder.space, "newer"]
    assert (await documents.get_store("acme", store.id)).version == before + 1


async def test_a_file_waits_for_an_embedder_that_is_away_and_loses_no_attempt(
    documents: Documents, db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder, index: Callable[[], int]
) -> None:
    file = await documents.add_file("acme", filename="a.txt", data=TEXT)
    store = await documents.create_store("acme", file_ids=[file.id])

    def away() -> None:
        raise EmbedderUnavailable("the compute process does not answer")

    for _ in range(MAX_ATTEMPTS + 1):
        assert not await asyncio.to_thread(Ingestor(db, blobs, Hooked(embedder, away)).run_once)
    assert (await documents.get_store_file("acme", store.id, file.id)).status == "in_progress"
    assert await asyncio.to_thread(index) == 1
    assert (await documents.get_store_file("acme", store.id, file.id)).status == "completed"
