"""The audit log's chain, on both databases: whatever somebody does to its rows past the triggers is detected, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError

from config.database import Database, open_database
from router.audit.chain import Head, Verdict, Verifier, encoded, parse_head, verify
from router.audit.log import SYSTEM, Actor, AuditLog, Entry, Subject
from router.audit.reading import Wanted, as_of_now, entries, head, prune, verify_chain
from router.audit.tables import COLUMNS, LAYOUT, audit_heads, audit_log
from router.audit.triggers import APPEND_ONLY, allow_changes
from router.launch import migrate_state
from router.tables import metadata

SECRET = b"a secret of the tests, long enough"
ROWS = 12


def filled(connection: Connection, log: AuditLog, rows: int = ROWS) -> None:
    for number in range(rows):
        actor = Actor(id=f"key_{number % 3}", role="owner", tenant="acme", request_id=f"r{number}")
        log.append(connection, Entry(actor, "key.create", Subject("key", f"key_{number}", "acme", {"name": f"näme {number}", "models": None})))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    migrate_state(database)
    yield database
    database.close()


@pytest.fixture
def log(database: Database) -> AuditLog:
    return AuditLog(database, SECRET)


def verdict(database: Database, log: AuditLog, anchor: Head | None = None) -> Verdict:
    def work(connection: Connection) -> Verdict:
        as_of_now(connection)
        return verify_chain(connection, log.key, anchor)

    return database.read_blocking(work)


class Undone(Exception):
    """Takes back what a transaction did."""


def tampered(database: Database, log: AuditLog, change: Callable[[Connection], None], anchor: Head | None = None) -> Verdict:
    """What verifying says in a transaction in which the triggers are dropped and the rows changed; nothing of it stays."""
    said: list[Verdict] = []

    def work(connection: Connection) -> None:
        allow_changes(connection, *APPEND_ONLY)
        change(connection)
        said.append(verify_chain(connection, log.key, anchor))
        raise Undone

    with pytest.raises(Undone):
        database.write_blocking(work)
    return said[0]


@pytest.mark.parametrize("table", APPEND_ONLY[:2])
def test_the_database_itself_refuses_to_change_or_remove_what_was_written(database: Database, log: AuditLog, table: str) -> None:
    database.write_blocking(lambda connection: filled(connection, log))
    database.write_blocking(lambda connection: prune(connection, log.key, 2))
    changed = metadata.tables[table]
    for statement in (changed.update().values(hash="x"), changed.delete()):
        with pytest.raises(DBAPIError, match="append only"):
            database.write_blocking(lambda connection, statement=statement: connection.execute(statement))  # type: ignore[misc]
    assert verdict(database, log).ok


def test_an_untouched_log_verifies_and_its_head_is_the_anchor_for_later(database: Database, log: AuditLog) -> None:
    assert verdict(database, log) == Verdict("audit", 0, Head(0, "0" * 64), (), 0)
    database.write_blocking(lambda connection: filled(connection, log))
    kept = database.read_blocking(head)
    database.write_blocking(lambda connection: filled(connection, log, 3))
    said = verdict(database, log, kept)
    assert (said.ok, said.rows, said.head) == (True, ROWS + 3, database.read_blocking(head))
    assert parse_head(str(kept)) == kept


TEXTS = ("id", "actor", "actor_role", "actor_user", "tenant", "action", "object_kind", "object_id", "outcome", "request_id", "details", "prev_hash", "hash")
position = st.integers(1, ROWS)
EDITS = st.one_of(
    st.tuples(st.just("edit"), position, st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)),
    st.tuples(st.just("time"), position, st.floats(0, 2e9)),
    st.tuples(st.just("delete"), position, st.integers(0, ROWS)),
    st.tuples(st.just("swap"), position, position),
    st.tuples(st.just("contents"), position, position),
    st.tuples(st.just("copy"), position, st.integers(ROWS + 1, ROWS + 3)),
    st.tuples(st.just("move"), position, st.integers(ROWS + 1, ROWS + 3)),
    st.tuples(st.just("chain"), position),
    st.tuples(st.just("head"), st.integers(0, ROWS + 3), st.booleans()),
)


def apply(connection: Connection, edit: tuple[Any, ...]) -> int | None:
    """Do it to the rows; returns the position where it must be found, or None where it changed nothing."""
    rows = {row["seq"]: dict(row) for row in connection.execute(select(audit_log)).mappings()}
    ours = audit_log.c.chain == "audit"

    def put(row: dict[str, Any], **changed: Any) -> None:
        connection.execute(audit_log.insert(), {**row, **changed})

    def remove(*positions: int) -> None:
        connection.execute(audit_log.delete().where(ours, audit_log.c.seq.in_(positions)))

    match edit:
        case ("edit", at, column, value):
            value = value[:16]
            if rows[at][column] == value or (column == "id" and value in {row["id"] for row in rows.values()}):
                return None
            connection.execute(audit_log.update().where(ours, audit_log.c.seq == at).values({column: value}))
            return int(at)
        case ("time", at, value):
            connection.execute(audit_log.update().where(ours, audit_log.c.seq == at).values(at=value))
            return int(at) if rows[at]["at"] != value else None
        case ("delete", at, more):
            remove(*range(at, min(at + more, ROWS) + 1))
            return int(at)
        case ("swap", left, right):  # two rows change places, each with its own hash
            remove(left, right)
            for one, other in {(left, right), (right, left)}:
                put(rows[other], seq=one)
            return min(left, right) if left != right else None
        case ("contents", left, right):  # each keeps its place in the chain and gets what the other says
            remove(left, right)
            for one, other in {(left, right), (right, left)}:
                put(rows[one], **{column: rows[other][column] for column in COLUMNS})
            return min(left, right) if left != right else None
        case ("copy", at, to):
            put(rows[at], seq=to, id="copied")
            return ROWS + 1
        case ("move", at, to):
            remove(at)
            put(rows[at], seq=to)
            return int(at)
        case ("chain", at):
            remove(at)
            put(rows[at], chain="other")
            return int(at)
        case ("head", at, whole):  # the tail goes, and with it the head, or the head is set back without its code
            remove(*range(at + 1, ROWS + 1))
            if whole:
                connection.execute(audit_heads.delete())
                return min(int(at), ROWS) or None  # nothing at all is left: only an anchor shows that
            before = {"seq": at, "hash": rows[at]["hash"] if at in rows else "0" * 64}
            connection.execute(audit_heads.update().values(before if at < ROWS else {"hash": "0" * 64}))
            return int(min(at, ROWS))
    raise AssertionError(edit)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_whatever_is_done_to_the_rows_is_detected_and_located(kind: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'audit.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url"))
    migrate_state(database)
    log = AuditLog(database, SECRET)
    database.write_blocking(lambda connection: filled(connection, log))
    kept = database.read_blocking(head)

    @settings(max_examples=150 if kind == "sqlite" else 60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(EDITS)
    def check(edit: tuple[Any, ...]) -> None:
        where: list[int | None] = []
        said = tampered(database, log, lambda connection: where.append(apply(connection, edit)))
        anchored = tampered(database, log, lambda connection: where.append(apply(connection, edit)), kept)
        if where[0] is None:
            assert edit[0] == "head" or said.ok
            assert said.ok == anchored.ok or edit[0] == "head"
        else:
            assert not said.ok
            assert where[0] in {problem.position for problem in said.problems}, said.problems
            assert not anchored.ok
        if edit[0] == "head" and edit[2] and edit[1] < ROWS:
            assert any(problem.kind == "anchor" for problem in anchored.problems)

    try:
        check()
        assert verdict(database, log, kept).ok
    finally:
        database.close()


def test_a_log_that_was_put_back_whole_to_an_earlier_moment_is_shown_by_a_head_that_was_kept_elsewhere(database: Database, log: AuditLog) -> None:
    database.write_blocking(lambda connection: filled(connection, log, 4))
    earlier = database.read_blocking(lambda connection: dict(connection.execute(select(audit_heads)).mappings().one()))
    database.write_blocking(lambda connection: filled(connection, log, 4))
    kept = database.read_blocking(head)

    def put_back(connection: Connection) -> None:
        connection.execute(audit_log.delete().where(audit_log.c.seq > 4))
        connection.execute(audit_heads.update().values(earlier))

    assert tampered(database, log, put_back).ok
    said = tampered(database, log, put_back, kept)
    assert [(problem.kind, problem.position) for problem in said.problems] == [("anchor", 8)]


def test_the_column_that_was_changed_is_named_where_one_alone_explains_it(database: Database, log: AuditLog) -> None:
    database.write_blocking(lambda connection: filled(connection, log))
    said = tampered(database, log, lambda connection: connection.execute(text("UPDATE audit_log SET prev_hash = 'x' WHERE seq = 5")))  # type: ignore[arg-type,return-value]
    assert [(problem.position, problem.column) for problem in said.problems] == [(5, "prev_hash")]
    said = tampered(database, log, lambda connection: connection.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE seq = 5")))  # type: ignore[arg-type,return-value]
    assert [(problem.kind, problem.position) for problem in said.problems] == [("changed", 5)]


def test_a_broken_head_stops_no_change_and_is_never_mended_by_one(database: Database, log: AuditLog) -> None:
    database.write_blocking(lambda connection: filled(connection, log, 5))

    def append_after(change: str) -> list[str]:
        def work(connection: Connection) -> None:
            connection.execute(text(change))
            log.append(connection, Entry(SYSTEM, "key.create", Subject("key", "k")))

        return [problem.kind for problem in tampered(database, log, work).problems]

    assert append_after("DELETE FROM audit_heads") == ["discontinued"]
    assert append_after("UPDATE audit_heads SET mac = 'x'") == ["discontinued"]
    assert "missing" in append_after("DELETE FROM audit_log WHERE seq > 3")
    # The head set back, the tail removed: the codes fit no more.
    assert append_after("DELETE FROM audit_log") != []


def test_another_secret_verifies_nothing_and_goes_on_with_a_mark(database: Database, log: AuditLog) -> None:
    database.write_blocking(lambda connection: filled(connection, log, 3))
    other = AuditLog(database, b"another secret of the tests, as long")
    assert verdict(database, other).found == 4
    other.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    assert [entry.action for entry in database.read_blocking(lambda connection: entries(connection, Wanted(), limit=2))[0]] == [
        "ledger.read",
        "audit.discontinued",
    ]

    def forget(connection: Connection) -> None:
        prune(connection, other.key, 4)

    database.write_blocking(forget)  # once the old entries are exported, the log goes on under the new secret
    assert verdict(database, other).ok


def test_a_pruned_log_verifies_from_its_checkpoint_and_a_forged_checkpoint_does_not(database: Database, log: AuditLog) -> None:
    database.write_blocking(lambda connection: filled(connection, log))
    assert database.write_blocking(lambda connection: prune(connection, log.key, 5)) == 5
    log.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    said = verdict(database, log)
    assert (said.ok, said.rows) == (True, ROWS - 5 + 1)

    def forge(connection: Connection) -> None:
        row = connection.execute(select(audit_log.c.hash).where(audit_log.c.seq == 8)).scalar_one()
        connection.execute(text("INSERT INTO audit_checkpoints (chain, seq, hash, at, mac) VALUES ('audit', 8, :hash, 0, 'x')"), {"hash": row})
        connection.execute(text("DELETE FROM audit_log WHERE seq <= 8"))

    assert [(problem.kind, problem.position) for problem in tampered(database, log, forge).problems] == [("checkpoint", 8), ("missing", 6)]
    everything = database.read_blocking(head).position
    database.write_blocking(lambda connection: prune(connection, log.key, everything))
    log.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    said = verdict(database, log)
    assert (said.ok, said.head.position) == (True, everything + 1)


async def test_entries_written_at_the_same_time_are_numbered_without_gaps(database: Database, log: AuditLog) -> None:
    await asyncio.gather(*(log.note(SYSTEM, "ledger.read", Subject("ledger", str(number))) for number in range(40)))
    found, _ = await database.read(lambda connection: entries(connection, Wanted(), limit=100))
    assert sorted(entry.seq for entry in found) == list(range(1, 41))
    assert {entry.object_id for entry in found} == {str(number) for number in range(40)}
    assert (await database.read(lambda connection: verify_chain(connection, log.key))).ok
    if database.dialect == "postgresql":  # its pool belongs to this test's loop
        await database.aclose()


def test_there_is_no_entry_without_its_change_and_no_change_without_its_entry(database: Database, log: AuditLog) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(text("INSERT INTO tenants (name, created_at) VALUES ('acme', 0)"))
        raise Undone

    with pytest.raises(Undone):
        log.change_blocking(SYSTEM, "tenant.create", Subject("tenant", "acme", "acme"), fails)

    def unnamed(_: None) -> Subject:
        raise Undone

    with pytest.raises(Undone):
        log.change_blocking(SYSTEM, "tenant.create", unnamed, lambda connection: connection.execute(text("INSERT INTO tenants VALUES ('acme', 0)")) and None)
    counts = database.read_blocking(
        lambda connection: [connection.execute(select(func.count()).select_from(text(table))).scalar() for table in ("tenants", "audit_log")]
    )
    assert counts == [0, 0]


VALUES = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_different_rows_have_different_encodings(left: list[Any], right: list[Any]) -> None:
    def typed(values: list[Any]) -> list[tuple[str, str]]:
        return [(type(value).__name__, repr(value)) for value in values]

    same = b"".join(map(encoded, left)) == b"".join(map(encoded, right))
    assert same == (typed(left) == typed(right))


def test_a_chain_is_verified_for_any_table_with_such_columns_and_without_a_stored_previous_hash() -> None:
    import msgspec

    from router.audit.chain import START, ChainKey, linked

    key, layout = ChainKey(SECRET), msgspec.structs.replace(LAYOUT, label="ledger", columns=("cost",), position="position", previous=None)
    rows, end = linked(key, layout, [{"chain": "w1", "cost": cost} for cost in (1, 2, 3)], START)
    assert verify(key, layout, "w1", rows, end, key.head("w1", end)).ok
    rows[1]["cost"] = 5
    assert [(problem.kind, problem.position) for problem in verify(key, layout, "w1", rows, end, key.head("w1", end)).problems] == [("changed", 2)]
    assert isinstance(Verifier(key, layout, "w1"), Verifier)
