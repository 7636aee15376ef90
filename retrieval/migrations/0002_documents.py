"""Files, their canonical text, vector stores, chunks, vectors, and the full-text index of either database."""

import sqlalchemy as sa
from alembic import op

revision = "0002_documents"
down_revision = "0001_base"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    create_files()
    create_stores()
    create_chunks()
    if op.get_bind().dialect.name == "sqlite":
        create_sqlite_text_index()
    else:
        create_postgresql_text_index()


def create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index("ix_files_tenant_created_at_id", "files", ["tenant", "created_at", "id"])
    op.create_table(
        "documents",
        sa.Column("file", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(100), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("pages", sa.JSON(), nullable=False),
        sa.Column("headings", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["file"], ["files.id"], name="fk_documents_file", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file", name="pk_documents"),
    )
    op.create_table(
        "doomed_blobs",
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("blob", name="pk_doomed_blobs"),
    )


def create_stores() -> None:
    op.create_table(
        "vector_stores",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("removals", sa.BigInteger(), nullable=False),
        sa.Column("expires_after_days", sa.Integer()),
        sa.Column("last_active_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vector_stores"),
    )
    op.create_index("ix_vector_stores_tenant_created_at_id", "vector_stores", ["tenant", "created_at", "id"])
    op.create_table(
        "vector_store_files",
        sa.Column("store", sa.String(40), nullable=False),
        sa.Column("file", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(32)),
        sa.Column("error_message", sa.Text()),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("data_class", sa.String(16), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claim", sa.String(40)),
        sa.Column("claimed_until", sa.Double()),
        sa.ForeignKeyConstraint(["store"], ["vector_stores.id"], name="fk_vector_store_files_store", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["file"], ["files.id"], name="fk_vector_store_files_file", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("store", "file", name="pk_vector_store_files"),
    )
    op.create_index("ix_vector_store_files_status_created_at", "vector_store_files", ["status", "created_at"])
    op.create_index("ix_vector_store_files_file", "vector_store_files", ["file"])


def create_chunks() -> None:
    op.create_table(
        "chunks",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store", sa.String(40), nullable=False),
        sa.Column("file", sa.String(40), nullable=False),
        sa.Column("page", sa.Integer()),
        sa.Column("marks", sa.JSON(), nullable=False),
        sa.Column("start_offset", sa.Integer(), nullable=False),
        sa.Column("end_offset", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("grams", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["store", "file"], ["vector_store_files.store", "vector_store_files.file"], name="fk_chunks_store_file", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_chunks"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chunks_store_file", "chunks", ["store", "file"])
    op.create_table(
        "vectors",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("store", sa.String(40), nullable=False),
        sa.Column("chunk", SERIAL, nullable=False),
        sa.Column("space", sa.String(200), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["chunk"], ["chunks.id"], name="fk_vectors_chunk", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_vectors"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_vectors_chunk_space", "vectors", ["chunk", "space"], unique=True)
    op.create_index("ix_vectors_store_space_id", "vectors", ["store", "space", "id"])


def create_sqlite_text_index() -> None:
    # The index keeps no text of its own: `chunks` is its content, and the triggers keep both in one transaction.
    op.execute(
        "CREATE VIRTUAL TABLE chunks_fts USING fts5(text, grams, store, content = 'chunks', content_rowid = 'id', "
        "tokenize = 'porter unicode61 remove_diacritics 2')"
    )
    op.execute(
        "CREATE TRIGGER chunks_fts_add AFTER INSERT ON chunks BEGIN "
        "INSERT INTO chunks_fts (rowid, text, grams, store) VALUES (new.id, new.text, new.grams, new.store); END"
    )
    op.execute(
        "CREATE TRIGGER chunks_fts_drop AFTER DELETE ON chunks BEGIN "
        "INSERT INTO chunks_fts (chunks_fts, rowid, text, grams, store) VALUES ('delete', old.id, old.text, old.grams, old.store); END"
    )


def create_postgresql_text_index() -> None:
    op.execute(
        "ALTER TABLE chunks ADD COLUMN search tsvector GENERATED ALWAYS AS "
        "(to_tsvector('english'::regconfig, text) || to_tsvector('simple'::regconfig, grams)) STORED"
    )
    op.execute("CREATE INDEX ix_chunks_search ON chunks USING gin (search)")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE chunks_fts")
    for table in ("vectors", "chunks", "vector_store_files", "vector_stores", "doomed_blobs", "documents", "files"):
        op.drop_table(table)
