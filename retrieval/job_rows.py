"""Statements of indexing: claiming a job, and writing all of its results at once."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from sqlalchemy import Connection, and_, exists, insert, or_, select, update

from retrieval.file_rows import get_file
from retrieval.parse.base import MediaType, Parsed
from retrieval.store_rows import bump
from retrieval.tables import chunks, documents, files, vector_store_files, vectors
from retrieval.values import ErrorCode, NotFound


class Job(Struct):
    """A file that waits in a store, held under `claim` until `claimed_until` (seconds since the epoch). `attempts` counts this one too."""

    tenant: str
    store: str
    file: str
    filename: str
    blob: str
    sha256: str
    size: int
    claim: str
    claimed_until: float
    attempts: int


class NewChunk(Struct, frozen=True):
    page: int | None
    marks: tuple[tuple[int, int], ...]
    start: int
    end: int
    text: str
    grams: str
    vector: bytes


class MissingVector(Struct, frozen=True):
    tenant: str
    store: str
    chunk: int
    document: str
    headings: tuple[tuple[int, int], ...]
    start: int
    end: int


def claim_next(connection: Connection, claim: str, now: float, lease_s: float) -> Job | None:
    """The oldest waiting file that nobody holds. On PostgreSQL rows that another worker is claiming right now are passed over."""
    table = vector_store_files
    free = and_(table.c.status == "in_progress", or_(table.c.claimed_until.is_(None), table.c.claimed_until <= now))
    query = select(table).where(free).order_by(table.c.created_at, table.c.file).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    until = now + lease_s
    connection.execute(
        update(table).where(table.c.store == row.store, table.c.file == row.file).values(claim=claim, claimed_until=until, attempts=table.c.attempts + 1)
    )
    file = get_file(connection, row.tenant, row.file)
    return Job(
        tenant=row.tenant,
        store=row.store,
        file=row.file,
        filename=file.filename,
        blob=file.blob,
        sha256=file.sha256,
        size=file.bytes,
        claim=claim,
        claimed_until=until,
        attempts=row.attempts + 1,
    )


def renew(connection: Connection, job: Job, until: float) -> bool:
    return _update_held(connection, job, claimed_until=until)


def release(connection: Connection, job: Job, *, tried: bool = True) -> bool:
    """Give the job back to the queue; with `tried` False the attempt does not count against the file."""
    return _update_held(connection, job, claim=None, claimed_until=None, attempts=job.attempts - (0 if tried else 1))


def fail(connection: Connection, job: Job, code: ErrorCode, message: str) -> bool:
    return _update_held(connection, job, status="failed", error_code=code, error_message=message, claim=None, claimed_until=None)


def complete(connection: Connection, job: Job, parsed: Parsed, sha256: str, space: str, rows: Sequence[NewChunk]) -> bool:
    """Write the text, the chunks, their vectors and the status. False, with nothing written, when the job is no longer held.

    Locks in the order file, store, job, as deletes do.
    """
    try:
        get_file(connection, job.tenant, job.file, lock=True)
    except NotFound:
        return False
    if not bump(connection, job.store):
        return False
    usage = sum(len(row.text.encode()) + len(row.vector) for row in rows)
    if not _update_held(connection, job, status="completed", claim=None, claimed_until=None, chunks=len(rows), usage_bytes=usage):
        return False
    if connection.execute(select(documents.c.file).where(documents.c.file == job.file)).one_or_none() is None:
        text = {"file": job.file, "tenant": job.tenant, "media_type": parsed.media_type, "text": parsed.text, "sha256": sha256}
        connection.execute(insert(documents).values(**text, pages=list(parsed.pages), headings=[list(span) for span in parsed.headings]))
    key = {"tenant": job.tenant, "store": job.store}
    if rows:
        place = {**key, "file": job.file}
        values = [
            {**place, "page": row.page, "marks": row.marks, "start_offset": row.start, "end_offset": row.end, "text": row.text, "grams": row.grams}
            for row in rows
        ]
        numbers = connection.execute(insert(chunks).returning(chunks.c.id, sort_by_parameter_order=True), values).scalars().all()
        entries = [{**key, "chunk": number, "space": space, "vector": row.vector} for number, row in zip(numbers, rows, strict=True)]
        connection.execute(insert(vectors), entries)
    return True


def known_text(connection: Connection, job: Job) -> Parsed | None:
    row = connection.execute(select(documents).where(documents.c.tenant == job.tenant, documents.c.file == job.file)).one_or_none()
    if row is None:
        return None
    media_type: MediaType = row.media_type
    return Parsed(media_type, row.text, tuple(row.pages), tuple((start, end) for start, end in row.headings))


def chunks_without_vector(connection: Connection, space: str, limit: int) -> list[MissingVector]:
    present = exists().where(vectors.c.chunk == chunks.c.id, vectors.c.space == space)
    query = (
        select(chunks.c.id, chunks.c.tenant, chunks.c.store, chunks.c.start_offset, chunks.c.end_offset, documents.c.text, documents.c.headings)
        .join(documents, documents.c.file == chunks.c.file)
        .join(files, files.c.id == chunks.c.file)
        .where(~present)
        .order_by(chunks.c.id)
        .limit(limit)
    )
    return [
        MissingVector(row.tenant, row.store, row.id, row.text, tuple((a, b) for a, b in row.headings), row.start_offset, row.end_offset)
        for row in connection.execute(query)
    ]


def add_vectors(connection: Connection, space: str, missing: Sequence[MissingVector], blobs: Sequence[bytes]) -> None:
    """Vectors for chunks that still exist and still have none; their stores' versions say that something changed."""
    for store in sorted({item.store for item in missing}):
        bump(connection, store)
    wanted = [item.chunk for item in missing]
    alive = set(connection.execute(select(chunks.c.id).where(chunks.c.id.in_(wanted)).with_for_update(read=True)).scalars())
    done = set(connection.execute(select(vectors.c.chunk).where(vectors.c.chunk.in_(wanted), vectors.c.space == space)).scalars())
    entries = [
        {"tenant": item.tenant, "store": item.store, "chunk": item.chunk, "space": space, "vector": blob}
        for item, blob in zip(missing, blobs, strict=True)
        if item.chunk in alive and item.chunk not in done
    ]
    if entries:
        connection.execute(insert(vectors), entries)


def _update_held(connection: Connection, job: Job, **values: object) -> bool:
    table = vector_store_files
    held = (table.c.store == job.store, table.c.file == job.file, table.c.claim == job.claim, table.c.status == "in_progress")
    return connection.execute(update(table).where(*held).values(**values)).rowcount == 1
