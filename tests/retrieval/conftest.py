"""Real databases, a real folder and the real embedding model; time is the tests'."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters.embedding import SentenceEmbedder
from config.database import Database, open_database
from config.schema import migrate
from retrieval.blobs import FolderBlobs
from retrieval.ingest import Ingestor
from retrieval.search import Searcher
from retrieval.store import Documents

ROOT = Path(__file__).resolve().parents[2]
MIGRATIONS = [ROOT / "router/migrations", ROOT / "retrieval/migrations"]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001  # rows made one after the other differ
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    migrate(database, MIGRATIONS)
    yield database
    database.close()


@pytest.fixture(scope="session")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder()


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def blocking(db: Database) -> BlockingDatabase:
    return BlockingDatabase(db)


class BlockingDatabase:
    """The database for tests without an event loop of their own: PostgreSQL keeps one pool per loop, and this one is closed with the database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.dialect = db.dialect
        self.write_blocking = db.write_blocking
        self.read_blocking = db.read_blocking

    async def write(self, work):  # type: ignore[no-untyped-def]
        return await asyncio.to_thread(self._db.write_blocking, work)

    async def read(self, work):  # type: ignore[no-untyped-def]
        return await asyncio.to_thread(self._db.read_blocking, work)

    async def aclose(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def documents(blocking: BlockingDatabase, blobs: FolderBlobs, clock: Clock) -> Documents:
    return Documents(blocking, blobs, max_file_bytes=2**22, clock=clock)


@pytest.fixture
def ingestor(db: Database, blobs: FolderBlobs, embedder: SentenceEmbedder, clock: Clock) -> Ingestor:
    return Ingestor(db, blobs, embedder, clock=clock)


@pytest.fixture
def searcher(db: Database, embedder: SentenceEmbedder, clock: Clock) -> Searcher:
    return Searcher(db, embedder, clock=clock)


@pytest.fixture
def index(ingestor: Ingestor) -> Callable[[], int]:
    """Do all the work there is; returns how many pieces."""

    def run() -> int:
        done = 0
        while ingestor.run_once():
            done += 1
        return done

    return run


@pytest.fixture(scope="session")
def pdf() -> bytes:
    """Three pages: a refund policy with a broken word, a page about delivery, and one about warranty."""
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

    styles = getSampleStyleSheet()
    out = io.BytesIO()
    SimpleDocTemplate(out).build(
        [
            Paragraph("Refund policy", styles["Heading1"]),
            Paragraph("Refunds are paid within fourteen days of the re-<br/>quest. The customer service desk approves each refund.", styles["BodyText"]),
            PageBreak(),
            Paragraph("Delivery", styles["Heading1"]),
            Paragraph("Parcels leave the warehouse every morning at seven. Delivery to islands takes nine days.", styles["BodyText"]),
            PageBreak(),
            Paragraph("The warranty covers the battery for three years.", styles["BodyText"]),
        ]
    )
    return out.getvalue()


@pytest.fixture(scope="session")
def word() -> bytes:
    """A heading, a paragraph, a table with a merged cell, and a last paragraph."""
    import docx

    document = docx.Document()
    document.add_heading("Travel expenses", 1)
    document.add_paragraph("Train tickets are reimbursed in full. Café bills are not.")
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "City", "Daily rate"
    table.cell(1, 0).merge(table.cell(1, 1)).text = "Lisbon"
    document.add_paragraph("Ask the travel desk.")
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
