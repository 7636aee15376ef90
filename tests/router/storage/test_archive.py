"""Archives: a closed month leaves the ledger for a file, and no total changes."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import DBAPIError

from config.database import Database, open_database
from router.audit import reading
from router.audit.chain import ChainKey
from router.audit.log import SYSTEM, AuditLog
from router.audit.seal_check import check_seals
from router.audit.sums_check import check_archives, check_sums
from router.audit.tables import audit_checkpoints
from router.audit.triggers import changeable
from router.identity.tables import tenants
from router.launch import migrate_state
from router.money import reports
from router.money.books import write_rows
from router.money.periods import parse_month
from router.money.rollup import day_of, usage_days
from router.money.sealing import INSERT_LEDGER, LedgerChain, ledger_archived
from router.money.statement import make_statement
from router.storage import archive as archiving
from router.storage.archive import Archive, CannotArchive, check_file, list_archives, month_bounds, month_of
from router.storage.archive_files import Format, read_rows
from router.storage.backup import open_backup, write_backup
from router.storage.restore import restore
from router.storage.rows import read_tables
from router.storage.tables import Archived, archives, ledger_openings
from router.tables import ledger, reservations
from tests.router.cli.kit import Command, headgate
from tests.seals import SEALS, SECRET

__all__ = ["headgate"]
MONTHS = ("2025-11", "2025-12", "2026-01")
NOW = datetime(2026, 2, 10, tzinfo=UTC).timestamp()
TEXTS = (None, "", "\\N", "\\", 'a "quoted", cell\r\nof two lines', "北京")


def archive(database: Database, folder: Path, **given: Any) -> Iterator[Archive]:
    return archiving.archive(database, folder, AuditLog(database, SECRET), SEALS, SYSTEM, **given)


def row(number: int, month: str, random: random.Random) -> dict[str, Any]:
    """A plausible row for whatever columns the ledger has."""
    start, end = month_bounds(month)
    at = random.uniform(start, end - 1)
    values: dict[str, Any] = {
        "id": f"id-{month}-{number}",
        "request_id": f"r{number // 2}-{month}",
        "entry": "settlement",
        "tenant": random.choice(["acme", "globex"]),
        "backend": random.choice(["mini", "large"]),
        "provider": "openai",
        "model": "gpt",
        "outcome": "ok",
        "usage_source": random.choice(["provider", "estimated"]),
        "error": random.choice(TEXTS),
        "provider_request_id": random.choice(TEXTS),
        "cost": random.choice([0, 1, 7_000_000_000_000, random.randrange(10**12)]),
        "started_at": at - 1,
        "ended_at": at,
    }
    for column in ledger.columns:
        if column.name not in values and not column.nullable:
            kind = column.type.python_type
            values[column.name] = random.randrange(1000) if kind is int else kind() if kind is not str else f"a {column.name}"[:16]
    return values


def put(database: Database, months: tuple[str, ...] = MONTHS, count: int = 60) -> None:
    chance = random.Random(5)
    rows = [row(number, month, chance) for month in months for number in range(count)]
    database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), rows))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    migrate_state(database)
    yield database
    database.close()


def totals(database: Database) -> list[Any]:
    """What the reports say: over all time, and for each month; and what the rows of the ledger add up to."""
    spans = [(None, None), *(month_bounds(month) for month in MONTHS)]
    said = [database.read_blocking(lambda connection, span=span: reports.usage(connection, since=span[0], until=span[1])) for span in spans]  # type: ignore[misc]
    assert said[0]
    groups = (ledger.c.tenant, ledger.c.backend, ledger.c.model)
    sums = select(*groups, func.sum(ledger.c.cost), func.sum(ledger.c.input_tokens)).group_by(*groups).order_by(*groups)
    return [said, database.read_blocking(lambda connection: [(*row[:3], int(row[3]), int(row[4])) for row in connection.execute(sums)])]


def months_in(database: Database) -> set[str]:
    rows = database.read_blocking(lambda connection: connection.execute(select(ledger.c.ended_at).where(ledger.c.entry != "opening")).scalars().all())
    return {month_of(each) for each in rows}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_closed_months_leave_the_ledger_and_every_total_stays(database: Database, tmp_path: Path, form: Format) -> None:
    put(database)
    before = totals(database)
    closed = select(ledger).where(ledger.c.ended_at < month_bounds("2026-01")[0]).order_by(ledger.c.ended_at, ledger.c.id)
    wanted = database.read_blocking(lambda connection: [dict(each) for each in connection.execute(closed).mappings()])
    done = list(archive(database, tmp_path, before="2026-01", form=form, now=NOW))
    assert [(each.month, each.rows) for each in done] == [("2025-11", 60), ("2025-12", 60)]
    assert months_in(database) == {"2026-01"}
    assert totals(database) == before
    (table,) = database.read_blocking(lambda connection: [each for each in read_tables(connection) if each.name == "ledger"])
    names = [column.name for column in table.columns]
    assert [dict(zip(names, each, strict=True)) for one in done for each in read_rows(tmp_path / one.file, form, table)] == wanted
    assert sum(each.cost for each in done) == sum(each["cost"] for each in wanted)
    for each in done:
        assert each.sha256 == hashlib.sha256((tmp_path / each.file).read_bytes()).hexdigest()
        manifest = json.loads((tmp_path / f"ledger-{each.month}.json").read_text())
        assert (manifest["rows"], manifest["sha256"], manifest["sums"]["cost"]) == (60, each.sha256, each.cost)
        assert check_file(tmp_path, each) is None
    assert database.read_blocking(list_archives) == done
    stand_for = database.read_blocking(lambda c: c.execute(select(func.sum(ledger_openings.c.rows))).scalar_one())
    assert int(stand_for) == 120
    assert list(archive(database, tmp_path, before="2026-01", form=form, now=NOW)) == []  # an opening row is never archived
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("ledger", "."))) == sorted(
        name for each in done for name in (each.file, f"ledger-{each.month}.json")
    )


def findings(database: Database, *statements: Any) -> set[tuple[str, str, str]]:
    """What checking the books says of sums and archives, once these have run; nothing of it stays."""

    class Undone(Exception): ...

    said: set[tuple[str, str, str]] = set()

    def work(connection: Connection) -> None:
        with changeable(connection, "ledger", "audit_checkpoints"):
            for statement in statements:
                connection.execute(statement)
        key = ChainKey(SECRET)
        said.update((each.table, each.row, each.column) for each in [*check_sums(connection), *check_archives(connection, key)])
        raise Undone

    with pytest.raises(Undone):
        database.write_blocking(work)
    return said


def test_archives_are_signed_and_recorded_and_the_sums_are_held_against_rows_and_openings(database: Database, tmp_path: Path) -> None:
    put(database)
    assert findings(database) == set()
    with pytest.raises(DBAPIError, match="append only"):
        database.write_blocking(lambda connection: connection.execute(delete(ledger)))
    done = list(archive(database, tmp_path, before="2026-01", now=NOW))
    assert findings(database) == set()
    entries, _ = database.read_blocking(lambda connection: reading.entries(connection, reading.Wanted(action="ledger.archive"), limit=10))
    assert [(each.object_id, each.details["sha256"], each.details["rows"]) for each in reversed(entries)] == [
        (each.id, each.sha256, each.rows) for each in done
    ]
    with pytest.raises(DBAPIError, match="append only"):  # of what is not archived nothing may go
        database.write_blocking(lambda connection: connection.execute(delete(ledger).where(ledger.c.entry != "opening")))

    opening = select(ledger.c.id).where(ledger.c.entry == "opening", ledger.c.tenant == "acme", ledger.c.cost > 0).order_by(ledger.c.id).limit(1)
    one = database.read_blocking(lambda connection: connection.execute(opening).scalar_one())
    cheaper = findings(database, update(ledger).where(ledger.c.id == one).values(cost=ledger.c.cost - 1))
    assert {(table, column) for table, _, column in cheaper} == {("usage_days", "cost"), ("archives", "cost")}
    gone = findings(database, delete(ledger_openings).where(ledger_openings.c.id == one))
    assert ("ledger", one, "entry") in gone
    assert {(table, column) for table, _, column in gone} == {("archives", "rows"), ("archives", "cost"), ("ledger", "entry")}
    kept = select(ledger.c.id).where(ledger.c.entry != "opening").order_by(ledger.c.id).limit(1)
    row_kept = database.read_blocking(lambda connection: connection.execute(kept).scalar_one())
    changed = findings(database, update(ledger).where(ledger.c.id == row_kept).values(input_tokens=ledger.c.input_tokens + 1))
    assert {(table, row[:10], column) for table, row, column in changed} == {("usage_days", row_kept_day(database, row_kept), "input_tokens")}
    name = done[0].id
    assert findings(database, update(archives).where(archives.c.id == name).values(sha256="0" * 64)) == {("archives", name, "sha256")}
    forged = findings(database, update(audit_checkpoints).where(audit_checkpoints.c.seq == 2).values(until=9e9))
    assert forged == {("audit_checkpoints", "ledger 2", "mac"), ("archives", done[1].id, "sha256")}


def row_kept_day(database: Database, row_id: str) -> str:
    ended = database.read_blocking(lambda connection: connection.execute(select(ledger.c.ended_at).where(ledger.c.id == row_id)).scalar_one())
    return day_of(ended)


def test_a_row_that_comes_to_an_archived_month_later_is_archived_beside_it(database: Database, tmp_path: Path) -> None:
    put(database, ("2025-11",))
    list(archive(database, tmp_path, before="2025-12", now=NOW))
    late = row(999, "2025-11", random.Random(1))
    database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), [late]))
    before = totals(database)
    (second,) = archive(database, tmp_path, before="2025-12", now=NOW)
    assert (second.id, second.rows) == ("ledger-2025-11-2", 1)
    assert totals(database) == before


def test_a_month_that_changes_meanwhile_is_written_again_and_a_file_that_is_not_ours_is_not_touched(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(database, ("2025-11",))
    before = totals(database)
    compare, late = archiving._compare, [row(999, "2025-11", random.Random(1))]

    def and_then_one_comes(*arguments: Any) -> None:
        compare(*arguments)
        if late:
            one = late.pop()
            database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), [one]))

    monkeypatch.setattr(archiving, "_compare", and_then_one_comes)
    (done,) = archive(database, tmp_path, before="2025-12", now=NOW)
    assert done.rows == 61
    assert check_file(tmp_path, done) is None
    assert totals(database) != before
    put(database, ("2025-12",))
    (tmp_path / "ledger-2025-12.csv.gz").write_bytes(b"another installation's")
    with pytest.raises(CannotArchive, match="move it away"):
        list(archive(database, tmp_path, before="2026-01", now=NOW))
    assert (tmp_path / "ledger-2025-12.csv.gz").read_bytes() == b"another installation's"
    assert "2025-12" in months_in(database)


def test_a_file_that_does_not_hold_what_was_written_stops_everything(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(database, ("2025-11",))

    def losing(*arguments: Any) -> Iterator[list[Any]]:
        rows = list(read_rows(*arguments))
        rows[3][[column.name for column in arguments[2].columns].index("cost")] += 1
        yield from rows

    monkeypatch.setattr(archiving, "read_rows", losing)
    with pytest.raises(CannotArchive, match="nothing was removed"):
        list(archive(database, tmp_path, before="2025-12", now=NOW))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".ledger", "ledger"))] == []
    assert database.read_blocking(lambda c: c.execute(select(func.count()).select_from(ledger)).scalar_one()) == 60


def test_what_is_open_or_not_closed_is_not_archived(database: Database, tmp_path: Path) -> None:
    put(database)
    start = month_bounds("2026-02")[0]
    for now in (start - 1, start + 86_399):
        with pytest.raises(CannotArchive, match="not all closed"):
            list(archive(database, tmp_path, before="2026-02", now=now))
    with pytest.raises(CannotArchive, match="no folder"):
        list(archive(database, tmp_path / "missing", before="2026-01", now=NOW))
    held = {"request_id": "r", "purpose": "answer", "worker": "w", "tenant": "acme", "key_id": "k", "day": "d", "month": "m", "amount": 1, "attempt": 1}
    more = {"plan": "{}", "policy_version": 1, "created_at": month_bounds("2025-12")[1] - 1}
    blank: dict[str, Any] = {c.name: "" for c in reservations.columns if not c.nullable and c.name not in {**held, **more}}
    database.write_blocking(lambda connection: connection.execute(insert(reservations), {**blank, **held, **more}) and None)
    assert months_in(database) == set(MONTHS)
    with pytest.raises(CannotArchive, match="1 requests that began before the end of 2025-12"):
        list(archive(database, tmp_path, before="2026-01", now=NOW))
    assert months_in(database) == {"2025-12", "2026-01"}  # the month before it was done


def test_archives_and_openings_survive_a_backup(database: Database, tmp_path: Path) -> None:
    from retrieval.blobs import FolderBlobs
    from router.launch import MIGRATIONS

    put(database)
    list(archive(database, tmp_path, before="2026-01", now=NOW))
    before = totals(database), database.read_blocking(list_archives)
    write_backup(database, tmp_path / "backup.zip")
    with open_backup(tmp_path / "backup.zip") as backup:
        restore(backup, database, MIGRATIONS, FolderBlobs(tmp_path), replace=True)
    assert (totals(database), database.read_blocking(list_archives)) == before
    assert seals(database) == []


def seals(database: Database, *statements: Any) -> list[str]:
    """The rows that the seals find, once these have run; nothing of it stays."""

    class Undone(Exception): ...

    said: list[str] = []

    def work(connection: Connection) -> None:
        with changeable(connection, "ledger"):
            for statement in statements:
                connection.execute(statement)
        said.extend(each.row for each in check_seals(connection, SEALS))
        raise Undone

    with pytest.raises(Undone):
        database.write_blocking(work)
    return said


def test_rows_that_left_with_an_archive_are_not_missed_and_no_others_can_leave(database: Database, tmp_path: Path) -> None:
    chance = random.Random(3)
    unsealed = [{**row(number, "2025-11", chance), "chain": "", "position": 0, "seal": ""} for number in range(100, 103)]
    database.write_blocking(lambda connection: INSERT_LEDGER.run(connection, unsealed) and None)
    put(database)  # one chain, over three months
    assert seals(database) == []
    gone = database.read_blocking(lambda connection: dict(connection.execute(select(ledger).where(ledger.c.id == "id-2025-11-7")).mappings().one()))
    assert [each.rows for each in archive(database, tmp_path, before="2026-01", now=NOW)] == [63, 60]
    assert seals(database) == []
    assert seals(database, insert(ledger).values(gone)) == [gone["id"]]
    assert seals(database, delete(ledger).where(ledger.c.id == "id-2026-01-3")) == [f"chain {gone['chain']}"]
    assert sorted(set(seals(database, delete(ledger_archived)))) == [f"chain {gone['chain']}", "rows without a seal"]
    stretched = seals(database, update(ledger_archived).values(last=ledger_archived.c.last + 60))
    assert any(each.startswith("ledger-2025-12 ") for each in stretched)
    late = row(900, "2025-11", chance)
    database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), [late]))
    assert seals(database) == []
    assert [each.rows for each in archive(database, tmp_path, before="2026-01", now=NOW)] == [1]
    assert seals(database) == []


def test_sums_that_are_made_anew_count_what_opening_rows_stand_for(database: Database, tmp_path: Path) -> None:
    """As the migration does that adds them, when a database goes below it and back."""
    from tests.router.money import migrating

    chance = random.Random(11)
    changes = {"attempt": 1, "purpose": "answer"}
    rows = [{**row(number, month, chance), **changes, "request_id": f"r{number}-{month}"} for month in MONTHS for number in range(40)]
    database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), rows))

    def totals(connection: Connection) -> list[reports.UsageLine]:
        return reports.usage(connection, by=("month", "tenant", "backend"))

    before = database.read_blocking(totals)
    assert sum(line.sums["requests"] for line in before) == sum(line.sums["attempts"] for line in before) == len(rows)
    assert len(list(archive(database, tmp_path, before="2026-01", now=NOW))) == 2

    def anew(connection: Connection) -> None:
        connection.execute(delete(usage_days))
        migrating.revision("0010_reports")._fill(connection)

    database.write_blocking(anew)
    assert database.read_blocking(totals) == before


def test_a_row_that_is_not_as_it_was_sealed_is_not_signed_with_an_archive(database: Database, tmp_path: Path) -> None:
    put(database)

    def change(connection: Connection) -> None:
        with changeable(connection, "ledger"):
            connection.execute(update(ledger).where(ledger.c.id == "id-2025-12-3").values(outcome="ok?"))

    database.write_blocking(change)
    with pytest.raises(CannotArchive, match="id-2025-12-3 is not as it was sealed"):
        list(archive(database, tmp_path, before="2026-01", now=NOW))
    assert [each.month for each in database.read_blocking(list_archives)] == ["2025-11"]
    assert seals(database) == ["id-2025-12-3"]


def test_months_are_counted_in_utc() -> None:
    assert month_bounds("2025-12") == (datetime(2025, 12, 1, tzinfo=UTC).timestamp(), datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert [month_of(month_bounds("2026-01")[0] - 0.001), month_of(month_bounds("2026-01")[0])] == ["2025-12", "2026-01"]
    assert [month_of(NOW, back) for back in (0, 1, 2, 26)] == ["2026-02", "2026-01", "2025-12", "2023-12"]
    for wrong in ("2026", "2026-13", "26-01", "2026-1", ""):
        with pytest.raises(ValueError, match="month"):
            month_bounds(wrong)


def test_the_commands_archive_list_and_check(headgate: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_SECRET", SECRET.decode())
    assert headgate("tenants", "create", "acme").status == 0
    database = open_database(f"sqlite:///{tmp_path / 'var' / 'headgate.db'}")
    put(database, ("2025-11", "2025-12"))
    database.close()
    (tmp_path / "kept").mkdir()
    assert "say --before 2026-01, or set `ledger_months`" in headgate("ledger", "archive", "--to", "kept").err
    assert headgate("ledger", "archive", "--to", "kept", "--before", "2026-13").status == 2
    assert "not all closed" in headgate("ledger", "archive", "--to", "kept", "--before", "2999-01").err
    (first,) = headgate("ledger", "archive", "--to", "kept", "--before", "2025-12", "--json").json
    assert (first["month"], first["rows"]) == ("2025-11", 60)
    assert "2025-12: 60 rows" in headgate("ledger", "archive", "--to", "kept", HEADGATE_LEDGER_MONTHS="1").out
    assert "no rows of its own" in headgate("ledger", "archive", "--to", "kept", HEADGATE_LEDGER_MONTHS="1").out
    with gzip.open(tmp_path / "kept" / first["file"], "rt", newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 60
    listed = headgate("ledger", "archives", "--check", "kept", "--json").json
    assert [(each["month"], each["problem"]) for each in listed] == [("2025-11", None), ("2025-12", None)]
    (tmp_path / "kept" / first["file"]).write_bytes(b"")
    (tmp_path / "kept" / "ledger-2025-12.csv.gz").unlink()
    checked = headgate("ledger", "archives", "--check", "kept")
    assert checked.status == 1
    assert ("changed" in checked.out, "missing" in checked.out) == (True, True)


def test_a_part_of_a_day_of_an_archived_month_is_refused_rather_than_reported_without_its_rows(database: Database, tmp_path: Path) -> None:
    put(database, ("2025-11",))
    start, end = month_bounds("2025-11")
    whole = database.read_blocking(lambda connection: reports.usage(connection, since=start, until=end))
    list(archive(database, tmp_path, before="2025-12", now=NOW))
    assert database.read_blocking(lambda connection: reports.usage(connection, since=start, until=end)) == whole
    with pytest.raises(Archived, match="2025-11"):
        database.read_blocking(lambda connection: reports.usage(connection, since=start + 10, until=end))
    database.write_blocking(lambda connection: connection.execute(insert(tenants), {"name": "acme", "created_at": 0.0}) and None)
    with pytest.raises(Archived, match="2025-11"):
        database.read_blocking(lambda connection: make_statement(connection, "acme", parse_month("2025-11")))
