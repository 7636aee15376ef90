from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect

from config.database import Database
from config.schema import migrate
from retrieval.tables import metadata

ROOT = Path(__file__).resolve().parents[2]


def test_the_migrations_make_exactly_the_tables_the_code_uses(db: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, reflected: bool, _compared: Any) -> bool:
        # The full-text index is the text index's own: a virtual table on SQLite, a generated column with its index on PostgreSQL.
        if kind == "table":
            return name in metadata.tables
        return not (reflected and name in ("search", "ix_chunks_search"))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    assert db.read_blocking(differences) == []


def test_every_table_carries_its_tenant(db: Database) -> None:
    assert all("tenant" in table.c for table in metadata.tables.values())
    names = db.read_blocking(lambda c: inspect(c).get_table_names())
    assert set(metadata.tables) <= set(names)


def test_migrating_again_changes_nothing(db: Database) -> None:
    migrate(db, [ROOT / "router/migrations", ROOT / "retrieval/migrations"])


def test_the_gateways_side_of_retrieval_loads_no_heavy_library() -> None:
    heavy = ("numpy", "torch", "faiss", "transformers", "sentence_transformers", "pypdfium2", "docx", "selectolax", "markdown_it")
    modules = "retrieval.store, retrieval.tables, retrieval.values, retrieval.cite, retrieval.search, retrieval.ingest, retrieval.vectorindex, retrieval.parse"
    code = f"import sys; import {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
