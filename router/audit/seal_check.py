"""Whether the ledger's rows are those that were sealed: none changed, removed, added or moved, nor taken for one that never was sealed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, literal_column, select

from router.audit.chain import Head, same
from router.audit.findings import Finding
from router.audit.log import CHAIN
from router.audit.tables import audit_checkpoints, audit_log, ledger_seals
from router.money.sealing import SEAL_COLUMNS, SEALED, SEALING, Positions, SealKey, ledger_archived, ledger_heads
from router.tables import ledger

READ_AT_ONCE = 5_000
MOST_LISTED = 100
"""Rows of one kind of problem that are named one by one; the others are counted."""

UNSEALED = ("", 0, "")
"""Chain, position and seal of a row from before."""

CHANGED = "was changed, or put here by somebody else: its seal is not that of its columns"
NOT_SIGNED = "was changed, or the secret was replaced"


class Sealing(Struct, frozen=True):
    """Since when rows are sealed, in seconds since the epoch, and how many there were before; some of those may have been archived since."""

    since: float
    unsealed: int


def sealing(connection: Connection) -> Sealing | None:
    """As it was signed; None before the first row."""
    state = connection.execute(select(ledger_seals)).first()
    return None if state is None else Sealing(state.at, state.unsealed)


def raw_rows(connection: Connection, *where: ColumnElement[bool]) -> Iterator[Sequence[Any]]:
    """Chain, position, seal, when it was booked, and then what the seal covers; unsorted.

    As the database has it: no conversion that would refuse, or mend, what somebody put there.
    """
    names = (*SEAL_COLUMNS, "booked_at", *SEALED)
    query: Any = select(*(literal_column(name) for name in names)).select_from(ledger).where(*where)
    return iter(connection.execute(query.execution_options(yield_per=READ_AT_ONCE)))


def check_seals(connection: Connection, key: SealKey) -> Iterator[Finding]:
    """Blocking; reads every row of the ledger once, and keeps a byte for each."""
    state = connection.execute(select(ledger_seals)).first()
    if state is None:
        yield from _never_sealed(connection)
        return
    if not key.is_state(state):
        yield Finding(
            "ledger_seals", "1", "mac", NOT_SIGNED + ": chains, and rows that were never sealed, may have been removed or added", "signed", "not signed"
        )
    yield from _recorded(connection, key, state)
    heads, bad_heads = _heads(connection, key)
    yield from bad_heads
    yield from _numbers(state.chains, [head.number for head in connection.execute(select(ledger_heads.c.number))])
    away, never_sealed, bad_ranges = _away(connection, key)
    yield from bad_ranges
    rows = _Rows(key, away)
    for row in raw_rows(connection):
        rows.read(row)
    yield from rows.findings()
    yield from rows.missing(heads)
    known = set(connection.execute(select(ledger_heads.c.chain)).scalars())
    for chain in sorted({*rows.there.chains()} - known):
        yield Finding("ledger_heads", chain, "", "the head of a chain that has rows is missing", f"{rows.there.last(chain)} or more", "missing")
    yield from rows.unsealed(state.unsealed - never_sealed, state.at)


def _never_sealed(connection: Connection) -> Iterator[Finding]:
    """Nothing may say otherwise where no row was ever sealed."""
    sealed = select(ledger.c.id).where((ledger.c.position != 0) | (ledger.c.chain != "") | (ledger.c.seal != ""))
    began = (sealed, select(ledger_heads.c.chain), select(ledger_archived.c.archive), select(audit_log.c.seq).where(audit_log.c.action == SEALING))
    if any(connection.execute(each.limit(1)).first() for each in began):
        message = "is missing, though rows were sealed: chains, and rows that were never sealed, may have been removed or added"
        yield Finding("ledger_seals", "1", "", message, "1 row", "none")


def _recorded(connection: Connection, key: SealKey, state: Any) -> Iterator[Finding]:
    """The audit log says the same, in an entry that only pruning removes."""
    entries = connection.execute(select(audit_log.c.seq, audit_log.c.details).where(audit_log.c.action == SEALING)).all()
    for entry in entries:
        said = _said(entry.details)
        for name, found in (("unsealed", state.unsealed), ("at", state.at)):
            expected = said.get("since" if name == "at" else name)
            if expected != found:
                yield Finding("ledger_seals", "1", name, f"is not what entry {entry.seq} of the audit log says", str(expected), str(found))
    if not entries and not _pruned(connection, key):
        message = "the entry that says that rows are sealed is missing, and the log was never pruned: it was emptied"
        yield Finding("audit_log", SEALING, "", message, "1 entry", "none")


def _said(details: str) -> dict[str, float]:
    try:
        return msgspec.json.decode(details, type=dict[str, float])
    except msgspec.MsgspecError:  # found by verifying the audit log
        return {}


def _pruned(connection: Connection, key: SealKey) -> bool:
    """Whether a checkpoint of the audit log's verifies."""
    made = connection.execute(select(audit_checkpoints).where(audit_checkpoints.c.chain == CHAIN))
    return any(same(key.audit.key.checkpoint(CHAIN, Head(each.seq, each.hash), each.until), each.mac) for each in made)


def _heads(connection: Connection, key: SealKey) -> tuple[dict[str, int], list[Finding]]:
    """How far each chain goes at least, of those that are signed."""
    signed: dict[str, int] = {}
    bad = []
    for head in connection.execute(select(ledger_heads).order_by(ledger_heads.c.number)):
        if key.is_head(head):
            signed[head.chain] = head.position
        else:
            bad.append(Finding("ledger_heads", head.chain, "mac", NOT_SIGNED + ": the last rows of this chain may have been removed", "signed", "not signed"))
    return signed, bad


def _numbers(count: int, numbers: list[int]) -> Iterator[Finding]:
    """Chains are numbered without gaps, as far as is signed."""
    there = set(numbers)
    if len(there) != len(numbers):
        yield Finding("ledger_heads", "numbers", "number", "two chains have the same number", str(len(numbers)), str(len(there)))
    if max(there, default=0) > count:
        yield Finding("ledger_heads", "numbers", "number", "a chain was added past the signed count", f"{count} or less", str(max(there)))
    missing = count - sum(0 < number <= count for number in there)
    if missing > 0:
        first = next(number for number in range(1, count + 1) if number not in there)
        message = f"chains are missing, the first of them number {first}: all their rows may have been removed with them"
        yield Finding("ledger_heads", "numbers", "number", message, f"{count} chains", f"{count - missing}")


def _away(connection: Connection, key: SealKey) -> tuple[Positions, int, list[Finding]]:
    """The positions that left with archives, and how many rows that were never sealed did."""
    away, never_sealed = Positions(), 0
    bad = []
    for left in connection.execute(select(ledger_archived)):
        if not key.is_archived(left):
            name = f"{left.archive} {left.chain} {left.first}"
            bad.append(Finding("ledger_archived", name, "mac", NOT_SIGNED + ": rows may have been removed", "signed", "not signed"))
        elif left.chain:
            away.add_range(left.chain, left.first, left.last)
        else:
            never_sealed += left.last
    return away, never_sealed, bad


class _Rows:
    """What reading the ledger finds."""

    def __init__(self, key: SealKey, away: Positions) -> None:
        self._key = key
        self._away = away
        self.there = Positions()
        self._claimed: dict[object, set[object]] = defaultdict(set)
        """By rows that do not verify: what is wrong there is said once."""
        self._found: list[Finding] = []
        self._more = 0
        self._unsealed = 0
        self._latest: list[tuple[float, str]] = []

    def read(self, row: Sequence[Any]) -> None:
        chain, position, seal, booked_at, *values = row
        if (chain, position, seal) == UNSEALED:
            self._unsealed += 1
            self._keep_latest(booked_at, str(values[0]))
        elif not self._key.is_row(chain, position, seal, values):
            self._claimed[chain].add(position)
            self._note(str(values[0]), CHANGED, "as it was sealed", f"chain {chain}, position {position}")
        elif self._away.has(chain, position):
            self._note(str(values[0]), "is here though it left with an archive", "archived", f"chain {chain}, position {position}")
        elif not self.there.add(chain, position):
            self._note(str(values[0]), "another row has the same place in its chain", "one row", f"chain {chain}, position {position}")

    def _note(self, row: str, message: str, expected: str, found: str) -> None:
        if len(self._found) < MOST_LISTED:
            self._found.append(Finding("ledger", row, "seal", message, expected, found))
        else:
            self._more += 1

    def _keep_latest(self, booked_at: object, row: str) -> None:
        """Some of those that say they were booked last: among them are those that were put here later, where they do not lie."""
        if isinstance(booked_at, int | float):
            self._latest.append((booked_at, row))
            if len(self._latest) >= 20 * MOST_LISTED:
                self._latest = sorted(self._latest)[-MOST_LISTED:]

    def findings(self) -> Iterator[Finding]:
        yield from self._found
        if self._more:
            yield Finding("ledger", "others", "seal", f"{self._more} more rows are not as they were sealed", "0", str(self._more))

    def missing(self, heads: dict[str, int]) -> Iterator[Finding]:
        """Positions without a row, up to the last that is there or signed."""
        for chain in sorted({*heads, *self.there.chains(), *self._away.chains()}):
            reached = max(heads.get(chain, 0), self.there.last(chain), self._away.last(chain))
            held = Positions()
            for each in (self.there, self._away):
                for first, last in each.runs(chain):
                    held.add_range(chain, first, last)
            for position in self._claimed[chain]:
                if isinstance(position, int) and 0 < position <= reached:
                    held.add(chain, position)
            gaps = [*held.gaps(chain), *([(held.last(chain) + 1, reached)] if held.last(chain) < reached else [])]
            for first, last in gaps[:MOST_LISTED]:
                where = f"position {first}" if first == last else f"positions {first} to {last}"
                yield Finding("ledger", f"chain {chain}", "position", f"rows are missing: {where}", str(last - first + 1), "0")
            if len(gaps) > MOST_LISTED:
                left = sum(last - first + 1 for first, last in gaps[MOST_LISTED:])
                yield Finding("ledger", f"chain {chain}", "position", f"{left} more rows are missing", str(left), "0")

    def unsealed(self, expected: int, since: float) -> Iterator[Finding]:
        """Rows that were never sealed are those from before, as many as were counted then and did not leave with an archive."""
        if self._unsealed == expected:
            return
        message = "rows from before rows were sealed were removed" if self._unsealed < expected else "rows were added without a seal"
        yield Finding("ledger", "rows without a seal", "seal", message, str(expected), str(self._unsealed))
        for at, row in sorted(self._latest)[-MOST_LISTED:]:
            if at >= since:
                yield Finding("ledger", row, "seal", "was booked after rows began to be sealed, and has no seal", "a seal", "none")
