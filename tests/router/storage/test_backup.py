"""Backups: of one moment, whole or not there, and the same state again on either database."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, insert, select, update

from adapters.types import Usage
from config.database import Database, open_database
from config.schema import downgrade, read_revisions, read_state, upgrade
from config.secretfile import load_secret
from retrieval.blobs import FolderBlobs, blob_name
from retrieval.tables import chunks, files, vector_stores
from router.identity.tables import tenants
from router.identity.tenants import create_tenant
from router.kept.tables import kept_responses
from router.launch import MIGRATIONS, migrate_state
from router.money.accounting import Accounting
from router.money.settlement import Caps, Settlement
from router.storage.backup import Damaged, open_backup, write_backup
from router.storage.restore import Refused, restore
from router.storage.rows import CannotLoad, ColumnShape, Lines, TableShape
from router.tables import budgets, ledger, policy_versions, reservations, workers
from tests.config.filling import Rows, fill, missing, rows_of
from tests.router.money.test_accounting import plan
from tests.serving import environment, headgate, headgate_json, served

REVISIONS = [each.id for each in read_revisions(MIGRATIONS)]


@pytest.fixture
def opened() -> Iterator[Callable[..., Database]]:
    """Open databases; closed at the end."""
    databases: list[Database] = []

    def open_one(url: str, revision: str | None = REVISIONS[-1]) -> Database:
        database = open_database(url)
        databases.append(database)
        if revision is not None:
            database.alter_blocking(lambda connection: upgrade(connection, MIGRATIONS, revision))
        return database

    yield open_one
    for database in databases:
        database.close()


@pytest.fixture
def database(opened: Callable[..., Database], empty_database_url: str) -> Database:
    return opened(empty_database_url)


def restored(path: Path, database: Database, blobs: FolderBlobs | None = None, *, replace: bool = False) -> None:
    with open_backup(path) as backup:
        restore(backup, database, MIGRATIONS, blobs or FolderBlobs(path.parent / "files"), replace=replace)


def same(left: Rows, right: Rows) -> bool:
    return left.keys() == right.keys() and missing(left, right) == {} and missing(right, left) == {}


def content(path: Path) -> dict[str, list[dict[str, Any]]]:
    """A backup's rows, read as anybody would: with unzip and a JSON parser."""
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        found = {}
        for table in manifest["tables"]:
            names = [column["name"] for column in table["shape"]["columns"]]
            lines = archive.read(table["member"]["name"]).decode().splitlines()
            found[table["shape"]["name"]] = [dict(zip(names, json.loads(line), strict=True)) for line in lines]
        return found


# --- the same state again --------------------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
@pytest.mark.parametrize("revision", REVISIONS)
def test_a_backup_of_any_revision_goes_from_sqlite_to_postgresql_and_back(
    opened: Callable[..., Database], empty_postgres_url: str, tmp_path: Path, revision: str
) -> None:
    first = opened(f"sqlite:///{tmp_path / 'first.db'}", revision)
    first.write_blocking(fill)
    before = first.read_blocking(rows_of)
    write_backup(first, tmp_path / "first.zip")
    second = opened(empty_postgres_url, None)
    restored(tmp_path / "first.zip", second)
    assert second.read_blocking(lambda connection: read_state(connection, MIGRATIONS)).standing == "current"
    assert missing(before, second.read_blocking(rows_of)) == {}
    write_backup(second, tmp_path / "second.zip")
    third = opened(f"sqlite:///{tmp_path / 'third.db'}", None)
    restored(tmp_path / "second.zip", third)
    assert same(third.read_blocking(rows_of), second.read_blocking(rows_of))
    first.alter_blocking(lambda connection: upgrade(connection, MIGRATIONS))
    assert same(third.read_blocking(rows_of), first.read_blocking(rows_of))


QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""An example takes a second here: what fails is shown as it was found."""

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=30)
INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
REAL = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
KEPT = st.fixed_dictionaries(
    {"tenant": TEXT, "previous_id": st.none() | TEXT, "conversation": st.none() | TEXT, "data_class": TEXT.map(lambda text: text[:16])}
    | {"content": st.binary(max_size=300), "created_at": REAL, "expires_at": REAL}
)
STORE = st.fixed_dictionaries(
    {"tenant": TEXT, "name": TEXT, "metadata": JSON, "data_class": TEXT.map(lambda text: text[:16]), "version": INT64, "removals": INT64}
    | {"expires_after_days": st.none() | st.integers(-(2**31), 2**31 - 1), "last_active_at": REAL, "expires_at": st.none() | REAL, "created_at": REAL}
)


@pytest.mark.postgres
@settings(max_examples=5, deadline=None, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.lists(KEPT, min_size=2, max_size=15), stores=st.lists(STORE, min_size=2, max_size=15))
def test_whatever_stands_in_a_row_comes_back_from_either_database(
    empty_postgres_url: str, tmp_path: Path, kept: list[dict[str, Any]], stores: list[dict[str, Any]]
) -> None:
    def put(connection: Connection) -> None:
        for table, rows in ((kept_responses, kept), (vector_stores, stores)):
            connection.execute(sa.delete(table))
            for number, row in enumerate(rows):
                connection.execute(insert(table), {"id": f"row{number}", **row})

    databases = [open_database(url) for url in (f"sqlite:///{tmp_path / 'a.db'}", empty_postgres_url, f"sqlite:///{tmp_path / 'c.db'}")]
    try:
        migrate_state(databases[0])
        databases[0].write_blocking(put)
        wanted = databases[0].read_blocking(rows_of)
        for source, target in pairwise(databases):
            write_backup(source, tmp_path / "backup.zip")
            restored(tmp_path / "backup.zip", target, replace=True)
            assert same(target.read_blocking(rows_of), wanted)
    finally:
        for database in databases:
            database.close()


@given(
    st.lists(
        st.tuples(st.none() | INT64, st.none() | st.floats(), st.none() | TEXT, st.none() | st.binary(), st.none() | st.booleans(), st.none() | TEXT),
        max_size=5,
    )
)
def test_a_row_is_one_line_that_says_everything(rows: list[tuple[Any, ...]]) -> None:
    kinds = ("integer", "real", "text", "bytes", "boolean", "json")
    lines = Lines(TableShape("t", tuple(ColumnShape(kind, kind) for kind in kinds)))  # type: ignore[arg-type]
    written = b"\n".join(lines.write(list(row)) for row in rows)
    back = [tuple(lines.read(line)) for line in written.split(b"\n")] if rows else []
    assert [repr(row) for row in back] == [repr(row) for row in rows]  # repr: NaN is not itself, and -0.0 is 0.0


def test_numbers_that_were_given_out_once_are_not_given_out_again(opened: Callable[..., Database], empty_database_url: str, tmp_path: Path) -> None:
    source, target = opened(f"sqlite:///{tmp_path / 'source.db'}"), opened(empty_database_url)
    source.write_blocking(fill)
    source.write_blocking(lambda connection: connection.execute(sa.delete(chunks).where(chunks.c.id > 2)) and None)
    source.write_blocking(lambda connection: connection.execute(update(policy_versions).values(active=False)) and None)
    write_backup(source, tmp_path / "backup.zip")
    restored(tmp_path / "backup.zip", target)
    write_backup(target, tmp_path / "again.zip")
    for number in range(2):  # the second time by way of the target's own backup
        with open_backup(tmp_path / "again.zip") as backup:
            assert {table.shape.name: table.counter for table in backup.manifest.tables}["chunks"] == 4
        row = target.read_blocking(lambda connection: dict(connection.execute(select(chunks).where(chunks.c.id == 1)).mappings().one()))
        columns = {name: value for name, value in row.items() if name != "id"}
        assert target.write_blocking(lambda connection, columns=columns: connection.execute(insert(chunks), columns).inserted_primary_key) == (5,)  # type: ignore[misc]
        version = {"hash": "h", "text": "t", "source": "s", "author": "a", "created_at": 0.0, "active": True}
        largest = target.read_blocking(lambda connection: connection.execute(select(func.max(policy_versions.c.version))).scalar_one())
        made = target.write_blocking(lambda connection, version=version: connection.execute(insert(policy_versions), version).inserted_primary_key)  # type: ignore[misc]
        assert made == (largest + 1,)
        if number == 0:
            restored(tmp_path / "again.zip", target, replace=True)


# --- of one moment ---------------------------------------------------------------------------------------------------------------------------


async def test_a_backup_taken_while_requests_are_booked_is_consistent(database: Database, tmp_path: Path) -> None:
    books = [Accounting(database, f"w{number}") for number in range(4)]
    stop = asyncio.Event()

    async def load(number: int) -> int:
        done = 0
        while not stop.is_set():
            booking = await books[number].reserve(f"r{number}-{done}", f"tenant{done % 3}", "key", 1, Caps(), plan(100 + done % 50, 10))
            usage = Usage(input_tokens=10, output_tokens=1, source="provider")
            await books[number].settle(booking, Settlement("ok", usage, 7_000_000 + done, None, "gpt", 3, None, 1_795_000_000.0 + done))
            done += 1
        return done

    running = [asyncio.create_task(load(number)) for number in range(4)]
    seen = []
    for number in range(4):
        path = tmp_path / f"{number}.zip"
        await asyncio.to_thread(write_backup, database, path)
        rows = content(path)
        spent: defaultdict[str, int] = defaultdict(int)
        held: defaultdict[str, int] = defaultdict(int)
        for row in rows["ledger"]:
            spent[row["tenant"]] += row["cost"]
        for row in rows["reservations"]:
            held[row["tenant"]] += row["amount"]
        for row in rows["budgets"]:
            assert (row["spent"], row["reserved"]) == (spent[row["tenant"]], held[row["tenant"]])
        seen.append(len(rows["ledger"]))
    stop.set()
    done = sum(await asyncio.gather(*running))
    await database.aclose()
    assert sorted(seen) == seen
    assert 0 < seen[-1] <= done


def test_memory_does_not_grow_with_the_table(opened: Callable[..., Database], tmp_path: Path) -> None:
    source, target = opened(f"sqlite:///{tmp_path / 'a.db'}"), opened(f"sqlite:///{tmp_path / 'b.db'}")
    row = {"tenant": "acme", "data_class": "internal", "content": b"x" * 1000, "created_at": 1.0, "expires_at": 2.0}
    rows = [{"id": f"row{number}", **row} for number in range(20_000)]
    source.write_blocking(lambda connection: connection.execute(insert(kept_responses), rows) and None)
    rows.clear()
    tracemalloc.start()
    try:
        write_backup(source, tmp_path / "backup.zip")
        restored(tmp_path / "backup.zip", target)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20  # of 36 MB in the file before compression
    assert target.read_blocking(lambda connection: connection.execute(select(func.count()).select_from(kept_responses)).scalar_one()) == 20_000


# --- whole or not there ----------------------------------------------------------------------------------------------------------------------


KILLED = """
import os, pathlib, signal, sys
pathlib.Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["headgate", "backup", "backup.zip"]
from router.cli import main
main()
"""


def test_a_kill_before_the_last_moment_leaves_the_earlier_backup(tmp_path: Path) -> None:
    assert headgate(tmp_path, "tenants", "create", "acme").returncode == 0
    assert headgate(tmp_path, "backup", "backup.zip").returncode == 0
    assert stat.S_IMODE((tmp_path / "backup.zip").stat().st_mode) == 0o600
    earlier = (tmp_path / "backup.zip").read_bytes()
    assert headgate(tmp_path, "tenants", "create", "globex").returncode == 0
    killed = subprocess.run([sys.executable, "-c", KILLED], env=environment(tmp_path), cwd=tmp_path, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "backup.zip").read_bytes() == earlier
    (draft,) = tmp_path.glob(".backup.zip.*.part")
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    with open_backup(draft) as complete:  # it was written and synced: only its name was missing
        complete.verify()
    assert headgate_json(tmp_path, "backup", "create", "backup.zip")["tables"]["tenants"] == 2


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("tables/ledger.jsonl")
    data = bytearray(path.read_bytes())
    data[entry.header_offset + 100] ^= 0xFF
    path.write_bytes(bytes(data))


def _rewrite(change: Callable[[dict[str, bytes]], None]) -> Callable[[Path], None]:
    """Change the members and zip them anew, as somebody would who edits a backup by hand."""

    def damage(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return damage


def _edit_row(members: dict[str, bytes]) -> None:
    members["tables/ledger.jsonl"] = members["tables/ledger.jsonl"].replace(b'"plain"', b'"plane"', 1)


def _lose_row(members: dict[str, bytes]) -> None:
    members["tables/ledger.jsonl"] = members["tables/ledger.jsonl"].partition(b"\n")[2]


def _break_row(members: dict[str, bytes]) -> None:
    first, _, rest = members["tables/ledger.jsonl"].partition(b"\n")
    members["tables/ledger.jsonl"] = first + b"\n[1]\n" + rest


def _other_format(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"format": 1', b'"format": 99')


def _other_revision(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(REVISIONS[-1].encode(), b"9999_of_the_future")


def _other_columns(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"name": "delivered_characters"', b'"name": "delivered_letters"')


def _outside(members: dict[str, bytes]) -> None:
    original = b'"originals": [{"blob": "../../evil", "member": {"name": "x", "bytes": 0, "sha256": ""}}]'
    members["manifest.json"] = members["manifest.json"].replace(b'"originals": []', original)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_cut, "is no backup, or was cut off"),
        (lambda path: path.write_bytes(b"not a zip file"), "is no backup"),
        (lambda path: path.write_bytes(b""), "is no backup"),
        (_flip, r"damaged in tables/ledger\.jsonl, near byte 0.*\(in table ledger, after row 0 of 4\)"),
        (_rewrite(_edit_row), r"damaged in tables/ledger\.jsonl: its content is not what was written \(in table ledger, after row 4 of 4\)"),
        (_rewrite(_lose_row), r"tables/ledger\.jsonl: its content is not what was written \(in table ledger, after row 3 of 4\)"),
        (_rewrite(_break_row), r"damaged in table ledger, at row 2: 1 values for \d+ columns"),
        (_rewrite(lambda members: members.pop("tables/keys.jsonl") and None), r"tables/keys\.jsonl is missing"),
        (_rewrite(lambda members: members.pop("manifest.json") and None), r"no backup: it has no manifest\.json"),
        (_rewrite(lambda members: members.update({"manifest.json": b"{"})), r"damaged in manifest\.json"),
        (_rewrite(_other_format), "has the format 99, and this release reads 1"),
        (_rewrite(_other_revision), "9999_of_the_future, which this release does not know: restore it with Headgate"),
        (_rewrite(_other_columns), "table ledger is not that of revision"),
        (_rewrite(_outside), "outside of the home folder"),
    ],
    ids=[
        "cut",
        "no zip",
        "empty",
        "flipped",
        "edited",
        "row lost",
        "row broken",
        "member lost",
        "no manifest",
        "manifest",
        "format",
        "revision",
        "columns",
        "path",
    ],
)
def test_a_damaged_backup_is_refused_and_located_and_nothing_is_touched(database: Database, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    database.write_blocking(fill)
    path = tmp_path / "backup.zip"
    write_backup(database, path)
    before = database.read_blocking(rows_of)
    damage(path)
    with pytest.raises((Damaged, Refused)) as refused:
        restored(path, database, replace=True)
    assert re.search(says, str(refused.value)), str(refused.value)
    assert same(database.read_blocking(rows_of), before)


@pytest.mark.postgres
def test_a_row_that_the_database_does_not_take_is_named_and_nothing_is_changed(
    opened: Callable[..., Database], empty_postgres_url: str, tmp_path: Path
) -> None:
    source, target = opened(f"sqlite:///{tmp_path / 'a.db'}"), opened(empty_postgres_url)
    target.write_blocking(fill)
    before = target.read_blocking(rows_of)
    for name, says in (("with\0nul", "row 2 of tenants holds a NUL"), ("x" * 65, "does not take rows 1 to 2 of tenants: .*too long")):
        source.write_blocking(lambda connection: connection.execute(sa.delete(tenants)) and None)
        source.write_blocking(
            lambda connection, name=name: connection.execute(insert(tenants), [{"name": "a", "created_at": 1}, {"name": name, "created_at": 1}]) and None
        )  # type: ignore[misc]
        write_backup(source, tmp_path / "backup.zip")
        with pytest.raises(CannotLoad, match=says):
            restored(tmp_path / "backup.zip", target, replace=True)
        assert same(target.read_blocking(rows_of), before)


# --- refusals --------------------------------------------------------------------------------------------------------------------------------


def test_a_database_that_is_not_empty_is_replaced_only_when_told(database: Database, opened: Callable[..., Database], tmp_path: Path) -> None:
    source = opened(f"sqlite:///{tmp_path / 'source.db'}")
    source.write_blocking(lambda connection: connection.execute(insert(tenants), {"name": "acme", "created_at": 1.0}) and None)
    write_backup(source, tmp_path / "backup.zip")
    database.write_blocking(fill)
    with pytest.raises(Refused, match="--replace"):
        restored(tmp_path / "backup.zip", database)
    restored(tmp_path / "backup.zip", database, replace=True)
    assert {name: len(rows) for name, rows in database.read_blocking(rows_of).items() if rows} == {"tenants": 1}


def test_a_database_of_an_older_revision_is_replaced_too(database: Database, tmp_path: Path) -> None:
    database.write_blocking(fill)
    wanted = database.read_blocking(rows_of)
    write_backup(database, tmp_path / "backup.zip")
    database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, REVISIONS[0]))
    restored(tmp_path / "backup.zip", database, replace=True)
    assert same(database.read_blocking(rows_of), wanted)


def test_a_backup_replaces_a_backup_and_nothing_else(database: Database, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(Damaged, match=r"notes\.txt exists and is not replaced"):
        write_backup(database, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for _ in range(2):
        write_backup(database, tmp_path / "backup.zip")


def test_restore_and_downgrade_refuse_while_a_server_runs_and_a_backup_does_not(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text("version: 1\nbackends: {mini: {kind: scripted}}\ndefault: mini\nfallback: []\n")
    with served(tmp_path, models=False) as server:
        made = headgate_json(tmp_path, "backup", "create", "backup.zip")
        assert made["tables"]["workers"] == 1
        for command in (["restore", "backup.zip", "--replace"], ["db", "downgrade", "-1", "--yes"]):
            refused = headgate(tmp_path, *command)
            assert refused.returncode == 1
            assert "a server runs on" in refused.stderr
        assert server.process.poll() is None


@pytest.mark.postgres
def test_restore_and_downgrade_refuse_while_a_worker_of_another_host_beats(opened: Callable[..., Database], empty_postgres_url: str, tmp_path: Path) -> None:
    database = opened(empty_postgres_url)
    database.write_blocking(lambda connection: connection.execute(insert(workers), {"id": "w", "instance": "i", "beat": 0, "started_at": 0.0}) and None)
    write_backup(database, tmp_path / "backup.zip")
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.1):
            database.write_blocking(lambda connection: connection.execute(update(workers).values(beat=workers.c.beat + 1)) and None)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        for command in (["restore", "backup.zip", "--replace"], ["db", "downgrade", "-1", "--yes"]):
            refused = headgate(tmp_path, *command, DATABASE_URL=empty_postgres_url)
            assert (refused.returncode, "1 worker of this or another host" in refused.stderr) == (1, True)
    finally:
        stop.set()
        beating.join()
    # The worker is dead: its heartbeat stands still.
    assert headgate(tmp_path, "restore", "backup.zip", "--replace", DATABASE_URL=empty_postgres_url).returncode == 0


# --- originals and the secret ----------------------------------------------------------------------------------------------------------------


def add_document(connection: Connection, blobs: FolderBlobs, number: int) -> str:
    blob = blob_name("acme", f"file-{number:04}")
    writer = blobs.begin()
    writer.write(b"original " * number)
    writer.commit(blob)
    row = {
        "id": f"file-{number:04}",
        "tenant": "acme",
        "filename": "a.txt",
        "bytes": 9 * number,
        "purpose": "assistants",
        "sha256": "",
        "blob": blob,
        "created_at": 1.0,
    }
    connection.execute(insert(files), row)
    return blob


def test_originals_travel_where_asked_and_missing_ones_are_counted(opened: Callable[..., Database], tmp_path: Path) -> None:
    source, target = opened(f"sqlite:///{tmp_path / 'a.db'}"), opened(f"sqlite:///{tmp_path / 'b.db'}")
    blobs, there = FolderBlobs(tmp_path / "files"), FolderBlobs(tmp_path / "there")
    named = [source.write_blocking(lambda connection, number=number: add_document(connection, blobs, number)) for number in range(3)]  # type: ignore[misc]
    blobs.delete(named[1])
    manifest = write_backup(source, tmp_path / "with.zip", blobs=blobs)
    assert ([each.blob for each in manifest.originals], manifest.originals_missing) == ([named[0], named[2]], (named[1],))
    write_backup(source, tmp_path / "without.zip")
    with open_backup(tmp_path / "without.zip") as backup:
        assert restore(backup, target, MIGRATIONS, there, replace=False).originals_missing == 3
    old = target.write_blocking(lambda connection: add_document(connection, there, 9))
    with open_backup(tmp_path / "with.zip") as backup:
        assert restore(backup, target, MIGRATIONS, there, replace=True).originals_missing == 1
    with there.open(named[2]) as original:
        assert original.read() == b"original original "
    with pytest.raises(FileNotFoundError):
        there.open(old)  # no row knows of it any more


def test_a_restore_that_fails_leaves_no_originals_behind(database: Database, opened: Callable[..., Database], tmp_path: Path) -> None:
    source = opened(f"sqlite:///{tmp_path / 'a.db'}")
    blobs, there = FolderBlobs(tmp_path / "files"), FolderBlobs(tmp_path / "there")
    blob = source.write_blocking(lambda connection: add_document(connection, blobs, 1))
    path = tmp_path / "backup.zip"
    write_backup(source, path, blobs=blobs)
    _rewrite(_other_columns)(path)
    with pytest.raises(Damaged, match="table ledger"):
        restored(path, database, there)
    with pytest.raises(FileNotFoundError):
        there.open(blob)


def test_keys_work_after_a_restore_with_the_secret_and_are_said_to_be_dead_without(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    load_secret({}, home)
    assert headgate(home, "tenants", "create", "acme").returncode == 0
    assert headgate_json(home, "backup", "../without.zip")["secret"] is False
    assert headgate_json(home, "backup", "../with.zip", "--with-secret")["secret"] is True
    without = headgate(other, "restore", "../without.zip")
    assert (without.returncode, "hashed with a secret that is not here" in without.stderr) == (0, True)
    elsewhere = headgate(other, "restore", "../with.zip", "--replace", HEADGATE_SECRET="another secret, quite long 1234")
    assert (elsewhere.returncode, "unset it" in elsewhere.stderr) == (1, True)
    done = headgate(other, "restore", "../with.zip", "--replace")
    assert (done.returncode, "dead" in done.stderr, "secret that is not here" in done.stderr) == (0, False, False)
    assert (other / "secret").read_text() == (home / "secret").read_text()
    assert stat.S_IMODE((other / "secret").stat().st_mode) == 0o600
    load_secret({}, other)
    (other / "secret").write_text("0123" * 4 + "another secret\n")
    assert "another secret than the one in the file" in headgate(other, "restore", "../without.zip", "--replace").stderr
    assert "say --replace" in headgate(other, "restore", "../with.zip").stderr


# --- after it --------------------------------------------------------------------------------------------------------------------------------


def test_what_was_reserved_at_the_moment_of_the_backup_is_recovered_at_the_next_start(tmp_path: Path) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    (home / "headgate.yaml").parent.mkdir()
    (home / "headgate.yaml").write_text("version: 1\nbackends: {mini: {kind: scripted}}\ndefault: mini\nfallback: []\n")
    source.mkdir()
    database = open_database(f"sqlite:///{source / 'headgate.db'}")
    migrate_state(database)
    books = Accounting(database, "worker-of-then")
    database.write_blocking(lambda connection: create_tenant(connection, "acme") and None)
    database.write_blocking(
        lambda connection: connection.execute(insert(workers), {"id": "worker-of-then", "instance": "i", "beat": 3, "started_at": 1.0}) and None
    )
    asyncio.run(books.reserve("r1", "acme", "key", 1, Caps(), plan()))
    write_backup(database, tmp_path / "backup.zip")
    database.close()
    assert headgate(home, "restore", str(tmp_path / "backup.zip")).returncode == 0
    with served(home, models=False):
        restored_to = open_database(f"sqlite:///{home / 'headgate.db'}")
        try:
            assert restored_to.read_blocking(lambda connection: connection.execute(select(reservations)).all()) == []
            (row,) = restored_to.read_blocking(lambda connection: connection.execute(select(ledger)).mappings().all())
            assert (row["request_id"], row["entry"], row["outcome"], row["cost"]) == ("r1", "recovery", "crashed", plan().amount)
            assert {(each.spent, each.reserved) for each in restored_to.read_blocking(lambda connection: connection.execute(select(budgets)).all())} == {
                (plan().amount, 0)
            }
        finally:
            restored_to.close()
