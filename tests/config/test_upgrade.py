"""A database written under any earlier schema comes up to the newest with its data intact, and goes back. Later migrations are covered by being there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from config.database import Database, open_database
from config.schema import below, downgrade, migrate, prepare, read_revisions, read_state, upgrade
from config.settings import Settings, SettingsError
from retrieval.tables import metadata as of_retrieval
from router.launch import MIGRATIONS, ROOT, migrate_state, prepare_state
from router.tables import metadata as of_router
from tests.config.filling import fill, missing, rows_of, shape_of, tables_of

REVISIONS = [each.id for each in read_revisions(MIGRATIONS)]


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    database = open_database(empty_database_url)
    yield database
    database.close()


def at(database: Database, revision: str) -> None:
    database.alter_blocking(lambda connection: upgrade(connection, MIGRATIONS, revision))


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_any_revision_comes_up_with_its_data_and_goes_back(database: Database, revision: str) -> None:
    at(database, revision)
    shape = database.read_blocking(shape_of)
    database.write_blocking(fill)
    before = database.read_blocking(rows_of)
    assert all(before.values())
    migrate_state(database)
    assert missing(before, database.read_blocking(rows_of)) == {}
    while (now := database.read_blocking(lambda connection: read_state(connection, MIGRATIONS))).revision != revision:
        goal, undone = below(now, MIGRATIONS, "-1")
        assert len(undone) == 1
        database.alter_blocking(lambda connection, goal=goal: downgrade(connection, MIGRATIONS, goal))  # type: ignore[misc]
        assert missing(before, database.read_blocking(rows_of)) == {}
    after = database.read_blocking(rows_of)
    assert after.keys() == before.keys()
    assert missing(before, after) == {}
    assert database.read_blocking(shape_of) == shape


def test_a_database_that_was_upgraded_has_the_shape_of_a_new_one(database: Database, tmp_path: Path) -> None:
    at(database, REVISIONS[0])
    database.write_blocking(fill)
    migrate_state(database)
    upgraded = database.read_blocking(shape_of)
    database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, "base"))
    assert database.read_blocking(tables_of) == {}
    migrate_state(database)
    assert database.read_blocking(shape_of) == upgraded


def test_the_migrations_make_exactly_the_tables_that_the_code_declares(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    migrate_state(database)
    for file in (path for folder in ("router", "retrieval") for path in (ROOT / folder).rglob("*.py")):
        if " = Table(" in file.read_text(encoding="utf-8"):  # declared where it is imported
            import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))

    def ours(_object: Any, name: str | None, kind: str, reflected: bool, _compared: Any) -> bool:
        # The full-text index is made by hand: a virtual table with its shadows on SQLite, a generated column with its index on PostgreSQL.
        return not (reflected and ((name or "").startswith(("chunks_fts", "ix_chunks_search")) or (kind == "column" and name == "search")))

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True, "compare_server_default": False})
        return list(compare_metadata(context, [of_router, of_retrieval]))

    assert database.read_blocking(differences) == []


def test_what_hangs_on_a_rebuilt_table_stays(database: Database, tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLite changes a table by building another one in its place, and dropping the old one deletes what hangs on it, unless that is kept off."""
    folder = tmp_path_factory.mktemp("migrations")
    head = "import sqlalchemy as sa\nfrom alembic import op\n"
    parents = 'op.create_table("parents", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(9)))'
    children = 'op.create_table("children", sa.Column("parent", sa.Integer, sa.ForeignKey("parents.id", ondelete="CASCADE")))'
    (folder / "0001_a.py").write_text(head + f'revision = "a"\ndown_revision = None\ndef upgrade():\n    {parents}\n    {children}\n')
    (folder / "0002_b.py").write_text(
        head + 'revision = "b"\ndown_revision = "a"\ndef upgrade():\n    with op.batch_alter_table("parents", recreate="auto") as table:\n'
        '        table.alter_column("name", type_=sa.Text)\n'
    )
    database.alter_blocking(lambda connection: upgrade(connection, [folder], "a"))
    for statement in ("INSERT INTO parents VALUES (1, 'a')", "INSERT INTO children VALUES (1)"):
        database.write_blocking(lambda connection, statement=statement: connection.execute(text(statement)) and None)  # type: ignore[misc]
    migrate(database, [folder])
    assert database.read_blocking(lambda connection: connection.execute(text("SELECT parent FROM children")).scalars().all()) == [1]
    with pytest.raises(IntegrityError):
        database.alter_blocking(lambda connection: connection.execute(text("INSERT INTO children VALUES (2)")) and None)
    assert database.read_blocking(lambda connection: connection.execute(text("SELECT parent FROM children")).scalars().all()) == [1]
    with pytest.raises(IntegrityError):  # and foreign keys hold again for everybody else
        database.write_blocking(lambda connection: connection.execute(text("INSERT INTO children VALUES (2)")) and None)


def test_a_new_database_is_made_and_an_older_one_refused_unless_the_setting_says_so(database: Database) -> None:
    prepare_state(database, Settings())
    prepare_state(database, Settings())
    database.write_blocking(fill)
    database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, REVISIONS[-3]))
    with pytest.raises(
        SettingsError, match=rf"revision {REVISIONS[-3]}, and this release works with {REVISIONS[-1]} \(2 migrations are pending\).*headgate db upgrade"
    ):
        prepare_state(database, Settings())
    assert database.read_blocking(lambda connection: read_state(connection, MIGRATIONS)).revision == REVISIONS[-3]
    prepare_state(database, Settings(auto_migrate=True))
    assert database.read_blocking(lambda connection: read_state(connection, MIGRATIONS)).standing == "current"


def test_somebody_elses_database_is_refused_and_left_alone(database: Database) -> None:
    database.write_blocking(lambda connection: connection.execute(text("CREATE TABLE theirs (id INTEGER)")) and None)
    for attempt in (lambda: prepare(database, MIGRATIONS, auto=True), lambda: migrate(database, MIGRATIONS)):
        with pytest.raises(SettingsError, match="a database of its own"):
            attempt()
    assert list(database.read_blocking(tables_of)) == ["theirs"]


def test_migrations_that_are_no_chain_are_an_error(tmp_path: Path) -> None:
    def write(name: str, below: str | None) -> None:
        (tmp_path / f"{name}.py").write_text(
            f'"""What {name} does.\n\nMore of it."""\nrevision = "{name}"\ndown_revision = {json.dumps(below) if below else None}\n'
        )

    write("0001_a", None)
    write("0002_b", "0001_a")
    assert [(each.id, each.below, each.summary) for each in read_revisions([tmp_path])] == [
        ("0001_a", None, "What 0001_a does"),
        ("0002_b", "0001_a", "What 0002_b does"),
    ]
    write("0003_c", "0001_a")
    with pytest.raises(ValueError, match="0002_b and 0003_c both follow 0001_a"):
        read_revisions([tmp_path])
    write("0003_c", "0002_missing")
    with pytest.raises(ValueError, match="0003_c follow nothing"):
        read_revisions([tmp_path])
    (tmp_path / "0004_d.py").write_text("nothing = 1\n")
    with pytest.raises(ValueError, match=r"0004_d\.py is no migration"):
        read_revisions([tmp_path])
