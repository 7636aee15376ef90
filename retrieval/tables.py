"""The tables of documents, the same on SQLite and PostgreSQL. Every row carries its tenant, and every statement filters by it.

Rows hang on each other by foreign keys that delete downwards: what belongs to a deleted file or store is gone with it in the same
transaction, its full-text entries too (a trigger on SQLite, a generated column on PostgreSQL: see `text_index`). Times are seconds since the
epoch. Numbers of chunks and vectors are never used again, so a stale index entry can never point at another text.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, ForeignKey, ForeignKeyConstraint, Index, Integer, LargeBinary, String, Table, Text

from config.database import new_metadata

metadata = new_metadata()

Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in a column of the very type INTEGER."""

TENANT = String(64)
OBJECT = String(40)

files = Table(
    "files",
    metadata,
    Column("id", OBJECT, primary_key=True),
    Column("tenant", TENANT, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("blob", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("uploaded_by", String(40)),  # the key that did, as the gateway calls it; null for none
    Index("ix_files_tenant_created_at_id", "tenant", "created_at", "id"),
)

documents = Table(
    "documents",
    metadata,
    Column("file", OBJECT, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant", TENANT, nullable=False),
    Column("media_type", String(100), nullable=False),
    Column("text", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("pages", JSON, nullable=False),  # the offset at which each page starts; empty where the format has none
    Column("headings", JSON, nullable=False),  # [start, end] of each heading
)

vector_stores = Table(
    "vector_stores",
    metadata,
    Column("id", OBJECT, primary_key=True),
    Column("tenant", TENANT, nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("data_class", String(16), nullable=False),
    Column("version", BigInteger, nullable=False),  # counts every change of its documents
    Column("removals", BigInteger, nullable=False),  # counts the changes that took something away
    Column("expires_after_days", Integer),
    Column("last_active_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("created_at", Double, nullable=False),
    Index("ix_vector_stores_tenant_created_at_id", "tenant", "created_at", "id"),
)

vector_store_files = Table(
    "vector_store_files",
    metadata,
    Column("store", OBJECT, ForeignKey("vector_stores.id", ondelete="CASCADE"), primary_key=True),
    Column("file", OBJECT, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant", TENANT, nullable=False),
    Column("status", String(16), nullable=False),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("attributes", JSON, nullable=False),
    Column("data_class", String(16), nullable=False),
    Column("usage_bytes", BigInteger, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("claim", String(40)),  # who is at work on it
    Column("claimed_until", Double),  # when another may take over
    Index("ix_vector_store_files_status_created_at", "status", "created_at"),
    Index("ix_vector_store_files_file", "file"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("tenant", TENANT, nullable=False),
    Column("store", OBJECT, nullable=False),
    Column("file", OBJECT, nullable=False),
    Column("page", Integer),
    Column("marks", JSON, nullable=False),  # [offset, page] of each page that starts inside
    Column("start_offset", Integer, nullable=False),
    Column("end_offset", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("grams", Text, nullable=False),  # what full text needs to find parts of runs written without spaces
    ForeignKeyConstraint(["store", "file"], ["vector_store_files.store", "vector_store_files.file"], ondelete="CASCADE", name="fk_chunks_store_file"),
    Index("ix_chunks_store_file", "store", "file"),
    sqlite_autoincrement=True,
)

vectors = Table(
    "vectors",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("tenant", TENANT, nullable=False),
    Column("store", OBJECT, nullable=False),
    Column("chunk", Serial, ForeignKey("chunks.id", ondelete="CASCADE"), nullable=False),
    Column("space", String(200), nullable=False),
    Column("vector", LargeBinary, nullable=False),  # float16, little-endian
    Index("uq_vectors_chunk_space", "chunk", "space", unique=True),
    Index("ix_vectors_store_space_id", "store", "space", "id"),
    sqlite_autoincrement=True,
)

doomed_blobs = Table(
    "doomed_blobs",
    metadata,
    Column("blob", Text, primary_key=True),
    Column("tenant", TENANT, nullable=False),
    Column("due_at", Double, nullable=False),  # a sweep removes the original after this time
)
