"""The ledger's seals, on both databases: whatever somebody does to a row past the triggers is found, and where; what the service does itself is not."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, literal, select, update
from sqlalchemy.exc import OperationalError

from config.database import Database, open_database
from router.audit.chain import ChainKey
from router.audit.changes import recorded_start
from router.audit.findings import Finding
from router.audit.log import SYSTEM, AuditLog, Subject
from router.audit.reading import Wanted, entries, prune, verify_chain
from router.audit.seal_check import MOST_LISTED, Sealing, check_seals, sealing
from router.audit.tables import audit_checkpoints, audit_heads, audit_log, ledger_seals
from router.audit.triggers import APPEND_ONLY, changeable
from router.launch import migrate_state
from router.money.books import write_rows
from router.money.sealing import INSERT_LEDGER, SEAL_COLUMNS, SEALED, LedgerChain, SealKey, begin_sealing, ledger_archived, ledger_heads
from router.tables import ledger
from tests.router.money.test_rollup import a_row
from tests.seals import SEALS, SECRET

WRITERS = 2


def seal_check(connection: Connection, key: SealKey = SEALS) -> list[Finding]:
    return list(check_seals(connection, key))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = open_database(database_url)
    migrate_state(database)
    yield database
    database.close()


class Undone(Exception):
    """Takes back what a transaction did."""


def found_after(database: Database, change: Callable[[Connection], None], key: SealKey = SEALS) -> list[Finding]:
    """What is found once somebody did this past the triggers; nothing of it stays."""
    said: list[Finding] = []

    def work(connection: Connection) -> None:
        with changeable(connection, "ledger"):
            change(connection)
        said.extend(seal_check(connection, key))
        raise Undone

    with pytest.raises(Undone):
        database.write_blocking(work)
    return said


class Writers:
    """A few workers, and what else writes rows."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.chance = random.Random(1)
        self.chains = [LedgerChain(SEALS) for _ in range(WRITERS)]
        self.made = 0

    def rows(self, count: int) -> list[dict[str, Any]]:
        self.made += count
        return [a_row(self.chance, number) for number in range(self.made - count, self.made)]

    def book(self, at: int, count: int, fault: str) -> None:
        """`undone`: the transaction is; `unknown`: it was committed, and the worker does not learn of it."""
        chain, rows = self.chains[at].following(), self.rows(count)

        def work(connection: Connection) -> None:
            write_rows(connection, chain, rows)
            if fault == "undone":
                raise Undone

        try:
            self.database.write_blocking(work)
        except Undone:
            return
        self.chains[at] = chain if fault == "none" else LedgerChain(SEALS)

    def alone(self, count: int) -> None:
        """As a reconciliation and a recovery."""
        self.database.write_blocking(lambda connection: write_rows(connection, LedgerChain(SEALS), self.rows(count)))

    def head(self, at: int) -> None:
        self.database.write_blocking(self.chains[at].write_head)

    def forget(self) -> None:
        def work(connection: Connection) -> None:
            with changeable(connection, *APPEND_ONLY):
                for table in (ledger, ledger_heads, ledger_seals, audit_log, audit_heads):
                    connection.execute(delete(table))

        self.database.write_blocking(work)


STEPS = st.one_of(
    st.tuples(st.just("book"), st.integers(0, WRITERS - 1), st.integers(1, 4), st.sampled_from(("none", "none", "none", "undone", "unknown"))),
    st.tuples(st.just("alone"), st.integers(1, 3)),
    st.tuples(st.just("head"), st.integers(0, WRITERS - 1)),
)
ROW = st.integers(0, 50)
EDITS = st.one_of(
    st.tuples(st.just("edit"), ROW, st.sampled_from((*SEALED, *SEAL_COLUMNS)), st.integers(1, 10**6)),
    st.tuples(st.just("delete"), ROW),
    st.tuples(st.just("unseal"), ROW),
    st.tuples(st.just("insert"), ROW, st.sampled_from(("copy", "unsealed", "next"))),
    st.tuples(st.just("swap"), ROW, ROW, st.sampled_from(("places", "contents", "ids"))),
    st.tuples(st.just("chain"), ROW),
)


def another(value: Any, by: int) -> Any:
    if value is None:
        return str(by)
    return f"{by}"[:6] if isinstance(value, str) else value + by


def apply(connection: Connection, edit: tuple[Any, ...]) -> set[str] | None:
    """Do it; returns the words one of which a finding's row must hold, or None where nothing changed, or nothing that can be noticed."""
    rows = [dict(row) for row in connection.execute(select(ledger).order_by(ledger.c.id)).mappings()]
    heads = {row.chain: row.position for row in connection.execute(select(ledger_heads))}
    last = {row["chain"]: max(each["position"] for each in rows if each["chain"] == row["chain"]) for row in rows}
    row = rows[edit[1] % len(rows)]
    is_row = ledger.c.id == row["id"]
    chain = f"chain {row['chain']}"
    noticed_when_gone = row["position"] <= heads[row["chain"]] or row["position"] < last[row["chain"]]
    match edit:
        case ("edit", _, column, by):
            value = another(row[column], by)
            if value == row[column] or (column == "id" and value in {each["id"] for each in rows}):
                return None
            connection.execute(update(ledger).where(is_row).values({column: value}))
            return {value if column == "id" else row["id"]}
        case ("delete", _):
            connection.execute(delete(ledger).where(is_row))
            return {chain} if noticed_when_gone else None
        case ("unseal", _):
            connection.execute(update(ledger).where(is_row).values(chain="", position=0, seal=""))
            return {"rows without a seal"}
        case ("insert", _, kind):
            changed: dict[str, Any] = {"copy": {}, "unsealed": {"chain": "", "position": 0, "seal": ""}, "next": {"position": last[row["chain"]] + 1}}[kind]
            connection.execute(insert(ledger), {**row, "id": "put-here", **changed})
            return {"rows without a seal"} if kind == "unsealed" else {"put-here"}
        case ("swap", _, other, kind):
            other = rows[other % len(rows)]
            if other["id"] == row["id"]:
                return None
            connection.execute(delete(ledger).where(ledger.c.id.in_((row["id"], other["id"]))))
            moved = {"places": SEAL_COLUMNS, "contents": tuple(name for name in SEALED if name != "id"), "ids": ("id",)}[kind]
            for one, two in ((row, other), (other, row)):
                connection.execute(insert(ledger), {**one, **{name: two[name] for name in moved}})
            return {row["id"]}
        case ("chain", _):
            connection.execute(delete(ledger).where(ledger.c.chain == row["chain"]))
            connection.execute(delete(ledger_heads).where(ledger_heads.c.chain == row["chain"]))
            return {"numbers"}
        case _:
            raise AssertionError(edit)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_whatever_is_booked_verifies_and_whatever_is_done_to_a_row_is_located(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'books.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url"))
    migrate_state(database)

    @settings(max_examples=150 if kind == "sqlite" else 20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=1, max_size=8), st.lists(EDITS, min_size=1, max_size=8))
    def run(steps: list[tuple[Any, ...]], edits: list[tuple[Any, ...]]) -> None:
        writers = Writers(database)
        try:
            writers.alone(1)
            for name, *how in steps:
                getattr(writers, name)(*how)
            assert database.read_blocking(seal_check) == []
            for edit in edits:
                wanted: list[set[str] | None] = []
                found = found_after(database, lambda connection, edit=edit, wanted=wanted: wanted.append(apply(connection, edit)))  # type: ignore[misc]
                if wanted[0] is not None:
                    assert any(each.row in wanted[0] for each in found), (edit, found)
        finally:
            writers.forget()

    try:
        run()
    finally:
        database.close()


@pytest.fixture
def writers(database: Database) -> Writers:
    writers = Writers(database)
    writers.book(0, 5, "none")
    writers.alone(2)
    writers.book(0, 3, "none")
    writers.head(0)
    return writers


def test_every_column_of_the_ledger_is_sealed() -> None:
    assert (*SEALED, *SEAL_COLUMNS) == tuple(column.name for column in ledger.columns)


def test_what_is_gone_is_named_by_its_chain_and_positions(writers: Writers) -> None:
    chain = writers.chains[0].id

    def gone(*positions: int) -> Callable[[Connection], None]:
        return lambda connection: connection.execute(delete(ledger).where(ledger.c.chain == chain, ledger.c.position.in_(positions))) and None

    for positions, said in (((3,), "position 3"), ((2, 3), "positions 2 to 3"), ((7, 8), "positions 7 to 8"), (tuple(range(1, 9)), "positions 1 to 8")):
        (found,) = found_after(writers.database, gone(*positions))
        assert (found.row, found.message, found.expected) == (f"chain {chain}", f"rows are missing: {said}", str(len(positions)))


def test_heads_and_what_is_signed_beside_them_are_held_too(writers: Writers) -> None:
    chain = writers.chains[0].id
    mine = ledger_heads.c.chain == chain

    def lowered(connection: Connection) -> None:
        connection.execute(delete(ledger).where(ledger.c.chain == chain, ledger.c.position > 4))
        connection.execute(update(ledger_heads).where(mine).values(position=4))

    def uncounted(connection: Connection) -> None:
        lost = connection.execute(select(ledger_heads.c.chain).where(ledger_heads.c.number == 2)).scalar_one()
        connection.execute(delete(ledger).where(ledger.c.chain == lost))
        connection.execute(delete(ledger_heads).where(ledger_heads.c.chain == lost))
        connection.execute(update(ledger_seals).values(chains=1))

    tables = {
        "head changed": lowered,
        "head removed": lambda connection: connection.execute(delete(ledger_heads).where(mine)),
        "count lowered": uncounted,
        "count raised": lambda connection: connection.execute(update(ledger_seals).values(unsealed=1)),
        "all removed": lambda connection: [connection.execute(delete(table)) for table in (ledger_seals, ledger_heads)],
        "head invented": lambda connection: connection.execute(insert(ledger_heads), {"chain": "x", "number": 3, "position": 1, "mac": "x"}),
        "archive invented": lambda connection: [
            connection.execute(delete(ledger).where(ledger.c.chain == chain)),
            connection.execute(insert(ledger_archived), {"archive": "ledger-2026-11", "chain": chain, "first": 1, "last": 8, "mac": "0" * 32}),
        ],
    }
    for name, change in tables.items():
        found = found_after(writers.database, change)
        assert {each.table for each in found} & {"ledger_heads", "ledger_seals", "ledger_archived"}, name


def test_chains_that_are_opened_later_do_not_mend_what_is_signed(writers: Writers) -> None:
    def later(connection: Connection) -> None:
        connection.execute(delete(ledger_seals))
        for _ in range(2):
            write_rows(connection, LedgerChain(SEALS), writers.rows(1))

    assert "ledger_seals" in {each.table for each in found_after(writers.database, later)}

    def counted_anew(connection: Connection) -> None:
        connection.execute(update(ledger_seals).values(chains=1))
        write_rows(connection, LedgerChain(SEALS), writers.rows(1))

    assert "ledger_seals" in {each.table for each in found_after(writers.database, counted_anew)}


def test_rows_from_before_are_counted_and_no_row_can_be_taken_for_one_of_them(database: Database) -> None:
    before = Writers(database).rows(4)
    database.write_blocking(lambda connection: INSERT_LEDGER.run(connection, before) and None)
    assert database.read_blocking(seal_check) == []
    assert database.read_blocking(sealing) is None
    writers = Writers(database)
    writers.made = 10
    writers.alone(3)
    assert database.read_blocking(seal_check) == []
    state = database.read_blocking(sealing)
    assert isinstance(state, Sealing)
    assert state.unsealed == 4
    late = {**writers.rows(1)[0], "booked_at": state.since + 1}
    added = found_after(database, lambda connection: INSERT_LEDGER.run(connection, [late]) and None)
    assert [(each.row, each.expected, each.found) for each in added] == [("rows without a seal", "4", "5"), (late["id"], "a seal", "none")]
    (removed,) = found_after(database, lambda connection: connection.execute(delete(ledger).where(ledger.c.id == before[0]["id"])) and None)
    assert (removed.row, removed.expected, removed.found) == ("rows without a seal", "4", "3")


def test_the_audit_log_says_that_rows_are_sealed_so_that_nobody_can_say_that_none_were(database: Database) -> None:
    log = AuditLog(database, SECRET)
    database.write_blocking(recorded_start(log, SEALS, lambda connection: None))
    database.write_blocking(recorded_start(log, SEALS, lambda connection: None))
    assert database.read_blocking(seal_check) == []
    writers = Writers(database)
    writers.alone(2)
    unsealed = {"chain": "", "position": 0, "seal": ""}

    def as_if_never(connection: Connection) -> None:
        connection.execute(update(ledger).values(**unsealed))
        for table in (ledger_heads, ledger_seals):
            connection.execute(delete(table))

    (found,) = found_after(database, as_if_never)
    assert (found.table, found.found) == ("ledger_seals", "none")

    def and_then_some(connection: Connection) -> None:
        as_if_never(connection)
        assert not begin_sealing(connection, SEALS)
        write_rows(connection, LedgerChain(SEALS), writers.rows(1))

    assert {(each.table, each.column) for each in found_after(database, and_then_some)} == {
        ("ledger_seals", "mac"),
        ("ledger_seals", "unsealed"),
        ("ledger_seals", "at"),
    }


def emptied(connection: Connection) -> None:
    """As somebody who may drop triggers, and puts them back."""
    with changeable(connection, *APPEND_ONLY):
        for table in (audit_log, audit_heads, audit_checkpoints):
            connection.execute(delete(table))


def test_a_log_that_was_emptied_with_its_head_is_noticed_at_once_and_for_good(database: Database) -> None:
    log = AuditLog(database, SECRET)
    database.write_blocking(recorded_start(log, SEALS, lambda connection: None))
    log.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    database.write_blocking(emptied)
    said = database.read_blocking(lambda connection: verify_chain(connection, log.key))
    assert [(each.kind, each.position) for each in said.problems] == [("missing", 1)]
    assert [(each.table, each.row) for each in database.read_blocking(seal_check)] == [("audit_log", "ledger.seal")]
    database.write_blocking(recorded_start(log, SEALS, lambda connection: None))  # a start puts nothing in its place
    log.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    found, _ = database.read_blocking(lambda connection: entries(connection, Wanted(), limit=9))
    assert [(each.seq, each.action) for each in found] == [(2, "ledger.read"), (1, "audit.discontinued")]
    assert [each.kind for each in database.read_blocking(lambda connection: verify_chain(connection, log.key)).problems] == ["discontinued"]
    assert [each.table for each in database.read_blocking(seal_check)] == ["audit_log"]


def test_an_entry_of_the_first_seal_may_be_pruned_and_is_missed_where_the_checkpoint_is_none_of_ours(database: Database) -> None:
    log = AuditLog(database, SECRET)
    database.write_blocking(recorded_start(log, SEALS, lambda connection: None))
    log.note_blocking(SYSTEM, "ledger.read", Subject("ledger"))
    database.write_blocking(lambda connection: prune(connection, log.key, 1))
    assert database.read_blocking(seal_check) == []
    assert database.read_blocking(lambda connection: verify_chain(connection, log.key)).ok
    forged = {"chain": "audit", "seq": 1, "hash": "0" * 64, "until": None, "at": 0.0, "mac": "0" * 64}

    def forge(connection: Connection) -> None:
        emptied(connection)
        connection.execute(insert(audit_checkpoints), forged)

    assert [each.table for each in found_after(database, forge)] == ["audit_log"]


def test_whoever_seals_first_says_so_in_the_audit_log_and_a_state_from_another_time_does_not_fit_it(writers: Writers) -> None:
    database = writers.database
    (entry,), _ = database.read_blocking(lambda connection: entries(connection, Wanted(action="ledger.seal"), limit=9))
    state = database.read_blocking(lambda connection: connection.execute(select(ledger_seals)).one())
    assert (entry.actor, entry.details) == ("system", {"unsealed": 0, "since": state.at})
    earlier = {"at": state.at - 1, "mac": SEALS.state(state.chains, 0, state.at - 1)}  # signed, and put back from a database of another time
    (found,) = found_after(database, lambda connection: connection.execute(update(ledger_seals).values(**earlier)) and None)
    assert (found.table, found.column) == ("ledger_seals", "at")


def test_another_secret_verifies_nothing(writers: Writers) -> None:
    found = writers.database.read_blocking(lambda connection: seal_check(connection, SealKey(b"another secret")))
    assert sum(each.table == "ledger" and each.column == "seal" for each in found) == 10
    assert SealKey(SECRET).head("x", 1, 2) == SEALS.head("x", 1, 2)
    assert ChainKey(SECRET)._key != SEALS._key


def test_of_very_many_only_the_first_are_named(database: Database) -> None:
    writers = Writers(database)
    writers.alone(2 * MOST_LISTED + 7)
    found = found_after(database, lambda connection: connection.execute(update(ledger).values(outcome="ok?")) and None)
    assert len(found) == MOST_LISTED + 1
    assert found[-1].found == str(MOST_LISTED + 7)
    every_other = delete(ledger).where(ledger.c.position % 2 == 1)
    gone = found_after(database, lambda connection: connection.execute(every_other) and None)
    assert (len(gone), gone[-1].expected) == (MOST_LISTED + 1, "4")


def test_bytes_are_not_taken_for_the_text_that_they_are_encoded_as(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'books.db'}")
    migrate_state(database)
    chain = LedgerChain(SEALS)
    row = {**a_row(random.Random(1), 1), "model": "abcd"}
    database.write_blocking(lambda connection: write_rows(connection, chain, [row]))
    (found,) = found_after(database, lambda connection: connection.execute(update(ledger).values(model=literal(b64decode("abcd")))) and None)
    assert found.row == row["id"]
    for text in (chain.id,):
        changed = found_after(database, lambda connection, text=text: connection.execute(update(ledger_heads).values(chain=literal(b64decode(text)))) and None)  # type: ignore[misc]
        assert {each.table for each in changed} == {"ledger_heads"}
    database.close()


async def test_a_worker_that_does_not_learn_whether_it_was_committed_begins_another_chain(database_url: str) -> None:
    from adapters.types import Usage
    from config.prices import Price
    from router.money.accounting import Accounting
    from router.money.settlement import AttemptPlan, Caps, Settlement

    class Cut:
        """Commits, and says that it could not."""

        cut = False

        async def write(self, work: Any) -> Any:
            result = await database.write(work)
            if self.cut:
                self.cut = False
                raise OperationalError("COMMIT", None, OSError("the database went away"))
            return result

    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    cut: Any = Cut()
    books = Accounting(cut, "w1", SEALS)
    plan = AttemptPlan("mini", "p", "gpt", Price(input=1.0, output=1.0), 10, 10, 100, "default", 1.0)

    async def one(name: str) -> None:
        booking = await books.reserve(name, "acme", "key", 1, Caps(), plan)
        settlement = Settlement("ok", Usage(), 1, None, "gpt", 0, None, 5.0)
        cut.cut = name == "r2"
        try:
            await books.settle(booking, settlement)
        except OperationalError:
            await books.settle(booking, settlement)  # again, as long as it takes: books nothing more

    await books.write_head()
    for name in ("r1", "r2", "r3", "r4"):
        await one(name)
    assert await database.read(seal_check) == []
    await books.write_head()
    await asyncio.gather(books.write_head(), one("r5"))
    await books.write_head()
    assert await database.read(seal_check) == []
    found = await database.read(lambda connection: [(row.number, row.position) for row in connection.execute(select(ledger_heads).order_by("number"))])
    assert found == [(1, 1), (2, 3)]
    rows = await database.read(lambda connection: connection.execute(select(ledger.c.position).order_by(ledger.c.request_id)).scalars().all())
    assert rows == [1, 2, 1, 2, 3]
    await database.aclose()
