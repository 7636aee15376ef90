"""Archives of the ledger: whole closed months leave it for a file, and opening rows stay in their place, so that every total stays the same.

The archive is part of the record: the table `archives` holds its file's name and hash. A month's rows leave the ledger only after the file was
written, synced, read back and found to hold the very same rows; removing them, signing the file's hash, writing the opening rows and the audit
log's entry is one transaction.

Which column is what is read off the ledger's table, so that columns added later are carried along: those of `BY` are what rows are summed up by;
whole numbers of 64 bits and real numbers that are no times (`…_at`) and no seals are added up; the others are left empty in an opening row.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection, delete, func, insert, select

from config.database import STATE_LOCK, Database, exclusively
from router.audit.chain import Head
from router.audit.log import Actor, AuditLog, Entry, Subject
from router.audit.seal_check import UNSEALED, raw_rows
from router.audit.tables import LEDGER_CHAIN, audit_checkpoints
from router.ids import fresh_id
from router.money.periods import SETTLED_S
from router.money.sealing import SEAL_COLUMNS, LedgerChain, Positions, SealKey, sign_archived
from router.storage.archive_files import SUFFIXES, Format, read_rows, write_rows
from router.storage.backup import snapshot
from router.storage.files import written_whole
from router.storage.rows import Lines, TableShape, Where, read_tables, select_rows
from router.storage.tables import OPENING, archives, ledger_openings
from router.tables import ledger, reservations

BY = ("tenant", "team", "user", "user_id", "key_id", "backend", "provider", "model", "purpose", "usage_source", "rule")
"""What opening rows keep apart, where the ledger has it."""

TRIES = 3
_ROWS, _REQUESTS = "rows_", "requests_"
"""Counts of a group, beside the ledger's own columns."""


class CannotArchive(ValueError):
    """Nothing was removed from the ledger (or nothing more). Says why, and what to do."""


class Archive(Struct, frozen=True, kw_only=True):
    """One archived month, or a later part of one. `cost` in picodollars; `archived_at` in seconds since the epoch."""

    id: str
    month: str
    file: str
    format: str
    sha256: str
    bytes: int
    rows: int
    cost: int
    archived_at: float


class _Written(Struct, frozen=True):
    rows: int
    digest: str
    groups: list[dict[str, Any]]
    left: Positions
    unsealed: int


def month_bounds(month: str) -> tuple[float, float]:
    """The first instant of a UTC month `YYYY-MM`, and of the next one, in seconds since the epoch. Raises `ValueError`."""
    if not re.fullmatch(r"\d{4}-\d{2}", month):
        raise ValueError(f"{month!r} is not a month, as 2026-01 is")
    year, number = int(month[:4]), int(month[5:])
    return datetime(year, number, 1, tzinfo=UTC).timestamp(), datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()


def month_of(moment: float, back: int = 0) -> str:
    """The UTC month of a moment, or that of `back` months before."""
    now = datetime.fromtimestamp(moment, UTC)
    year, number = divmod(now.year * 12 + now.month - 1 - back, 12)
    return f"{year:04}-{number + 1:02}"


def archive(
    database: Database, folder: Path, log: AuditLog, seals: SealKey, actor: Actor, *, before: str, form: Format = "csv", now: float | None = None
) -> Iterator[Archive]:
    """Archive every closed month before `before` (`YYYY-MM`), oldest first; each is done when it is yielded. `actor` stands in the log as who did. Blocking.

    Raises `CannotArchive`, and `ValueError` for what is no month.
    """
    moment = time.time() if now is None else now
    limit = month_bounds(before)[0]
    if limit + SETTLED_S > moment:
        raise CannotArchive(f"the months before {before} are not all closed: a month may be archived from the second day of the next one on")
    if not folder.is_dir():
        raise CannotArchive(f"there is no folder {folder}")
    for month in database.read_blocking(lambda connection: _months(connection, limit)):
        yield _archive_month(database, folder, log, seals, actor, month, form, moment)


def list_archives(connection: Connection) -> list[Archive]:
    return [Archive(**row) for row in connection.execute(select(archives).order_by(archives.c.month, archives.c.id)).mappings()]


def check_file(folder: Path, archived: Archive) -> str | None:
    """What is wrong with an archive's file, or None."""
    path = folder / archived.file
    if not path.is_file():
        return "missing"
    return None if _hash(path) == archived.sha256 else "changed: its hash is not the one that was recorded"


def _months(connection: Connection, limit: float) -> list[str]:
    """The months that have rows of their own to archive, oldest first."""
    found: list[str] = []
    after = 0.0
    while True:
        query = select(func.min(ledger.c.ended_at)).where(ledger.c.entry != OPENING, ledger.c.ended_at >= after, ledger.c.ended_at < limit)
        first = connection.execute(query).scalar()
        if first is None:
            return found
        found.append(month_of(first))
        after = month_bounds(found[-1])[1]


def _archive_month(database: Database, folder: Path, log: AuditLog, seals: SealKey, actor: Actor, month: str, form: Format, now: float) -> Archive:
    for _ in range(TRIES):
        done = _try_month(database, folder, log, seals, actor, month, form, now)
        if done is not None:
            return done
    raise CannotArchive(f"the rows of {month} change while they are archived: try again later")


def _try_month(database: Database, folder: Path, log: AuditLog, seals: SealKey, actor: Actor, month: str, form: Format, now: float) -> Archive | None:
    """None where the month's rows were not the same any more when they were to be removed; then nothing is changed in the database."""
    start, end = month_bounds(month)

    def mine(c: Any) -> tuple[sa.ColumnElement[bool], ...]:
        return (c.entry != OPENING, c.ended_at >= start, c.ended_at < end)

    def prepare(connection: Connection) -> tuple[str, TableShape]:
        open_ones = connection.execute(select(func.count()).select_from(reservations).where(reservations.c.created_at < end)).scalar_one()
        if open_ones:
            raise CannotArchive(
                f"{open_ones} requests that began before the end of {month} are still open: they are settled first, at the next start at the latest"
            )
        parts = connection.execute(select(func.count()).select_from(archives).where(archives.c.month == month)).scalar_one()
        (table,) = (table for table in read_tables(connection) if table.name == ledger.name)
        return f"ledger-{month}" + (f"-{parts + 1}" if parts else ""), table

    name, table = database.read_blocking(prepare)
    path = folder / f"{name}{SUFFIXES[form]}"
    earlier = _hash(path) if path.exists() else None
    checked = folder / f".{name}.checked"
    try:
        with written_whole(checked) as file:
            written = database.read_blocking(lambda connection: _write(connection, file, form, table, mine, seals))
        _compare(checked, form, table, written)
        sha256, size = _hash(checked), checked.stat().st_size
        if earlier is not None and earlier != sha256:
            raise CannotArchive(f"{path} is there already, and is not what this archive would be: move it away")
        checked.replace(path)
    finally:
        checked.unlink(missing_ok=True)
    done = Archive(
        id=name,
        month=month,
        file=path.name,
        format=form,
        sha256=sha256,
        bytes=size,
        rows=written.rows,
        cost=sum(group["cost"] for group in written.groups),
        archived_at=now,
    )
    _write_manifest(folder / f"{name}.json", done, table, written)

    def remove(connection: Connection) -> bool:
        exclusively(connection, STATE_LOCK)
        if connection.execute(select(archives.c.id).where(archives.c.id == name)).first() is not None:
            raise _Changed
        _sign(connection, log, done, end)
        if connection.execute(delete(ledger).where(*mine(ledger.c))).rowcount != written.rows:
            raise _Changed
        connection.execute(insert(archives), msgspec.structs.asdict(done))
        openings = [(_opening(group, name, start), group) for group in written.groups]
        sign_archived(connection, seals, name, written.left, written.unsealed)
        LedgerChain(seals).write(connection, [row for row, _ in openings])
        connection.execute(
            insert(ledger_openings),
            [{"id": row["id"], "archive": name, "rows": group[_ROWS], "requests": group[_REQUESTS]} for row, group in openings],
        )
        about = {"file": done.file, "sha256": done.sha256, "rows": done.rows, "cost": done.cost}
        log.append(connection, Entry(actor, "ledger.archive", Subject("ledger", name, "", about)))
        return True

    try:
        database.write_blocking(remove)
    except _Changed:
        if earlier is None:
            path.unlink()
            (folder / f"{name}.json").unlink()
        return None
    return done


def _sign(connection: Connection, log: AuditLog, done: Archive, end: float) -> None:
    """Cover the rows that ended before `end`, so that they may be removed, by the hash of the file that holds them."""
    newest = connection.execute(select(func.max(audit_checkpoints.c.seq)).where(audit_checkpoints.c.chain == LEDGER_CHAIN)).scalar() or 0
    signed = Head(newest + 1, done.sha256)
    values = {"chain": LEDGER_CHAIN, "seq": signed.position, "hash": signed.hash, "until": end, "at": done.archived_at}
    connection.execute(insert(audit_checkpoints), {**values, "mac": log.key.checkpoint(LEDGER_CHAIN, signed, end)})


class _Changed(Exception):
    """The rows are not those that were written; the transaction is undone."""


def _write(connection: Connection, file: Any, form: Format, table: TableShape, mine: Where, seals: SealKey) -> _Written:
    """Write the rows, and sum them up in the database, both of one moment. Raises `CannotArchive` for rows that are not as they were sealed."""
    snapshot(connection)
    left, unsealed = _places(connection, mine, seals)
    digest = _Digest(table)
    write_rows(file, form, table, digest.of(select_rows(connection, table, mine, order=("ended_at", "id"))))
    # A request counts once for each backend and model it tried, as in the reports, whichever of the groups its rows are in.
    turn = func.row_number().over(
        partition_by=[ledger.c.tenant, ledger.c.backend, ledger.c.model, ledger.c.request_id], order_by=[ledger.c.ended_at, ledger.c.id]
    )
    rows = select(ledger, turn.label("turn_")).where(*mine(ledger.c)).subquery()
    by = [column for column in rows.columns if column.name in BY]
    sums = [func.sum(rows.c[column.name]).label(column.name) for column in _added(ledger)]
    counts = (func.count().label(_ROWS), func.sum(sa.case((rows.c.turn_ == 1, 1), else_=0)).label(_REQUESTS))
    query = select(*by, *sums, *counts).group_by(*by).order_by(*by)
    whole = {column.name for column in _added(ledger) if isinstance(column.type, sa.Integer)} | {_ROWS, _REQUESTS}
    groups = [{name: int(value) if name in whole else value for name, value in row.items()} for row in connection.execute(query).mappings()]
    return _Written(digest.rows, digest.hexdigest(), groups, left, unsealed)


def _places(connection: Connection, mine: Where, seals: SealKey) -> tuple[Positions, int]:
    """Which positions the rows have, and how many have none: they were there before rows were sealed."""
    left, unsealed = Positions(), 0
    for chain, position, seal, _, *values in raw_rows(connection, *mine(ledger.c)):
        if (chain, position, seal) == UNSEALED:
            unsealed += 1
        elif seals.is_row(chain, position, seal, values):
            left.add(chain, position)
        else:
            raise CannotArchive(f"the row {values[0]} is not as it was sealed: it must not be signed with an archive. See headgate ledger verify")
    return left, unsealed


def _added(table: sa.Table) -> list[sa.Column[Any]]:
    """The columns that are added up."""
    return [
        column
        for column in table.columns
        if column.name not in SEAL_COLUMNS
        and (isinstance(column.type, sa.BigInteger) or (isinstance(column.type, sa.Float) and not column.name.endswith("_at")))
    ]


class _Digest:
    """A hash over rows as values, whatever file they are in."""

    def __init__(self, table: TableShape) -> None:
        self._lines = Lines(table)
        self._digest = hashlib.sha256()
        self.rows = 0

    def of(self, rows: Iterable[list[Any]]) -> Iterator[list[Any]]:
        for row in rows:
            self._digest.update(self._lines.write(list(row)) + b"\n")
            self.rows += 1
            yield row

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _compare(path: Path, form: Format, table: TableShape, written: _Written) -> None:
    """Read the file back. Raises `CannotArchive` unless it holds the very rows, and their sums are those of the database."""
    digest = _Digest(table)
    names = [column.name for column in table.columns]
    added = [(names.index(column.name), column.name) for column in _added(ledger) if isinstance(column.type, sa.Integer)]
    totals = dict.fromkeys((name for _, name in added), 0)
    for row in digest.of(read_rows(path, form, table)):
        for place, name in added:
            totals[name] += row[place] or 0
    wanted = {name: sum(group[name] for group in written.groups) for name in totals}
    if (digest.rows, digest.hexdigest(), totals) != (written.rows, written.digest, wanted):
        raise CannotArchive("the file does not hold what was written to it: nothing was removed from the ledger; is the disk well?")


def _write_manifest(path: Path, done: Archive, table: TableShape, written: _Written) -> None:
    content = {
        "headgate": version("headgate"),
        **msgspec.structs.asdict(done),
        "columns": [{"name": column.name, "kind": column.kind} for column in table.columns],
        "null": "\\N" if done.format == "csv" else None,
        "sums": {column.name: sum(group[column.name] or 0 for group in written.groups) for column in _added(ledger)},
    }
    with written_whole(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(content), indent=2))


def _opening(group: dict[str, Any], name: str, start: float) -> dict[str, Any]:
    """The row that stands for a group: at the first instant of its month."""
    own = {"id": fresh_id(), "request_id": f"archive:{name}", "entry": OPENING, "outcome": "archived", "price": "{}", "started_at": start, "ended_at": start}
    return {column.name: own.get(column.name, group.get(column.name, _empty(column))) for column in ledger.columns}


def _empty(column: sa.Column[Any]) -> Any:
    if column.nullable:
        return None
    match column.type:
        case sa.Boolean():
            return False
        case sa.Integer() | sa.Float():
            return 0
        case _:
            return ""


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
