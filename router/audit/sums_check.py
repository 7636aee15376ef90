"""Whether what stands for the ledger's rows says what they say: the sums by day, and the opening rows of months that were archived."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, literal_column, select

from router.audit.chain import ChainKey, Head, same
from router.audit.findings import Finding
from router.audit.tables import LEDGER_CHAIN, audit_checkpoints
from router.money.rollup import COUNTED, COUNTED_AS, DIMENSIONS, MEASURES, day_of, usage_days
from router.storage.tables import OPENING, archives, ledger_openings
from router.tables import ledger

_Line = tuple[str, ...]
_Sums = dict[_Line, tuple[int, ...]]
DAY_S = 86_400


def check_sums(connection: Connection) -> Iterator[Finding]:
    """The sums by day are those of the rows; of an archived month, the sums of the month."""
    archived = set(connection.execute(select(archives.c.month)).scalars())
    rows, kept = _of_rows(connection, archived), _kept(connection, archived)
    for line in sorted({*rows, *kept}):
        whole_month = len(line[0]) < len("2026-01-01")
        expected, found = rows.get(line, _NOTHING), kept.get(line, _NOTHING)
        for name, ours, theirs in zip(MEASURES, expected, found, strict=True):
            if ours != theirs and not (whole_month and name in COUNTED):  # how many rows an opening row stands for is told elsewhere
                message = "is not the sum of the ledger's rows"
                yield Finding("usage_days", " ".join(part for part in line if part), name, message, str(ours), str(theirs))


_NOTHING = (0,) * len(MEASURES)


def _of_rows(connection: Connection, archived: set[str]) -> _Sums:
    seconds = "CAST(ended_at AS BIGINT)" if connection.dialect.name == "sqlite" else "CAST(floor(ended_at) AS BIGINT)"
    names: list[ColumnElement[Any]] = [literal_column(name) for name in (f"{seconds} / {DAY_S}", *DIMENSIONS[1:])]
    sums: list[ColumnElement[Any]] = [func.sum(literal_column(COUNTED_AS.get(name, name))) for name in MEASURES]
    return _pooled(((day_of(day * DAY_S), *rest) for day, *rest in connection.execute(select(*names, *sums).select_from(ledger).group_by(*names))), archived)


def _kept(connection: Connection, archived: set[str]) -> _Sums:
    return _pooled(connection.execute(select(*(usage_days.c[name] for name in (*DIMENSIONS, *MEASURES)))), archived)


def _pooled(lines: Any, archived: set[str]) -> _Sums:
    """Lines by their dimensions; the days of an archived month together, for of which day what is archived was, only its file says."""
    found: _Sums = {}
    for day, *rest in lines:
        line = (day[:7] if day[:7] in archived else day, *rest[: len(DIMENSIONS) - 1])
        sums = tuple(int(value) for value in rest[len(DIMENSIONS) - 1 :])
        known = found.get(line)
        found[line] = sums if known is None else tuple(map(add, known, sums))
    return {line: sums for line, sums in found.items() if any(sums)}


def check_archives(connection: Connection, key: ChainKey) -> Iterator[Finding]:
    """The opening rows say what their archives hold, and the hash of each archive's file is signed."""
    stand = select(ledger_openings.c.archive, func.sum(ledger_openings.c.rows).label("rows"), func.sum(ledger.c.cost).label("cost"))
    joined = stand.select_from(ledger_openings.outerjoin(ledger, ledger.c.id == ledger_openings.c.id)).group_by(ledger_openings.c.archive)
    openings = {row.archive: row for row in connection.execute(joined)}
    signed = set()
    for row in connection.execute(select(audit_checkpoints).where(audit_checkpoints.c.chain == LEDGER_CHAIN)):
        if same(key.checkpoint(LEDGER_CHAIN, Head(row.seq, row.hash), row.until), row.mac):
            signed.add(row.hash)
        else:
            message = "was changed or added, or the secret was replaced: rows of the ledger may have been removed"
            yield Finding("audit_checkpoints", f"{LEDGER_CHAIN} {row.seq}", "mac", message, "a checkpoint of this service's", "another")
    for archive in connection.execute(select(archives).order_by(archives.c.id)):
        standing = openings.pop(archive.id, None)
        for name, expected in (("rows", archive.rows), ("cost", archive.cost)):
            found = 0 if standing is None else int(getattr(standing, name) or 0)
            if found != expected:
                yield Finding("archives", archive.id, name, "is not what its opening rows stand for", str(expected), str(found))
        if archive.sha256 not in signed:
            yield Finding("archives", archive.id, "sha256", "no checkpoint signs this hash", "a signed hash", archive.sha256)
    for name in sorted(openings):
        yield Finding("ledger_openings", name, "archive", "names no archive", "an archive", name)
    unknown = select(ledger.c.id).where(ledger.c.entry == OPENING, ledger.c.id.not_in(select(ledger_openings.c.id))).order_by(ledger.c.id)
    for each in connection.execute(unknown).scalars():
        yield Finding("ledger", each, "entry", "an opening row of no archive", "one that stands for archived rows", "an unknown one")
