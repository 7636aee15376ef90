"""Reading the audit log: entries by what is asked for, the head, the whole chain to be verified, and a prefix that may go."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Select, Table, delete, desc, insert, literal_column, select

from router.audit.chain import START, ChainKey, Head, Layout, Row, Verdict, Verifier, same
from router.audit.log import CHAIN, EMPTIED, AuditAction, Subject
from router.audit.tables import LAYOUT, audit_checkpoints, audit_heads, audit_log, ledger_seals
from router.identity.errors import may_exist

READ_AT_ONCE = 1_000
OTHER_TEXT = "(a text)"
_WORDS = frozenset((*get_args(AuditAction), "cli", "file", "system"))
_ID = re.compile(r"(?:[a-z]{1,16}[_:-])?[0-9a-f]{16,64}|[0-9]{1,6}")
"""Of an object, a key, a user or a request, or a policy's version."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Which entries. `tenant` limits to what is that tenant's; times are seconds since the epoch, `[since, until)`."""

    tenant: str | None = None
    action: str | None = None
    actor: str | None = None
    object_id: str | None = None
    request_id: str | None = None
    since: float | None = None
    until: float | None = None

    def asked(self) -> dict[str, str | float]:
        """What an entry says was asked for: ids and times as they are, of any other text (which may name somebody, or be a secret) only that it was given."""
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value if isinstance(value, float) or _is_id(value) else OTHER_TEXT for name, value in given.items() if value is not None}

    def subject(self, **details: Any) -> Subject:
        """Of the entry that says that these were read."""
        tenant = self.tenant if self.tenant is not None and may_exist(self.tenant) else ""
        asked = self.asked() | ({"tenant": tenant} if tenant else {})
        return Subject("audit", "", tenant, {"asked": asked, **details})

    def query(self) -> Select[Any]:
        columns = audit_log.c
        found = select(audit_log).where(columns.chain == CHAIN)
        for column, value in (
            (columns.tenant, self.tenant),
            (columns.action, self.action),
            (columns.object_id, self.object_id),
            (columns.request_id, self.request_id),
        ):
            if value is not None:
                found = found.where(column == value)
        if self.actor is not None:
            found = found.where((columns.actor == self.actor) | (columns.actor_user == self.actor))
        if self.since is not None:
            found = found.where(columns.at >= self.since)
        return found if self.until is None else found.where(columns.at < self.until)


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One entry as it is shown."""

    seq: int
    id: str
    at: float
    actor: str
    actor_role: str
    actor_user: str
    tenant: str
    action: str
    object_kind: str
    object_id: str
    outcome: str
    request_id: str
    details: dict[str, Any]
    prev_hash: str
    hash: str


def _is_id(text: str) -> bool:
    return text in _WORDS or _ID.fullmatch(text) is not None


def entries(connection: Connection, wanted: Wanted, *, limit: int, before: int | None = None) -> tuple[list[AuditEntry], bool]:
    """The newest entries first, from before a position on, and whether there are more."""
    query = wanted.query().order_by(desc(audit_log.c.seq)).limit(limit + 1)
    if before is not None:
        query = query.where(audit_log.c.seq < before)
    rows = connection.execute(query).mappings().all()
    return [shown_entry(row) for row in rows[:limit]], len(rows) > limit


def exported(connection: Connection, wanted: Wanted) -> Iterator[AuditEntry]:
    """Every entry, oldest first, read as it is consumed."""
    query = wanted.query().order_by(audit_log.c.seq).execution_options(yield_per=READ_AT_ONCE)
    for row in connection.execute(query).mappings():
        yield shown_entry(row)


def shown_entry(row: Any) -> AuditEntry:
    """A row as it is shown."""
    fields = {name: row[name] for name in AuditEntry.__struct_fields__ if name != "details"}
    try:
        details = msgspec.json.decode(row["details"], type=dict[str, Any])
    except msgspec.MsgspecError:  # somebody changed it: shown as it stands, and found by verifying
        details = {"unreadable": row["details"]}
    return AuditEntry(details=details, **fields)


def head(connection: Connection, chain: str = CHAIN) -> Head:
    """Where the chain ends, as stored; to be kept elsewhere."""
    row = connection.execute(select(audit_heads).where(audit_heads.c.chain == chain)).one_or_none()
    return START if row is None else Head(row.seq, row.hash)


def as_of_now(connection: Connection) -> None:
    """From here on the transaction sees one moment of the database, also while others write. Comes before its first statement."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")


def verify_chain(
    connection: Connection, key: ChainKey, anchor: Head | None = None, *, table: Table = audit_log, layout: Layout = LAYOUT, chain: str = CHAIN
) -> Verdict:
    """The whole chain against its head, its checkpoint and a head that was kept elsewhere. Blocking; reads every row once."""
    start, forged = _start(connection, key, chain)
    verifier = Verifier(key, layout, chain, start, anchor)
    if forged is not None:
        verifier.note("checkpoint", forged.position, "the checkpoint was changed or added: rows before it may have been removed")
    for row in _rows(connection, table, layout, chain):
        verifier.read(row)
        if row.get("action") == "audit.discontinued":
            position = row[layout.position]
            message = "the head did not verify when this was written: rows before it were changed or removed, or the secret was replaced"
            verifier.note("discontinued", position if isinstance(position, int) else 0, message)
    stored = connection.execute(select(audit_heads).where(audit_heads.c.chain == chain)).one_or_none()
    if chain == CHAIN and verifier.nothing and stored is None and connection.execute(select(ledger_seals.c.id).limit(1)).first():
        verifier.note("missing", 1, EMPTIED)
    return verifier.end(None if stored is None else Head(stored.seq, stored.hash), None if stored is None else stored.mac)


def _start(connection: Connection, key: ChainKey, chain: str) -> tuple[Head, Head | None]:
    """After which row the chain begins, and a checkpoint that is none of ours."""
    query = select(audit_checkpoints).where(audit_checkpoints.c.chain == chain, audit_checkpoints.c.until.is_(None)).order_by(desc(audit_checkpoints.c.seq))
    forged = None
    for row in connection.execute(query):
        found = Head(row.seq, row.hash)
        if same(key.checkpoint(chain, found, row.until), row.mac):
            return found, forged
        forged = found
    return START, forged


def _rows(connection: Connection, table: Table, layout: Layout, chain: str) -> Iterator[Row]:
    """As the database has them: no conversion that would refuse, or mend, what somebody put there."""
    names = [layout.chain, layout.position, layout.hash, *layout.columns, *([layout.previous] if layout.previous else [])]
    query: Any = select(*(literal_column(name) for name in names)).select_from(table).where(table.c[layout.chain] == chain).order_by(table.c[layout.position])
    for values in connection.execute(query.execution_options(yield_per=READ_AT_ONCE)):
        yield dict(zip(names, values, strict=True))


def prune(connection: Connection, key: ChainKey, through: int, now: float | None = None) -> int:
    """Remove the entries up to and with a position, under a signed checkpoint from which the rest verifies. Returns how many.

    Raises `LookupError` where there is no such entry. Within a transaction that also records it.
    """
    row = connection.execute(select(audit_log.c.hash).where(audit_log.c.chain == CHAIN, audit_log.c.seq == through)).one_or_none()
    if row is None:
        raise LookupError(f"there is no audit entry {through}")
    last = Head(through, row.hash)
    made = {"chain": CHAIN, "seq": through, "hash": last.hash, "until": None, "at": time.time() if now is None else now}
    connection.execute(insert(audit_checkpoints), {**made, "mac": key.checkpoint(CHAIN, last, None)})
    return connection.execute(delete(audit_log).where(audit_log.c.chain == CHAIN, audit_log.c.seq <= through)).rowcount
