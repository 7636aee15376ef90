"""An upgrade migrates; going back to an older release is refused in words that help."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, inspect, text

from config.database import open_database
from config.schema import migrate
from config.settings import SettingsError
from router.launch import migrate_state


def test_a_database_that_a_newer_release_migrated_is_refused_and_left_alone(empty_database_url: str) -> None:
    database = open_database(empty_database_url)
    try:
        migrate_state(database)
        database.write_blocking(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999_of_the_future'")) and None)
        with pytest.raises(SettingsError, match=r"a newer release of Headgate .*: install that release again"):
            migrate_state(database)
        assert database.write_blocking(_revision) == "9999_of_the_future"
    finally:
        database.close()


def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("migrations")
    (folder / "0001_half.py").write_text(
        'import sqlalchemy as sa\nfrom alembic import op\nrevision = "0001_half"\ndown_revision = None\n'
        'def upgrade():\n    op.create_table("half", sa.Column("id", sa.Integer))\n    raise RuntimeError("in the middle")\n'
    )
    database = open_database(empty_database_url)
    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            migrate(database, [folder])
        assert database.write_blocking(lambda connection: inspect(connection).get_table_names()) == []
    finally:
        database.close()


def _revision(connection: Connection) -> str:
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
