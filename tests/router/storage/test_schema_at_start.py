"""What starts on a database of another schema: nothing, and it says what to run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from config.database import open_database
from config.schema import downgrade, read_revisions
from router.launch import MIGRATIONS, migrate_state
from tests.e2e.test_supervisor import log_of, named, wait
from tests.router.cli.kit import Command, headgate
from tests.serving import headgate as run_headgate
from tests.serving import served

__all__ = ["headgate"]
CHAIN = [each.id for each in read_revisions(MIGRATIONS)]
POLICY = "version: 1\nbackends: {mini: {kind: scripted}}\ndefault: mini\nfallback: []\n"


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Path]:
    """A home whose database is two revisions behind."""
    home = tmp_path / "var"
    database = open_database(f"sqlite:///{home / 'headgate.db'}")
    migrate_state(database)
    database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, CHAIN[-3]))
    yield home
    database.close()


@pytest.mark.parametrize("command", [["tenants", "list"], ["usage"], ["documents", "list"], ["policy", "versions"], ["serve", "--port", "0"]], ids=" ".join)
def test_every_command_refuses_an_older_database_and_names_the_next_ones(older: Path, tmp_path: Path, command: list[str]) -> None:
    done = run_headgate(tmp_path, *command, HEADGATE_HOME=str(older))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"at schema revision {CHAIN[-3]}, and this release works with {CHAIN[-1]} (2 migrations are pending)" in done.stderr
    assert "headgate backup FILE" in done.stderr
    assert "headgate db upgrade" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_upgrade_and_downgrade(older: Path, headgate: Command) -> None:
    status = headgate("db", "status", "--json").json
    assert (status["standing"], status["revision"], status["head"]) == ("older", CHAIN[-3], CHAIN[-1])
    assert [each["id"] for each in status["pending"]] == CHAIN[-2:]
    assert all(each["summary"] for each in status["pending"])
    assert f"pending  {CHAIN[-1]}  " in headgate("db", "status").out
    assert "headgate db upgrade" in headgate("doctor").out
    assert headgate("backup", "older.zip", "--json").json["revision"] == CHAIN[-3]
    upgraded = headgate("db", "upgrade")
    assert (upgraded.status, upgraded.out) == (0, f"the database is at {CHAIN[-1]}\n")
    assert [line.split()[:2] for line in upgraded.err.splitlines()] == [["up", name] for name in CHAIN[-2:]]
    assert headgate("db", "upgrade", "--json").json == {"from": CHAIN[-1], "to": CHAIN[-1]}
    assert headgate("tenants", "list").status == 0
    asked = headgate("db", "downgrade", "-1")
    assert (asked.status, CHAIN[-1] in asked.err, "--yes" in asked.err) == (1, True, True)
    assert headgate("db", "downgrade", "-1", "--yes", "--json").json == {"from": CHAIN[-1], "to": CHAIN[-2]}
    assert headgate("db", "downgrade", CHAIN[-3], "--yes").status == 0
    for wrong in (CHAIN[-1], CHAIN[-3], "base", "-99", "nonsense", "-0"):
        refused = headgate("db", "downgrade", wrong, "--yes")
        assert (refused.status, "headgate db status" in refused.err) == (1, True), wrong
    assert headgate("db", "status", "--json").json["revision"] == CHAIN[-3]


def test_a_setting_upgrades_at_start(older: Path, tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY)
    with served(tmp_path, models=False, HEADGATE_HOME=str(older), HEADGATE_AUTO_MIGRATE="true"):
        pass
    assert run_headgate(tmp_path, "tenants", "list", HEADGATE_HOME=str(older)).returncode == 0


def test_a_worker_that_starts_again_on_another_schema_does_not_serve(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY)
    with served(tmp_path, models=False) as server:
        database = open_database(f"sqlite:///{tmp_path / 'headgate.db'}")
        try:
            database.write_blocking(lambda connection: set_revision(connection, "9999_of_the_future"))
            (worker,) = named(server, "router.worker")
            os.kill(worker.pid, signal.SIGKILL)
            wait(lambda: "database_refused" in log_of(tmp_path), "the worker did not look at the schema")
            assert "migrated by a newer release of Headgate" in log_of(tmp_path)
            database.write_blocking(lambda connection: set_revision(connection, CHAIN[-1]))
            wait(lambda: "ready" in run_headgate(tmp_path, "doctor").stdout and len(named(server, "router.worker")) == 1, "no worker came back")
        finally:
            database.close()
