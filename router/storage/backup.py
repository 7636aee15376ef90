"""A backup: one zip file with every table as lines of JSON, a manifest with counts and hashes, and what else was asked for.

It is of one moment, however long it takes and whatever is written meanwhile; nothing waits for it. It says nothing of the database it was made
from: what SQLite wrote goes into PostgreSQL, and the other way round. Memory does not grow with the tables.
"""

from __future__ import annotations

import hashlib
import hmac
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection, text

from config.database import Database
from config.schema import VERSION_TABLE
from config.secretfile import FILE_NAME, load_secret
from retrieval.blobs import BlobStore
from router.storage.files import written_whole
from router.storage.rows import Lines, TableShape, batches, read_counters, read_tables, select_rows

FORMAT = 1
MANIFEST = "manifest.json"
SECRET = "secret"  # noqa: S105 - a name
PIECE = 2**20


class Damaged(ValueError):
    """A file that is no backup, or not a whole one. Says where it is damaged."""


class Member(Struct, frozen=True):
    """One member of the file: its length and hash before compression."""

    name: str
    bytes: int
    sha256: str


class TableData(Struct, frozen=True):
    """A table's rows. `counter` is the last number given out where the database counts them itself."""

    shape: TableShape
    rows: int
    member: Member
    counter: int | None = None


class Original(Struct, frozen=True):
    """An uploaded file, under the name by which the table `files` knows it."""

    blob: str
    member: Member


class Manifest(Struct, frozen=True, kw_only=True):
    """What the file holds. `secret_mark` tells, with four digits, whether a secret is the one that this database's keys were hashed with."""

    format: int
    headgate: str
    created_at: str
    revision: str
    dialect: str
    tables: tuple[TableData, ...]
    originals: tuple[Original, ...] = ()
    originals_missing: tuple[str, ...] = ()
    secret: Member | None = None
    secret_mark: str | None = None

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


# --- writing ---------------------------------------------------------------------------------------------------------------------------------


def write_backup(database: Database, path: Path, *, blobs: BlobStore | None = None, secret: str | None = None, secret_mark: str | None = None) -> Manifest:
    """Write the backup to `path`, mode 600: whole or not at all. `blobs` and `secret` go into it where they are given. Blocking.

    Raises `Damaged` where something else than a backup stands at `path`, and `ValueError` for a database without tables.
    """
    if path.exists():
        try:
            with open_backup(path):
                pass
        except Damaged as error:
            raise Damaged(f"{path} exists and is not replaced, since it is no whole backup: choose another name ({error})") from error
    with written_whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        revision, tables, named = database.read_blocking(lambda connection: _write_tables(connection, archive))
        originals, missing = _write_originals(archive, blobs, named) if blobs is not None else ((), ())
        manifest = Manifest(
            format=FORMAT,
            headgate=version("headgate"),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            revision=revision,
            dialect=database.dialect,
            tables=tables,
            originals=originals,
            originals_missing=missing,
            secret=_write(archive, SECRET, iter([secret.encode()])) if secret is not None else None,
            secret_mark=secret_mark,
        )
        archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    return manifest


def _write_tables(connection: Connection, archive: zipfile.ZipFile) -> tuple[str, tuple[TableData, ...], list[str]]:
    snapshot(connection)
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        raise ValueError("the database has no tables of Headgate's: there is nothing to back up")
    revision = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    if revision is None:
        raise ValueError("the database has no tables of Headgate's: there is nothing to back up")
    tables = read_tables(connection)
    counters = read_counters(connection, tables)
    written = []
    for table in tables:
        counted = _Counted(connection, table)
        member = _write(archive, f"tables/{table.name}.jsonl", counted.pieces())
        written.append(TableData(table, counted.rows, member, counters.get(table.name)))
    named: list[str] = []
    if any(table.name == "files" for table in tables):
        named = sorted(connection.execute(sa.select(sa.column("blob")).select_from(sa.table("files"))).scalars())
    return str(revision), tuple(written), named


def snapshot(connection: Connection) -> None:
    """First in a unit of reading: everything it reads is of one moment. (So it is on SQLite without a word.)"""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


class _Counted:
    def __init__(self, connection: Connection, table: TableShape) -> None:
        self._connection = connection
        self._table = table
        self.rows = 0

    def pieces(self) -> Iterator[bytes]:
        lines = Lines(self._table)
        for batch in batches(select_rows(self._connection, self._table)):
            self.rows += len(batch)
            yield b"".join(lines.write(row) + b"\n" for row in batch)


def _write(archive: zipfile.ZipFile, name: str, pieces: Iterator[bytes]) -> Member:
    digest, size = hashlib.sha256(), 0
    with archive.open(name, "w", force_zip64=True) as member:
        for piece in pieces:
            digest.update(piece)
            size += len(piece)
            member.write(piece)
    return Member(name, size, digest.hexdigest())


def _write_originals(archive: zipfile.ZipFile, blobs: BlobStore, named: list[str]) -> tuple[tuple[Original, ...], tuple[str, ...]]:
    originals, missing = [], []
    for blob in named:
        try:
            source = blobs.open(blob)
        except FileNotFoundError:  # deleted since that moment
            missing.append(blob)
            continue
        with source:
            originals.append(Original(blob, _write(archive, f"files/{blob}", iter(lambda source=source: source.read(PIECE), b""))))  # type: ignore[misc]
    return tuple(originals), tuple(missing)


def secret_in_use(environ: Mapping[str, str], home: Path) -> str | None:
    """The secret that keys are hashed with, or None where none was ever made. Raises `SettingsError` for one that is refused."""
    if not environ.get("HEADGATE_SECRET") and not (home / FILE_NAME).exists():
        return None
    return load_secret(environ, home).reveal()


def mark_of(secret: str) -> str:
    """Four digits that differ where the secrets do, nearly always; too few to find a secret by."""
    return hmac.new(secret.encode(), b"headgate backup", hashlib.sha256).hexdigest()[:4]


# --- reading ---------------------------------------------------------------------------------------------------------------------------------


class Backup:
    """An open backup. Every way of reading it checks what it reads, and raises `Damaged` at the first thing that is wrong."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self.manifest = self._read_manifest()

    def _read_manifest(self) -> Manifest:
        try:
            content = self._archive.read(MANIFEST)
            form = msgspec.json.decode(content, type=dict[str, Any]).get("format")
        except KeyError as error:
            raise Damaged(f"{self._path} is a zip file and no backup: it has no {MANIFEST}") from error
        except (zipfile.BadZipFile, zlib.error, OSError, msgspec.DecodeError) as error:
            raise Damaged(f"{self._path} is damaged in {MANIFEST}: {error}") from error
        if form != FORMAT:
            raise Damaged(f"{self._path} has the format {form}, and this release reads {FORMAT}: use the release that made it, or a newer one")
        try:
            manifest = msgspec.json.decode(content, type=Manifest)
        except msgspec.DecodeError as error:
            raise Damaged(f"{self._path} is damaged in {MANIFEST}: {error}") from error
        for original in manifest.originals:
            parts = PurePosixPath(original.blob).parts
            if not parts or ".." in parts or original.blob.startswith("/"):
                raise Damaged(f"{self._path} is no backup of Headgate's: it would write a file outside of the home folder")
        return manifest

    def verify(self) -> None:
        """Read everything once."""
        for table in self.manifest.tables:
            for _ in self.rows(table):
                pass
        for original in self.manifest.originals:
            for _ in self.pieces(original.member):
                pass
        if self.manifest.secret is not None:
            self.secret()

    def rows(self, table: TableData) -> Iterator[list[Any]]:
        """A table's rows; counted and hashed on the way, so that the last one comes only when all were right."""
        lines = Lines(table.shape)
        number, rest = 0, b""
        where = f"in table {table.shape.name}"
        try:
            for piece in self.pieces(table.member):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    number += 1
                    yield lines.read(line)
        except Damaged as error:
            raise Damaged(f"{error} ({where}, after row {number} of {table.rows})") from error
        except (ValueError, TypeError) as error:
            raise Damaged(f"{self._path} is damaged {where}, at row {number}: {error}") from error
        if rest or number != table.rows:
            raise Damaged(f"{self._path} is damaged {where}: it has {number} rows and not {table.rows}")

    def pieces(self, member: Member) -> Iterator[bytes]:
        """A member's content, checked against its length and hash at the end."""
        digest, size = hashlib.sha256(), 0
        try:
            with self._archive.open(member.name) as source:
                while piece := source.read(PIECE):
                    digest.update(piece)
                    size += len(piece)
                    yield piece
        except KeyError as error:
            raise Damaged(f"{self._path} is damaged: {member.name} is missing from it") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise Damaged(f"{self._path} is damaged in {member.name}, near byte {size}: {error}") from error
        if (size, digest.hexdigest()) != (member.bytes, member.sha256):
            raise Damaged(f"{self._path} is damaged in {member.name}: its content is not what was written")

    def secret(self) -> str:
        assert self.manifest.secret is not None
        return b"".join(self.pieces(self.manifest.secret)).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()


@contextmanager
def open_backup(path: Path) -> Iterator[Backup]:
    """Open a backup and read its manifest; nothing else is checked yet. Raises `Damaged`, and `OSError` where there is no file."""
    file: IO[bytes] = path.open("rb")
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise Damaged(f"{path} is no backup, or was cut off: {error}") from error
        with Backup(path, archive) as backup:
            yield backup
