"""Writing the audit log: an entry in the transaction of the change it records. No change without its entry, no entry without its change.

Entries are numbered without gaps, one after the other over all workers and replicas (a lock of the database's, held to the end of the transaction: an
entry comes last in its work). A head that does not verify stops nobody from administering the service, and does not heal either: the next entry is
preceded by one that says so (`audit.discontinued`), which `verify` reports for as long as it stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection, desc, insert, select, update

from config.database import STATE_LOCK, Database, Work, exclusively
from router.audit.chain import GENESIS, START, ChainKey, Head, linked, same
from router.audit.tables import LAYOUT, audit_checkpoints, audit_heads, audit_log, ledger_seals
from router.ids import fresh_id

T = TypeVar("T")
log = structlog.get_logger("headgate.audit")

CHAIN = "audit"
AUDIT_LOCK = STATE_LOCK + 15
EMPTIED = "the log is empty and has no head, though rows of the ledger are sealed, of which it had an entry: it was emptied"
LONGEST = 500
"""Characters of an object's name or of a text among the details; what is longer is cut off."""

AuditAction: TypeAlias = Literal[
    "policy.read",
    "policy.put",
    "policy.rollback",
    "policy.import",
    "policy.diff",
    "policy.replay",
    "policy.canary_rolled_back",
    "policy.canary_resumed",
    "policy.backtest",
    "head.promote",
    "head.withdraw",
    "budget.change",
    "tenant.create",
    "team.create",
    "team.update",
    "team.archive",
    "team.restore",
    "user.read",
    "user.create",
    "user.update",
    "user.disable",
    "user.enable",
    "user.erase",
    "key.read",
    "key.create",
    "key.rotate",
    "key.revoke",
    "key.restore",
    "file.create",
    "file.read",
    "file.delete",
    "store.create",
    "store.update",
    "store.delete",
    "store.attach",
    "store.detach",
    "ledger.read",
    "ledger.reconcile",
    "ledger.archive",
    "ledger.seal",
    "response.read",
    "decision.read",
    "prompt.read",
    "prompt.delete",
    "audit.read",
    "audit.prune",
    "audit.discontinued",
    "backup.create",
    "backup.restore",
]
"""What an entry can say was done. `docs/audit.md` has a row for each."""

Outcome: TypeAlias = Literal["ok", "refused"]


class Actor(Struct, frozen=True, kw_only=True):
    """Who does something: a key's id, `cli`, `file` (the policy file) or `system`; of a key also its role, tenant and user, and the request's id."""

    id: str
    role: str = ""
    user: str = ""
    tenant: str = ""
    request_id: str = ""
    details: dict[str, Any] = {}


SYSTEM = Actor(id="system")
FILE = Actor(id="file")


class Subject(Struct, frozen=True):
    """What something is done to. `tenant` is whose it is, empty for the platform's own; `details` are JSON without prompts and secrets."""

    kind: str
    id: str = ""
    tenant: str = ""
    details: dict[str, Any] = {}


class Entry(Struct, frozen=True):
    """One line of the log, before it is numbered."""

    actor: Actor
    action: AuditAction
    subject: Subject
    outcome: Outcome = "ok"


class Appender:
    """Puts entries at the end of the chain. Every process with the same secret continues the same one."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.key = ChainKey(secret)

    def append(self, connection: Connection, *entries: Entry) -> None:
        """Entries at the end of the chain, in the caller's transaction, of which this must be the last part (but for the one entry of the first seal)."""
        if not entries:
            return
        exclusively(connection, AUDIT_LOCK)
        head, broken = self._end(connection)
        rows = [self._row(entry) for entry in entries]
        if broken is not None:
            log.error("audit_discontinued", reason=broken, seq=head.position + 1)
            rows.insert(0, self._row(Entry(SYSTEM, "audit.discontinued", Subject("chain", CHAIN, "", {"reason": broken, "head": str(head)}))))
        made, end = linked(self.key, LAYOUT, rows, head)
        connection.execute(insert(audit_log), made)
        values = {"seq": end.position, "hash": end.hash, "mac": self.key.head(CHAIN, end)}
        if not connection.execute(update(audit_heads).where(audit_heads.c.chain == CHAIN).values(values)).rowcount:
            connection.execute(insert(audit_heads), {"chain": CHAIN, **values})

    def _end(self, connection: Connection) -> tuple[Head, str | None]:
        """After which row the next one comes, and why what stands there cannot be trusted, or None."""
        stored = connection.execute(select(audit_heads).where(audit_heads.c.chain == CHAIN)).one_or_none()
        newest = select(audit_log.c.seq, audit_log.c.hash).where(audit_log.c.chain == CHAIN).order_by(desc(audit_log.c.seq)).limit(1)
        row = connection.execute(newest).one_or_none()
        removed = select(audit_checkpoints.c.seq, audit_checkpoints.c.hash).where(audit_checkpoints.c.chain == CHAIN).order_by(desc(audit_checkpoints.c.seq))
        last = Head(row.seq, row.hash) if row is not None else None
        if last is None and (checkpoint := connection.execute(removed.limit(1)).one_or_none()) is not None:
            last = Head(checkpoint.seq, checkpoint.hash)
        if stored is None and last is None:
            return START, EMPTIED if connection.execute(select(ledger_seals.c.id).limit(1)).first() else None
        if stored is None:
            return last or START, "the head is missing"
        head = Head(stored.seq, stored.hash)
        after = Head(max(head.position, last.position if last else 0), head.hash)
        if not same(self.key.head(CHAIN, head), stored.mac):
            return after, "the head does not verify: it was changed, or the secret is another one"
        if last != head:
            return after, "the head is not that of the last row"
        return head, None

    def _row(self, entry: Entry) -> dict[str, str | int | float | bytes | bool | None]:
        actor, subject = entry.actor, entry.subject
        details = {**actor.details, **subject.details}
        return {
            "chain": CHAIN,
            "id": fresh_id(),
            "at": self._clock(),
            "actor": _text(actor.id, 64),
            "actor_role": _text(actor.role, 16),
            "actor_user": _text(actor.user, 64),
            "tenant": _text(subject.tenant, 64),
            "action": entry.action,
            "object_kind": subject.kind,
            "object_id": _text(subject.id, LONGEST),
            "outcome": entry.outcome,
            "request_id": actor.request_id,
            "details": _text(msgspec.json.encode(details).decode(), None),
            "prev_hash": GENESIS,
            "hash": "",
        }


class AuditLog(Appender):
    """Appends entries, each in the transaction of what it records."""

    def __init__(self, database: Database, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        super().__init__(secret, clock)
        self._database = database

    def composed(self, work: Work[T], actor: Actor, action: AuditAction, subject: Subject | Callable[[T], Subject]) -> Work[T]:
        """The work with its entry. Where the work raises there is neither."""

        def both(connection: Connection) -> tuple[T, Sequence[Entry]]:
            result = work(connection)
            return result, [Entry(actor, action, subject(result) if callable(subject) else subject)]

        return self.recorded(both)

    def recorded(self, work: Work[tuple[T, Sequence[Entry]]]) -> Work[T]:
        """Work that says itself which entries record what it did: none, where it changed nothing."""

        def both(connection: Connection) -> T:
            result, found = work(connection)
            self.append(connection, *found)
            return result

        return both

    async def change(self, actor: Actor, action: AuditAction, subject: Subject | Callable[[T], Subject], work: Work[T]) -> T:
        """Do the work and record it, in one transaction."""
        return await self._database.write(self.composed(work, actor, action, subject))

    def change_blocking(self, actor: Actor, action: AuditAction, subject: Subject | Callable[[T], Subject], work: Work[T]) -> T:
        return self._database.write_blocking(self.composed(work, actor, action, subject))

    async def note(self, actor: Actor, action: AuditAction, subject: Subject, outcome: Outcome = "ok") -> None:
        """Record what changes nothing: that something was read (before it is shown), or that somebody was refused."""
        entry = Entry(actor, action, subject, outcome)
        await self._database.write(lambda connection: self.append(connection, entry))

    def note_blocking(self, actor: Actor, action: AuditAction, subject: Subject, outcome: Outcome = "ok") -> None:
        entry = Entry(actor, action, subject, outcome)
        self._database.write_blocking(lambda connection: self.append(connection, entry))


def _text(value: str, longest: int | None) -> str:
    """Text as both databases take it and give it back."""
    return value[:longest].replace("\0", "").encode("utf-8", "replace").decode()
