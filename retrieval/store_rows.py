"""Statements on vector stores and the files in them; rules as in `file_rows`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from adapters.backend import DATA_CLASSES, DataClass
from retrieval.file_rows import get_file, paged
from retrieval.reach import placed_within, stores_within
from retrieval.tables import vector_store_files, vector_stores
from retrieval.values import EVERYTHING, Attributes, FileCounts, FileStatus, NotFound, PageRequest, Reach, Store, StoreFile

DAY = 86_400.0
TOUCH_EVERY = 3_600.0  # seconds: how exact a store's last use is kept


def highest(classes: Sequence[DataClass]) -> DataClass:
    """The most sensitive of some data classes; public of none."""
    return max(classes, key=DATA_CLASSES.index, default="public")


def insert_store(connection: Connection, tenant: str, store: Store) -> None:
    row = {"id": store.id, "tenant": tenant, "name": store.name, "metadata": store.metadata, "data_class": store.data_class, "version": 0, "removals": 0}
    times = {"expires_after_days": store.expires_after_days, "last_active_at": store.created_at, "expires_at": store.expires_at, "created_at": store.created_at}
    connection.execute(insert(vector_stores).values(**row, **times))


def get_store(connection: Connection, tenant: str, store_id: str, now: float, reach: Reach = EVERYTHING) -> Store:
    """Raises `NotFound`."""
    query = select(vector_stores).where(vector_stores.c.tenant == tenant, vector_stores.c.id == store_id, *stores_within(reach))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound("vector store", store_id)
    return _stores(connection, [row], now)[0]


def list_stores(connection: Connection, tenant: str, page: PageRequest, now: float, reach: Reach = EVERYTHING) -> tuple[list[Store], bool]:
    query = select(vector_stores).where(vector_stores.c.tenant == tenant, *stores_within(reach))
    rows, more = paged(connection, query, vector_stores, page, tenant, "vector store")
    return _stores(connection, rows, now), more


def update_store(connection: Connection, tenant: str, store_id: str, values: dict[str, Any], now: float, reach: Reach = EVERYTHING) -> Store:
    """Raises `NotFound`."""
    if "expires_after_days" in values:
        days = values["expires_after_days"]
        values = {**values, "last_active_at": now, "expires_at": None if days is None else now + days * DAY}
    if values:
        own = (vector_stores.c.tenant == tenant, vector_stores.c.id == store_id, *stores_within(reach))
        connection.execute(update(vector_stores).where(*own).values(**values))
    return get_store(connection, tenant, store_id, now, reach)


def delete_store(connection: Connection, tenant: str, store_id: str, reach: Reach = EVERYTHING) -> None:
    """Takes with it the store's chunks, vectors and full-text entries; its files stay. Raises `NotFound`."""
    own = (vector_stores.c.tenant == tenant, vector_stores.c.id == store_id, *stores_within(reach))
    gone = connection.execute(delete(vector_stores).where(*own))
    if gone.rowcount == 0:
        raise NotFound("vector store", store_id)


def use_stores(connection: Connection, tenant: str, store_ids: Sequence[str], now: float, reach: Reach = EVERYTHING) -> list[Store]:
    """The stores as given. Raises `NotFound` for the first that is missing, foreign, out of reach or expired."""
    found: list[Store] = []
    for store_id in store_ids:
        store = get_store(connection, tenant, store_id, now, reach)
        if store.expired:
            raise NotFound("vector store", store_id)
        found.append(store)
    return found


def needs_touch(store: Store, now: float) -> bool:
    return store.expires_after_days is not None and now - store.last_active_at > TOUCH_EVERY


def touch(connection: Connection, tenant: str, store: Store, now: float) -> None:
    days = store.expires_after_days
    assert days is not None
    values = {"last_active_at": now, "expires_at": now + days * DAY}
    connection.execute(update(vector_stores).where(vector_stores.c.tenant == tenant, vector_stores.c.id == store.id).values(**values))


def attach(
    connection: Connection,
    tenant: str,
    store_id: str,
    file_id: str,
    attributes: Attributes,
    data_class: DataClass,
    now: float,
    reach: Reach = EVERYTHING,
) -> StoreFile:
    """Queue a file for a store. One that is there already stays; one that failed is tried anew. Raises `NotFound`."""
    file = get_file(connection, tenant, file_id, lock=True, reach=reach)
    (store,) = use_stores(connection, tenant, [store_id], now, reach)
    data_class = highest([store.data_class, data_class])
    key = (vector_store_files.c.tenant == tenant, vector_store_files.c.store == store_id, vector_store_files.c.file == file_id)
    existing = connection.execute(select(vector_store_files).where(*key)).one_or_none()
    fresh = {"status": "in_progress", "error_code": None, "error_message": None, "attempts": 0, "claim": None, "claimed_until": None}
    if existing is None:
        connection.execute(
            insert(vector_store_files).values(
                store=store_id, file=file.id, tenant=tenant, attributes=attributes, data_class=data_class, usage_bytes=0, chunks=0, created_at=now, **fresh
            )
        )
    else:
        kept = {} if existing.status in ("in_progress", "completed") else fresh
        raised = highest([existing.data_class, data_class])
        if raised != existing.data_class:
            bump(connection, store_id)  # before the file's row, as everywhere: locks are taken in the order file, store, file in store
        connection.execute(update(vector_store_files).where(*key).values(attributes=attributes, data_class=raised, **kept))
    return get_store_file(connection, tenant, store_id, file_id)


def get_store_file(connection: Connection, tenant: str, store_id: str, file_id: str, reach: Reach = EVERYTHING) -> StoreFile:
    """Raises `NotFound`."""
    table = vector_store_files
    own = (table.c.tenant == tenant, table.c.store == store_id, table.c.file == file_id, *placed_within(reach))
    row = connection.execute(select(table).where(*own)).one_or_none()
    if row is None:
        raise NotFound("file in this vector store", file_id)
    return _store_file(row)


def list_store_files(
    connection: Connection, tenant: str, store_id: str, page: PageRequest, status: FileStatus | None, now: float, reach: Reach = EVERYTHING
) -> tuple[list[StoreFile], bool]:
    """Raises `NotFound` for the store."""
    get_store(connection, tenant, store_id, now, reach)
    query = select(vector_store_files).where(vector_store_files.c.tenant == tenant, vector_store_files.c.store == store_id, *placed_within(reach))
    if status is not None:
        query = query.where(vector_store_files.c.status == status)
    rows, more = paged(connection, query, vector_store_files, page, tenant, "file in this vector store")
    return [_store_file(row) for row in rows], more


def detach(connection: Connection, tenant: str, store_id: str, file_id: str, reach: Reach = EVERYTHING) -> None:
    """Takes the file's chunks, vectors and full-text entries out of the store. Raises `NotFound`."""
    bump(connection, store_id, removal=True)
    table = vector_store_files
    own = (table.c.tenant == tenant, table.c.store == store_id, table.c.file == file_id, *placed_within(reach))
    gone = connection.execute(delete(table).where(*own))
    if gone.rowcount == 0:
        raise NotFound("file in this vector store", file_id)


def bump(connection: Connection, store_id: str, *, removal: bool = False) -> int:
    """Count a change. It also locks the store's row, so that on PostgreSQL too the numbers of a store's vectors become visible in order."""
    values = {"version": vector_stores.c.version + 1}
    if removal:
        values["removals"] = vector_stores.c.removals + 1
    return connection.execute(update(vector_stores).where(vector_stores.c.id == store_id).values(**values)).rowcount


def _stores(connection: Connection, rows: Sequence[Row[Any]], now: float) -> list[Store]:
    table = vector_store_files
    sums = (func.count().label("files"), func.sum(table.c.usage_bytes).label("usage"))
    query = select(table.c.store, table.c.status, *sums).group_by(table.c.store, table.c.status)
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    usage: dict[str, int] = defaultdict(int)
    for group in connection.execute(query.where(table.c.store.in_([row.id for row in rows]))):
        counts[group.store][group.status] = group.files
        usage[group.store] += int(group.usage)
    return [
        Store(
            id=row.id,
            name=row.name,
            metadata=row.metadata,
            data_class=row.data_class,
            version=row.version,
            expires_after_days=row.expires_after_days,
            last_active_at=row.last_active_at,
            expires_at=row.expires_at,
            expired=row.expires_at is not None and row.expires_at <= now,
            created_at=row.created_at,
            usage_bytes=usage[row.id],
            counts=FileCounts(**counts[row.id], total=sum(counts[row.id].values())),
        )
        for row in rows
    ]


def _store_file(row: Row[Any]) -> StoreFile:
    return StoreFile(
        store_id=row.store,
        file_id=row.file,
        status=row.status,
        error_code=row.error_code,
        error_message=row.error_message,
        attributes=row.attributes,
        data_class=row.data_class,
        usage_bytes=row.usage_bytes,
        chunks=row.chunks,
        created_at=row.created_at,
    )
