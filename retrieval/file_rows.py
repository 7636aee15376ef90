"""Statements on files. Each function is a step of a transaction: it takes the connection and the tenant, and sees only that tenant's rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, Table, delete, insert, select, tuple_, update

from retrieval.reach import files_within, placed_within
from retrieval.tables import documents, doomed_blobs, files, vector_store_files, vector_stores
from retrieval.values import EVERYTHING, DocumentText, File, NotFound, OutOfReach, PageRequest, Reach


def insert_file(connection: Connection, tenant: str, file: File) -> File:
    """The upload is whole: its blob is no longer doomed."""
    row = {"id": file.id, "tenant": tenant, "filename": file.filename, "bytes": file.bytes, "purpose": file.purpose}
    connection.execute(insert(files).values(**row, sha256=file.sha256, blob=file.blob, created_at=file.created_at, uploaded_by=file.uploaded_by))
    connection.execute(delete(doomed_blobs).where(doomed_blobs.c.blob == file.blob))
    return file


def get_file(connection: Connection, tenant: str, file_id: str, *, lock: bool = False, reach: Reach = EVERYTHING) -> File:
    """With `lock`, nobody deletes the file before this transaction ends. Raises `NotFound`."""
    query = select(files).where(files.c.tenant == tenant, files.c.id == file_id, *files_within(reach))
    row = connection.execute(query.with_for_update(read=True) if lock else query).one_or_none()
    if row is None:
        raise NotFound("file", file_id)
    return _file(row)


def list_files(connection: Connection, tenant: str, page: PageRequest, purpose: str | None, reach: Reach = EVERYTHING) -> tuple[list[File], bool]:
    query = select(files).where(files.c.tenant == tenant, *files_within(reach))
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    rows, more = paged(connection, query, files, page, tenant, "file")
    return [_file(row) for row in rows], more


def delete_file(connection: Connection, tenant: str, file_id: str, reach: Reach = EVERYTHING) -> File:
    """Takes with it the canonical text, and the file's chunks, vectors and full-text entries in every store.

    Raises `NotFound`, and `OutOfReach` for a file that is also in stores that may not be touched.
    """
    locked = select(files).where(files.c.tenant == tenant, files.c.id == file_id, *files_within(reach)).with_for_update()
    row = connection.execute(locked).one_or_none()
    if row is None:
        raise NotFound("file", file_id)
    stores = select(vector_store_files.c.store).where(vector_store_files.c.file == file_id).order_by(vector_store_files.c.store)
    found = connection.execute(stores).scalars().all()
    if found != connection.execute(stores.where(*placed_within(reach))).scalars().all():
        raise OutOfReach(file_id)
    for store in found:  # always in this order: two deletes cannot block each other
        connection.execute(
            update(vector_stores).where(vector_stores.c.id == store).values(version=vector_stores.c.version + 1, removals=vector_stores.c.removals + 1)
        )
    connection.execute(insert(doomed_blobs).values(blob=row.blob, tenant=tenant, due_at=0.0))
    connection.execute(delete(files).where(files.c.tenant == tenant, files.c.id == file_id))
    return _file(row)


def get_text(connection: Connection, tenant: str, file_id: str, reach: Reach = EVERYTHING) -> DocumentText:
    """Raises `NotFound` for a file without canonical text (not indexed yet, or never), too."""
    if reach != EVERYTHING:
        get_file(connection, tenant, file_id, reach=reach)
    row = connection.execute(select(documents).where(documents.c.tenant == tenant, documents.c.file == file_id)).one_or_none()
    if row is None:
        get_file(connection, tenant, file_id)
        raise NotFound("text of a file", file_id)
    return DocumentText(file_id=row.file, media_type=row.media_type, text=row.text, sha256=row.sha256, pages=tuple(row.pages))


def doom_blob(connection: Connection, tenant: str, blob: str, due_at: float) -> None:
    connection.execute(insert(doomed_blobs).values(blob=blob, tenant=tenant, due_at=due_at))


def forget_doomed(connection: Connection, blob: str) -> None:
    connection.execute(delete(doomed_blobs).where(doomed_blobs.c.blob == blob))


def doomed_before(connection: Connection, now: float) -> list[str]:
    return list(connection.execute(select(doomed_blobs.c.blob).where(doomed_blobs.c.due_at <= now).limit(100)).scalars())


def paged(connection: Connection, query: Select[Any], table: Table, page: PageRequest, tenant: str, kind: str) -> tuple[list[Row[Any]], bool]:
    """The rows of one page by creation time, and whether there are more. Raises `NotFound` for an unknown cursor."""
    id_column = table.c.id if "id" in table.c else table.c.file
    key = tuple_(table.c.created_at, id_column)

    def position(cursor: str) -> Any:
        found = connection.execute(query.where(table.c.tenant == tenant, id_column == cursor)).one_or_none()
        if found is None:
            raise NotFound(kind, cursor)
        return tuple_(found.created_at, cursor)

    if page.after is not None:
        query = query.where(key > position(page.after) if page.ascending else key < position(page.after))
    backwards = page.before is not None and page.after is None
    if page.before is not None:
        query = query.where(key < position(page.before) if page.ascending else key > position(page.before))
    ascending = page.ascending != backwards  # the rows just before a cursor are the nearest ones, read the other way round
    order = (table.c.created_at.asc(), id_column.asc()) if ascending else (table.c.created_at.desc(), id_column.desc())
    rows = list(connection.execute(query.order_by(*order).limit(page.limit + 1)))
    found = rows[: page.limit]
    return (found[::-1] if backwards else found), len(rows) > page.limit


def _file(row: Row[Any]) -> File:
    return File(
        id=row.id,
        filename=row.filename,
        bytes=row.bytes,
        purpose=row.purpose,
        sha256=row.sha256,
        created_at=row.created_at,
        blob=row.blob,
        uploaded_by=row.uploaded_by,
    )
