"""Restoring a backup: everything is checked first, then loaded in one transaction, and upgraded to this release's schema within it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection

from config.database import Database
from config.schema import BASE, Progress, downgrade, problem_of, read_revisions, read_state, upgrade
from config.secretfile import FILE_NAME
from retrieval.blobs import BlobStore
from router.audit.triggers import all_changeable
from router.storage.backup import Backup, Damaged
from router.storage.files import written_whole
from router.storage.rows import empty_tables, has_rows, insert_rows, read_tables, set_counters


class Refused(ValueError):
    """This backup does not go into this database, or not without a word more. Says what to do."""


class Restored(Struct, frozen=True):
    """What was done. `originals_missing` counts the documents whose originals are neither in the backup nor in the home folder."""

    rows: int
    revision: str
    upgraded_from: str | None
    originals: int
    originals_missing: int


def restore(backup: Backup, database: Database, locations: tuple[Path, ...], blobs: BlobStore, *, replace: bool, progress: Progress | None = None) -> Restored:
    """Load a backup, verified here, into a database that is empty or (`replace`) is emptied. Nothing may work on the database. Blocking.

    Raises `Refused` and `Damaged`, and `CannotLoad` where the database does not take a row: nothing is changed then.
    """
    manifest = backup.manifest
    chain = read_revisions(locations)
    known = [each.id for each in chain]
    if manifest.revision not in known:
        raise Refused(
            f"the backup is of schema revision {manifest.revision}, which this release does not know: "
            f"restore it with Headgate {manifest.headgate} or a newer one"
        )
    state = database.read_blocking(lambda connection: read_state(connection, locations))
    if state.standing in ("newer", "foreign"):
        raise Refused(f"{problem_of(state)} Or restore into an empty database.")
    if not replace and database.read_blocking(lambda connection: has_rows(connection, read_tables(connection))):
        raise Refused("the database is not empty: restore into an empty one, or say --replace to delete what is in it")
    backup.verify()

    before = set(database.read_blocking(_blobs))
    placed = _place_originals(backup, blobs)
    try:
        database.alter_blocking(lambda connection: _load(connection, backup, locations, progress))
    except BaseException:
        for blob in placed:
            blobs.delete(blob)
        raise
    after = database.read_blocking(_blobs)
    for blob in before - set(after):  # nothing knows of them any more
        blobs.delete(blob)
    return Restored(
        rows=manifest.rows,
        revision=known[-1],
        upgraded_from=manifest.revision if manifest.revision != known[-1] else None,
        originals=len(manifest.originals),
        originals_missing=sum(not _there(blobs, blob) for blob in after),
    )


def _load(connection: Connection, backup: Backup, locations: tuple[Path, ...], progress: Progress | None) -> None:
    """The tables are made anew at the backup's revision: what an earlier schema left behind has no part in the result."""
    with all_changeable(connection):
        empty_tables(connection, read_tables(connection))
    downgrade(connection, locations, BASE)
    upgrade(connection, locations, backup.manifest.revision)
    tables = read_tables(connection)
    saved = {table.shape.name: table for table in backup.manifest.tables}
    for table in tables:
        known = saved[table.name].shape if table.name in saved else None
        if known is None or {column.name: column.kind for column in known.columns} != {column.name: column.kind for column in table.columns}:
            raise Damaged(f"the backup's table {table.name} is not that of revision {backup.manifest.revision}")
    if lost := saved.keys() - {table.name for table in tables}:
        raise Damaged(f"the backup has tables that revision {backup.manifest.revision} has not: {', '.join(sorted(lost))}")
    with all_changeable(connection):
        empty_tables(connection, tables)  # of what the migrations themselves put in
    for table in tables:
        insert_rows(connection, saved[table.name].shape, backup.rows(saved[table.name]))
    set_counters(connection, tables, {name: table.counter for name, table in saved.items() if table.counter is not None})
    upgrade(connection, locations, progress=progress)


def _blobs(connection: Connection) -> list[str]:
    if not sa.inspect(connection).has_table("files"):
        return []
    return list(connection.execute(sa.select(sa.column("blob")).select_from(sa.table("files"))).scalars())


def _there(blobs: BlobStore, blob: str) -> bool:
    try:
        blobs.open(blob).close()
    except FileNotFoundError:
        return False
    return True


def _place_originals(backup: Backup, blobs: BlobStore) -> list[str]:
    """Those that are not there yet (a name is never used for other bytes). Returns their names; after an error none of them stays."""
    placed: list[str] = []
    try:
        for original in backup.manifest.originals:
            if _there(blobs, original.blob):
                continue
            writer = blobs.begin()
            try:
                for piece in backup.pieces(original.member):
                    writer.write(piece)
                writer.commit(original.blob)
            except BaseException:
                writer.abort()
                raise
            placed.append(original.blob)
    except BaseException:
        for blob in placed:
            with contextlib.suppress(OSError):
                blobs.delete(blob)
        raise
    return placed


def place_secret(secret: str, home: Path) -> None:
    """Make it the one in the home folder's file."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with written_whole(home / FILE_NAME) as file:
        file.write(secret.encode() + b"\n")


def secret_problem(backup: Backup, in_use: str | None, from_environment: bool, mark: Callable[[str], str]) -> str | None:
    """Why the restored keys would not be the service's, or None."""
    saved = backup.manifest.secret_mark
    if saved is None or (in_use is not None and mark(in_use) == saved):
        return None
    if in_use is None:
        return "the backup's keys were hashed with a secret that is not here: set HEADGATE_SECRET to it, or put it into the file `secret` of the home folder"
    where = "HEADGATE_SECRET" if from_environment else "the file `secret` of the home folder"
    return f"the backup's keys were hashed with another secret than the one in {where}: they are dead until that is the backup's"
