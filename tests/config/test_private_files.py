"""The SQLite file and what is made around it are their owner's alone, whatever the umask says."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from config.database import open_database


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_sqlite_database_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "home" / "headgate.db"
    database = open_database(f"sqlite:///{path}")
    try:
        database.write_blocking(lambda connection: connection.execute(text("CREATE TABLE kept (id INTEGER)")))
        modes = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        database.close()
    assert modes == {"headgate.db": 0o600, "headgate.db-wal": 0o600, "headgate.db-shm": 0o600}
    assert mode(path.parent) == 0o700


def test_what_exists_keeps_its_modes(tmp_path: Path) -> None:
    path = tmp_path / "home" / "headgate.db"
    path.parent.mkdir(mode=0o750)
    path.touch(mode=0o640)
    database = open_database(f"sqlite:///{path}")
    try:
        database.write_blocking(lambda connection: connection.execute(text("CREATE TABLE kept (id INTEGER)")))
    finally:
        database.close()
    assert (mode(path), mode(path.parent)) == (0o640, 0o750)


def test_many_that_make_the_same_database_at_once_all_write_to_it(tmp_path: Path) -> None:
    databases = [open_database(f"sqlite:///{tmp_path / 'headgate.db'}") for _ in range(4)]
    begin = threading.Barrier(len(databases))
    failed: list[Exception] = []

    def make(number: int) -> None:
        begin.wait()
        try:
            databases[number].write_blocking(lambda connection: connection.execute(text(f"CREATE TABLE kept_{number} (id INTEGER)")))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(len(databases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        tables = databases[0].read_blocking(lambda connection: connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar())
    finally:
        for database in databases:
            database.close()
    assert (failed, tables, mode(tmp_path / "headgate.db")) == ([], 4, 0o600)
