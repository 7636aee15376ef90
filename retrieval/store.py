"""The document store as the gateway uses it: files, vector stores and their texts, always of one tenant.

Every method takes the tenant first and raises `NotFound` for what that tenant does not have, whether it is missing or another tenant's, and for
what is out of the caller's `reach`.
Indexing happens elsewhere (`ingest`); a file can be searched once its status is `completed`. Imports neither numpy nor FAISS.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, BinaryIO, Self

from msgspec import UNSET, UnsetType

from adapters.backend import DataClass
from config.database import Database
from retrieval import file_rows, store_rows
from retrieval.blobs import BlobStore, BlobWriter, blob_name
from retrieval.values import (
    EVERYTHING,
    Attributes,
    DocumentText,
    File,
    FileCounts,
    FileStatus,
    Page,
    PageRequest,
    Reach,
    Store,
    StoreFile,
    TooLarge,
)

MAX_FILE_BYTES = 64 * 2**20
UPLOAD_GRACE = 3_600.0  # seconds after which the bytes of an upload that never became a file are swept away
_WRITE_SIZE = 2**20


class Documents:
    def __init__(self, db: Database, blobs: BlobStore, *, max_file_bytes: int = MAX_FILE_BYTES, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self.max_file_bytes = max_file_bytes

    # Files

    def upload(self, tenant: str, uploader: str | None = None) -> Upload:
        """`async with documents.upload(tenant) as upload:` then `write` the bytes as they come and `finish`."""
        return Upload(self._db, self._blobs, tenant, self.max_file_bytes, self._clock, uploader)

    async def add_file(self, tenant: str, *, filename: str, data: bytes, purpose: str = "assistants") -> File:
        """Upload bytes at hand. Raises `TooLarge`."""
        async with self.upload(tenant) as upload:
            await upload.write(data)
            return await upload.finish(filename, purpose)

    async def get_file(self, tenant: str, file_id: str, *, reach: Reach = EVERYTHING) -> File:
        return await self._db.read(lambda c: file_rows.get_file(c, tenant, file_id, reach=reach))

    async def list_files(self, tenant: str, page: PageRequest | None = None, *, purpose: str | None = None, reach: Reach = EVERYTHING) -> Page[File]:
        data, more = await self._db.read(lambda c: file_rows.list_files(c, tenant, page or PageRequest(), purpose, reach))
        return Page(data=tuple(data), has_more=more)

    async def open_file(self, tenant: str, file_id: str, *, reach: Reach = EVERYTHING) -> tuple[File, BinaryIO]:
        """The original's bytes; the caller closes them. Raises `FileNotFoundError` where the blob store has lost them."""
        file = await self.get_file(tenant, file_id, reach=reach)
        return file, await asyncio.to_thread(self._blobs.open, file.blob)

    async def get_text(self, tenant: str, file_id: str, *, reach: Reach = EVERYTHING) -> DocumentText:
        """The canonical text, which the offsets of citations count in. There is none before the file was first indexed."""
        return await self._db.read(lambda c: file_rows.get_text(c, tenant, file_id, reach))

    async def delete_file(self, tenant: str, file_id: str, *, reach: Reach = EVERYTHING) -> None:
        """Once this returns, nothing of the file can be found, in any store; the original is gone or, after a crash, goes with the next sweep.

        Raises `OutOfReach` for a file that is also in stores out of reach.
        """
        file = await self._db.write(lambda c: file_rows.delete_file(c, tenant, file_id, reach))
        await asyncio.to_thread(self._blobs.delete, file.blob)
        await self._db.write(lambda c: file_rows.forget_doomed(c, file.blob))

    # Vector stores

    async def create_store(
        self,
        tenant: str,
        *,
        name: str = "",
        metadata: Mapping[str, str] | None = None,
        data_class: DataClass = "internal",
        expires_after_days: int | None = None,
        file_ids: Sequence[str] = (),
        reach: Reach = EVERYTHING,
    ) -> Store:
        """A new store with these files queued. `data_class` is the least sensitive its files can be."""
        now = self._clock()
        store = Store(
            id=f"vs_{secrets.token_hex(12)}",
            name=name,
            metadata=dict(metadata or {}),
            data_class=data_class,
            version=0,
            expires_after_days=expires_after_days,
            last_active_at=now,
            expires_at=None if expires_after_days is None else now + expires_after_days * store_rows.DAY,
            expired=False,
            created_at=now,
            usage_bytes=0,
            counts=FileCounts(),
        )

        def work(connection: Any) -> Store:
            store_rows.insert_store(connection, tenant, store)
            for file_id in file_ids:
                store_rows.attach(connection, tenant, store.id, file_id, {}, data_class, now, reach)
            return store_rows.get_store(connection, tenant, store.id, now)

        return await self._db.write(work)

    async def get_store(self, tenant: str, store_id: str, *, reach: Reach = EVERYTHING) -> Store:
        return await self._db.read(lambda c: store_rows.get_store(c, tenant, store_id, self._clock(), reach))

    async def list_stores(self, tenant: str, page: PageRequest | None = None, *, reach: Reach = EVERYTHING) -> Page[Store]:
        data, more = await self._db.read(lambda c: store_rows.list_stores(c, tenant, page or PageRequest(), self._clock(), reach))
        return Page(data=tuple(data), has_more=more)

    async def update_store(
        self,
        tenant: str,
        store_id: str,
        *,
        name: str | UnsetType = UNSET,
        metadata: Mapping[str, str] | UnsetType = UNSET,
        expires_after_days: int | UnsetType | None = UNSET,
        reach: Reach = EVERYTHING,
    ) -> Store:
        given = {"name": name, "metadata": metadata, "expires_after_days": expires_after_days}
        values = {key: value for key, value in given.items() if value is not UNSET}
        return await self._db.write(lambda c: store_rows.update_store(c, tenant, store_id, values, self._clock(), reach))

    async def delete_store(self, tenant: str, store_id: str, *, reach: Reach = EVERYTHING) -> None:
        """The files themselves stay."""
        await self._db.write(lambda c: store_rows.delete_store(c, tenant, store_id, reach))

    async def use_stores(self, tenant: str, store_ids: Sequence[str], *, reach: Reach = EVERYTHING) -> list[Store]:
        """The stores a request names, before it is searched: raises `NotFound` for the first that is missing, foreign, out of reach or expired.

        Their ids and versions say which documents an answer could have come from. Postpones the expiry of those that expire when idle.
        """
        now = self._clock()
        stores = await self._db.read(lambda c: store_rows.use_stores(c, tenant, store_ids, now, reach))
        for store in stores:
            if store_rows.needs_touch(store, now):
                await self._db.write(lambda c, store=store: store_rows.touch(c, tenant, store, now))  # type: ignore[misc]
        return stores

    # Files in vector stores

    async def attach(
        self,
        tenant: str,
        store_id: str,
        file_id: str,
        *,
        attributes: Attributes | None = None,
        data_class: DataClass = "public",
        reach: Reach = EVERYTHING,
    ) -> StoreFile:
        """Queue a file for indexing. `data_class` can only raise the store's."""
        return await self._db.write(lambda c: store_rows.attach(c, tenant, store_id, file_id, attributes or {}, data_class, self._clock(), reach))

    async def get_store_file(self, tenant: str, store_id: str, file_id: str, *, reach: Reach = EVERYTHING) -> StoreFile:
        return await self._db.read(lambda c: store_rows.get_store_file(c, tenant, store_id, file_id, reach))

    async def list_store_files(
        self, tenant: str, store_id: str, page: PageRequest | None = None, *, status: FileStatus | None = None, reach: Reach = EVERYTHING
    ) -> Page[StoreFile]:
        data, more = await self._db.read(lambda c: store_rows.list_store_files(c, tenant, store_id, page or PageRequest(), status, self._clock(), reach))
        return Page(data=tuple(data), has_more=more)

    async def detach(self, tenant: str, store_id: str, file_id: str, *, reach: Reach = EVERYTHING) -> None:
        """The file stays; in this store nothing of it can be found any more."""
        await self._db.write(lambda c: store_rows.detach(c, tenant, store_id, file_id, reach))


class Upload:
    """Bytes on their way to a file. Leaving the context without `finish` leaves nothing behind. Writes go to a thread a megabyte at a time."""

    def __init__(self, db: Database, blobs: BlobStore, tenant: str, limit: int, clock: Callable[[], float], uploader: str | None = None) -> None:
        self._db, self._blobs, self._tenant, self._limit, self._clock, self._uploader = db, blobs, tenant, limit, clock, uploader
        self._buffer = bytearray()
        self._size = 0
        self._digest = hashlib.sha256()
        self._writer: BlobWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.abort()

    async def write(self, data: bytes | bytearray) -> None:
        """Raises `TooLarge` as soon as the limit is passed."""
        self._size += len(data)
        if self._size > self._limit:
            raise TooLarge(self._limit)
        self._buffer += data
        if len(self._buffer) >= _WRITE_SIZE:
            await self._drain()

    async def finish(self, filename: str, purpose: str) -> File:
        """The file, durable. A crash before this returns leaves at most bytes that the next sweep removes."""
        await self._drain()
        assert self._writer is not None
        file_id = f"file-{secrets.token_hex(12)}"
        file = File(
            id=file_id,
            filename=PurePath(filename.replace("\\", "/")).name or "file",
            bytes=self._size,
            purpose=purpose,
            sha256=self._digest.hexdigest(),
            created_at=self._clock(),
            blob=blob_name(self._tenant, file_id),
            uploaded_by=self._uploader,
        )
        await self._db.write(lambda c: file_rows.doom_blob(c, self._tenant, file.blob, file.created_at + UPLOAD_GRACE))
        await asyncio.to_thread(self._writer.commit, file.blob)
        return await self._db.write(lambda c: file_rows.insert_file(c, self._tenant, file))

    async def _drain(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        await asyncio.to_thread(self._store, data)

    def _store(self, data: bytes) -> None:
        if self._writer is None:
            self._writer = self._blobs.begin()
        self._digest.update(data)
        self._writer.write(data)


def sweep_blobs(db: Database, blobs: BlobStore, now: float) -> int:
    """Remove originals whose file is gone or never came to be (after a crash). Blocking. Returns how many."""
    doomed = db.read_blocking(lambda c: file_rows.doomed_before(c, now))
    for blob in doomed:
        blobs.delete(blob)
        db.write_blocking(lambda c, blob=blob: file_rows.forget_doomed(c, blob))  # type: ignore[misc]
    return len(doomed)
